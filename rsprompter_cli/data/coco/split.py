"""Cutting one COCO file into a training and a validation file, by image."""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsprompter_cli.data.coco.document import read_document
from rsprompter_cli.data.coco.read import CocoFile, read_coco
from rsprompter_cli.data.coco.spellings import whole_or_none
from rsprompter_cli.data.images import annotation_files, how_to_cut, root_of
from rsprompter_cli.errors import OutputError, UsageError, plural, some
from rsprompter_cli.io.atomic import refuse_existing, write_text

logger = logging.getLogger(__name__)


def split_file(
    path: str | Path,
    out: str | Path,
    *,
    val: float = 0.2,
    seed: int = 0,
    group_by: str | None = None,
    crowds_are_objects: bool = False,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write `out/annotations/instances_{train,val}.json`, every key of every entry kept.

    The names of pictures that lie beside the file in a folder of the set (`train/`) get that folder's name before them.

    Args:
        path: a COCO file, or a data folder with one.
        out: the data folder; pictures are not copied.
        val: share of the images that goes to validation.
        seed: chooses among the splits that are equally good.
        group_by: a key of the image entries; images with the same value stay on one side. Images
            of one file_name always do.
        crowds_are_objects: annotations with iscrowd 1 are objects, and are written with iscrowd 0.
        overwrite: replace files that exist.

    Returns:
        The two files by split name.

    Raises:
        InputError: a faulty file. UsageError: fewer than two groups of images, an unknown `group_by`, or a folder
            with several files. OutputError: a file exists or is the one to cut, or another file of the folder ends
            in train.json or val.json, so that `--data` could not tell them apart.
    """
    path = one_file(path)
    coco, document = read_coco(path, crowds_are_objects=crowds_are_objects), read_document(path)
    in_val = choose_val(coco, val=val, seed=seed, group_by=group_by)
    files = {side: Path(out) / "annotations" / f"instances_{side}.json" for side in ("train", "val")}
    for side, file in files.items():
        others = [other for other in sorted(file.parent.glob(f"*{side}.json")) if other != file]
        if file.resolve() == path.resolve():
            raise OutputError(f"{path}: the {side} split would replace the file that is divided", how_to_cut(path))
        refuse_existing(file, overwrite=overwrite)
        if others:
            is_input = others[0].resolve() == path.resolve()
            way_out = how_to_cut(path) if is_input else "choose another --out, or move that file"
            raise OutputError(f"{others[0]} also ends in {side}.json", way_out)
    _place_pictures(document["images"], path, Path(out))
    if crowds_are_objects:
        document["annotations"] = [{**raw, "iscrowd": 0} for raw in document["annotations"]]
    for side, file in files.items():
        part = dict(document)
        for key, id_key in (("images", "id"), ("annotations", "image_id")):
            part[key] = [raw for raw in document[key] if (whole_or_none(raw, id_key) in in_val) == (side == "val")]
        write_text(file, json.dumps(part))
    _say_lonely_classes(coco, in_val)
    return files


def one_file(source: str | Path) -> Path:
    """The COCO file that is named, or the only one of a data folder.

    Raises:
        InputError: none in the folder. UsageError: several.
    """
    files = annotation_files(source)
    if len(files) > 1:
        raise UsageError(
            f"{source}: already has {len(files)} annotation files: {some(map(str, files))}", "give one of the files"
        )
    return files[0]


def _place_pictures(images: list[dict[str, Any]], path: Path, out: Path) -> None:
    """Name pictures from the data folder that lie in the file's own folder, which the parts do not lie in."""
    folder, root = path.resolve().parent, root_of(path)
    if folder in (root, root / "annotations") or out.resolve() != root:
        return
    for raw in images:
        name = raw.get("file_name")
        if isinstance(name, str) and (folder / name).is_file():
            raw["file_name"] = (folder.relative_to(root) / name).as_posix()


def choose_val(coco: CocoFile, *, val: float, seed: int, group_by: str | None = None) -> frozenset[int]:
    """Ids of the images for validation.

    Classes are served from the rarest to the commonest (iterative stratification, Sechidis et
    al. 2011): each class asks for its share of the images that show it, at least one on either
    side when it has two, and gets images in an order that only `seed` decides.
    """
    if not 0 < val < 1:
        raise UsageError(f"--val {val}: must be a share between 0 and 1")
    groups = _groups(coco, group_by)
    if len(groups) < 2:
        raise UsageError(f"{coco.path}: {plural(len(groups), 'group')} of images cannot be divided in two")
    order = sorted(groups)
    random.Random(seed).shuffle(order)  # noqa: S311 -- a repeatable choice, no secret
    classes = {name: {a.category_id for i in groups[name] for a in coco.by_image[i] if not a.iscrowd} for name in order}
    members: dict[int, list[str]] = defaultdict(list)
    for name in order:
        for category_id in classes[name]:
            members[category_id].append(name)
    side: dict[str, bool] = {}
    for category_id in sorted(members, key=lambda c: (len(members[c]), c)):
        having = members[category_id]
        wanted = min(max(1, round(val * len(having))), len(having) - 1)
        _assign(having, wanted, side)
    total = min(max(1, round(val * len(order))), len(order) - 1)
    _assign(order, total, side)
    if not any(side.values()) or all(side.values()):
        side[order[0]] = not side[order[0]]
    return frozenset(image_id for name in order if side[name] for image_id in groups[name])


def _assign(names: list[str], wanted: int, side: dict[str, bool]) -> None:
    """Give sides to those of `names` that have none, so that `wanted` of them are in validation."""
    free = [name for name in names if name not in side]
    missing = max(0, wanted - sum(side.get(name, False) for name in names))
    for place, name in enumerate(free):
        side[name] = place < missing


def _groups(coco: CocoFile, group_by: str | None) -> Mapping[str, list[int]]:
    """Image ids that must stay together, by a name that does not depend on the file's order."""
    groups: dict[str, list[int]] = defaultdict(list)
    for image in coco.images:
        if group_by is not None and group_by not in image.extra:
            raise UsageError(f"image {image.id} ({image.file_name}) has no key {group_by!r} to group by")
        name: Any = image.file_name if group_by is None else image.extra[group_by]
        groups[json.dumps(name, sort_keys=True)].append(image.id)
    return groups


def _say_lonely_classes(coco: CocoFile, in_val: frozenset[int]) -> None:
    for category in coco.categories:
        sides = {a.image_id in in_val for a in coco.annotations if a.category_id == category.id and not a.iscrowd}
        if len(sides) == 1:
            logger.warning(
                "class %r is only in the %s split: too few images contain it",
                category.name,
                ["train", "val"][sides.pop()],
            )
