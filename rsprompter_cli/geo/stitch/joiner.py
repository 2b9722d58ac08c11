"""Joining: what several windows saw of one object becomes one polygon; neighbours stay apart.

Everything happens in the pixels of the working grid and depends only on the instances, never on
the order in which windows were computed or on how many rows are joined at once. The steps:

1. `link`: which instances of two overlapping windows are the same object.
2. `compose`: the polygon of a linked set; each point is decided by the window whose core holds it.
3. `resolve_overlaps`: where objects of different windows still overlap, the better placed one keeps the ground.

A set is composed when no window row to come can add to it, and settled when all it touches are
composed and the better ones among these settled. What is settled leaves; so memory holds the rows
that are still open and the objects that reach them, however many rows the scene has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rsprompter_cli.geo.geometry import tidy
from rsprompter_cli.geo.stitch.columns import take, together
from rsprompter_cli.geo.stitch.compose import CUT_MARGIN, Candidates, Parts, compose
from rsprompter_cli.geo.stitch.instances import Instance, JoinedInstance, Key, Views, as_views, no_views
from rsprompter_cli.geo.stitch.link import link, near_pairs
from rsprompter_cli.geo.stitch.resolve import resolve_overlaps
from rsprompter_cli.geo.windows import WindowGrid

__all__ = [
    "AT_ONCE",
    "CUT_MARGIN",
    "Instance",
    "JoinedInstance",
    "Joiner",
    "Key",
]

AT_ONCE = 4096
"""Instances joined in one go, in whole window rows: from about here on numpy's calls are cheap for each."""

_OPEN, _GONE = -1, -2
"""In place of a candidate's number: its set may still grow; it was left out."""


class Joiner:
    """Joins the window rows of a scene as they come; holds what is still open."""

    def __init__(self, grid: WindowGrid) -> None:
        """Nothing has come yet."""
        self._grid = grid
        self._views = no_views()
        self._candidate = np.zeros(0, np.int64)  # of each view, or _OPEN or _GONE
        self._near = np.zeros((0, 2), np.int64)  # pairs of ids of views
        self._links = np.zeros((0, 2), np.int64)
        self._candidates: Candidates | None = None
        self._parts: Parts | None = None
        self._next_id = self._next_number = self._rows_done = 0
        self._waiting: list[Instance] = []

    def __len__(self) -> int:
        """Instances held."""
        return len(self._views)

    def feed(self, instances: Sequence[Instance], *, windows_done: int) -> list[JoinedInstance]:
        """Take in the next windows, however few; whole rows are joined when there are enough of them.

        Args:
            instances: those of the next windows of the row-major order.
            windows_done: every window before this position has come.
        """
        self._waiting += instances
        rows_done, last = windows_done // self._grid.cols, windows_done >= len(self._grid)
        if not last and (rows_done == self._rows_done or len(self._waiting) < AT_ONCE):
            return []
        ready = [one for one in self._waiting if one.window_row < rows_done]
        self._waiting = [one for one in self._waiting if one.window_row >= rows_done]
        return self.add(ready, rows_done=rows_done)

    def add(self, instances: Sequence[Instance], *, rows_done: int) -> list[JoinedInstance]:
        """Take in the next rows and give out what is finished with them, in no particular order.

        Args:
            instances: all those of whole window rows, none of them added before.
            rows_done: every window row before this one has come.
        """
        new = as_views(instances, self._grid, first_id=self._next_id)
        if len(new) and new.window[0] < self._rows_done * self._grid.cols:
            raise ValueError(f"window row {new.window[0] // self._grid.cols} came after row {self._rows_done - 1}")
        self._next_id += len(instances)
        self._rows_done = rows_done
        self._take_in(new)
        if len(self._views) == 0:
            return []
        top = self._grid.row_top(rows_done)
        done = self._grid.boxes(self._views.window)[:, 3] <= top
        self._compose(done)
        found = self._settle()
        self._let_go()
        return found

    def _take_in(self, new: Views) -> None:
        before = len(self._views)
        self._views = views = together(self._views, new)
        self._candidate = np.append(self._candidate, np.full(len(new), _OPEN))
        if len(new) == 0:
            return
        # What is composed lies in rows that no new window reaches.
        still = np.flatnonzero(self._candidate == _OPEN)
        chosen = take(views, still)
        first, second = near_pairs(chosen, int(np.searchsorted(still, before)))
        one, other = link(chosen, first, second, self._grid)
        self._near = np.concatenate([self._near, np.stack([chosen.ids[first], chosen.ids[second]], axis=1)])
        self._links = np.concatenate([self._links, np.stack([chosen.ids[one], chosen.ids[other]], axis=1)])

    def _compose(self, done: np.ndarray) -> None:
        """Make candidates of the sets whose members' rows are all done."""
        still = np.flatnonzero(self._candidate == _OPEN)
        if len(still) == 0:
            return
        ends = np.searchsorted(self._views.ids[still], self._links)
        graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(still), len(still)))
        _, sets = connected_components(graph, directed=False)
        waits = np.zeros(int(sets.max()) + 1, bool)
        waits[sets[~done[still]]] = True
        closed = ~waits[sets]
        if not closed.any():
            return
        members = still[closed]
        _, sets = np.unique(sets[closed], return_inverse=True)
        candidates, parts = compose(take(self._views, members), sets, self._grid, first_number=self._next_number)
        number = self._next_number + sets
        self._candidate[members] = np.where(np.isin(number, candidates.number), number, _GONE)
        self._next_number += int(sets.max()) + 1
        self._links = self._links[~closed[ends[:, 0]]]
        self._candidates = candidates if self._candidates is None else together(self._candidates, candidates)
        self._parts = parts if self._parts is None else together(self._parts, parts)

    def _settle(self) -> list[JoinedInstance]:
        """Settle the candidates all whose neighbours are composed, and give out those that remain."""
        if self._candidates is None or self._parts is None:
            return []
        ends = self._candidate[np.searchsorted(self._views.ids, self._near)]
        blocked = np.isin(self._candidates.number, ends[(ends == _OPEN).any(1)])
        pairs = ends[(ends >= 0).all(1) & (ends[:, 0] != ends[:, 1])]
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        first, second = np.searchsorted(self._candidates.number, pairs).T
        self._candidates, self._parts, remaining = resolve_overlaps(
            self._candidates, self._parts, first, second, blocked
        )
        return _joined(take(self._candidates, remaining))

    def _let_go(self) -> None:
        """Forget what nothing to come can ask about."""
        waits = self._candidate == _OPEN
        if self._candidates is not None:
            waits |= np.isin(self._candidate, self._candidates.number[~self._candidates.settled])
        ends = np.searchsorted(self._views.ids, self._near)
        live = waits[ends].any(1)
        keep = waits.copy()
        keep[ends[live].ravel()] = True
        self._near = self._near[live]
        self._views, self._candidate = take(self._views, keep), self._candidate[keep]
        if self._candidates is not None and self._parts is not None:
            self._candidates = take(self._candidates, np.isin(self._candidates.number, self._candidate))
            self._parts = take(self._parts, np.isin(self._parts.owner, self._candidate))


def _joined(candidates: Candidates) -> list[JoinedInstance]:
    polygons = tidy(candidates.polygon)
    return [
        JoinedInstance(polygon, label, score, members[0], members, None if quality != quality else quality)
        for polygon, label, score, members, quality in zip(
            polygons.tolist(),
            candidates.label.tolist(),
            candidates.score.tolist(),
            candidates.members.tolist(),
            candidates.quality.tolist(),
            strict=True,
        )
    ]
