"""The polygons of linked sets, and where they stand among objects that claim the same ground."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import GRID, boxes_of, common, expand, object_array, union_groups, with_area, within
from rsprompter_cli.geo.stitch.columns import take
from rsprompter_cli.geo.stitch.instances import Key, Views
from rsprompter_cli.geo.windows import WindowGrid

CUT_MARGIN = 1.0
"""Pixels: a mask that ends this close to a window edge goes on beyond it."""


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """C linked sets as columns.

    number: int64 [C], ascending names.
    first: int64 [C], id of the smallest member.
    label: int64 [C]; score, quality: float64 [C], the best of the members (NaN: no quality).
    cut: bool [C], it goes on where no member could see.
    core_share: int64 [C], part of its area in the cores of its own windows, in steps of 0.01 (0..100).
    polygon: object [C], union of its parts; None once it has been given up.
    members: object [C], tuples of keys.
    settled: bool [C], it will not change any more.
    """

    number: np.ndarray
    first: np.ndarray
    label: np.ndarray
    score: np.ndarray
    quality: np.ndarray
    cut: np.ndarray
    core_share: np.ndarray
    polygon: np.ndarray
    members: np.ndarray
    settled: np.ndarray

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """What single windows contribute to candidates, as columns in the order of (owner, window).

    owner: int64 [Q], number of the candidate.
    window: int64 [Q], position in the row-major order.
    polygon: object [Q].
    """

    owner: np.ndarray
    window: np.ndarray
    polygon: np.ndarray


def compose(views: Views, sets: np.ndarray, grid: WindowGrid, *, first_number: int) -> tuple[Candidates, Parts]:
    """The polygons of linked sets and of unlinked instances.

    Each point is decided by the member whose core holds it; where no member's core does, it belongs
    to the object when any member says so. A single instance that is cut and has no area in its own
    core is left out: the window whose core it lies in saw more of it, or nothing there.

    Args:
        views: the members, each set of one class.
        sets: int [N], number of the set of each, 0..S-1, each there.
        grid: the windows they come from.
        first_number: candidates are named `first_number` + number of the set.
    """
    count = int(sets.max()) + 1
    order = np.lexsort((views.ids, sets))
    views, sets = take(views, order), sets[order]
    starts = np.flatnonzero(np.diff(sets, prepend=-1))
    cut = np.bitwise_or.reduceat(_goes_on(views, sets, grid), starts)
    parts, in_cores = _parts(views, sets, grid)
    polygon = np.full(count, None, dtype=object)
    there, group = np.unique(parts.owner, return_inverse=True)
    polygon[there] = union_groups(parts.polygon, group, len(there))
    several = np.flatnonzero(np.bincount(parts.owner, minlength=count) > 1)
    polygon[several] = with_area(polygon[several])
    alone = np.bincount(sets, minlength=count) == 1
    keep = ~shapely.is_missing(polygon) & ~(alone & cut & (in_cores == 0))
    share = np.zeros(count)
    share[keep] = np.rint(100 * in_cores[keep] / shapely.area(polygon[keep]))
    candidates = Candidates(
        number=first_number + np.arange(count),
        first=views.ids[starts],
        label=views.label[starts],
        score=np.maximum.reduceat(views.score, starts),
        quality=np.fmax.reduceat(views.quality, starts),
        cut=cut,
        core_share=share.astype(np.int64),
        polygon=polygon,
        members=_members(views, starts, grid),
        settled=np.zeros(count, bool),
    )
    chosen = take(parts, keep[parts.owner])
    return take(candidates, keep), Parts(chosen.owner + first_number, chosen.window, chosen.polygon)


def _members(views: Views, starts: np.ndarray, grid: WindowGrid) -> np.ndarray:
    keys: list[Key] = views.keys(grid.cols)
    return object_array([tuple(keys[start:end]) for start, end in pairwise([*starts.tolist(), len(keys)])])


def _goes_on(views: Views, sets: np.ndarray, grid: WindowGrid) -> np.ndarray:
    """bool [N]: whether a member reaches an edge that is not the scene's and beyond which no other member looks."""
    window = grid.boxes(views.window).astype(np.float64)
    whole = np.array(grid.extent)
    inward = np.array([1, 1, -1, -1]) * CUT_MARGIN
    # Measured inwards from each side, the polygon begins before the margin ends.
    reached = ((views.bounds - window - inward) * np.sign(inward) < 0) & (window != whole)
    member, side = np.nonzero(reached)
    margin = window[member]
    margin[np.arange(len(side)), (side + 2) % 4] = (window + inward)[member, side]
    sizes = np.bincount(sets)
    asked = sizes[sets[member]] > 1
    goes_on = np.ones(len(member), bool)
    goes_on[asked] = ~_seen_by_others(views, sets, member[asked], margin[asked], grid)
    result = np.zeros(len(views), bool)
    np.logical_or.at(result, member, goes_on)
    return result


def _seen_by_others(
    views: Views, sets: np.ndarray, member: np.ndarray, margin: np.ndarray, grid: WindowGrid
) -> np.ndarray:
    """bool [M]: whether another window of its set holds all of what a member has in the margin of its window."""
    if len(member) == 0:
        return np.zeros(0, bool)
    ends = shapely.bounds(shapely.intersection(views.polygon[member], boxes_of(margin))).reshape(-1, 4)
    question, other = _with_their_set(sets, member)
    holds = views.window[other] != views.window[member[question]]
    holds &= within(ends[question], grid.boxes(views.window[other]))
    seen = np.zeros(len(member), bool)
    np.logical_or.at(seen, question, holds)
    return seen


def _with_their_set(owner: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of some items with each of its set, itself included: places in `asked`, and items.

    Args:
        owner: int [N], ascending: the set of each item.
        asked: int [M], items.
    """
    sizes = np.bincount(owner)
    starts = np.cumsum(sizes) - sizes
    place, _, other = expand(np.ones(len(asked), np.int64), sizes[owner[asked]])
    return place, other + starts[owner[asked[place]]]


def _parts(views: Views, sets: np.ndarray, grid: WindowGrid) -> tuple[Parts, np.ndarray]:
    """What each window contributes to each set (owner = set), and the area of each set that lies in their cores."""
    names, group = np.unique(sets * len(grid) + views.window, return_inverse=True)
    owner, window = np.divmod(names, len(grid))
    seen = union_groups(views.polygon, group, len(names))
    bounds = shapely.bounds(seen).reshape(-1, 4)
    cores = grid.cores(window).astype(np.float64)
    sizes = np.bincount(owner)
    inside = seen.copy()
    crossing = ~within(bounds, cores)
    inside[crossing] = shapely.intersection(seen[crossing], boxes_of(cores[crossing]), grid_size=GRID)
    in_cores = np.bincount(owner, shapely.area(inside))
    shared = sizes[owner] > 1  # with nobody to share with, the core decides nothing
    result = seen.copy()
    result[shared & crossing] = with_area(inside[shared & crossing])
    left = np.flatnonzero(shared & crossing)
    left = left[~_in_cores(bounds, cores, owner, left)]
    if len(left):
        outside = with_area(_outside(seen, cores, owner, left))
        for place, rest in zip(left.tolist(), outside, strict=True):
            if rest is not None:
                both = [part for part in (result[place], rest) if part is not None]
                result[place] = both[0] if len(both) == 1 else shapely.union_all(both, grid_size=GRID)
        result[left] = with_area(result[left])
    there = ~shapely.is_missing(result)
    return Parts(owner[there], window[there], result[there]), in_cores


def _in_cores(bounds: np.ndarray, cores: np.ndarray, owner: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """bool: whether the box of a part lies in the cores of its set; these do not overlap, so areas tell."""
    question, other = _with_their_set(owner, asked)
    shared = common(bounds[asked[question]], cores[other])
    area = np.maximum(shared[:, 2:] - shared[:, :2], 0).prod(1)
    covered = np.bincount(question, area, minlength=len(asked))
    return covered >= (bounds[asked, 2:] - bounds[asked, :2]).prod(1)


def _outside(seen: np.ndarray, cores: np.ndarray, owner: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """What parts have outside all cores of their set."""
    needed = np.isin(owner, owner[asked])
    names, group = np.unique(owner[needed], return_inverse=True)
    ground = union_groups(boxes_of(cores[needed]), group, len(names))
    return shapely.difference(seen[asked], ground[np.searchsorted(names, owner[asked])], grid_size=GRID)
