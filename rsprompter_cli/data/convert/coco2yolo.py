"""A COCO set to the layout that Ultralytics' YOLO trains on.

`OUT/images/{split}/*`, `OUT/labels/{split}/*.txt` with a line per object, `OUT/data.yaml`. A line is one
ring, so holes and further parts are joined by channels of no width (`data.convert.rings`): the area stays, but
which part was a hole is not said any more, and a trainer that paints outlines with a pen one pixel wide
paints the channels too. Crowds, areas, and ids have no place in YOLO and are lost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.data.coco.problems import EntryError
from rsprompter_cli.data.coco.read import CocoFile, read_coco
from rsprompter_cli.data.coco.rle import Rle, Segmentation
from rsprompter_cli.data.convert.files import place_picture
from rsprompter_cli.data.convert.picture_set import Findings
from rsprompter_cli.data.convert.rings import clip, count_rings, lies_inside, rings_polygon, rle_polygon, to_one_ring
from rsprompter_cli.data.convert.yolo_labels import label_line
from rsprompter_cli.data.convert.yolo_yaml import MARK, yaml_text
from rsprompter_cli.data.images import SPLITS, annotation_files, root_of, split_of, split_word, unsafe_reason
from rsprompter_cli.data.output_folder import DERIVED, Outcome, check_parts, fill_folder
from rsprompter_cli.data.pictures import PictureFinder
from rsprompter_cli.errors import InputError, OutputError
from rsprompter_cli.geo.raster.image import picture_size
from rsprompter_cli.io.atomic import check_writable
from rsprompter_cli.structures import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class YoloReport:
    """What a conversion did.

    splits: (pictures, objects) by split. joined: objects whose holes or parts are joined by channels.
    left_out: what is not in the set, each by its name, by reason.
    """

    out: Path
    outcome: Outcome
    classes: list[str]
    splits: dict[str, tuple[int, int]]
    joined: int
    left_out: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One picture: where it is, its name below `images/`, the lines of its label."""

    source: Path
    name: PurePosixPath
    lines: list[str]


def convert_to_yolo(
    source: str | Path,
    out: str | Path,
    *,
    image_folder: str | None = None,
    crowds_are_objects: bool = False,
    link: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> YoloReport:
    """Write a COCO set as a YOLO set.

    Args:
        source: a data folder with its splits, or one COCO file, which trains unless its name ends in a split.
        out: folder to write; an existing one is replaced only when it holds nothing but such a set.
        image_folder: where the pictures lie below the data folder, may contain {split}.
        crowds_are_objects: annotations with iscrowd 1 are objects like the others.
        link: pictures get a second name in the set instead of a copy.
        overwrite: another set in `out` may be replaced.
        on_progress: called with (pictures done, pictures in all).

    Raises:
        InputError: a COCO file or picture is missing or faulty, two pictures would share a label, or there is
            no object.
        OutputError: `out` holds something else, or another set and `overwrite` is not given.
    """
    out, files = Path(out), annotation_files(source)
    root = Path(source) if Path(source).is_dir() else root_of(files[0])
    cocos = [
        read_coco(file, crowds_are_objects=crowds_are_objects, root=root, image_folder=image_folder) for file in files
    ]
    finders = [PictureFinder(root, coco.path, image_folder=image_folder) for coco in cocos]
    check_parts(out, [root / folder for finder in finders for folder in ("annotations", *finder.folders)])
    _check_owned(out)
    classes = list(dict.fromkeys(name for coco in cocos for name in coco.class_names))
    findings = Findings()
    number_of = {name: number for number, name in enumerate(classes)}
    entries: dict[str, list[_Entry]] = {}
    joined, done, total = 0, 0, sum(len(coco.images) for coco in cocos)
    for coco, finder in zip(cocos, finders, strict=True):
        split, found = _split(coco), []
        numbers = {category.id: number_of[category.name] for category in coco.categories}
        for image in coco.images:
            path = finder.find(image.names)
            _check_size(path, image)
            lines, bridged = _lines(coco, image, numbers, findings)
            found.append(_Entry(path, _name(_below(root, path, image.file_name), split), lines))
            joined, done = joined + bridged, done + 1
            if on_progress is not None:
                on_progress(done, total)
        finder.announce()
        _check_names(coco, found)
        entries[split] = found
    findings.settle()
    if "val" not in entries:
        logger.warning("the data set has no val split, which Ultralytics requires: rsp data split creates one")
    outcome = _write(out, entries, classes, link=link, overwrite=overwrite)
    counts = {split: (len(found), sum(len(e.lines) for e in found)) for split, found in entries.items()}
    return YoloReport(out, outcome, classes, counts, joined, dict(findings.left_out))


def outline(segmentation: Segmentation, height: int, width: int) -> tuple[np.ndarray | None, bool]:
    """One ring for an object, float64 [K, 2] in pixels inside the picture, and whether it has channels.

    A single ring inside the picture keeps its vertices; run lengths become the edges of their pixels.
    The ring is None when nothing with area lies in the picture.

    Raises:
        EntryError: outlining it would take too much time or memory.
    """
    if isinstance(segmentation, Rle):
        geometry = rle_polygon(segmentation)
    elif len(segmentation) == 1 and lies_inside(segmentation[0], height, width):
        return segmentation[0], False
    else:
        whole = rings_polygon(segmentation)
        geometry = None if whole is None else clip(whole, height, width)
    if geometry is None:
        return None, False
    return to_one_ring(geometry), count_rings(geometry) > 1


def _lines(coco: CocoFile, image: CocoImage, numbers: Mapping[int, int], findings: Findings) -> tuple[list[str], int]:
    """The lines of an image's label, and how many of them have channels; `numbers` has the class of each category."""
    lines, joined = [], 0
    for annotation in coco.by_image[image.id]:
        where = f"{coco.path}: annotation {annotation.id} ({image.file_name})"
        if annotation.iscrowd:
            findings.leave_out("crowds, which YOLO does not know", where)
            continue
        try:
            ring, bridged = outline(annotation.segmentation, image.height, image.width)
        except EntryError as fault:
            findings.fault(f"{where}: {fault.text}")
            continue
        if ring is None:
            findings.leave_out("objects without area in their picture", where)
            continue
        joined += bridged
        lines.append(label_line(numbers[annotation.category_id], ring, image.height, image.width))
    return lines, joined


def _write(
    out: Path, entries: Mapping[str, Sequence[_Entry]], classes: Sequence[str], *, link: bool, overwrite: bool
) -> Outcome:
    if not any(entry.lines for found in entries.values() for entry in found):
        raise InputError(
            "no object can be written as a YOLO label",
            "crowds and objects outside their image are not converted",
        )
    with fill_folder(out, overwrite=overwrite) as filling:
        for split, found in entries.items():
            for entry in found:
                picture = filling.folder / "images" / split / entry.name
                label = (filling.folder / "labels" / split / entry.name).with_suffix(".txt")
                for path in (picture, label):
                    path.parent.mkdir(parents=True, exist_ok=True)
                place_picture(entry.source, picture, link=link)
                # A picture without objects has an empty label: it is background, not forgotten.
                label.write_bytes("".join(f"{line}\n" for line in entry.lines).encode())
        (filling.folder / "data.yaml").write_bytes(yaml_text(classes, list(entries)).encode())
    return filling.outcome


def _split(coco: CocoFile) -> str:
    split = split_of(coco.path)
    if split not in SPLITS:
        logger.info("%s: its name does not end in a split, so it is used as the train split", coco.path)
    return split if split in SPLITS else "train"


def _below(root: Path, path: Path, file_name: str) -> str:
    """The name of a picture: as the set's file has it, or its path below the data folder where that is no such name."""
    plain = unsafe_reason(file_name) is None and path.as_posix().endswith(f"/{PurePosixPath(file_name)}")
    return file_name if plain else path.relative_to(root).as_posix()


def _name(file_name: str, split: str) -> PurePosixPath:
    """A picture's name below `images/{split}`: without the folder of its split, and without any named `images`.

    Labels are looked for by putting `labels` in the place of the last `images` of a path.
    """
    *above, name = PurePosixPath(file_name).parts
    above = above[1:] if above and split_word(above[0]) == split else above
    return PurePosixPath(*[part for part in above if part != "images"], name)


def _check_names(coco: CocoFile, entries: Sequence[_Entry]) -> None:
    """Raise InputError when two pictures of a split would have one label."""
    first: dict[PurePosixPath, _Entry] = {}
    for entry in entries:
        other = first.setdefault(entry.name.with_suffix(""), entry)
        if other is not entry:
            label = entry.name.with_suffix(".txt")
            raise InputError(
                f"{coco.path}: {other.source} and {entry.source} would share the label file {label}",
                "rename one of the images",
            )


def _check_size(path: Path, image: CocoImage) -> None:
    size = picture_size(path)
    if size != (image.height, image.width):
        raise InputError(
            f"{path} is {size[1]} x {size[0]} px, its entry (image {image.id}) has {image.width} x {image.height} px",
            "rsp data check lists all such images",
        )


def _check_owned(out: Path) -> None:
    """Raise OutputError when a folder holds anything but a set that `convert_to_yolo` wrote and training used."""
    check_writable(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} is a file", "choose another --out")
    there: list[Any] = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    derived = {path.relative_to(out) for path in out.glob(DERIVED)}
    labels = {path.relative_to("labels").with_suffix("") for path in there if path.parts[0] == "labels"}
    for path in there:
        picture = path.parts[0] == "images" and path.relative_to("images").with_suffix("") in labels
        label = path.parts[0] == "labels" and (path.suffix == ".txt" or path in derived)
        if not picture and not label and not (path == Path("data.yaml") and _is_ours(out / path)):
            raise OutputError(f"{out} contains {path}, which does not belong to a YOLO set", "choose another --out")


def _is_ours(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            return handle.read(len(MARK)) == MARK.encode()
    except OSError:
        return False
