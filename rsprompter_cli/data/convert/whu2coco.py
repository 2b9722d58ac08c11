"""The WHU building set: pairs of image and label pictures to COCO instance files.

`ROOT/imgs/SPLIT/image/*` and `ROOT/imgs/SPLIT/label/*` with equal names become
`OUT/WHU_building_SPLIT.json`. Every 4-connected patch of building pixels is an instance; there is no
smallest area. Images are sorted by name, instances by their first pixel column by column, ids count from 1.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsprompter_cli.data.convert.components import mask_to_instances
from rsprompter_cli.data.convert.files import PICTURES
from rsprompter_cli.data.output_folder import Outcome, json_bytes, write_files
from rsprompter_cli.errors import InputError, ResourceError, RspError, UsageError
from rsprompter_cli.geo.raster.image import picture_size, read_label
from rsprompter_cli.io.atomic import check_writable
from rsprompter_cli.structures import Progress

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
CATEGORIES = [{"id": 1, "name": "building"}]

SEQUENTIAL_BELOW = 1000
"""Fewer pairs than this are converted in this process unless told otherwise: another needs a second to start, a
pair 5 ms."""


class Pair(NamedTuple):
    """An image and its label, which may be missing."""

    image: Path
    label: Path


@dataclass(frozen=True)
class WhuReport:
    """What a conversion did.

    files: the JSON files, in the order of the splits.
    images, instances: how many of each were written, over all splits.
    skipped: files that are no pictures.
    bad: pairs left out, with the reason; only with skip_bad.
    """

    files: list[Path]
    images: int
    instances: int
    skipped: int
    bad: list[str]
    outcome: Outcome


def convert_whu(
    root: str | Path = "data/WHU",
    out: str | Path | None = None,
    *,
    splits: Sequence[str] = SPLITS,
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> WhuReport:
    """Convert the label pictures of a WHU folder into one COCO file per split.

    Args:
        root: folder that holds `imgs/SPLIT/image` and `imgs/SPLIT/label`.
        out: folder of the JSON files; None: `annotations` below the root.
        workers: processes; None: one per CPU for SEQUENTIAL_BELOW pairs or more. The bytes written do not depend
            on it.
        skip_bad: leave broken pairs out, with a warning each, instead of refusing to write anything.
        on_progress: called with (pairs done, pairs in all).

    Raises:
        InputError: a folder is missing, or pairs are broken; all of them are logged first.
        OutputError: an output cannot be written, or exists with other content and `overwrite` is not given.
        ResourceError: a worker process was killed.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    root = Path(root)
    out = root / "annotations" if out is None else Path(out)
    targets = [out / f"WHU_building_{split}.json" for split in splits]
    listed = [_list_pairs(root / "imgs" / split) for split in splits]
    pairs = [pair for found, _ in listed for pair in found]
    for target in targets:
        check_writable(target)
    results: list[dict[str, Any] | str] = []
    if workers is None:
        workers = 1 if len(pairs) < SEQUENTIAL_BELOW else os.cpu_count() or 1
    for result in _convert_pairs(pairs, workers):
        results.append(result)
        if on_progress is not None:
            on_progress(len(results), len(pairs))
    bad = [result for result in results if isinstance(result, str)]
    _report_bad(bad, len(pairs), skip_bad)
    files, images, instances, position = {}, 0, 0, 0
    for target, (found, _) in zip(targets, listed, strict=True):
        good = [entry for entry in results[position : position + len(found)] if not isinstance(entry, str)]
        position += len(found)
        document = _coco_document(good)
        images, instances = images + len(document["images"]), instances + len(document["annotations"])
        files[target] = json_bytes(document)
    outcome = write_files(files, overwrite=overwrite)
    return WhuReport(list(files), images, instances, sum(skipped for _, skipped in listed), bad, outcome)


def convert_pair(pair: Pair) -> dict[str, Any] | str:
    """One image and its label to an image entry with its `annotations`, or what is wrong with them.

    The image is looked at too, so that a damaged one shows here and not in training.
    """
    try:
        if not pair.label.is_file():
            return f"{pair.image}: has no label; tried {pair.label}"
        if not pair.image.is_file():
            return f"{pair.label}: has no image; tried {pair.image}"
        size = picture_size(pair.image)
        mask = read_binary_label(pair.label)
    except RspError as error:
        return error.message
    if size != mask.shape:
        sizes = [f"{shape[1]} x {shape[0]} px" for shape in (mask.shape, size)]
        return f"{pair.label}: has {sizes[0]}, its image {pair.image.name} has {sizes[1]}"
    return {
        "file_name": pair.image.name,
        "height": size[0],
        "width": size[1],
        "segm_file": pair.label.name,
        "annotations": mask_to_instances(mask, name=pair.label),
    }


def read_binary_label(path: Path) -> np.ndarray:
    """A label picture of two values as bool [H, W], True where it is white.

    Raises:
        InputError: not a readable label, or holding other values than 0 and 255 or 0 and 1.
    """
    values = read_label(path)
    high = values.max()
    if high not in (0, 1, 255) or not ((values == 0) | (values == high)).all():
        found = np.unique(values).tolist()
        odd = [value for value in found if value not in (0, 1, 255)] or found
        shown = ", ".join(f"{value:g}" for value in odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise InputError(
            f"{path}: is not a binary label, it contains {shown}; the values must be 0 and 255, or 0 and 1"
        )
    return values != 0


def _list_pairs(folder: Path) -> tuple[list[Pair], int]:
    """The pairs of a split by name, and how many other files lie beside them."""
    images, skipped_images = _list_pictures(folder / "image")
    labels, skipped_labels = _list_pictures(folder / "label")
    if not images:
        raise InputError(
            f"{folder / 'image'}: contains no images", "supported extensions: " + " ".join(sorted(PICTURES))
        )
    names = sorted(images | labels)
    return [Pair(folder / "image" / name, folder / "label" / name) for name in names], skipped_images + skipped_labels


def _list_pictures(folder: Path) -> tuple[set[str], int]:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder",
            "pass the folder of imgs/train/image with --root, or fewer splits with --split",
        )
    files = [path.name for path in folder.iterdir() if path.is_file()]
    pictures = {name for name in files if Path(name).suffix.lower() in PICTURES and not name.startswith(".")}
    return pictures, len(files) - len(pictures)


def _convert_pairs(pairs: list[Pair], workers: int) -> Iterator[dict[str, Any] | str]:
    """`convert_pair` of all pairs in their order, over processes."""
    if workers == 1:
        yield from map(convert_pair, pairs)
        return
    chunk = max(1, min(32, len(pairs) // (4 * workers)))
    # Spawned, not forked: the same on every platform, and safe beside threads.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(convert_pair, pairs, chunksize=chunk)
    except BrokenProcessPool as error:
        # In a user's script also: no `if __name__ == "__main__":` around the call.
        raise ResourceError("a worker process was killed, most likely for lack of memory", "lower --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _report_bad(bad: list[str], total: int, skip_bad: bool) -> None:
    say = logger.warning if skip_bad else logger.error
    for problem in bad:
        say("%s", problem)
    if bad and not skip_bad:
        are = "is" if len(bad) == 1 else "are"
        raise InputError(
            f"{len(bad):,} of {total:,} image and label pairs {are} invalid, nothing was written; the first: {bad[0]}",
            "repair them, or pass --skip-bad to skip them",
        )
    if bad and len(bad) == total:
        raise InputError(f"all image and label pairs ({total:,}) are invalid, nothing was written; the first: {bad[0]}")


def _coco_document(entries: list[dict[str, Any]]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, entry in enumerate(entries, start=1):
        images.append({"id": image_id, **{key: value for key, value in entry.items() if key != "annotations"}})
        for fields in entry["annotations"]:
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1}
            annotations.append({**ids, **fields, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}
