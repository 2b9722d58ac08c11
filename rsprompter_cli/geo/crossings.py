"""How much work polygons are: pairs of edges that lie near one another, and edges that cross.

Testing whether a polygon is valid takes time with the pairs, repairing it time and memory with the crossings, and so
does intersecting two. Both can grow with the square of the vertices, so a file of some hundred kilobytes can take
hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import shapely

Alike = Callable[[np.ndarray, np.ndarray], np.ndarray]

_PAIRS_AT_ONCE = 500_000

_FEW_EDGES = 900
"""Pairs of edges of two polygons, up to which those of a sample are counted alone: of buildings there are millions."""

_SAMPLE = 500


class Work(NamedTuple):
    """Of geometries: pairs of edges, of rings or of geometries whose boxes meet, and pairs of edges that cross.

    Counting ends at the limits, so a number over its limit is only a lower bound.
    """

    pairs: int
    crossings: int


class WorkOfPairs(NamedTuple):
    """Of pairs of polygons: pairs of edges whose boxes meet, and crossings of polygons of many edges and of all others.

    Counting ends at the limits, so a number over its limit is only a lower bound.
    """

    pairs: int
    crossings: int
    crossings_of_small: int


def work_of(geometry: Any, *, most_pairs: int, most_crossings: int) -> Work:
    """Count what makes a geometry slow to test and to repair.

    Args:
        geometry: any of finite coordinates.
        most_pairs, most_crossings: where counting ends.
    """
    rings = shapely.get_rings(shapely.get_parts(shapely.get_parts(geometry)))
    pairs = crossings = 0
    for one, _ in _near(shapely.bounds(rings), None, most_pairs):
        pairs += len(one)
        if pairs > most_pairs:
            return Work(pairs, 0)
    edges = _Edges.of(rings)
    for one, other in _near(edges.boxes, None, most_pairs):
        pairs += len(one)
        crossings += _crossings(edges, one, edges, other)
        if pairs > most_pairs or crossings > most_crossings:
            break
    return Work(pairs, crossings)


def meeting_pairs(
    one: np.ndarray, other: np.ndarray | None, *, alike: Alike | None = None, most: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of polygons whose boxes meet: positions in `one` and in `other`, int64 [P], and how many meet.

    Args:
        one, other: object [N] and [M], none of them missing or empty; other None: pairs (i < j) of `one`.
        alike: says of some pairs, given by their positions, which are wanted, bool; None: all. The others are
            counted only.
        most: where counting ends; over it, the pairs are not complete.
    """
    near = [np.zeros((2, 0), dtype=np.int64)]
    count = 0
    for first, second in _near(shapely.bounds(one), None if other is None else shapely.bounds(other), most):
        count += len(first)
        wanted = slice(None) if alike is None else alike(first, second)
        near.append(np.stack([first[wanted], second[wanted]]))
    first, second = np.concatenate(near, axis=1)
    return first, second, count


def work_of_pairs(one: np.ndarray, other: np.ndarray, *, most_pairs: int, most_crossings: int) -> WorkOfPairs:
    """Estimate what makes it slow to intersect each polygon of `one` with that of `other` at its place.

    Pairs of polygons with many edges are counted; for the others a sample stands.

    Args:
        one, other: object [P], polygons and multipolygons of finite coordinates.
        most_pairs, most_crossings: where counting ends.
    """
    edges, others = (shapely.get_num_coordinates(array).astype(np.int64) for array in (one, other))
    few = edges * others <= _FEW_EDGES
    rows = np.flatnonzero(few)
    chosen = np.random.default_rng(0).permutation(rows)[:_SAMPLE]
    crossings = sum(_work_of_edges(one[[row]], other[[row]], most_pairs, most_crossings).crossings for row in chosen)
    many = _work_of_edges(_different(one[~few]), _different(other[~few]), most_pairs, most_crossings)
    return WorkOfPairs(many.pairs, many.crossings, round(crossings * len(rows) / max(len(chosen), 1)))


def _different(polygons: np.ndarray) -> np.ndarray:
    """Each object once; those that are equal but another object stay."""
    return np.array(list({id(polygon): polygon for polygon in polygons}.values()), dtype=object)


def _work_of_edges(one: np.ndarray, other: np.ndarray, most_pairs: int, most_crossings: int) -> Work:
    left, right = _Edges.of(shapely.get_rings(one)), _Edges.of(shapely.get_rings(other))
    pairs = crossings = 0
    for first, second in _near(left.boxes, right.boxes, most_pairs):
        pairs += len(first)
        crossings += _crossings(left, first, right, second)
        if pairs > most_pairs or crossings > most_crossings:
            break
    return Work(pairs, crossings)


class _Edges(NamedTuple):
    """start, end: float64 [N, 2], of the edges of rings."""

    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, rings: np.ndarray) -> _Edges:
        xy, ring = shapely.get_coordinates(rings, return_index=True)
        same = ring[1:] == ring[:-1]
        return cls(xy[:-1][same], xy[1:][same])

    @property
    def boxes(self) -> np.ndarray:
        return np.hstack([np.minimum(self.start, self.end), np.maximum(self.start, self.end)])


def _near(boxes: np.ndarray, others: np.ndarray | None, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i, j) of boxes [N, 4] and others [M, 4] that meet, some at a time; ends once there are more than `most`.

    others: None for pairs (i < j) of the boxes themselves.
    """
    right = boxes if others is None else others
    if not len(boxes) or not len(right):
        return
    # No box meets more others than overlap it in one direction, which is counted fast: so much memory a query may take.
    counts = np.minimum(*(_overlaps(boxes[:, [axis, axis + 2]], right[:, [axis, axis + 2]]) for axis in (0, 1)))
    tree = shapely.STRtree(shapely.box(*right.T))
    group = np.cumsum(counts + 1) // _PAIRS_AT_ONCE
    found = 0
    for rows in np.split(np.arange(len(boxes)), np.flatnonzero(np.diff(group)) + 1):
        one, other = tree.query(shapely.box(*boxes[rows].T))
        one = rows[one]
        if others is None:
            later = one < other
            one, other = one[later], other[later]
        found += len(one)
        yield one, other
        if found > most:
            return


def _overlaps(intervals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many of the others [M, 2] each of the intervals [N, 2] meets."""
    begun = np.searchsorted(np.sort(others[:, 0]), intervals[:, 1], side="right")
    return begun - np.searchsorted(np.sort(others[:, 1]), intervals[:, 0], side="left")


def _crossings(left: _Edges, first: np.ndarray, right: _Edges, second: np.ndarray) -> int:
    """How many pairs of edges cross or touch, but for edges that share an end."""
    a, b, c, d = left.start[first], left.end[first], right.start[second], right.end[second]
    shared = (a == c).all(1) | (a == d).all(1) | (b == c).all(1) | (b == d).all(1)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = (_side(a, b, c) * _side(a, b, d) > 0) | (_side(c, d, a) * _side(c, d, b) > 0)
    return int((~shared & ~apart).sum())


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    ab, ac = b - a, c - a
    return np.sign(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
