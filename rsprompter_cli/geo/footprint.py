"""The outline of a raster's valid pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from shapely.affinity import scale

from rsprompter_cli.geo.pixels import PixelReader
from rsprompter_cli.geo.polygons import drop_specks, label_polygons, polygon_parts

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
