"""Many polygons in one call: unions of groups, what has area, rings without needless vertices.

What `polygons` does with one geometry, here for arrays of them, without a loop in Python over those
that need nothing done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.geo.polygonize import GRID, drop_collinear, polygon_parts

POLYGON, MULTIPOLYGON = 3, 6
"""Numbers of geometry types, as `shapely.get_type_id` gives them."""

_MANY = 8
"""Groups larger than this are united one by one: few objects have so many parts."""


def object_array(geometries: Sequence[Any]) -> np.ndarray:
    """object [N] of geometries, also where N is 0."""
    array = np.empty(len(geometries), dtype=object)
    array[:] = geometries
    return array


def snapped(polygons: np.ndarray) -> np.ndarray:
    """Polygons [N] on the grid of 1/256 pixel, valid there; None when nothing with area is left.

    Valid ones whose vertices lie on the grid already are taken as they are. The results do not carry the grid with
    them, so that predicates and areas are computed without it, which is several times faster.
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
    return shapely.normalize(_without_collinear(polygons))


def _without_collinear(polygons: np.ndarray) -> np.ndarray:
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
    turn[last] = True
    straight = np.unique(part_of[owners[ring_of[~turn]]])
    if len(straight) == 0:
        return polygons
    result = polygons.copy()
    result[straight] = [drop_collinear(polygon) for polygon in polygons[straight]]
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
