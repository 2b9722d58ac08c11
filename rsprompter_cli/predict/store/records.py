"""The instances of some windows as the bytes of a record of a journal, and back; anyone may have written those."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence

import numpy as np
import shapely

from rsprompter_cli.geo.stitch.instances import Instance
from rsprompter_cli.geo.vector.formats.wkb import nests_deeply
from rsprompter_cli.geo.windows import WindowGrid

_COLUMNS = np.dtype(
    [
        *((name, "<i8") for name in ("row", "col", "index", "label")),
        *((name, "<f8") for name in ("score", "quality")),
        ("size", "<i8"),
    ]
)
_FARTHEST = 1 << 24
"""Pixels from the first one of a scene; the earth has 4 million pixels of 10 m around it."""

_MOST_IN_WINDOW = 10_000
"""Instances of one window: joining compares each with each."""


def pack_instances(instances: Sequence[Instance]) -> bytes:
    """The content of a record: the number of instances, a row of `_COLUMNS` for each, and their outlines as WKB."""
    outlines = shapely.to_wkb(np.array([one.polygon for one in instances], dtype=object), byte_order=1).tolist()
    rows = [
        (
            one.window_row,
            one.window_col,
            one.index,
            one.label,
            one.score,
            np.nan if one.quality is None else one.quality,
            len(outline),
        )
        for one, outline in zip(instances, outlines, strict=True)
    ]
    return struct.pack("<Q", len(rows)) + np.array(rows, _COLUMNS).tobytes() + b"".join(outlines)


def unpack_instances(content: bytes) -> list[Instance]:
    """The instances of a record.

    Raises:
        ValueError: it is not as `pack_instances` writes it; a checksum is right for what anyone has written.
    """
    if not content:
        return []
    (count,) = struct.unpack_from("<Q", content) if len(content) >= 8 else (len(content),)
    if count > (len(content) - 8) // _COLUMNS.itemsize:
        raise ValueError("a record is shorter than it says")
    rows = np.frombuffer(content, _COLUMNS, count, 8)
    ends = 8 + rows.nbytes + np.cumsum(rows["size"])
    if count and (rows["size"].min() < 0 or rows["size"].max() > len(content) or ends[-1] != len(content)):
        raise ValueError("a record has another length than its outlines")
    try:
        outlines = [content[end - size : end] for end, size in zip(ends.tolist(), rows["size"].tolist(), strict=True)]
        if any(map(nests_deeply, outlines)):
            raise ValueError("an outline is nested too deeply")
        with np.errstate(invalid="ignore"):  # a coordinate that is not a number, which makes it invalid
            polygons = shapely.from_wkb(np.array(outlines, dtype=object))
    except shapely.errors.ShapelyError as error:
        raise ValueError(f"an outline is no geometry: {error}") from error
    known = np.isin(shapely.get_type_id(polygons), (3, 6))  # polygons and multipolygons
    with np.errstate(invalid="ignore"):
        far = np.abs(shapely.bounds(polygons)).max(axis=1, initial=0) > _FARTHEST
        sound = known & ~far & shapely.is_valid(polygons)
    if not sound.all():
        raise ValueError("an outline is no valid polygon")
    return [
        Instance(row, col, index, label, score, polygon, None if quality != quality else quality)
        for (row, col, index, label, score, quality, _), polygon in zip(rows.tolist(), polygons.tolist(), strict=True)
    ]


def check_instances(
    instances: Sequence[Instance], windows: range, grid: WindowGrid, classes: int, *, rated: bool | None = None
) -> None:
    """Check that instances are of some windows.

    Args:
        instances: of a record.
        windows: positions in the row-major order that the record is of.
        grid: of the scene.
        classes: of the model.
        rated: whether each has a quality; None: some may have.

    Raises:
        ValueError: one lies elsewhere, is of another class or has no quality, or a window has too many or one twice.
    """
    x0, y0, x1, y1 = grid.extent
    for one in instances:
        west, north, east, south = one.polygon.bounds
        within = west >= x0 - 1 and north >= y0 - 1 and east <= x1 + 1 and south <= y1 + 1
        there = 0 <= one.window_row < grid.rows and 0 <= one.window_col < grid.cols
        if not within or not there or one.window_row * grid.cols + one.window_col not in windows:
            raise ValueError("an object lies in another place than the windows it is of")
        if not 0 <= one.label < classes:
            raise ValueError("an object is of a class that the model does not have")
        if rated is not None and (one.quality is not None) != rated:
            raise ValueError("an object has a quality, or none, unlike others of the run")
    keys = {(one.window_row, one.window_col, one.index) for one in instances}
    if len(keys) < len(instances):
        raise ValueError("an object is there twice")
    counts = Counter((one.window_row, one.window_col) for one in instances)
    if max(counts.values(), default=0) > _MOST_IN_WINDOW:
        raise ValueError(f"a window has more than {_MOST_IN_WINDOW:,} objects")
