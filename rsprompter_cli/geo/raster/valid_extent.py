"""Where the valid pixels of a raster begin and end, and their outline: many rasters have a nodata border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from shapely.affinity import scale

from rsprompter_cli.geo.geometry import drop_specks, polygon_parts
from rsprompter_cli.geo.polygonize import label_polygons
from rsprompter_cli.geo.raster.reader import PixelReader
from rsprompter_cli.geo.windows import Box

_STEP = 256
"""Rows or columns looked at together, at least."""

_PIECE = 1 << 20
"""Pixels decoded at a time, where one line of blocks does not hold more."""

_Span = tuple[int, int]
"""First and one past the last row or column."""


def valid_extent(reader: PixelReader) -> Box | None:
    """The box around the valid pixels of one level of a raster.

    It is looked for from each side inwards: what is decoded is the collar and the first lines behind it. Blocks that
    were never stored are passed over, and a file that cannot say that a pixel is not valid is not read at all.

    Returns:
        (x0, y0, x1, y1) in pixels of the level; None where no pixel is valid.

    Raises:
        InputError: the file is damaged where it was read.
    """
    height, width = reader.height, reader.width
    if not reader.may_be_empty:
        return 0, 0, width, height
    rows, cols = _spans(height, reader.block_height), _spans(width, reader.block_width)
    top = _outermost(reader, [(span, (0, width)) for span in rows], axis=0, last=False)
    if top is None:
        return None
    bottom = _outermost(reader, [(span, (0, width)) for span in reversed(rows)], axis=0, last=True)
    assert bottom is not None, "there is a valid row"
    inside = (top, bottom + 1)
    left = _outermost(reader, [(inside, span) for span in cols], axis=1, last=False)
    right = _outermost(reader, [(inside, span) for span in reversed(cols)], axis=1, last=True)
    assert left is not None, "there is a valid row"
    assert right is not None, "there is a valid row"
    return left, top, right + 1, bottom + 1


def _spans(length: int, block: int) -> list[_Span]:
    """Whole blocks of at least _STEP rows or columns."""
    step = block * -(-_STEP // block)
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _outermost(reader: PixelReader, areas: Sequence[tuple[_Span, _Span]], *, axis: int, last: bool) -> int | None:
    """The first, or last, valid row (axis 0) or column (axis 1) of the first of some areas that has one."""
    found = (_valid_line(reader, rows, cols, axis=axis, last=last) for rows, cols in areas)
    return next((line for line in found if line is not None), None)


def _valid_line(reader: PixelReader, rows: _Span, cols: _Span, *, axis: int, last: bool) -> int | None:
    """The first, or last, row (axis 0) or column (axis 1) of an area that has a valid pixel, in pixels of the level."""
    start, end = (rows, cols)[axis]
    best: int | None = None
    for top, left, height, width in _pieces(reader, rows, cols, axis):
        if not reader.may_have_data(top, left, height, width):
            continue
        valid = reader.valid(top, left, height, width, cache=reader.cache_bytes(height))
        lines = np.arange(end - start) if valid is None else np.flatnonzero(valid.any(axis=1 - axis))
        if not len(lines):
            continue
        found = start + int(lines[-1 if last else 0])
        best = found if best is None else (max if last else min)(best, found)
        if best == (end - 1 if last else start):  # nothing can lie further out
            break
    return best


def _pieces(reader: PixelReader, rows: _Span, cols: _Span, axis: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the parts that an area is read in, one after the other across `axis`."""
    start, end = (cols, rows)[axis]
    thickness = (rows, cols)[axis][1] - (rows, cols)[axis][0]
    block = (reader.block_width, reader.block_height)[axis]
    step = block * max(1, _PIECE // thickness // block)
    pieces = [(at, min(at + step, end)) for at in range(start, end, step)]
    if axis == 0:
        return [(rows[0], a, rows[1] - rows[0], b - a) for a, b in pieces]
    return [(a, cols[0], b - a, cols[1] - cols[0]) for a, b in pieces]


LONGEST_SIDE = 8192
"""Up to this many rows and columns the outline follows every pixel; of more, cells of several pixels."""

SMALLEST_HOLE = 16.0
"""Square pixels: smaller holes are dark pixels that happen to have the nodata value, not missing imagery."""

_STRIP = 1 << 22
"""Pixels that are decoded at a time."""


def valid_footprint(reader: PixelReader, *, longest_side: int = LONGEST_SIDE) -> Any:
    """The outline of the valid pixels of one level of a raster, along the edges of the pixels.

    A level with more than `longest_side` rows or columns is outlined in square cells. A cell with a valid pixel
    belongs to the outline, so that no valid pixel is ever outside it.

    Returns:
        Polygon or multipolygon in pixels of the level (x = column, y = row, origin at the outer corner of the first
        pixel); the exact rectangle where all pixels are valid, None where none is.

    Raises:
        InputError: the file is damaged where it was read.
    """
    height, width = reader.height, reader.width
    frame = shapely.box(0, 0, width, height)
    if not reader.may_be_empty:
        return frame
    cell = -(-max(height, width) // longest_side)
    covered = np.zeros((-(-height // cell), -(-width // cell)), dtype=np.uint8)
    # Strips of whole blocks and whole cells: no block is decoded twice.
    block = max(cell, -(-reader.block_height // cell) * cell)
    strip = block * max(1, _STRIP // width // block)
    for top in range(0, height, strip):
        rows = min(strip, height - top)
        if not reader.may_have_data(top, 0, rows, width):
            continue
        valid = reader.valid(top, 0, rows, width)
        first = top // cell
        covered[first : first + -(-rows // cell)] = 1 if valid is None else _any_in_cells(valid, cell)
    if covered.all():
        return frame
    (outline,) = label_polygons(covered, 1)
    if outline is None:
        return None
    outline = _fill_small_holes(scale(outline, cell, cell, origin=(0, 0)))
    return polygon_parts(shapely.intersection(outline, frame)) if cell > 1 else polygon_parts(outline)


def _fill_small_holes(geometry: Any) -> Any:
    """The same polygon or multipolygon, each of its parts without holes under SMALLEST_HOLE; no part is dropped."""
    parts = [drop_specks(part, SMALLEST_HOLE) for part in shapely.get_parts(geometry)]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _any_in_cells(valid: np.ndarray, cell: int) -> np.ndarray:
    """uint8 [ceil(H / cell), ceil(W / cell)]: whether any pixel of a cell of bool [H, W] is valid."""
    if cell == 1:
        return valid.astype(np.uint8)
    rows = np.logical_or.reduceat(valid, np.arange(0, valid.shape[0], cell), axis=0)
    return np.logical_or.reduceat(rows, np.arange(0, valid.shape[1], cell), axis=1).astype(np.uint8)
