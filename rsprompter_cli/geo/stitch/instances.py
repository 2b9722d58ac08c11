"""What windows saw and what became of it: instances, joined objects, and instances as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import object_array, snapped
from rsprompter_cli.geo.stitch.columns import take
from rsprompter_cli.geo.windows import WindowGrid


class Key(NamedTuple):
    """Identity of an instance: its window and its place among the detections of that window."""

    row: int
    col: int
    number: int


@dataclass(frozen=True, eq=False, slots=True)
class Instance:
    """One detection in one window.

    window_row, window_col: of the window in the grid.
    index: among the detections of the window; with the window it is unique in the scene.
    label: class, from 0.
    score: 0..1.
    polygon: valid polygon or multipolygon in pixels of the working grid, inside the window.
    quality: the model's own estimate of the mask's IoU, 0..1, or None when it gives none.
    """

    window_row: int
    window_col: int
    index: int
    label: int
    score: float
    polygon: Any
    quality: float | None = None

    @property
    def key(self) -> Key:
        """Identity, and the order of everything."""
        return Key(self.window_row, self.window_col, self.index)


@dataclass(frozen=True, eq=False, slots=True)
class JoinedInstance:
    """One object of the scene.

    polygon: valid polygon or multipolygon in pixels of the working grid, vertices on 1/256 px, rings
        in normal form, no vertex in the middle of a straight edge (where cores met).
    score: the best of its members.
    key: the smallest of `members`; objects are numbered in the order of their keys.
    members: the instances it was made of, in order.
    quality: the best of its members, None when the model gives none.
    """

    polygon: Any
    label: int
    score: float
    key: Key
    members: tuple[Key, ...]
    quality: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Views:
    """N instances as columns, in the order of their keys.

    ids: int64 [N], ascending: their places among all instances of the scene.
    window: int64 [N], positions of their windows in the row-major order.
    number: int64 [N], places among the detections of the window.
    label: int64 [N]; score: float64 [N]; quality: float64 [N], NaN for none.
    polygon: object [N], on the grid of 1/256 px; bounds: float64 [N, 4].
    """

    ids: np.ndarray
    window: np.ndarray
    number: np.ndarray
    label: np.ndarray
    score: np.ndarray
    quality: np.ndarray
    polygon: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def keys(self, cols: int) -> list[Key]:
        """Their keys; `cols` is the number of windows in a row."""
        rows, places = np.divmod(self.window, cols)
        return list(map(Key, rows.tolist(), places.tolist(), self.number.tolist()))


def as_views(instances: Sequence[Instance], grid: WindowGrid, *, first_id: int) -> Views:
    """Instances in any order as columns, snapped to 1/256 px; what has no area there is left out.

    Raises:
        IndexError: an instance of a window that the grid does not have.
        ValueError: two instances with one key.
    """
    rows = np.array([one.window_row for one in instances], np.int64)
    cols = np.array([one.window_col for one in instances], np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= grid.rows or cols.min() < 0 or cols.max() >= grid.cols):
        raise IndexError(f"an instance belongs to a window outside the grid of {grid.rows} x {grid.cols}")
    window = rows * grid.cols + cols
    number = np.array([one.index for one in instances], np.int64)
    order = np.lexsort((number, window))
    window, number = window[order], number[order]
    if ((window[1:] == window[:-1]) & (number[1:] == number[:-1])).any():
        raise ValueError("two instances have the same window and index")
    polygon = snapped(object_array([one.polygon for one in instances])[order])
    label = np.array([one.label for one in instances], np.int64)[order]
    score = np.array([one.score for one in instances], np.float64)[order]
    quality = np.array([np.nan if one.quality is None else one.quality for one in instances], np.float64)[order]
    ids = first_id + np.arange(len(instances), dtype=np.int64)
    views = Views(ids, window, number, label, score, quality, polygon, shapely.bounds(polygon).reshape(-1, 4))
    there = ~shapely.is_missing(polygon)
    return views if there.all() else take(views, there)


def no_views() -> Views:
    """None at all."""
    whole, real = np.zeros(0, np.int64), np.zeros(0, np.float64)
    return Views(whole, whole, whole, whole, real, real, np.zeros(0, object), np.zeros((0, 4)))
