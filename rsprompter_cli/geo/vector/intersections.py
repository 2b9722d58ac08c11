"""Intersections of polygons that come from files, refused first where they would take too long."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from rsprompter_cli.geo.crossings import Alike, meeting_pairs, work_of_pairs
from rsprompter_cli.geo.vector.formats.limits import limit, over_limit
from rsprompter_cli.geo.vector.formats.wkb import UNITED_CROSSINGS

_PAIRS = 5_000_000
_PAIRS_PER_POLYGON = 20
"""Pairs of polygons whose boxes meet: of a building and its neighbours there are one to three for each."""

_PAIRS_PER_VERTEX = 8
"""Pairs of edges whose boxes meet."""

_SMALL_CROSSINGS = 10
"""Crossings for each vertex where outlines have few: these are intersected fast, and need no memory together."""

_AT_ONCE = 1_000_000
"""Vertices of pairs that are intersected in one go: what they share is in memory together."""


class SharedAreas(NamedTuple):
    """Pairs of polygons: first and second, int64 [P], positions in the two arrays; area, float64 [P], shared."""

    first: np.ndarray
    second: np.ndarray
    area: np.ndarray


def shared_areas(
    one: np.ndarray, other: np.ndarray | None, what: str | Path, *, alike: Alike | None = None
) -> SharedAreas:
    """Areas that pairs of polygons share, of those whose boxes meet.

    Args:
        one, other: object [N] and [M], valid polygons and multipolygons in one plane, none of them empty; other None:
            pairs (i < j) of `one`.
        what: the file or files, for messages.
        alike: says of some pairs, given by their positions, which are of interest, bool; None: all.

    Raises:
        InputError: over a limit; two combs of n teeth across one another have 4 n^2 crossings.
    """
    right = one if other is None else other
    first, second = _bounded_pairs(one, other, what, alike)
    area = np.zeros(len(first))
    vertices = shapely.get_num_coordinates(one)[first] + shapely.get_num_coordinates(right)[second].astype(np.int64)
    group = np.cumsum(vertices) // _AT_ONCE
    for rows in np.split(np.arange(len(first)), np.flatnonzero(np.diff(group)) + 1):
        area[rows] = shapely.area(shapely.intersection(one[first[rows]], right[second[rows]]))
    return SharedAreas(first, second, area)


def check_intersections(one: np.ndarray, other: np.ndarray, what: str | Path) -> None:
    """Refuse polygons that take too long to intersect with those they meet; arguments and errors as above."""
    _bounded_pairs(one, other, what, None)


def _bounded_pairs(
    one: np.ndarray, other: np.ndarray | None, what: str | Path, alike: Alike | None
) -> tuple[np.ndarray, np.ndarray]:
    right = one if other is None else other
    sides = (one,) if other is None else (one, other)
    vertices = sum(int(shapely.get_num_coordinates(side).sum()) for side in sides)
    most, most_of_small = limit(UNITED_CROSSINGS + vertices), limit(UNITED_CROSSINGS + _SMALL_CROSSINGS * vertices)
    pairs = limit(_PAIRS + _PAIRS_PER_POLYGON * sum(map(len, sides)) + _PAIRS_PER_VERTEX * vertices)
    first, second, count = meeting_pairs(one, other, alike=alike, most=pairs)
    if count <= pairs:
        work = work_of_pairs(one[first], right[second], most_pairs=pairs - count, most_crossings=most)
        if work.crossings > most or work.crossings_of_small > most_of_small:
            most = most if work.crossings > most else most_of_small
            raise over_limit(
                what, f"the outlines cross one another over {most:,} times, which takes too long to intersect"
            )
        count += work.pairs
    if count > pairs:
        raise over_limit(what, "so many outlines lie on top of one another that it takes too long to intersect them")
    return first, second
