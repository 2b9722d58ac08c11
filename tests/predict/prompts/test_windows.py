"""Prompts and the windows laid around them: every prompt wholly in its window, each exactly once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.geo.windows import Window
from rsprompter_cli.predict.prompts.windows import (
    CONTEXT,
    MOST_POINTS,
    Miss,
    Prompt,
    ends_in_scene,
    first_level,
    grid_size,
    is_last_level,
    make_prompt,
    name_rows,
    on_level,
    one_part,
    share_windows,
)

SCENE = (80, 100)


@st.composite
def scenes_with_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], int, np.ndarray]:
    """A scene, a window's size, and boxes of any size and place on it, points (boxes without extent) among them."""
    height, width = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    size = draw(st.sampled_from([16, 64, 100, 256, 1024]))
    share = st.floats(0, 1, allow_nan=False)
    boxes = []
    for _ in range(draw(st.integers(1, 30))):
        reach = draw(st.sampled_from([0.0, 0.001, 0.02, 0.2, 1.0]))
        x, y = draw(share) * width, draw(share) * height
        boxes.append([x, y, min(width, x + reach * draw(share) * width), min(height, y + reach * draw(share) * height)])
    return (height, width), size, np.array(boxes, dtype=float)


@settings(deadline=None)  # of a machine that has other work too
@given(scenes_with_boxes())
def test_every_prompt_lies_in_the_one_window_that_it_is_given_to(case: Any) -> None:
    scene, size, boxes = case
    levels = np.array([first_level(tuple(box), scene, size) for box in boxes])
    answered: list[int] = []
    for level in np.unique(levels).tolist():
        rows = np.flatnonzero(levels == level)
        grid = grid_size(level, scene)
        placed = on_level(boxes[rows], level, scene)
        windows = share_windows(placed, grid, size)
        assert len(windows) <= len(rows)
        for one in windows:
            left, top, right, bottom = one.window.box
            assert left >= 0
            assert top >= 0
            assert right <= grid[1]
            assert bottom <= grid[0]
            assert (right - left, bottom - top) == (min(size, grid[1]), min(size, grid[0]))
            free = size * CONTEXT - 1  # a window begins at a whole pixel
            for member in one.members:
                x0, y0, x1, y1 = placed[member]
                assert x0 >= left + (free if left > 0 else 0) - 1e-6
                assert y0 >= top + (free if top > 0 else 0) - 1e-6
                assert x1 <= right - (free if right < grid[1] else 0) + 1e-6
                assert y1 <= bottom - (free if bottom < grid[0] else 0) + 1e-6
            answered += rows[list(one.members)].tolist()
    assert sorted(answered) == list(range(len(boxes)))


@settings(deadline=None)  # of a machine that has other work too
@given(scenes_with_boxes())
def test_a_prompt_is_asked_on_the_finest_grid_that_has_room_for_it(case: Any) -> None:
    scene, size, boxes = case
    for box in boxes:
        level = first_level(tuple(box), scene, size)
        if level:
            x0, y0, x1, y1 = on_level(box[None], level - 1, scene)[0]
            assert max(x1 - x0, y1 - y0) > size * (1 - 2 * CONTEXT)
            assert not is_last_level(level - 1, scene, size)


@settings(deadline=None)  # of a machine that has other work too
@given(scenes_with_boxes())
def test_windows_do_not_depend_on_the_order_of_the_file(case: Any) -> None:
    scene, size, boxes = case
    boxes = np.unique(boxes[[first_level(tuple(box), scene, size) == 0 for box in boxes]], axis=0)
    ways = [share_windows(some, scene, size) for some in (boxes, boxes[::-1])]
    assert [one.window for one in ways[0]] == [one.window for one in ways[1]]
    last = len(boxes) - 1
    assert [one.members for one in ways[0]] == [tuple(sorted(last - i for i in one.members)) for one in ways[1]]


def test_a_lone_prompt_is_in_the_middle_and_neighbours_share() -> None:
    boxes = np.array([[500, 300, 520, 310], [30, 40, 50, 60], [60, 70, 90, 80], [900, 790, 950, 800]], dtype=float)
    windows = share_windows(boxes, (800, 1000), 100)
    assert [one.members for one in windows] == [(1, 2), (0,), (3,)]
    assert windows[0].window.box == (10, 10, 110, 110)
    assert windows[1].window.box == (460, 255, 560, 355)
    # At the scene's end the window moves inwards.
    assert windows[2].window.box == (875, 700, 975, 800)


def test_many_prompts_side_by_side_take_few_windows() -> None:
    x, y = np.meshgrid(np.arange(0, 2000, 20.0), np.arange(0, 1000, 20.0))
    boxes = np.stack([x.ravel(), y.ravel(), x.ravel() + 15, y.ravel() + 15], axis=1)
    windows = share_windows(boxes, (1000, 2000), 256)
    # 192 px of each window hold 9 boxes per axis: 12 x 6 windows at best.
    assert len(windows) == 72


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (shapely.box(10, 20, 30, 40), (10, 20, 30, 40)),
        (shapely.Polygon([(20, 10), (30, 20), (20, 30), (10, 20)]), (10, 10, 30, 30)),
        (shapely.MultiPolygon([shapely.box(1, 2, 3, 4), shapely.box(50, 60, 70, 80)]), (1, 2, 70, 80)),
        (shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), (0, 0, 10, 10)),  # a bow-tie has bounds too
        (shapely.box(-50, 70, 500, 500), (0, 70, 100, 80)),
        (shapely.box(10.4, 10.4, 10.6, 10.6), (10, 10, 11, 11)),
        (shapely.box(99.9, 79.9, 130, 130), (99, 79, 100, 80)),
    ],
)
def test_a_polygon_is_its_box_on_the_scene(geometry: Any, expected: tuple[float, ...]) -> None:
    prompt = make_prompt(geometry, 3, SCENE)
    assert isinstance(prompt, Prompt)
    assert prompt.row == 3
    assert prompt.points is None
    assert prompt.box == pytest.approx(expected)


@pytest.mark.parametrize(
    ("geometry", "why"),
    [
        (None, Miss.UNUSABLE),
        (shapely.LineString([(1, 1), (5, 5)]), Miss.UNUSABLE),
        (shapely.GeometryCollection([shapely.Point(1, 1)]), Miss.UNUSABLE),
        (shapely.Polygon([(1, 1), (5, 1), (3, 1)]), Miss.UNUSABLE),
        (shapely.MultiPoint([(at % 90, at // 90) for at in range(MOST_POINTS + 1)]), Miss.TOO_MANY_POINTS),
        (shapely.box(100, 0, 120, 20), Miss.OUTSIDE),
        (shapely.box(-20, -20, 0, 0), Miss.OUTSIDE),
        (shapely.Point(100.5, 40), Miss.OUTSIDE),
        (shapely.MultiPoint([(-1, -1), (200, 4)]), Miss.OUTSIDE),
    ],
)
def test_what_is_no_prompt(geometry: Any, why: Miss) -> None:
    assert make_prompt(geometry, 0, SCENE) is why


def test_points_of_one_feature_are_one_object_without_those_beside_the_scene() -> None:
    prompt = make_prompt(shapely.MultiPoint([(5, 6), (20, 10), (-3, 2)]), 0, SCENE)
    assert isinstance(prompt, Prompt)
    assert prompt.points is not None
    assert prompt.points.tolist() == [[5, 6], [20, 10]]
    assert prompt.box == (5, 6, 20, 10)


def test_one_part_of_a_mask() -> None:
    small, large = shapely.box(0, 0, 2, 2), shapely.box(5, 5, 9, 9)
    both = shapely.MultiPolygon([small, large])
    assert one_part(small, None) == small
    assert one_part(both, None) == large
    assert one_part(both, np.array([[1.0, 1.0]])) == small
    assert one_part(both, np.array([[1.0, 1.0], [6.0, 6.0]])) == large
    assert one_part(both, np.array([[1.0, 1.0], [1.5, 1.0], [6.0, 6.0]])) == small
    assert one_part(both, np.array([[4.0, 4.0]])) == large


def test_what_ends_at_a_window_ends_in_the_scene_only_where_that_goes_on() -> None:
    window = Window(0, 0, 0, 10, 50, 50)  # top 0, left 10
    assert not ends_in_scene((20, 20, 30, 30), window, (50, 100))
    assert not ends_in_scene((20, 0, 30, 50), window, (50, 100))
    assert ends_in_scene((10, 20, 30, 30), window, (50, 100))
    assert ends_in_scene((20, 20, 60, 30), window, (50, 100))
    assert not ends_in_scene((20, 20, 60, 30), window, (50, 60))


def test_names_of_many_are_cut_short() -> None:
    names = [f"house {i}" for i in range(30)]
    assert name_rows(names, [2, 4]) == "house 2, house 4"
    assert name_rows(names, range(12)).endswith("house 9 and 2 more")
