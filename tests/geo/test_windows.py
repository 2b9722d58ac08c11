"""Windows: cover, stay inside, are unique and ordered; cores partition the scene."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.windows import WindowGrid, make_grid
from tests.make.join_reference import overlapping, scene_edges

grids = st.builds(
    lambda height, width, size, overlap: make_grid(height, width, size=size, overlap=overlap),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 40),
    st.floats(0, 0.5, exclude_max=True),
).filter(lambda grid: len(grid) <= 900)


@settings(max_examples=150, deadline=None)
@given(grids)
def test_windows_cover_stay_inside_and_are_unique(grid: WindowGrid) -> None:
    windows = list(grid.windows())
    covered = np.zeros((grid.height, grid.width), dtype=bool)
    for window in windows:
        x0, y0, x1, y1 = window.box
        assert 0 <= x0 < x1 <= grid.width
        assert 0 <= y0 < y1 <= grid.height
        assert (window.height, window.width) == (min(grid.size, grid.height), min(grid.size, grid.width))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len({window.box for window in windows}) == len(windows) == len(grid)
    assert windows == sorted(windows)
    assert [grid.window_at(i) for i in range(len(grid))] == windows


@settings(max_examples=150, deadline=None)
@given(grids)
def test_cores_partition_the_scene_and_lie_in_their_window(grid: WindowGrid) -> None:
    count = np.zeros((grid.height, grid.width), dtype=int)
    for window in grid.windows():
        x0, y0, x1, y1 = grid.core(window)
        left, top, right, bottom = window.box
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom
        count[y0:y1, x0:x1] += 1
    assert (count == 1).all()


@settings(max_examples=100, deadline=None)
@given(grids)
def test_overlapping_equals_the_definition(grid: WindowGrid) -> None:
    windows = list(grid.windows())[:60]
    for window in windows[:: max(1, len(windows) // 8)]:
        expected = [
            other
            for other in grid.windows()
            if other != window
            and min(other.box[2], window.box[2]) > max(other.box[0], window.box[0])
            and min(other.box[3], window.box[3]) > max(other.box[1], window.box[1])
        ]
        assert list(overlapping(grid, window)) == expected


@settings(max_examples=60, deadline=None)
@given(grids)
def test_scene_edges_are_where_nothing_lies_beyond(grid: WindowGrid) -> None:
    for window in itertools.islice(grid.windows(), 100):
        edges = scene_edges(grid, window)
        assert edges == (window.col == 0, window.row == 0, window.col == grid.cols - 1, window.row == grid.rows - 1)


@settings(max_examples=100, deadline=None)
@given(grids, st.integers(0, 50), st.integers(0, 50))
def test_a_grid_that_begins_elsewhere_is_the_same_one_there(grid: WindowGrid, top: int, left: int) -> None:
    moved = replace(grid, top=top, left=left)
    shift = np.array([left, top, left, top])
    numbers = np.arange(len(grid))
    assert (moved.boxes(numbers) == grid.boxes(numbers) + shift).all()
    assert (moved.cores(numbers) == grid.cores(numbers) + shift).all()
    assert moved.extent == tuple(np.array(grid.extent) + shift)
    for one, other in itertools.islice(zip(grid.windows(), moved.windows(), strict=True), 100):
        assert (
            other.box == tuple(np.array(one.box) + shift) == tuple(moved.boxes(numbers)[moved.cols * one.row + one.col])
        )
        assert moved.core(other) == tuple(np.array(grid.core(one)) + shift)
        assert scene_edges(moved, other) == scene_edges(grid, one)
        assert moved.row_top(one.row) == other.top
    assert moved.row_top(grid.rows) == top + grid.height


def test_known_grid() -> None:
    grid = make_grid(100, 250, size=100, overlap=0.25)
    assert [window.left for window in grid.windows()] == [0, 75, 150]
    assert [grid.core(window) for window in grid.windows()] == [(0, 0, 87, 100), (87, 0, 162, 100), (162, 0, 250, 100)]
    shifted = make_grid(100, 230, size=100, overlap=0.25)
    assert [window.left for window in shifted.windows()] == [0, 75, 130]
    assert [other.col for other in overlapping(shifted, shifted.window(0, 1))] == [0, 2]


def test_a_last_window_may_reach_over_its_neighbour() -> None:
    grid = make_grid(10, 226, size=100, overlap=0.4)  # starts 0, 60, 120, 126
    assert [window.left for window in grid.windows()] == [0, 60, 120, 126]
    assert [other.col for other in overlapping(grid, grid.window(0, 3))] == [1, 2]


def test_one_pixel() -> None:
    grid = make_grid(1, 1, size=1024)
    (window,) = grid.windows()
    assert window.box == (0, 0, 1, 1) == grid.core(window)
    assert all(scene_edges(grid, window))
    assert list(overlapping(grid, window)) == []


def test_a_huge_scene_costs_nothing_and_is_refused_by_number() -> None:
    grid = make_grid(2_000_000, 2_000_000, size=512)
    assert len(grid) == 5208**2
    assert next(grid.windows()).box == (0, 0, 512, 512)
    assert grid.window_at(len(grid) - 1).box[2:] == (2_000_000, 2_000_000)
    with pytest.raises(InputError, match=f"{len(grid):,}"):
        grid.check_count()
    grid.check_count(max_windows=len(grid))


@pytest.mark.parametrize("overlap", [-0.01, 0.5, 1.0, math.nan, math.inf])
def test_overlap_out_of_range(overlap: float) -> None:
    with pytest.raises(UsageError, match="overlap"):
        make_grid(10, 10, size=4, overlap=overlap)


@pytest.mark.parametrize(("height", "width", "size"), [(0, 1, 4), (1, 0, 4), (1, 1, 0)])
def test_empty_scene_or_window(height: int, width: int, size: int) -> None:
    with pytest.raises(UsageError):
        make_grid(height, width, size=size)


def test_unknown_window() -> None:
    grid = make_grid(10, 10, size=4)
    for row, col in ((-1, 0), (0, grid.cols), (grid.rows, 0)):
        with pytest.raises(IndexError):
            grid.window(row, col)
