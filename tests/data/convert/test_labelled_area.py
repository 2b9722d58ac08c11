"""How far labels speak of the ground, and what of it is held back."""

from __future__ import annotations

import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import translate

from rsprompter_cli.data.tiles.labelled_area import labelled_area, split_ground
from rsprompter_cli.errors import InputError
from tests.make.fits import squares
from tests.make.labelled import rectangle

TILE = 256


def test_labels_all_over_a_scene_cover_it() -> None:
    area = labelled_area(squares(16, 16), 512, 512, tile=TILE)
    assert area.equals(shapely.box(0, 0, 512, 512))


def test_labels_in_one_corner_say_nothing_of_the_others() -> None:
    area = labelled_area(squares(5, 5), 512, 512, tile=TILE)
    assert area.contains(shapely.box(8, 8, 160, 160))
    assert area.area < 0.2 * 512 * 512
    assert not area.intersects(shapely.box(200, 200, 512, 512))


@pytest.mark.parametrize(("gap", "closed"), [(100, True), (160, False)])
def test_gaps_of_less_than_four_spacings_are_labelled(gap: int, closed: bool) -> None:
    # Spacing 32 px, in two blocks, in the middle of a scene.
    one = [rectangle(300 + 32 * col, 300 + 32 * row, 16, 16) for row in range(6) for col in range(4)]
    other = [translate(square, 112 + gap, 0) for square in one]
    area = labelled_area([*one, *other], 1000, 1000, tile=TILE)
    middle = shapely.Point(300 + 112 + gap / 2, 300 + 88)
    assert area.contains(middle) is closed


def test_a_lonely_label_keeps_some_ground_around_it() -> None:
    area = labelled_area([rectangle(500, 500, 10, 10)], 1000, 1000, tile=TILE)
    assert area.contains(shapely.box(490, 490, 520, 520))
    assert area.area < 100 * 100


def test_labels_beyond_the_border_and_copies_do_no_harm() -> None:
    copies = [rectangle(100, 100, 16, 16)] * 3
    area = labelled_area([*copies, rectangle(5000, 5000, 10, 10)], 1000, 1000, tile=TILE)
    assert area.within(shapely.box(0, 0, 1000, 1000))
    assert area.contains(copies[0])


places = st.lists(
    st.tuples(st.integers(0, 380), st.integers(0, 280), st.integers(4, 30)), min_size=2, max_size=40, unique=True
)


@settings(max_examples=40, deadline=None)
@given(places, st.sampled_from([64, 256]))
def test_the_area_holds_all_labels_and_is_cut_without_common_ground(
    where: list[tuple[int, int, int]], tile: int
) -> None:
    polygons = [rectangle(x, y, side, side) for x, y, side in where]
    frame = shapely.box(0, 0, 400, 300)
    area = labelled_area(polygons, 300, 400, tile=tile)
    assert area.within(frame.buffer(1e-6))
    shown = shapely.union_all([polygon.intersection(frame) for polygon in polygons])
    assert shown.difference(area).area < 1e-6 * shown.area + 1e-6
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    parts = split_ground(area, centres, share=0.25, tile=tile)
    assert sum(part.area for part in parts.values()) == pytest.approx(area.area, rel=1e-6)
    if len(parts) == 2:
        assert parts["train"].intersection(parts["val"]).area < 1e-6


def test_the_end_of_the_longer_side_holds_about_the_share_of_the_labels() -> None:
    polygons = squares(4, 20)
    area = labelled_area(polygons, 128, 640, tile=64)
    parts = split_ground(area, shapely.get_coordinates(shapely.centroid(polygons)), share=0.25, tile=64)
    held = np.count_nonzero(shapely.intersects(parts["val"], shapely.centroid(polygons)))
    assert held == pytest.approx(20, abs=4)
    assert parts["val"].bounds[0] > 400


def star(vertices: int, *, x: float, y: float, turn: float = 0.0) -> shapely.Polygon:
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False) + turn
    radii = np.where(np.arange(vertices) % 2, 150.0, 100.0)
    return shapely.Polygon(np.column_stack([x + radii * np.cos(angles), y + radii * np.sin(angles)]))


def test_the_grid_finds_the_ground_that_growing_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = shapely.box(100, 600, 300, 800).difference(shapely.box(140, 640, 260, 760))
    polygons = [*squares(5, 5), rectangle(700, 500, 40, 90), rectangle(940, 20, 100, 60), ring]
    exact = labelled_area(polygons, 900, 1000, tile=TILE)
    monkeypatch.setattr("rsprompter_cli.data.tiles.labelled_area._MOST_VERTICES", 10)
    coarse = labelled_area(polygons, 900, 1000, tile=TILE)
    assert coarse.is_valid
    assert coarse.within(shapely.box(0, 0, 1000, 900))
    shown = shapely.intersection(polygons, shapely.box(0, 0, 1000, 900))
    assert shapely.covers(coarse.buffer(1e-6), shown).all()
    assert coarse.symmetric_difference(exact).area < 0.1 * exact.area
    # A hole that is far wider than the gaps stays one.
    wide = shapely.box(100, 100, 900, 800).difference(shapely.box(150, 150, 850, 750))
    holed = labelled_area([wide, *squares(3, 3)], 900, 1000, tile=64)
    assert not holed.contains(shapely.Point(500, 450))
    assert holed.contains(shapely.Point(120, 450))


@pytest.mark.parametrize("kind", ["one star", "stars", "copies", "lattice"])
def test_outlines_that_wind_or_pile_up_take_seconds(kind: str) -> None:
    lattice = [shapely.box(0, 4 * i, 2000, 4 * i + 2) for i in range(500)]
    polygons = {
        "one star": [star(8_000, x=1000, y=1000)],
        "stars": [star(400, x=1000, y=1000, turn=0.001 * i) for i in range(100)],
        "copies": [shapely.box(900 - 0.01 * i, 900 - 0.01 * i, 1100 + 0.01 * i, 1100 + 0.01 * i) for i in range(8_000)],
        "lattice": [*lattice, *(shapely.transform(one, lambda xy: xy[:, ::-1]) for one in lattice)],
    }[kind]
    began = time.monotonic()
    area = labelled_area(polygons, 2000, 2000, tile=512)
    assert time.monotonic() - began < 10  # minutes, without a bound
    assert area.contains(shapely.Point(1000, 1000))


def test_outlines_of_endless_length_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsprompter_cli.data.tiles.coarse_area._MOST_SAMPLES", 10_000)
    with pytest.raises(InputError, match="outlines on the scene are too long"):
        labelled_area([star(2_000, x=500, y=500)], 1000, 1000, tile=64)
