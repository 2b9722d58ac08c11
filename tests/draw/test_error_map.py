"""Error maps as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw
from shapely import MultiPolygon, box

from rsprompter_cli.draw.error_map import MISSED, RIGHT, WRONG, draw_error_map

INK = (255, 255, 255)


def draw(width: int = 900, height: int = 200, **shapes: Any) -> np.ndarray:
    kinds: dict[str, Any] = {"right": [], "wrong": [], "missed": [], "found": [], "border": None, **shapes}
    background = np.full((height, width, 3), 100, np.uint8)
    picture = draw_error_map(background, outline=INK, counts=(1, 2, 3), figures="IoU 0.5", **kinds)
    return np.asarray(picture)


def test_each_kind_has_its_colour_and_holes_stay_open() -> None:
    ring = box(10, 10, 60, 60).difference(box(20, 20, 50, 50))
    got = draw(right=[ring], wrong=[box(100, 10, 150, 60)], missed=[MultiPolygon([box(200, 10, 250, 60)])])
    assert got[10, 30].tolist() == list(RIGHT)
    assert got[35, 100].tolist() == list(WRONG)
    assert got[35, 200].tolist() == list(MISSED)
    for column, colour in ((15, RIGHT), (125, WRONG)):
        inside = 0.55 * 100 + 0.45 * np.array(colour)
        assert np.abs(got[35, column] - inside).max() <= 1
    missed = {tuple(pixel) for pixel in got[20:50, 210:240].reshape(-1, 3).tolist()}
    assert missed == {MISSED, (100, 100, 100)}
    assert got[35, 35].tolist() == [100, 100, 100]
    assert got[35, 300].tolist() == [100, 100, 100]


def test_the_legend_uses_the_words_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = ImageDraw.ImageDraw.text

    def note(pen: ImageDraw.ImageDraw, at: Any, text: str, *rest: Any, **keywords: Any) -> None:
        written.append(text)
        write(pen, at, text, *rest, **keywords)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    draw()
    assert {"correct 1", "wrong 2", "missed 3"} <= set(written)


def test_a_wrong_polygon_on_a_right_one_hides_it_not() -> None:
    got = draw(right=[box(10, 10, 60, 60)], wrong=[box(10, 10, 60, 60), box(20, 20, 40, 40)])
    inside = got[50, 50].astype(float)
    assert np.abs(inside - np.array(RIGHT)).sum() < np.abs(inside - np.array(WRONG)).sum()
    assert got[20, 30].tolist() == list(WRONG)


def test_colours_are_not_mixed_where_polygons_overlap() -> None:
    tints = {colour: tuple(np.rint(0.55 * 100 + 0.45 * np.array(colour)).tolist()) for colour in (RIGHT, WRONG)}
    square = box(10, 10, 60, 60)
    for shapes, expected in (
        ({"wrong": [square], "missed": [square]}, {tints[WRONG], MISSED}),
        ({"right": [square], "missed": [square]}, {tints[RIGHT], MISSED}),
        ({"right": [square], "wrong": [square]}, {tints[RIGHT]}),
        ({"right": [square], "wrong": [square], "missed": [square]}, {tints[RIGHT], MISSED}),
    ):
        inside = draw(**shapes)[15:55, 15:55].reshape(-1, 3)
        assert {tuple(pixel) for pixel in inside.tolist()} == expected


def test_what_is_smaller_than_a_pixel_is_seen() -> None:
    got = draw(wrong=[box(300.4, 50.4, 300.5, 50.5)])
    assert got[50, 300].tolist() != [100, 100, 100]
    assert (got[:200] != 100).any(axis=2).sum() == 1


def test_true_outlines_and_the_border_are_lines() -> None:
    got = draw(found=[box(10, 10, 60, 60)], border=box(100, 10, 190, 150))
    assert got[10, 30].tolist() == list(INK)
    assert got[80, 100].tolist() == list(INK)
    assert got[35, 35].tolist() == got[80, 150].tolist() == [100, 100, 100]


def test_shapes_beside_the_picture_are_cut() -> None:
    got = draw(right=[box(-50, -50, 10, 10), box(2000, 0, 2010, 10)], missed=[box(890, 190, 1000, 300)])
    assert got[5, 5].tolist() != [100, 100, 100]
    assert (got[191:200, 891:] == MISSED).all(axis=2).any()


def test_the_legend_stands_below_and_wraps_on_narrow_pictures() -> None:
    wide, narrow = draw(width=1200), draw(width=200)
    assert narrow.shape[0] > wide.shape[0] > 200
    for legend in (wide[200:], narrow[200:]):
        colours = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
        assert {RIGHT, WRONG, MISSED} <= colours
