"""Prompts in pixels, and the windows that they are answered in.

A window has the size of SAM's input. A prompt never reaches into its outer `CONTEXT`, except where the
scene ends, so that SAM sees what lies around it; prompts that fit into one window together share it, and
the window is centred on them. What is larger than that is answered on a coarser grid over the same scene:
on level k its pixels are 2**k times as large. Nothing here reads a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.geo.stitch.joiner import CUT_MARGIN
from rsprompter_cli.geo.windows import Window
from rsprompter_cli.structures import Size

CONTEXT = 1 / 8
"""Share of a window's side that is kept free of prompts on each side."""

Bounds = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels."""


MOST_POINTS = 1000
"""Points of one feature: each is a token, which SAM's decoder compares with all others and with every cell."""


class Miss(StrEnum):
    """Why a prompt has no polygon; the value is the key in the facts of `--json`."""

    UNUSABLE = "unusable"
    TOO_MANY_POINTS = "too_many_points"
    OUTSIDE = "outside"
    NODATA = "nodata"
    EMPTY = "empty"
    LOW_SCORE = "low_score"
    TOO_SMALL = "too_small"


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """One object that is asked for.

    row: of its feature in the file, from 0.
    box: what is asked for, or the bounds of the points; inside the scene, in pixels of the working grid.
    points: float64 [P, 2] xy inside the scene, pixels of the working grid; None for a box.
    """

    row: int
    box: Bounds
    points: np.ndarray | None


@dataclass(frozen=True, slots=True)
class SharedWindow:
    """A window, and which boxes it is for (their places in what `share_windows` was given)."""

    window: Window
    members: tuple[int, ...]


def make_prompt(geometry: Any, row: int, scene: Size) -> Prompt | Miss:
    """A feature as a prompt, or why it is none.

    A polygon counts as its bounds, cut to the scene and at least a pixel wide and high. Of the points of
    one feature, those outside the scene are left out.

    Args:
        geometry: in pixels of the working grid; None where the file has none that can be used.
        row: of the feature in the file.
        scene: (rows, columns) of the working grid.
    """
    if geometry is None or geometry.geom_type not in ("Point", "MultiPoint", "Polygon", "MultiPolygon"):
        return Miss.UNUSABLE
    height, width = scene
    if geometry.geom_type in ("Point", "MultiPoint"):
        points = shapely.get_coordinates(geometry)
        points = points[(points >= 0).all(axis=1) & (points <= (width, height)).all(axis=1)]
        if len(points) == 0:
            return Miss.OUTSIDE
        if len(points) > MOST_POINTS:
            return Miss.TOO_MANY_POINTS
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return Prompt(row, (x0, y0, x1, y1), points)
    x0, y0, x1, y1 = geometry.bounds
    if x0 == x1 or y0 == y1:
        return Miss.UNUSABLE
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return Miss.OUTSIDE
    left, right = _at_least_a_pixel(max(x0, 0.0), min(x1, width), width)
    top, bottom = _at_least_a_pixel(max(y0, 0.0), min(y1, height), height)
    return Prompt(row, (left, top, right, bottom), None)


def grid_size(level: int, scene: Size) -> Size:
    """(rows, columns) of the grid of a level over a scene of that size."""
    return max(1, round(scene[0] / 2**level)), max(1, round(scene[1] / 2**level))


def is_last_level(level: int, scene: Size, size: int) -> bool:
    """Whether one window shows the whole scene."""
    return max(grid_size(level, scene)) <= size


def on_level(bounds: np.ndarray, level: int, scene: Size) -> np.ndarray:
    """Bounds float64 [N, 4], or points [N, 2], of the working grid in pixels of a level."""
    rows, columns = grid_size(level, scene)
    pairs = bounds.shape[1] // 2
    # Multiplied before divided: the scene's border then falls on the level's, not beyond it by a rounding.
    return bounds * np.tile([columns, rows], pairs) / np.tile([scene[1], scene[0]], pairs)


def first_level(box: Bounds, scene: Size, size: int) -> int:
    """The finest level on which a window of `size` pixels has room for a box."""
    level = 0
    while True:
        x0, y0, x1, y1 = on_level(np.array([box]), level, scene)[0]
        rows, columns = grid_size(level, scene)
        if x1 - x0 <= _reach(columns, size) and y1 - y0 <= _reach(rows, size):
            return level
        level += 1


def share_windows(boxes: np.ndarray, grid: Size, size: int) -> list[SharedWindow]:
    """Windows for boxes, each box wholly in the one window that it is given to.

    Shelves from top to bottom, on each of them windows from left to right: each begins at the first box
    without a window and takes all that end within reach.

    Args:
        boxes: float64 [N, 4] xyxy within the grid, none too large for a window (`first_level`).
        grid: (rows, columns).
        size: side of a window, pixels; along an axis where the grid is shorter, windows are as long as it.
    """
    rows, columns = grid
    windows: list[SharedWindow] = []
    for shelf in _runs(boxes[:, [1, 3]], _reach(rows, size)):
        for run in _runs(boxes[shelf][:, [0, 2]], _reach(columns, size)):
            members = np.sort(shelf[run])
            x0, y0 = boxes[members, :2].min(axis=0)
            x1, y1 = boxes[members, 2:].max(axis=0)
            top, height = _centred(y0, y1, rows, size)
            left, width = _centred(x0, x1, columns, size)
            windows.append(
                SharedWindow(Window(len(windows), 0, top, left, height, width), tuple(int(i) for i in members))
            )
    return windows


def ends_in_scene(bounds: Bounds, window: Window, grid: Size) -> bool:
    """Whether something within a window reaches an edge of it beyond which the scene goes on."""
    x0, y0, x1, y1 = window.box
    near = (
        bounds[0] <= x0 + CUT_MARGIN,
        bounds[1] <= y0 + CUT_MARGIN,
        bounds[2] >= x1 - CUT_MARGIN,
        bounds[3] >= y1 - CUT_MARGIN,
    )
    goes_on = (x0 > 0, y0 > 0, x1 < grid[1], y1 < grid[0])
    return any(at and on for at, on in zip(near, goes_on, strict=True))


def one_part(polygon: Any, points: np.ndarray | None) -> Any:
    """The part of a polygon or multipolygon that holds most of the points, or of equals the largest."""
    parts = list(shapely.get_parts(polygon))
    places = shapely.points(np.empty((0, 2)) if points is None else points)
    return max(parts, key=lambda part: (int(shapely.intersects(part, places).sum()), part.area))


def _at_least_a_pixel(low: float, high: float, length: int) -> tuple[float, float]:
    """A span within 0..length, widened around its middle where it is less than 1 long."""
    if high - low >= 1:
        return low, high
    start = min(max((low + high) / 2 - 0.5, 0.0), length - 1.0)
    return start, start + 1


def _reach(length: int, size: int) -> float:
    """How far boxes of one window may lie apart along an axis of the grid."""
    return math.inf if length <= size else size * (1 - 2 * CONTEXT)


def _runs(spans: np.ndarray, reach: float) -> Iterator[np.ndarray]:
    """Spans [N, 2] in groups, as indices: each begins with the first one left and takes what ends within reach."""
    waiting = np.argsort(spans[:, 0], kind="stable")
    while waiting.size:
        # Rounding must not keep out the first itself.
        limit = max(spans[waiting[0], 0] + reach, spans[waiting[0], 1])
        begun = int(np.searchsorted(spans[waiting, 0], limit, side="right"))
        near = waiting[:begun]
        inside = spans[near, 1] <= limit
        yield near[inside]
        waiting = np.concatenate([near[~inside], waiting[begun:]])


def _centred(low: float, high: float, length: int, size: int) -> tuple[int, int]:
    """Start and length of a window around a span, shifted to lie within 0..length."""
    side = min(size, length)
    return min(max(round((low + high - side) / 2), 0), length - side), side


def name_rows(names: Sequence[int | str], rows: Sequence[int], most: int = 10) -> str:
    """The names of some rows as people read them, the first few of many."""
    shown = ", ".join(str(names[row]) for row in rows[:most])
    return shown if len(rows) <= most else f"{shown} and {len(rows) - most} more"
