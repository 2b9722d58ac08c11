"""The labelled ground of many or winding outlines, on a grid of cells: its time and memory have a bound.

Growing and uniting outlines takes time with the square of the vertices that lie near one another. On a grid it takes
time with the cells and the length of the outlines.
"""

from __future__ import annotations

import numpy as np
import shapely
from scipy import ndimage

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.polygonize import label_polygons
from rsprompter_cli.geo.vector.formats.limits import LIMITS_VARIABLE, limit

_CELLS_PER_SPACING = 8
_MOST_CELLS = 4_000_000
_MOST_SAMPLES = 50_000_000
"""Places along the outlines, two in each cell: a million buildings have 30 million."""

_SAMPLES_AT_ONCE = 2_000_000
_EIGHT = np.ones((3, 3), dtype=bool)


def coarse_area(
    polygons: np.ndarray, height: int, width: int, *, spacing: float, reach: float, margin: float
) -> shapely.Geometry:
    """The ground of `labelled_area` in whole cells.

    Args:
        polygons: footprints in pixels, object [N].
        height, width: of the scene, in pixels.
        spacing: of the footprints; a cell is an eighth of it or more. reach, margin: pixels, see `labelled_area`.

    Returns:
        A polygon or multipolygon inside the scene, which covers what of the footprints lies there.

    Raises:
        InputError: the outlines are too long.
    """
    cell = max(spacing / _CELLS_PER_SPACING, (height * width / _MOST_CELLS) ** 0.5)
    rows, columns = max(1, int(np.ceil(height / cell))), max(1, int(np.ceil(width / cell)))
    covered = _covered(polygons, rows, columns, cell)
    # The ground beyond the border counts as labelled where a gap between an outline and it is closed.
    grown = ndimage.distance_transform_edt(~np.pad(covered, 1, constant_values=True))[1:-1, 1:-1] * cell <= reach
    closed = ndimage.distance_transform_edt(grown) * cell > reach if not grown.all() else grown
    around = ndimage.distance_transform_edt(~covered) * cell <= margin
    parts, _ = ndimage.label(closed | around, structure=_EIGHT)
    kept = np.unique(parts[around])
    area = np.isin(parts, kept[kept > 0])
    (outline,) = label_polygons(area.astype(np.uint8), 1)
    return shapely.intersection(shapely.transform(outline, lambda xy: xy * cell), shapely.box(0, 0, width, height))


def _covered(polygons: np.ndarray, rows: int, columns: int, cell: float) -> np.ndarray:
    """Cells that footprints touch, bool [rows, columns]."""
    covered = np.zeros((rows, columns), dtype=bool)
    _draw_outlines(polygons, covered, cell)
    # What lies between outlines is inside or outside as a whole.
    parts, count = ndimage.label(~covered)
    if not count:
        return covered
    _, first = np.unique(parts, return_index=True)
    first = first[-count:]
    points = shapely.points((first % columns + 0.5) * cell, (first // columns + 0.5) * cell)
    _, inside = shapely.STRtree(points).query(polygons, predicate="contains")
    is_inside = np.zeros(count + 1, dtype=bool)
    is_inside[np.unique(inside) + 1] = True
    return covered | is_inside[parts]


def _draw_outlines(polygons: np.ndarray, covered: np.ndarray, cell: float) -> None:
    """Set the cells in which an outline has one of its places, which are half a cell apart."""
    rows, columns = covered.shape
    frame = shapely.box(0, 0, columns * cell, rows * cell)
    lines = shapely.boundary(polygons)
    beyond = ~shapely.covers(frame, lines)
    lines[beyond] = shapely.intersection(lines[beyond], frame)
    xy, line = shapely.get_coordinates(shapely.get_parts(shapely.get_parts(lines)), return_index=True)
    same = line[1:] == line[:-1]
    start, step = xy[:-1][same], np.diff(xy, axis=0)[same]
    counts = np.ceil(np.hypot(*step.T) / (cell / 2)).astype(np.int64) + 1
    total = np.cumsum(counts)
    if len(total) and total[-1] > limit(_MOST_SAMPLES):
        raise InputError(
            "its outlines on the scene are too long to tell which ground they label",
            f"pass --complete if every object is labelled, or set {LIMITS_VARIABLE}=10 if you trust the file",
        )
    for some in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(total // _SAMPLES_AT_ONCE)) + 1):
        edge = np.repeat(some, counts[some])
        place = np.arange(len(edge)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
        at = start[edge] + step[edge] * (place / np.maximum(counts[edge] - 1, 1))[:, None]
        column, row = np.floor(at / cell).astype(np.int64).T
        covered[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)] = True
