"""Files of the drawing tool labelme, one per picture, to a COCO set.

Polygons, rectangles and circles become polygons; shapes of one label that share a `group_id` are one
object. Lines, points and bitmaps are left out and counted.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsprompter_cli.data.coco.entries import is_number, may_name_class
from rsprompter_cli.data.coco.problems import EntryError, shown_value
from rsprompter_cli.data.coco.rle import allowed_overshoot, bounds, overshoot
from rsprompter_cli.data.convert.files import PICTURES, check_inside, list_files, place_picture
from rsprompter_cli.data.convert.picture_set import (
    MAX_FAULTS,
    Findings,
    Picture,
    SetReport,
    write_picture_set,
)
from rsprompter_cli.data.convert.picture_split import choose_splits, parse_split
from rsprompter_cli.data.convert.rings import WITHOUT_AREA, clip_ring, coco_fields
from rsprompter_cli.data.images import unsafe_reason
from rsprompter_cli.data.output_folder import check_owned, check_parts
from rsprompter_cli.documents import read_json
from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.geo.raster.image import read_picture
from rsprompter_cli.structures import Progress

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 256 << 20
"""Of a labelme file: the largest picture that is read at once, stored without loss, as text."""

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif"}


def convert_labelme(
    labels: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    embedded: bool = False,
    classes: Sequence[str] = (),
    split: str | None = None,
    link: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> SetReport:
    """Turn a folder of labelme files into a COCO set.

    Args:
        labels: folder of the JSON files; their `imagePath` is followed within it.
        out: folder to write; an existing one is replaced only when it holds nothing but such a set.
        images: folder of the pictures, which then go by the file name of `imagePath`.
        embedded: the pictures are those inside the JSON files (`imageData`).
        classes: labels in the order of the category ids; others are errors. Empty: all labels, sorted.
        split: see `parse_split` and `choose_splits`.
        link: pictures get a second name in the set instead of a copy.
        overwrite: another set in `out` may be replaced.
        on_progress: called with (files read, files in all).

    Raises:
        InputError: no labelme file, or a file, shape or picture that cannot be used; all are logged first.
        UsageError: options that contradict each other.
        OutputError: `out` holds something else, or another set and `overwrite` is not given.
    """
    labels, out = Path(labels), Path(out)
    if embedded and (images is not None or link):
        raise UsageError("--embedded reads the images from the JSON files and excludes --images and --link")
    if len(set(classes)) < len(classes):
        raise UsageError(f"--classes {','.join(classes)}: duplicate name")
    shares = parse_split(split)
    folder = labels if images is None else Path(images)
    check_parts(out, {labels, folder})
    check_owned(out)
    findings = Findings()
    files, skipped = _list_labels(labels)
    pictures: dict[str, tuple[Path, Picture]] = {}
    for done, file in enumerate(files, start=1):
        try:
            document = _read_labels(labels / file)
            if document is None:
                findings.leave_out("JSON files that are not labelme's", labels / file)
                continue
            picture = _embedded(labels, file, document) if embedded else _picture(labels, file, folder, document, link)
            picture.objects.extend(_objects(labels / file, document, picture, classes, findings))
            other, _ = pictures.setdefault(picture.name, (file, picture))
            if other != file:
                raise InputError(f"{labels / other} and {labels / file} describe the same image, {picture.name}")
        except InputError as error:
            findings.faults.append(error)
        if on_progress is not None:
            on_progress(done, len(files))
    if not pictures and not findings.faults:
        raise InputError(f"{labels}: contains no labelme files", "labelme writes a .json file for each image")
    found = [picture for _, picture in pictures.values()]
    if not embedded:
        others = _name_unlabelled(folder, pictures, findings)
        skipped += others if folder != labels else 0
    findings.settle()
    names = list(classes) or sorted({name for picture in found for name, _ in picture.objects})
    filled = {picture.name for picture in found if picture.objects}
    splits = choose_splits(list(pictures), filled, shares, where=folder)
    description = "labelme files, converted by rsp convert labelme2coco"
    outcome, counts = write_picture_set(out, found, splits, names, description=description, overwrite=overwrite)
    return SetReport(out, outcome, names, counts, skipped, dict(findings.left_out))


def _list_labels(labels: Path) -> tuple[list[Path], int]:
    """The JSON files of a folder, and how many others there are that are no pictures."""
    files, skipped = list_files(labels, {".json", *PICTURES})
    return [file for file in files if file.suffix.lower() == ".json"], skipped


def _name_unlabelled(folder: Path, pictures: Mapping[str, object], findings: Findings) -> int:
    """Note the pictures of a folder that no file describes; how many files there are neither."""
    files, others = list_files(folder, {*PICTURES, ".json"})
    for file in files:
        if file.suffix.lower() != ".json" and file.as_posix() not in pictures:
            findings.leave_out("pictures without a labelme file", folder / file)
    return others


def _read_labels(file: Path) -> dict[str, Any] | None:
    """The content of a labelme file; None for JSON that is something else.

    Raises:
        InputError: unreadable, too large, or not JSON.
    """
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{file}: has more than {MAX_FILE_BYTES:,} bytes", "store the images as files")
    document = read_json(file, max_bytes=MAX_FILE_BYTES)
    return document if isinstance(document, dict) and isinstance(document.get("shapes"), list) else None


def _picture(labels: Path, file: Path, folder: Path, document: Mapping[str, Any], link: bool) -> Picture:
    """The picture that a labelme file describes, still without objects.

    Raises:
        InputError: it is missing, cannot be used, is of another size, or lies outside the folder.
    """
    text = document.get("imagePath")
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError(f"{labels / file}: has no imagePath")
    text = text.replace("\\", "/")
    if folder == labels:
        tried = [Path(os.path.normpath(labels / file.parent / text))]
        if unsafe_reason(os.path.relpath(tried[0], labels)) or unsafe_reason(text) == "is an absolute path":
            raise InputError(
                f"{labels / file}: imagePath {text!r} is outside {labels}",
                "pass the folder of the images with --images",
            )
    else:
        name = text.rsplit("/", 1)[-1]
        tried = [folder / file.parent / name, folder / name]
    there = sorted({path for path in tried if path.is_file()})
    if len(there) != 1:
        kept = (
            "pass --embedded to use the image in the file"
            if document.get("imageData")
            else "pass the folder of the images with --images"
        )
        what = "has two image files" if there else "has no image file"
        raise InputError(f"{labels / file}: {what}; tried {', '.join(map(str, tried))}", "" if there else kept)
    path = there[0]
    check_inside(path, folder.resolve())
    height, width = read_picture(path).shape[:2]
    _check_size(labels / file, document, height, width)
    put: Callable[[Path], None] = functools.partial(place_picture, path, link=link)
    return Picture(path.relative_to(folder).as_posix(), height, width, put, [])


def _embedded(labels: Path, file: Path, document: Mapping[str, Any]) -> Picture:
    """The picture inside a labelme file, still without objects.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    content = _decode(labels / file, document)
    suffix = next((suffix for mark, suffix in _SIGNATURES.items() if content.startswith(mark)), None)
    if suffix is None:
        raise InputError(f"{labels / file}: its imageData is not PNG, JPEG or TIFF")
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / f"imageData{suffix}"
        picture.write_bytes(content)
        try:
            height, width = read_picture(picture).shape[:2]
        except InputError as error:
            raise InputError(f"{labels / file}: {error.message.replace(str(picture), 'its imageData')}") from error
    _check_size(labels / file, document, height, width)

    def put(target: Path) -> None:
        # Read again, because all pictures at once may be more than memory holds.
        target.write_bytes(_decode(labels / file, _read_labels(labels / file) or {}))

    return Picture(file.with_suffix(suffix).as_posix(), height, width, put, [])


def _decode(file: Path, document: Mapping[str, Any]) -> bytes:
    text = document.get("imageData")
    if not isinstance(text, str) or not text:
        raise InputError(f"{file}: contains no image (imageData)", "omit --embedded")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InputError(f"{file}: its imageData is damaged: {error}") from error


def _check_size(file: Path, document: Mapping[str, Any], height: int, width: int) -> None:
    stated = (document.get("imageWidth"), document.get("imageHeight"))
    if any(value is not None and value != size for value, size in zip(stated, (width, height), strict=True)):
        shown = " x ".join(map(shown_value, stated))
        raise InputError(f"{file}: states {shown} px, its image has {width} x {height} px after EXIF rotation")


def _objects(
    file: Path, document: Mapping[str, Any], picture: Picture, classes: Sequence[str], findings: Findings
) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a labelme file, in the order of their first shapes; what is wrong with shapes becomes faults."""
    groups: dict[tuple[str, str], list[np.ndarray]] = {}
    before = len(findings.faults)
    for number, shape in enumerate(document["shapes"], start=1):
        where = f"{file}: shape {number}"
        if len(findings.faults) - before >= MAX_FAULTS:
            findings.fault(f"{where}: is not read, nor is what follows, after {MAX_FAULTS:,} errors in this file")
            break
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            findings.fault(f"{where}: has no label")
            continue
        if not may_name_class(label):
            findings.fault(f"{where}: its label {shown_value(label)} is too long or not valid Unicode")
            continue
        label, kind = label.strip(), shape.get("shape_type") or "polygon"
        if kind not in TAKEN:
            findings.leave_out(f"shapes of type {str(kind)[:40]}", f"{where} ({label})")
            continue
        if classes and label not in classes:
            findings.fault(f"{where}: its label {label!r} is not in --classes {','.join(classes)}")
            continue
        try:
            rings = _rings(ring_of(kind, shape.get("points")), picture)
        except EntryError as fault:
            findings.fault(f"{where} ({label}): {fault.text}")
            continue
        if not rings:
            findings.leave_out("shapes without area in their picture", f"{where} ({label})")
            continue
        group = shape.get("group_id")
        key = f"shape {number}" if group is None else f"group {json.dumps(group)}"
        groups.setdefault((label, key), []).extend(rings)
    objects = []
    for (label, key), rings in groups.items():
        try:
            objects.append((label, coco_fields(rings, picture.height, picture.width)))
        except EntryError as fault:
            findings.fault(f"{file}: {key[:60]} ({label}): {fault.text}")
    return objects


def _rings(ring: np.ndarray, picture: Picture) -> list[np.ndarray]:
    """What of a shape lies in its picture and has area.

    Raises:
        EntryError: it leaves the picture so far that it was drawn on another, or is longer than an outline can be.
    """
    excess = overshoot(bounds((ring,)), picture.height, picture.width)
    if excess > allowed_overshoot(picture.height, picture.width):
        raise EntryError("outside", f"extends {excess:.6g} pixels beyond the {picture.width} x {picture.height} image")
    rings = []
    for part in clip_ring(ring, picture.height, picture.width):
        try:
            coco_fields([part], picture.height, picture.width)
        except EntryError as fault:
            if fault.kind not in WITHOUT_AREA:
                raise
            continue
        rings.append(part)
    return rings


TAKEN = ("polygon", "rectangle", "circle")
"""Types of shapes that have an area; labelme's lines, points and bitmaps are none of these."""

_SAGITTA = 0.05
"""Pixels that the corners of a circle's polygon leave its curve at most: far below what a hand draws."""


_LARGEST_RADIUS = 1e7
"""Pixels: ten times the longest side of a picture, and 23,000 corners."""


def ring_of(shape_type: str, points: object) -> np.ndarray:
    """The outline of a shape, float64 [K, 2], x and y in pixels.

    Args:
        shape_type: one of TAKEN.
        points: the JSON value: the vertices of a polygon; two opposite corners of a rectangle, or all four; the
            centre of a circle and a point on it.

    Raises:
        EntryError: no finite points, or too few or many of them.
    """
    ring = _parse_points(points)
    if shape_type == "polygon" and len(ring) >= 3:
        return ring
    if shape_type == "rectangle" and len(ring) == 4:
        return ring
    if shape_type == "rectangle" and len(ring) == 2:
        (x0, y0), (x1, y1) = ring.min(axis=0), ring.max(axis=0)
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if shape_type == "circle" and len(ring) == 2:
        return _circle(ring[0], float(np.hypot(*(ring[1] - ring[0]))))
    raise EntryError("points", f"a {shape_type} cannot have {plural(len(ring), 'point')}")


def _circle(centre: np.ndarray, radius: float) -> np.ndarray:
    """A polygon of the circle's area around its centre."""
    if not 2 * _SAGITTA < radius <= _LARGEST_RADIUS:
        raise EntryError("points", f"a circle cannot have a radius of {radius:.3g} px")
    corners = max(12, math.ceil(math.pi / math.acos(1 - _SAGITTA / radius)))
    # A regular polygon of n corners and radius r has the area n/2 r^2 sin(2 pi / n).
    turn = 2 * math.pi / corners
    reach = radius * math.sqrt(turn / math.sin(turn))
    angles = turn * np.arange(corners)
    return centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _parse_points(points: Any) -> np.ndarray:
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(is_number(value) for value in point) for point in points
    ):
        raise EntryError("points", "its points are not pairs of finite numbers")
    return np.array(points, dtype=np.float64).reshape(-1, 2)
