"""The windows a scene is read through, and which window answers for which part of it.

Everything is in pixels of the working grid: x is the column, y the row, the origin is the outer
corner of the first pixel. Nothing is stored per window, so a grid over a scene of any size costs
nothing until it is walked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.geo.defaults import MAX_WINDOWS, OVERLAP

MAX_OVERLAP = 0.5
"""Below a half, a point lies in at most two windows per axis (three beside the shifted last one)."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""


@dataclass(frozen=True, order=True, slots=True)
class Window:
    """One rectangle of pixels; windows sort in row-major order.

    row, col: index in the window grid.
    top, left, height, width: pixels.
    """

    row: int
    col: int
    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> Box:
        """(x0, y0, x1, y1) in pixels."""
        return self.left, self.top, self.left + self.width, self.top + self.height


@dataclass(frozen=True)
class WindowGrid:
    """Overlapping windows over height x width pixels of a scene; make one with `make_grid`.

    size: side of a window in pixels; what is smaller than that has one smaller window.
    overlap_px: pixels that neighbours share; the last of a row or column shares more, because
        it is shifted inside to end where the pixels to look at end.
    top, left: first row and column of the scene that is looked at; beyond the windows there is nothing to find.
    """

    height: int
    width: int
    size: int
    overlap_px: int
    top: int = 0
    left: int = 0

    @property
    def extent(self) -> Box:
        """(x0, y0, x1, y1), what the windows cover."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    @cached_property
    def rows(self) -> int:
        """Windows along the vertical."""
        return _count(self.height, self.size, self.size - self.overlap_px)

    @cached_property
    def cols(self) -> int:
        """Windows along the horizontal."""
        return _count(self.width, self.size, self.size - self.overlap_px)

    def __len__(self) -> int:
        return self.rows * self.cols

    def check_count(self, max_windows: int = MAX_WINDOWS) -> None:
        """Raise InputError when there are more than `max_windows` windows."""
        if len(self) > max_windows:
            raise InputError(
                f"a scene of {self.width} x {self.height} px has {plural(len(self), 'window')} of {self.size} px, "
                f"over the limit of {max_windows:,}",
                "choose a coarser --gsd, or raise --max-windows",
            )

    def window(self, row: int, col: int) -> Window:
        """The window at an index of the grid.

        Raises:
            IndexError: there is no such window.
        """
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise IndexError(f"window ({row}, {col}) of a grid of {self.rows} x {self.cols}")
        top, left = self.top + self._start(row, self.height), self.left + self._start(col, self.width)
        return Window(row, col, top, left, min(self.size, self.height), min(self.size, self.width))

    def window_at(self, index: int) -> Window:
        """The window at a position of the row-major order."""
        row, col = divmod(index, self.cols)
        return self.window(row, col)

    def windows(self) -> Iterator[Window]:
        """All windows in row-major order, made one by one."""
        for row in range(self.rows):
            for col in range(self.cols):
                yield self.window(row, col)

    def core(self, window: Window) -> Box:
        """The part of the scene that only this window answers for.

        Strips shared with a neighbour are split in the middle (at a whole pixel). The cores of all
        windows cover the scene without overlap.
        """
        y0, y1 = self._row_spans[window.row, 2:].tolist()
        x0, x1 = self._col_spans[window.col, 2:].tolist()
        return x0, y0, x1, y1

    def boxes(self, windows: np.ndarray) -> np.ndarray:
        """int64 [N, 4]: the boxes of windows, given by their positions [N] in the row-major order."""
        rows, cols = np.divmod(windows, self.cols)
        return np.concatenate([self._col_spans[cols], self._row_spans[rows]], axis=1)[:, [0, 4, 1, 5]]

    def cores(self, windows: np.ndarray) -> np.ndarray:
        """int64 [N, 4]: the cores of windows, given by their positions [N] in the row-major order."""
        rows, cols = np.divmod(windows, self.cols)
        return np.concatenate([self._col_spans[cols], self._row_spans[rows]], axis=1)[:, [2, 6, 3, 7]]

    def row_top(self, row: int) -> int:
        """First pixel of a row of windows; where they end for a row beyond the last."""
        return self.top + (self._start(row, self.height) if row < self.rows else self.height)

    @cached_property
    def _row_spans(self) -> np.ndarray:
        return self.top + self._spans(self.rows, self.height)

    @cached_property
    def _col_spans(self) -> np.ndarray:
        return self.left + self._spans(self.cols, self.width)

    def _spans(self, count: int, length: int) -> np.ndarray:
        """int64 [count, 4]: start, end, start of the core and end of the core of each window along one axis."""
        starts = np.clip(
            np.arange(count, dtype=np.int64) * (self.size - self.overlap_px), 0, max(0, length - self.size)
        )
        ends = starts + min(self.size, length)
        between = (starts[:-1] + self.size + starts[1:]) // 2
        return np.stack([starts, ends, np.append(0, between), np.append(between, length)], axis=1)

    def _start(self, index: int, length: int) -> int:
        return max(0, min(index * (self.size - self.overlap_px), length - self.size))


def make_grid(
    height: int, width: int, *, size: int, overlap: float = OVERLAP, top: int = 0, left: int = 0
) -> WindowGrid:
    """Lay windows over a scene, or the part of it with something to look at.

    Args:
        height, width: pixels of the working grid, at least 1.
        size: side of a window in pixels, at least 1.
        top, left: where the pixels begin.
        overlap: share of a window that it has in common with its neighbour, 0 <= overlap < 0.5.

    Raises:
        UsageError: a number outside its range.
    """
    if height < 1 or width < 1:
        raise UsageError(f"a scene of {width} x {height} px has no pixels")
    if size < 1:
        raise UsageError(f"window size {size} px: must be at least 1")
    if not 0 <= overlap < MAX_OVERLAP:
        raise UsageError(
            f"--overlap {overlap}: must be at least 0 and below {MAX_OVERLAP}", f"{OVERLAP} suits most scenes"
        )
    return WindowGrid(height, width, size, min(round(size * overlap), (size - 1) // 2), top, left)


def _count(length: int, size: int, stride: int) -> int:
    return 1 if length <= size else -(-(length - size) // stride) + 1
