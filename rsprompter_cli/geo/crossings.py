"""How much work a polygon is: pairs of edges that lie near one another, and edges that cross.

Testing whether a polygon is valid takes time with the pairs, repairing it time and memory with the crossings. Both can
grow with the square of the vertices, so a file of some hundred kilobytes can take hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import shapely

_PAIRS_AT_ONCE = 500_000


class Work(NamedTuple):
    """Of a geometry: pairs of edges or rings whose boxes meet, and pairs of edges that cross.

    Counting ends at the limits, so a number over its limit is only a lower bound.
    """

    pairs: int
    crossings: int


def work_of(geometry: Any, *, most_pairs: int, most_crossings: int) -> Work:
    """Count what makes a geometry slow to test and to repair.

    Args:
        geometry: any of finite coordinates.
        most_pairs, most_crossings: where counting ends.
    """
    rings = shapely.get_rings(shapely.get_parts(shapely.get_parts(geometry)))
    pairs = crossings = 0
    for one, _ in _near(shapely.bounds(rings), most_pairs):
        pairs += len(one)
        if pairs > most_pairs:
            return Work(pairs, 0)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    start, end = xy[:-1][same], xy[1:][same]
    boxes = np.hstack([np.minimum(start, end), np.maximum(start, end)])
    for one, other in _near(boxes, most_pairs):
        pairs += len(one)
        crossings += int(_cross(start[one], end[one], start[other], end[other]).sum())
        if pairs > most_pairs or crossings > most_crossings:
            break
    return Work(pairs, crossings)


def _near(boxes: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i < j) of boxes [N, 4] that meet, some at a time; ends once there are more than `most`."""
    if len(boxes) < 2:
        return
    # No box meets more others than overlap it in one direction, which is counted fast: so much memory a query may take.
    counts = np.minimum(*(_overlaps(boxes[:, axis], boxes[:, axis + 2]) for axis in (0, 1)))
    cells = shapely.box(*boxes.T)
    tree = shapely.STRtree(cells)
    group = np.cumsum(counts) // _PAIRS_AT_ONCE
    found = 0
    for rows in np.split(np.arange(len(boxes)), np.flatnonzero(np.diff(group)) + 1):
        one, other = tree.query(cells[rows])
        one = rows[one]
        later = one < other
        one, other = one[later], other[later]
        found += len(one)
        yield one, other
        if found > most:
            return


def _overlaps(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many of N intervals each of them meets, itself included."""
    begun = np.searchsorted(np.sort(low), high, side="right")
    return begun - np.searchsorted(np.sort(high), low, side="left")


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether edges a-b and c-d cross or touch, but for edges that share an end."""
    shared = (a == c).all(1) | (a == d).all(1) | (b == c).all(1) | (b == d).all(1)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = (_side(a, b, c) * _side(a, b, d) > 0) | (_side(c, d, a) * _side(c, d, b) > 0)
    return ~shared & ~apart


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    ab, ac = b - a, c - a
    return np.sign(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
