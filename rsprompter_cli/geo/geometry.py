"""Polygons: what has area, vertices on the grid, unions of groups, rings without needless vertices.

Arrays of them are treated without a loop in Python over those that need nothing done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

GRID = 1 / 256
"""Pixels: vertices lie on multiples of this, which floats hold exactly up to 2^45 pixels."""

POLYGON, MULTIPOLYGON = 3, 6
"""Numbers of geometry types, as `shapely.get_type_id` gives them."""

_MANY = 8
"""Groups larger than this are united one by one: few objects have so many parts."""


def object_array(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """object [N] of geometries or other values, also where N is 0."""
    return np.fromiter(values, dtype=object, count=len(values))


def snapped(polygons: np.ndarray) -> np.ndarray:
    """Polygons [N] on the grid of 1/256 pixel, valid there; None when nothing with area is left.

    They are mended first where they are not valid, as scaling leaves a hole that touches its outline: GEOS raises an
    exception at some such geometries. Valid ones whose vertices lie on the grid already are taken as they are. The
    results do not carry the grid with them, so that predicates and areas are computed without it, which is several
    times faster.
    """
    loose = ~_on_grid(polygons)
    result = _without_grid(polygons)
    result[loose] = with_area(shapely.set_precision(with_area(polygons[loose]), GRID))
    return result


def _on_grid(polygons: np.ndarray) -> np.ndarray:
    """bool [N]: valid polygons and multipolygons all of whose vertices are multiples of GRID."""
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    steps = xy / GRID
    there = np.bincount(owner[(steps != np.round(steps)).any(1)], minlength=len(polygons)) == 0
    kind = shapely.get_type_id(polygons)
    there &= (kind == POLYGON) | (kind == MULTIPOLYGON)
    there[there] = shapely.is_valid(polygons[there])
    return there


def with_area(geometries: np.ndarray) -> np.ndarray:
    """What of each geometry [N] has area, as one valid polygon or multipolygon; None when nothing has."""
    kind = shapely.get_type_id(geometries)
    good = ((kind == POLYGON) | (kind == MULTIPOLYGON)) & ~shapely.is_empty(geometries)
    good[good] = shapely.is_valid(geometries[good])
    result = _without_grid(geometries)
    result[~good] = None
    for place in np.flatnonzero(~good & ~shapely.is_empty(geometries) & (kind >= 0)).tolist():
        result[place] = polygon_parts(shapely.set_precision(geometries[place], 0, mode="pointwise"))
    return result


def _without_grid(geometries: np.ndarray) -> np.ndarray:
    """The same geometries [N], free of the grid that GEOS would hold them to."""
    bound = shapely.get_precision(geometries) > 0
    result = geometries.copy()
    result[bound] = shapely.set_precision(geometries[bound], 0, mode="pointwise")
    return result


def union_groups(polygons: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """The union of each group, on the grid of 1/256 pixel; a single polygon as it is.

    Args:
        polygons: object [M].
        groups: int [M], ascending, each of 0..count-1 at least once.
        count: of groups.

    Returns:
        object [count].
    """
    sizes = np.bincount(groups, minlength=count)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    result = np.empty(count, dtype=object)
    for size in np.unique(sizes).tolist():
        which = np.flatnonzero(sizes == size)
        if size == 1:
            result[which] = polygons[starts[which]]
        elif size <= _MANY:
            rows = polygons[starts[which][:, None] + np.arange(size)]
            result[which] = shapely.union_all(rows, axis=1, grid_size=GRID)
        else:
            for group in which.tolist():
                members = polygons[starts[group] : starts[group] + size]
                result[group] = shapely.union_all(members, grid_size=GRID)
    return result


def tidy(polygons: np.ndarray) -> np.ndarray:
    """Polygons [N] in normal form, without vertices in the middle of a straight edge."""
    return shapely.normalize(without_collinear(polygons))


def without_collinear(polygons: np.ndarray) -> np.ndarray:
    """Polygons [N] without the vertices that lie exactly on the line of their neighbours."""
    parts, part_of = shapely.get_parts(polygons, return_index=True)
    rings, owners = shapely.get_rings(parts, return_index=True)
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    if len(xy) == 0:
        return polygons
    # The first vertex of a ring comes again at its end: its neighbours are the second and the last but one.
    first = np.flatnonzero(np.diff(ring_of, prepend=-1))
    last = np.append(first[1:], len(xy)) - 1
    before = xy - np.roll(xy, 1, axis=0)
    before[first] = xy[first] - xy[last - 1]
    after = np.roll(xy, -1, axis=0) - xy
    turn = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    turn[last] = True  # not asked
    straight = np.unique(part_of[owners[ring_of[~turn]]])
    if len(straight) == 0:
        return polygons
    result = polygons.copy()
    turn[last] = False
    slim = shapely.polygons(shapely.linearrings(xy[turn], indices=ring_of[turn]), indices=owners)
    starts, ends = (np.searchsorted(part_of, straight, side) for side in ("left", "right"))
    result[straight] = [gather(slim[start:end].tolist()) for start, end in zip(starts, ends, strict=True)]
    return result


def expand(counts_a: np.ndarray, counts_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All combinations of the members of two groups, for many pairs of groups.

    Args:
        counts_a, counts_b: int [P], sizes of the groups of each pair.

    Returns:
        Three int arrays [sum of counts_a * counts_b]: the pair, and the place in the first and in the second group.
    """
    # Without divisions, which are the slowest thing a processor does with whole numbers.
    row_pair = np.repeat(np.arange(len(counts_a)), counts_a)
    row = np.arange(len(row_pair)) - np.repeat(np.cumsum(counts_a) - counts_a, counts_a)
    sizes = counts_b[row_pair]
    places = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(row_pair, sizes), np.repeat(row, sizes), places


def meet(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool [N]: whether boxes [N, 4] have area in common."""
    return (
        (first[:, 0] < second[:, 2])
        & (second[:, 0] < first[:, 2])
        & (first[:, 1] < second[:, 3])
        & (second[:, 1] < first[:, 3])
    )


def within(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """bool [N]: whether boxes [N, 4] lie inside others, whose border they may touch."""
    return np.all((inner[:, :2] >= outer[:, :2]) & (inner[:, 2:] <= outer[:, 2:]), axis=1)


def common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[N, 4]: the common part of boxes [N, 4]; where they have none, x1 < x0 or y1 < y0."""
    return np.concatenate([np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], axis=1)


def boxes_of(bounds: np.ndarray) -> np.ndarray:
    """object [N]: rectangles as polygons."""
    return np.asarray(shapely.box(*bounds.astype(np.float64).T), dtype=object).reshape(len(bounds))


def polygon_parts(geometry: Any) -> Any:
    """What of a geometry has area, as one valid polygon or multipolygon; None when nothing has."""
    if geometry is None or geometry.is_empty:
        return None
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    if geometry.geom_type == "Polygon":
        return None if geometry.is_empty else geometry
    parts = _pieces(geometry)
    return gather(parts) if geometry.geom_type == "MultiPolygon" or len(parts) < 2 else shapely.union_all(parts)


def gather(parts: Sequence[Any]) -> Any:
    """Polygons as one geometry: a multipolygon where they are several, None where there is none."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def drop_specks(geometry: Any, min_piece: float) -> Any:
    """Without pieces smaller than `min_piece` (the largest stays) and without such holes."""
    if geometry is None or min_piece <= 0:
        return geometry
    parts = _pieces(geometry)
    if len(parts) > 1:
        largest = max(parts, key=lambda part: part.area)
        parts = [part for part in parts if part is largest or part.area >= min_piece]
    return gather([_fill_specks(part, min_piece) for part in parts])


def simplify(geometry: Any, tolerance: float) -> Any:
    """Fewer vertices, none moved, none of the outline farther than `tolerance` from where it was.

    The result is valid, keeps its holes, and is the geometry itself when the tolerance would leave
    nothing of it.
    """
    if tolerance <= 0:
        return geometry
    fewer = polygon_parts(shapely.simplify(geometry, tolerance, preserve_topology=True))
    return geometry if fewer is None else fewer


def iou_of(one: Any, other: Any) -> float:
    """Intersection over union of two valid polygons; 0 where neither has area."""
    shared = shapely.intersection(one, other).area
    return float(shared / max(one.area + other.area - shared, np.finfo(float).tiny))


def _pieces(geometry: Any) -> list[Any]:
    """The polygons with area in a geometry of any type."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]


def _fill_specks(polygon: Any, min_piece: float) -> Any:
    holes = [hole for hole in polygon.interiors if shapely.area(shapely.polygons(hole)) >= min_piece]
    return polygon if len(holes) == len(polygon.interiors) else shapely.Polygon(polygon.exterior, holes)
