"""A YOLO set of outlines or boxes, in Ultralytics' layout, to a COCO set.

The label of a picture lies where training looks for it: in the same place, with `labels` for the last
`images` of its path. A line is one polygon with the vertices it has; nothing outside the set's folder is read.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsprompter_cli.data.coco.problems import EntryError
from rsprompter_cli.data.convert.files import PICTURES, check_inside, list_files, place_picture
from rsprompter_cli.data.convert.picture_set import (
    MAX_FAULTS,
    Findings,
    Picture,
    SetReport,
    write_picture_set,
)
from rsprompter_cli.data.convert.rings import WITHOUT_AREA, clip_ring, coco_fields
from rsprompter_cli.data.convert.yolo_labels import Label, read_labels
from rsprompter_cli.data.convert.yolo_yaml import YoloSet, name_in_set, read_yolo
from rsprompter_cli.data.output_folder import check_owned, check_parts
from rsprompter_cli.documents import read_content
from rsprompter_cli.errors import InputError, plural
from rsprompter_cli.geo.raster.image import read_picture
from rsprompter_cli.structures import Progress

logger = logging.getLogger(__name__)

_MAX_LABEL_BYTES, _MAX_LIST_BYTES = 64 << 20, 256 << 20
"""Of the label of a picture, and of a list of pictures."""

_NO_LABEL = "classes.txt"
"""What labelling tools write beside labels."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A picture and where its label would be."""

    split: str
    path: Path
    label: Path


def convert_from_yolo(
    source: str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    boxes: bool = False,
    link: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> SetReport:
    """Turn a YOLO set into a COCO set with the same splits.

    Args:
        source: its data.yaml, or the folder that holds it.
        out: folder to write; an existing one is replaced only when it holds nothing but such a set.
        root: the folder of the set, where the `path` of data.yaml is that of another machine.
        boxes: lines that are boxes become rectangles; otherwise they are errors, because a box is no outline.
        link: pictures get a second name in the set instead of a copy.
        overwrite: another set in `out` may be replaced.
        on_progress: called with (pictures read, pictures in all).

    Raises:
        InputError: data.yaml, a picture or a line that cannot be used; the lines are logged first, as FILE:LINE.
        OutputError: `out` holds something else, or another set and `overwrite` is not given.
    """
    out = Path(out)
    yolo = read_yolo(Path(source), None if root is None else Path(root))
    check_parts(out, [place for places in yolo.splits.values() for place in places])
    check_owned(out)
    findings = Findings()
    sources, skipped = _list_sources(yolo, findings)
    pictures: list[Picture] = []
    splits: dict[str, str] = {}
    for done, one in enumerate(sources, start=1):
        try:
            picture = _read(one, yolo, boxes, link, findings)
        except InputError as error:
            findings.faults.append(error)
        else:
            pictures.append(picture)
            splits[picture.name] = one.split
        if on_progress is not None:
            on_progress(done, len(sources))
    skipped += _say_unlabelled(sources, findings)
    findings.settle()
    outcome, counts = write_picture_set(
        out,
        pictures,
        splits,
        list(yolo.names.values()),
        description="a YOLO set, converted by rsp convert yolo2coco",
        overwrite=overwrite,
    )
    return SetReport(out, outcome, list(yolo.names.values()), counts, skipped, dict(findings.left_out))


def _read(source: _Source, yolo: YoloSet, boxes: bool, link: bool, findings: Findings) -> Picture:
    """A picture with the objects of its label; lines that are wrong become faults.

    Raises:
        InputError: the picture or its label cannot be read.
    """
    height, width = read_picture(source.path).shape[:2]
    objects: list[tuple[str, dict[str, Any]]] = []
    before = len(findings.faults)
    for item in read_labels(_label_text(source.label, yolo.root)):
        where = f"{source.label}:{item[0]}"
        if len(findings.faults) - before >= MAX_FAULTS:
            findings.fault(f"{where}: is not read, nor is what follows, after {MAX_FAULTS:,} errors in this file")
            break
        if not isinstance(item, Label):
            findings.fault(f"{where}: {item[1].text}")
        elif item.class_index not in yolo.names:
            findings.fault(f"{where}: class {item.class_index} has no name in {yolo.file}")
        elif item.is_box and not boxes:
            findings.fault(f"{where}: is a box, not an outline", "pass --boxes to convert boxes to rectangles")
        else:
            try:
                fields = coco_fields(clip_ring(item.ring * (width, height), height, width), height, width)
            except EntryError as fault:
                if fault.kind in WITHOUT_AREA:
                    findings.leave_out("lines without area in their picture", where)
                else:
                    findings.fault(f"{where}: {fault.text}")
            else:
                objects.append((yolo.names[item.class_index], fields))
    put: Callable[[Path], None] = functools.partial(place_picture, source.path, link=link)
    return Picture(name_in_set(source.path, yolo.root), height, width, put, objects)


def _label_text(label: Path, root: Path) -> str:
    """The content of a label; empty when there is none: a picture without objects needs no label."""
    if not os.path.lexists(label):
        return ""
    check_inside(label, root)
    try:
        return read_content(label, max_bytes=_MAX_LABEL_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: is not UTF-8 text: {error}") from error


def _list_sources(yolo: YoloSet, findings: Findings) -> tuple[list[_Source], int]:
    """The pictures of all splits by name, each once, and how many other files lie beside them."""
    sources: dict[str, _Source] = {}
    skipped = 0
    for split, places in yolo.splits.items():
        for place in places:
            if place.is_dir():
                paths, others = list_files(place, PICTURES)
                listed, skipped = [place / path for path in paths], skipped + others
            else:
                listed = list(_read_list(place, yolo.root))
            for path in listed:
                one = _Source(split, path, _label_of(path, yolo.root))
                other = sources.setdefault(name_in_set(path, yolo.root), one)
                if other.path != path:
                    findings.fault(f"{other.path} and {path}: have the same name")
                elif other.split != split:
                    # Validation on training images means nothing.
                    findings.leave_out(f"pictures of {split} that are in {other.split} too", path)
    if not sources:
        raise InputError(
            f"{yolo.file}: its folders contain no images", "supported extensions: " + " ".join(sorted(PICTURES))
        )
    return [sources[name] for name in sorted(sources)], skipped


def _read_list(file: Path, root: Path) -> Iterator[Path]:
    """The pictures that a text file lists, one a line, relative to it.

    Raises:
        InputError: a line names no file in the root, or none that is a picture.
    """
    try:
        lines = read_content(file, max_bytes=_MAX_LIST_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not a list of images: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path = Path(os.path.normpath(file.parent / line.strip()))
        if "\0" in line or not path.is_relative_to(root) or path.suffix.lower() not in PICTURES or not path.is_file():
            raise InputError(f"{file}:{number}: {line.strip()[:120]!r} is not an image in {root}")
        check_inside(path, root)
        yield path


def _label_of(picture: Path, root: Path) -> Path:
    """Where the label of a picture is looked for."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    above = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if above:
        parts[above[-1]] = "labels"
    return root.joinpath(*parts)


def _say_unlabelled(sources: list[_Source], findings: Findings) -> int:
    """Note pictures and labels that lack their partner; how many files beside labels are none.

    Raises:
        InputError: no picture has a label, so they are looked for in the wrong place.
    """
    wanted: Mapping[Path, _Source] = {source.label: source for source in sources}
    missing = [label for label in wanted if not os.path.lexists(label)]
    if len(missing) == len(sources):
        raise InputError(f"none of {plural(len(sources), 'image')} has a label, such as {missing[0]}")
    if missing:
        logger.warning(
            "%s no label and will be background, such as %s",
            plural(len(missing), "image has", "images have"),
            wanted[missing[0]].path,
        )
    others = 0
    for folder in sorted({label.parent for label in wanted if label.parent.is_dir()}):
        for path in sorted(folder.glob("*.txt")):
            if path.name == _NO_LABEL:
                others += 1
            elif path not in wanted:
                findings.leave_out("labels without a picture", path)
    return others
