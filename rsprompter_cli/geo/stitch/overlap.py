"""Areas that pairs of polygons have in common, for a million pairs: numbers only, no geometries are made.

The indicator of a polygon is the sum over its edges of plus or minus the indicator of the ground under
the edge, and so the common area of two polygons is the sum over pairs of edges of plus or minus the common
ground under both, which is the integral of the smaller of two linear functions.
"""

from __future__ import annotations

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import expand

_AT_ONCE = 200_000
"""Pairs of edges computed in one go; few enough for the processor's cache."""

_MANY = 900
"""Pairs of edges from which on GEOS, which sorts them, is quicker."""


def common_areas(polygons: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [P]: areas that polygons have in common; the same bits for a pair whatever the others are.

    Args:
        polygons: object [N], valid polygons of one piece.
        first, second: int [P], positions of the pairs.
    """
    edges = _Edges(polygons)
    combinations = edges.counts[first] * edges.counts[second]
    areas = np.zeros(len(first))
    many = combinations > _MANY
    areas[many] = shapely.area(shapely.intersection(polygons[first[many]], polygons[second[many]]))
    few = np.flatnonzero(~many)
    block = np.cumsum(combinations[few]) // _AT_ONCE
    for pairs in np.split(few, np.flatnonzero(np.diff(block)) + 1):
        areas[pairs] = edges.common_areas(first[pairs], second[pairs])
    return areas


class _Edges:
    """The edges of polygons that are not vertical, as columns.

    counts, starts: int [N], those of each polygon.
    left, right: x of their ends; y: at the left end; slope; sign: +1 with the polygon below, -1 above.
    """

    def __init__(self, polygons: np.ndarray) -> None:
        rings, owner = shapely.get_rings(polygons, return_index=True)
        xy, ring = shapely.get_coordinates(rings, return_index=True)
        edge = np.flatnonzero(ring[1:] == ring[:-1])
        (x0, y0), (x1, y1), ring = xy[edge].T, xy[edge + 1].T, ring[edge]
        # Whichever way a ring runs: outer rings add ground, holes take it away.
        below = np.bincount(ring, (x1 - x0) * (y0 + y1 - 2 * y0[np.searchsorted(ring, ring)]), minlength=len(rings))
        outer = np.diff(owner, prepend=-1) > 0
        sign = np.sign(below) * np.where(outer, 1.0, -1.0)
        turned = x1 < x0
        sign = sign[ring] * np.where(turned, -1.0, 1.0)
        level = x0 != x1
        self.left, self.right = np.minimum(x0, x1)[level], np.maximum(x0, x1)[level]
        self.y = np.where(turned, y1, y0)[level]
        self.slope = (y1 - y0)[level] / (x1 - x0)[level]
        self.sign = sign[level]
        self.counts = np.bincount(owner[ring[level]], minlength=len(polygons))
        self.starts = np.cumsum(self.counts) - self.counts

    def common_areas(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """float64 [P] for pairs of polygons."""
        pair, i, j = expand(self.counts[first], self.counts[second])
        i, j = i + self.starts[first[pair]], j + self.starts[second[pair]]
        left, right = np.maximum(self.left[i], self.left[j]), np.minimum(self.right[i], self.right[j])
        over = left < right
        pair, i, j, left, right = pair[over], i[over], j[over], left[over], right[over]
        base = self.y[self.starts[first[pair]]]  # any will do; a near one keeps the numbers small
        yi, yj = self.y[i] - base, self.y[j] - base
        i_left, i_right = (yi + self.slope[i] * (x - self.left[i]) for x in (left, right))
        j_left, j_right = (yj + self.slope[j] * (x - self.left[j]) for x in (left, right))
        apart_left, apart_right = i_left - j_left, i_right - j_right
        apart = np.abs(apart_left) + np.abs(apart_right)
        crossing = apart_left * apart_right < 0
        apart[crossing] = (apart_left[crossing] ** 2 + apart_right[crossing] ** 2) / apart[crossing]
        lower = (right - left) * (i_left + i_right + j_left + j_right - apart) / 4
        areas = np.bincount(pair, self.sign[i] * self.sign[j] * lower, minlength=len(first))
        return np.maximum(areas, 0.0)
