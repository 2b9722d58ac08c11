"""Square corners: buildings get them, huts do not, and nothing gets worse than it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Point, Polygon, box
from shapely.affinity import rotate, scale, translate

from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.polygonize import pixel_polygons
from rsprompter_cli.geo.regularize import MIN_IOU, main_direction, regularize

SHORTEST = 0.6

L_SHAPE = Polygon([(0, 0), (20, 0), (20, 8), (9, 8), (9, 18), (0, 18)])
T_SHAPE = Polygon([(0, 0), (24, 0), (24, 8), (16, 8), (16, 20), (7, 20), (7, 8), (0, 8)])
U_SHAPE = Polygon([(0, 0), (24, 0), (24, 20), (16, 20), (16, 9), (8, 9), (8, 20), (0, 20)])

angles = st.floats(0, 360)
shapes = st.sampled_from([(box(0, 0, 18, 10), 4), (L_SHAPE, 6), (T_SHAPE, 8), (U_SHAPE, 8)])


def corners(geometry: Any) -> int:
    return sum(len(ring.coords) - 1 for part in shapely.get_parts(geometry) for ring in [part.exterior])


def iou(a: Any, b: Any) -> float:
    return float(a.intersection(b).area / a.union(b).area)


def wavering(polygon: Any, seed: int, amount: float) -> Any:
    """The outline with a vertex on each half metre, moved by up to `amount` in each direction."""
    random = np.random.default_rng(seed)

    def moved(ring: Any) -> np.ndarray:
        xy = shapely.get_coordinates(shapely.segmentize(ring, 0.5))[:-1]
        return xy + random.uniform(-amount, amount, xy.shape)

    parts = [
        Polygon(moved(part.exterior), [moved(hole) for hole in part.interiors]) for part in shapely.get_parts(polygon)
    ]
    return polygon_parts(parts[0] if len(parts) == 1 else MultiPolygon(parts))


def right_angled(ring: Any) -> bool:
    steps = np.diff(np.asarray(ring.coords), axis=0)
    steps /= np.hypot(*steps.T)[:, None]
    return bool(np.abs((steps * np.roll(steps, 1, axis=0)).sum(axis=1)).max() < 1e-6)


@settings(max_examples=150, deadline=None)
@given(st.floats(4, 60), st.floats(4, 60), angles, st.integers(0, 10**6), st.floats(0.01, 0.2))
def test_a_rectangle_comes_back_with_four_corners(
    width: float, depth: float, angle: float, seed: int, amount: float
) -> None:
    truth = rotate(box(0, 0, width, depth), angle)
    found = regularize(wavering(truth, seed, amount), SHORTEST)
    assert corners(found) == 4
    assert right_angled(found.exterior)
    assert found.hausdorff_distance(truth) < max(2 * amount, 0.1)


@settings(max_examples=120, deadline=None)
@given(shapes, angles, st.integers(0, 10**6), st.floats(0.01, 0.2))
def test_wings_and_courts_keep_their_corners(shape: tuple[Any, int], angle: float, seed: int, amount: float) -> None:
    truth, count = shape
    truth = rotate(truth, angle)
    found = regularize(wavering(truth, seed, amount), SHORTEST)
    assert corners(found) == count
    assert right_angled(found.exterior)
    assert iou(found, truth) > 0.97


@settings(max_examples=60, deadline=None)
@given(shapes, angles)
def test_stairs_of_pixels_become_walls(shape: tuple[Any, int], angle: float) -> None:
    """A mask's own outline runs along the pixels, whose direction is not that of the building."""
    from rasterio.features import rasterize

    truth, count = shape
    turned = rotate(scale(truth, 3, 3, origin=(0, 0)), angle, origin=(36, 30))
    turned = translate(turned, 30, 30)
    (outline,) = pixel_polygons(rasterize([turned], out_shape=(150, 150)).astype(bool)[None])
    found = regularize(outline, 2.0)
    assert corners(found) == count
    assert iou(found, turned) > 0.94


HUTS = [Point(0, 0).buffer(5), Point(0, 0).buffer(5, 4), scale(Point(0, 0).buffer(5), 1.6)]


@pytest.mark.parametrize("shape", HUTS)
@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_round_buildings_stay_as_they_are(shape: Any, amount: float) -> None:
    hut = wavering(shape, 3, amount) if amount else shape
    assert regularize(hut, SHORTEST) is hut


def test_a_triangle_stays() -> None:
    roof = Polygon([(0, 0), (12, 0), (3, 9)])
    assert regularize(roof, SHORTEST) is roof


def test_rounded_corners_become_sharp_and_the_area_stays() -> None:
    mask = box(0, 0, 16, 9).buffer(-1.5).buffer(1.5)
    found = regularize(mask, SHORTEST)
    assert corners(found) == 4
    assert found.area == pytest.approx(mask.area, rel=1e-9)
    assert found.hausdorff_distance(box(0, 0, 16, 9)) < 0.1


def test_a_court_stays_a_hole_and_is_squared_with_the_walls() -> None:
    truth = rotate(box(0, 0, 30, 24).difference(box(10, 8, 20, 16)), 25)
    found = regularize(wavering(truth, 1, 0.2), SHORTEST)
    (court,) = found.interiors
    assert (corners(found), len(court.coords) - 1) == (4, 4)
    assert right_angled(court)
    assert iou(found, truth) > 0.96


def test_a_hole_that_is_not_square_stays_in_a_squared_building() -> None:
    court = Point(15, 12).buffer(5)
    found = regularize(wavering(box(0, 0, 30, 24), 1, 0.2).difference(court), SHORTEST)
    assert corners(found) == 4
    assert Polygon(found.interiors[0]).equals_exact(court, 1e-9) or iou(Polygon(found.interiors[0]), court) > 0.999


def test_the_pieces_of_a_roof_share_its_direction() -> None:
    pieces = MultiPolygon([box(0, 0, 20, 10), rotate(box(24, 0, 28, 4), 5)])
    found = regularize(wavering(rotate(pieces, 20, origin=(0, 0)), 4, 0.1), SHORTEST)
    assert [len(part.exterior.coords) - 1 for part in found.geoms] == [4, 4]
    directions = [main_direction(part, SHORTEST) for part in found.geoms]
    assert directions[0] == pytest.approx(directions[1], abs=1e-3)


def test_a_step_is_a_step_and_a_waver_is_none() -> None:
    house = Polygon([(0, 0), (10, 0), (10, 5), (13, 5), (13, 11), (0, 11)])
    assert corners(regularize(house, SHORTEST)) == 6
    waver = Polygon([(0, 0), (10, 0), (10, 5), (10.3, 5), (10.3, 11), (0, 11)])
    found = regularize(waver, SHORTEST)
    assert corners(found) == 4
    assert found.area == pytest.approx(waver.area, rel=0.03)


def test_what_is_square_is_not_touched() -> None:
    for shape in (box(0, 0, 0.1, 30), L_SHAPE, rotate(T_SHAPE, 33), box(0, 0, 30, 24).difference(box(9, 8, 20, 16))):
        assert regularize(shape, SHORTEST) is shape


points = st.tuples(st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=300, deadline=None)
@given(st.lists(points, min_size=3, max_size=14), st.lists(points, max_size=6), angles, st.sampled_from([0.3, 1, 4]))
@example([(0, 0), (2, 2), (2, 0), (0, 2)], [], 0.0, 0.3)  # a bow-tie, mended upstream
@example([(0, 0), (12, 0), (12, 1), (0, 1)], [(3, 0), (4, 1), (5, 0)], 0.0, 4.0)
def test_any_polygon_gives_a_valid_one_over_the_same_ground(
    shell: list[tuple[int, int]], hole: list[tuple[int, int]], angle: float, shortest: float
) -> None:
    polygon = polygon_parts(Polygon(shell))
    if len(hole) >= 3 and polygon is not None:
        polygon = polygon_parts(polygon.difference(Polygon(hole).buffer(0)))
    assume(polygon is not None)
    polygon = polygon_parts(rotate(polygon, angle))
    assume(polygon is not None and min(part.area for part in shapely.get_parts(polygon)) > 1e-3)
    found = regularize(polygon, shortest)
    assert found.is_valid
    assert found.area > 0
    assert found.geom_type == polygon.geom_type
    for before, after in zip(shapely.get_parts(polygon), shapely.get_parts(found), strict=True):
        assert len(after.interiors) == len(before.interiors)
        assert iou(after, before) >= MIN_IOU - 1e-9
        walls = Polygon(before.exterior).area
        assert Polygon(after.exterior).area == pytest.approx(walls, rel=1e-6)
    again = regularize(found, shortest)
    assert again.equals_exact(found, 1e-6)


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(0, 10**6), angles, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_it_turns_and_moves_with_the_building(
    shape: tuple[Any, int], seed: int, angle: float, dx: float, dy: float
) -> None:
    house = wavering(rotate(shape[0], 17), seed, 0.15)
    there = translate(rotate(house, angle, origin=(0, 0)), dx, dy)
    expected = translate(rotate(regularize(house, SHORTEST), angle, origin=(0, 0)), dx, dy)
    assert regularize(there, SHORTEST).hausdorff_distance(expected) < 1e-5


def test_a_coast_of_noise_is_left_alone_in_little_time() -> None:
    turn = np.linspace(0, math.tau, 20_000, endpoint=False)
    radius = 300 + np.random.default_rng(0).uniform(-20, 20, len(turn)).cumsum() % 90
    coast = polygon_parts(Polygon(np.column_stack([np.cos(turn), np.sin(turn)]) * radius[:, None]))
    assert regularize(coast, SHORTEST).is_valid
