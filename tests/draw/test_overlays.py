"""Overlays: the right pixels are tinted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from shapely.geometry import MultiPolygon, Point, Polygon, box

from rsprompter_cli.draw.overlays import add_title, draw_instances, side_by_side

GREY = np.full((60, 80, 3), 90, dtype=np.uint8)


def _changed(picture: object) -> np.ndarray:
    return (np.asarray(picture) != 90).any(axis=2)


def test_only_the_inside_is_tinted_and_holes_stay_open() -> None:
    ring = Polygon([(10, 10), (40, 10), (40, 40), (10, 40)], [[(20, 20), (30, 20), (30, 30), (20, 30)]])
    expected = np.zeros((60, 80), dtype=bool)
    expected[10:40, 10:40] = True
    expected[20:30, 20:30] = False
    for shape in (ring, expected, torch.from_numpy(expected)):
        assert np.array_equal(_changed(draw_instances(GREY, [shape], [0], None, ["house"])), expected)


def test_the_outline_is_stronger_than_the_filling() -> None:
    pixels = np.asarray(draw_instances(GREY, [box(10, 10, 30, 30)], [0], None, ["house"])).astype(int)
    assert abs(pixels[10, 20] - 90).sum() > abs(pixels[20, 20] - 90).sum() > 0
    assert np.array_equal(pixels[10, 20], pixels[29, 20])


def test_neighbours_differ_in_colour() -> None:
    shapes = [box(10 * i, 0, 10 * i + 10, 10) for i in range(8)]
    pixels = np.asarray(draw_instances(GREY, shapes, [0] * 8, None, ["house"]))
    colours = {tuple(pixels[5, 10 * i + 5]) for i in range(8)}
    assert len(colours) == 8


def test_shapes_that_leave_the_picture_are_cut() -> None:
    shapes = [box(-5, -5, 5, 5), MultiPolygon([box(75, 55, 95, 75), box(100, 0, 110, 10)]), box(200, 200, 210, 210)]
    changed = _changed(draw_instances(GREY, shapes, [0, 0, 0], None, ["house"]))
    expected = np.zeros((60, 80), dtype=bool)
    expected[:5, :5] = expected[55:, 75:] = True
    assert np.array_equal(changed, expected)


@pytest.mark.parametrize("shape", [None, Polygon(), np.zeros((60, 80), dtype=bool), Point(500, 500).buffer(3)])
def test_nothing_is_drawn_for_nothing(shape: object) -> None:
    picture = draw_instances(GREY, [shape], [0], [0.9], ["house", "tank"])
    assert np.array_equal(np.asarray(picture), GREY)


def test_the_surest_lies_on_top() -> None:
    shapes = [box(0, 0, 20, 20), box(0, 0, 20, 20)]
    for scores in ([0.9, 0.2], [0.2, 0.9]):
        both = np.asarray(draw_instances(GREY, shapes, [0, 0], scores, ["house"]))
        alone = np.asarray(
            draw_instances(
                GREY, [s if k > 0.5 else None for s, k in zip(shapes, scores, strict=True)], [0, 0], scores, ["house"]
            )
        )
        assert np.array_equal(both[0, 10], alone[0, 10])


def test_names_and_scores_are_written_where_there_is_room() -> None:
    big = np.full((300, 400, 3), 90, dtype=np.uint8)
    shapes = [box(50, 50, 250, 250)]
    bare = np.asarray(draw_instances(big, shapes, [0], None, ["house"]))
    score = np.asarray(draw_instances(big, shapes, [0], [0.8], ["house"]))
    named = np.asarray(draw_instances(big, shapes, [1], [0.8], ["house", "tank"]))
    assert not np.array_equal(bare, score)
    assert not np.array_equal(score, named)
    # Light letters, all of them inside the object.
    for picture in (score, named):
        rows, columns = np.nonzero((picture > 200).all(axis=2))
        assert rows.size > 0
        assert rows.min() >= 50
        assert columns.max() < 250


def test_a_caption_hides_no_neighbour() -> None:
    shapes = [box(2 + 9 * i, 2 + 9 * j, 10 + 9 * i, 10 + 9 * j) for i in range(6) for j in range(5)]
    named = np.asarray(draw_instances(GREY, shapes, [0] * 30, [0.5] * 30, ["house", "tank"]))
    bare = np.asarray(draw_instances(GREY, shapes, [0] * 30, None, ["house"]))
    inside = _changed(bare)
    assert np.array_equal(named[inside], bare[inside])


def test_titles_and_pairs() -> None:
    picture = draw_instances(
        GREY, [], [], None, ["house"], title="a very long title that cannot fit into eighty pixels"
    )
    assert picture.width == 80
    assert picture.height > 60
    assert np.array_equal(np.asarray(picture)[-60:], GREY)
    lines = add_title(Image.fromarray(GREY), "town_x0_y0.png  256 x 256  10 objects")
    assert lines.height - len(GREY) == 3 * (add_title(Image.fromarray(GREY), "x").height - len(GREY))
    pair = side_by_side([picture, add_title(picture, "x")], gap=5)
    assert pair.size == (165, add_title(picture, "x").height)


def test_the_input_is_left_alone() -> None:
    image = GREY.copy()
    draw_instances(image, [box(0, 0, 9, 9)], [0], None, ["house"])
    assert np.array_equal(image, GREY)
