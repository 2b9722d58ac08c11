"""Values of COCO files that mean one thing only but are not written as the format asks.

Labelling tools write numbers as text, polygons as one flat list or as lists of points. Such a value is read, and
the reader counts it by the kinds below, so that each kind is one warning of the file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from rsprompter_cli.data.coco.problems import EntryError, shown_value
from rsprompter_cli.data.coco.rle import Segmentation, parse_segmentation

Note = Callable[[str], None]
"""Called with the kind of each nonstandard value that is read."""

REPAIRS = {
    "text-number": "numbers written as text or as 12.0, which are read as numbers",
    "flat-polygon": "a segmentation [x, y, ...] instead of [[x, y, ...]], which is read as one polygon",
    "point-polygon": "a segmentation of points [[x, y], ...] instead of [[x, y, ...]], which is read as one polygon",
    "rle-bytes": "RLE counts written as b'...', which are read without the b''",
    "rle-in-list": "an RLE inside a list, which is read as that RLE",
    "image-size-missing": "no width and height, which are read from the image file",
}
"""What the entries counted under each kind have, after "3 annotations have"."""

_LARGEST = 1 << 63
"""Ids and sizes are 64-bit numbers wherever they go."""

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}(\.0*)?\s*")
_DECIMAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*")
_REPAIRABLE = ("polygon-type", "polygon-short", "segmentation-type", "rle-size", "rle-counts", "rle-characters")


def to_whole(raw: Mapping[str, Any], key: str, note: Note) -> int:
    """The whole number that an entry has under `key`.

    Raises:
        EntryError: it has none.
    """
    value = raw.get(key)
    if type(value) is int and abs(value) < _LARGEST:
        return value
    # Tables exported from data frames write whole numbers as 512.0.
    if isinstance(value, float) and abs(value) < _LARGEST and value == int(value):
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        note("text-number")
        return int(value.strip().partition(".")[0])
    fault = f"has {key} {shown_value(value)}, which is not a whole number" if key in raw else f"has no {key}"
    raise EntryError("not-an-integer", f"{fault}; number the entries from 1" if key == "id" else fault)


def whole_or_none(raw: object, key: str) -> int | None:
    """The whole number that an entry has under `key`; None where it has none."""
    if not isinstance(raw, dict):
        return None
    value = raw.get(key)
    if type(value) is int and abs(value) < _LARGEST:
        return value
    try:
        return to_whole(raw, key, lambda _: None)
    except EntryError:
        return None


def to_number(value: object, note: Note) -> object:
    """Text that spells a number as that number; any other value as it is."""
    if isinstance(value, str) and len(value) < 100 and _DECIMAL.fullmatch(value):
        note("text-number")
        return float(value)
    return value


def read_segmentation(value: object, height: int, width: int, note: Note) -> Segmentation:
    """A checked segmentation, spelled as COCO asks or in another way of one meaning.

    Raises:
        EntryError: as `parse_segmentation`.
    """
    try:
        return parse_segmentation(value, height, width)
    except EntryError as fault:
        if fault.kind not in _REPAIRABLE:
            raise
        kinds: list[str] = []
        respelled = _respell(value, kinds.append)
        if not kinds:
            raise
    segmentation = parse_segmentation(respelled, height, width)
    for kind in dict.fromkeys(kinds):
        note(kind)
    return segmentation


def _respell(value: object, note: Note) -> object:
    if isinstance(value, Mapping):
        return _respell_rle(value, note)
    if not isinstance(value, list) or not value:
        return value
    if len(value) == 1 and isinstance(value[0], Mapping):
        note("rle-in-list")
        return _respell_rle(value[0], note)
    if not any(isinstance(item, list) for item in value):
        note("flat-polygon")
        return [_numbers(value, note)]
    if _are_points(value):
        note("point-polygon")
        return [_numbers([number for point in value for number in point], note)]
    if all(isinstance(ring, list) and _are_points(ring) for ring in value):
        if len(value) > 1:
            # Further rings are holes in GeoJSON and parts in COCO.
            text = f"segmentation has {len(value)} lists of points; write each part as [x, y, x, y, ...]"
            raise EntryError("polygon-type", text)
        note("point-polygon")
        return [_numbers([number for point in value[0] for number in point], note)]
    return [_numbers(ring, note) if isinstance(ring, list) else ring for ring in value]


def _are_points(ring: list[Any]) -> bool:
    return len(ring) >= 3 and all(isinstance(point, list) and _is_pair(point) for point in ring)


def _is_pair(point: list[Any]) -> bool:
    return len(point) == 2 and not any(isinstance(number, list) for number in point)


def _numbers(ring: list[Any], note: Note) -> list[Any]:
    return [to_number(number, note) for number in ring]


def _respell_rle(value: Mapping[Any, Any], note: Note) -> dict[Any, Any]:
    size, counts = value.get("size"), value.get("counts")
    if isinstance(size, list):
        size = [_whole_if_text(number, note) for number in size]
    if isinstance(counts, list):
        counts = [_whole_if_text(number, note) for number in counts]
    # str() of Python's bytes: b'...' with a quotation mark, which the code of RLE does not have.
    elif isinstance(counts, str) and re.fullmatch(r"b'[^']*'|b\"[^\"]*\"", counts):
        try:
            counts = ast.literal_eval(counts).decode("ascii")
        except (ValueError, SyntaxError):
            return dict(value)
        note("rle-bytes")
    return {**value, "size": size, "counts": counts}


def _whole_if_text(value: object, note: Note) -> object:
    if not isinstance(value, str | float):
        return value
    try:
        whole = to_whole({"run": value}, "run", note)
    except EntryError:
        return value
    note("text-number")
    return whole
