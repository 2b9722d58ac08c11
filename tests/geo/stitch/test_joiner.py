"""Joining over window borders: one object one polygon, neighbours apart, the same for any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box

from rsprompter_cli.geo.crs import to_pixels
from rsprompter_cli.geo.geometry import GRID, polygon_parts
from rsprompter_cli.geo.stitch.joiner import Instance, JoinedInstance, Key
from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.geo.windows import WindowGrid, make_grid
from rsprompter_cli.structures import Georef
from tests.make.joining import join
from tests.make.shapes import Noise, SceneObject, detect, detect_noisily, matched_f1, total_area

GRID_100 = make_grid(250, 400, size=100, overlap=0.25)


def see_and_join(polygons: Sequence[Polygon], grid: WindowGrid = GRID_100) -> list[JoinedInstance]:
    return join(detect([SceneObject(polygon) for polygon in polygons], grid), grid)


def wkb(objects: Sequence[JoinedInstance]) -> list[tuple[bytes, int, float, Key, tuple[Key, ...]]]:
    return [(shapely.to_wkb(o.polygon, byte_order=1), o.label, o.score, o.key, o.members) for o in objects]


def only(objects: Sequence[JoinedInstance]) -> JoinedInstance:
    assert len(objects) == 1
    return objects[0]


# --- one object -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        (box(20, 20, 60, 60), 1),
        (box(60, 20, 130, 60), 2),  # crosses a vertical strip
        (box(20, 60, 60, 130), 2),  # crosses a horizontal strip
        (box(60, 60, 130, 110), 4),  # around the corner of four windows
        (box(80, 80, 95, 95), 4),  # wholly inside the strip of four windows
        (box(78, 10, 96, 30), 2),  # wholly inside the strip of two
        (box(0, 0, 400, 250), 15),  # the whole scene
        (Polygon([(10, 10), (170, 10), (170, 200), (150, 200), (150, 30), (10, 30)]), 7),
        (box(10, 10, 300, 200).difference(box(40, 40, 250, 150)), 12),  # a courtyard over many windows
    ],
)
def test_one_object_is_one_polygon_of_the_right_shape(shape: Polygon, windows: int) -> None:
    instances = detect([SceneObject(shape)], GRID_100)
    assert len(instances) == windows
    joined = only(join(instances, GRID_100))
    assert joined.polygon.equals(shape)
    assert joined.polygon.geom_type == "Polygon"


def test_a_long_object_over_ten_windows() -> None:
    grid = make_grid(60, 2000, size=100, overlap=0.2)
    diagonal = shapely.LineString([(5, 10), (805, 50)]).buffer(6)
    instances = detect([SceneObject(diagonal)], grid)
    assert len(instances) >= 10
    joined = only(join(instances, grid))
    assert joined.polygon.symmetric_difference(diagonal).area < 0.01 * diagonal.area
    assert len(joined.members) >= 10


def test_three_windows_see_one_object() -> None:
    """The last window, shifted inside, reaches over its neighbour: three in one row share a strip."""
    grid = make_grid(50, 226, size=100, overlap=0.4)
    shape = box(140, 10, 158, 30)
    assert len(detect([SceneObject(shape)], grid)) == 3
    assert only(join(detect([SceneObject(shape)], grid), grid)).polygon.equals(shape)


def test_the_best_score_and_the_smallest_key_win() -> None:
    grid = make_grid(100, 175, size=100, overlap=0.25)
    joined = only(
        join(
            [Instance(0, 1, 3, 5, 0.9, box(75, 0, 120, 9)), Instance(0, 0, 7, 5, 0.4, box(50, 0, 100, 9))],
            grid,
        )
    )
    assert (joined.label, joined.score, joined.key, joined.members) == (5, 0.9, (0, 0, 7), ((0, 0, 7), (0, 1, 3)))


def test_the_core_decides_and_outside_every_core_the_union() -> None:
    grid = make_grid(100, 175, size=100, overlap=0.25)  # cores meet at x = 87
    left, right = Instance(0, 0, 0, 0, 1, box(70, 0, 100, 10)), Instance(0, 1, 0, 0, 1, box(75, 0, 110, 12))
    polygon = only(join([left, right], grid)).polygon
    assert polygon.equals(shapely.union_all([box(70, 0, 87, 10), box(87, 0, 110, 12)]))
    tall = make_grid(175, 175, size=100, overlap=0.25)  # nobody in the windows below speaks
    hanging = [Instance(0, 0, 0, 0, 1, box(80, 80, 95, 95)), Instance(0, 1, 0, 0, 1, box(80, 80, 95, 97))]
    polygon = only(join(hanging, tall)).polygon
    assert polygon.equals(shapely.union_all([box(80, 80, 95, 95), box(87, 80, 95, 97), box(80, 87, 95, 97)]))


# --- neighbours -----------------------------------------------------------------------------------


def test_touching_neighbours_stay_two() -> None:
    left, right = box(40, 60, 90, 130), box(90, 60, 150, 130)  # the wall stands in the strip
    joined = see_and_join([left, right])
    assert len(joined) == 2
    assert {j.polygon.normalize().wkt for j in joined} == {left.normalize().wkt, right.normalize().wkt}


def test_a_row_of_touching_houses_stays_a_row() -> None:
    houses = [box(10 + 17 * i, 70, 27 + 17 * i, 120) for i in range(20)]
    joined = see_and_join(houses)
    assert len(joined) == len(houses)
    assert sorted(j.polygon.bounds for j in joined) == [h.bounds for h in houses]


def test_a_hut_beside_a_hall_is_not_swallowed() -> None:
    """One window merges both by mistake: containment must not make the other window's hut vanish."""
    grid = make_grid(100, 175, size=100, overlap=0.25)
    hall, hut = box(88, 10, 160, 60), box(80, 60, 99, 75)
    mistaken = Instance(0, 0, 0, 0, 0.9, shapely.union(shapely.intersection(hall, box(0, 0, 100, 100)), hut))
    right = [Instance(0, 1, 0, 0, 0.9, hall), Instance(0, 1, 1, 0, 0.9, hut)]
    joined = join([mistaken, *right], grid)
    assert len(joined) == 2
    assert max(j.polygon.area for j in joined) >= hall.area


def test_classes_never_merge() -> None:
    shape = box(60, 60, 130, 110)
    things = [SceneObject(shape, label=0), SceneObject(shape, label=1)]
    joined = join(detect(things, GRID_100), GRID_100)
    assert [j.label for j in joined] == [0, 1]
    assert all(j.polygon.equals(shape) for j in joined)
    grid = make_grid(100, 175, size=100, overlap=0.25)
    halves = [Instance(0, 0, 0, 0, 1, box(50, 0, 100, 9)), Instance(0, 1, 0, 1, 1, box(75, 0, 120, 9))]
    assert len(join(halves, grid)) == 2


def test_pieces_are_compared_one_by_one() -> None:
    """A horseshoe enters the strip twice; each arm finds its arm."""
    shoe = Polygon([(20, 10), (160, 10), (160, 90), (140, 90), (140, 20), (20, 20)])
    arms = box(60, 0, 120, 20).union(box(60, 40, 120, 60)).union(box(60, 0, 65, 60))
    for shape in (shoe, arms):
        assert only(see_and_join([shape])).polygon.equals(shape)


# --- leftovers ------------------------------------------------------------------------------------


def test_a_cut_leftover_outside_its_core_is_dropped() -> None:
    grid = make_grid(100, 175, size=100, overlap=0.25)
    assert join([Instance(0, 0, 0, 0, 1, box(90, 0, 100, 10))], grid) == []
    kept = only(join([Instance(0, 0, 0, 0, 1, box(80, 0, 100, 10))], grid))  # reaches its core
    assert kept.polygon.equals(box(80, 0, 100, 10))
    whole = only(join([Instance(0, 0, 0, 0, 1, box(90, 2, 98, 10))], grid))  # not cut
    assert whole.polygon.area == 64


def test_the_scene_edge_cuts_nothing() -> None:
    shape = box(380, 200, 400, 250)
    assert only(see_and_join([shape])).polygon.equals(shape)


def test_a_duplicate_from_another_window_gives_way() -> None:
    grid = make_grid(100, 175, size=100, overlap=0.25)
    better = Instance(0, 0, 0, 0, 0.9, box(76, 10, 98, 40))
    copy = Instance(0, 1, 0, 0, 0.8, box(79, 10, 87, 40))  # IoU below a half: no link
    joined = only(join([better, copy], grid))
    assert joined.members == ((0, 0, 0),)
    overlap = Instance(0, 1, 0, 0, 0.8, box(90, 10, 120, 40))  # loses less than half: stays, cut back
    joined_two = join([better, overlap], grid)
    assert len(joined_two) == 2
    assert shapely.intersection(joined_two[0].polygon, joined_two[1].polygon).area == 0
    assert shapely.union(joined_two[0].polygon, joined_two[1].polygon).area == 22 * 30 + 22 * 30


def test_overlaps_inside_one_window_are_the_models_own() -> None:
    grid = make_grid(100, 100, size=100)
    pair = [Instance(0, 0, 0, 0, 0.9, box(10, 10, 50, 50)), Instance(0, 0, 1, 0, 0.8, box(20, 20, 60, 60))]
    assert [j.polygon.area for j in join(pair, grid)] == [1600, 1600]


def test_no_instances_and_two_with_one_key() -> None:
    assert join([], GRID_100) == []
    twice = [Instance(0, 0, 0, 0, 1, box(1, 1, 5, 5))] * 2
    with pytest.raises(ValueError, match="same window"):
        join(twice, GRID_100)


def test_slivers_below_the_grid_are_no_instances() -> None:
    assert join([Instance(0, 0, 0, 0, 1, box(1, 1, 50, 1 + GRID / 4))], GRID_100) == []


# --- properties -----------------------------------------------------------------------------------

rectangles = st.tuples(st.integers(0, 360), st.integers(0, 210), st.integers(6, 180), st.integers(6, 120)).map(
    lambda r: box(r[0], r[1], min(400, r[0] + r[2]), min(250, r[1] + r[3]))
)


def apart(polygons: Sequence[Polygon]) -> list[Polygon]:
    """The polygons that do not overlap an earlier one (they may touch)."""
    chosen: list[Polygon] = []
    for polygon in polygons:
        if all(polygon.intersection(other).area == 0 for other in chosen):
            chosen.append(polygon)
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.lists(rectangles, min_size=1, max_size=8).map(apart), st.sampled_from([64, 100, 150, 512]))
def test_rectangles_come_back_whatever_the_window_size(shapes: list[Polygon], size: int) -> None:
    grid = make_grid(250, 400, size=size, overlap=0.25)
    joined = see_and_join(shapes, grid)
    assert sorted(j.polygon.normalize().wkt for j in joined) == sorted(shape.normalize().wkt for shape in shapes)


@settings(max_examples=8, deadline=None)
@given(st.lists(rectangles, min_size=2, max_size=10), st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_windows_changes_no_byte(shapes: list[Polygon], seed: int, order: random.Random) -> None:
    things = [SceneObject(shape, label=i % 2) for i, shape in enumerate(shapes)]
    instances = list(detect_noisily(things, GRID_100, Noise(merge=0.3, miss=0.1, shift=2, swell=2), seed=seed))
    expected = wkb(join(instances, GRID_100))
    order.shuffle(instances)
    assert wkb(join(instances, GRID_100)) == expected


@settings(max_examples=25, deadline=None)
@given(st.lists(rectangles, min_size=1, max_size=10).map(apart), st.integers(0, 10_000))
def test_noise_doubles_no_ground(shapes: list[Polygon], seed: int) -> None:
    """Where every window's detections are apart, so are the objects."""
    things = [SceneObject(shape) for shape in shapes]
    noise = Noise(merge=0.2, miss=0.1, swell=0.0, shift=0.0, gap=0.0)
    noisy = []
    for one in detect_noisily(things, GRID_100, noise, seed=seed):  # a mask may swallow what was found before it
        of_window = [other for other in noisy if other.key[:2] == one.key[:2]]
        if all(one.polygon.intersection(other.polygon).area == 0 for other in of_window):
            noisy.append(one)
    joined = join(noisy, GRID_100)
    ground = shapely.union_all([j.polygon for j in joined]).area if joined else 0.0
    assert total_area(j.polygon for j in joined) == pytest.approx(ground, abs=1e-6)
    for j in joined:
        assert j.polygon.is_valid
        assert j.polygon.area > 0
        coordinates = shapely.get_coordinates(j.polygon) / GRID
        assert (coordinates == np.round(coordinates)).all()
    assert [j.key for j in joined] == sorted(j.key for j in joined)
    members = [member for j in joined for member in j.members]
    assert len(members) == len(set(members))


def test_noisy_views_of_separate_objects_are_joined() -> None:
    rng = np.random.default_rng(3)
    shapes = [
        shapely.affinity.rotate(box(x, y, x + rng.uniform(14, 40), y + rng.uniform(14, 40)), rng.uniform(0, 90))
        for x in range(20, 560, 60)
        for y in range(20, 560, 60)
    ]
    grid = make_grid(640, 640, size=128, overlap=0.25)
    joined = join(detect_noisily([SceneObject(s) for s in shapes], grid, Noise(merge=0, miss=0)), grid)
    assert len(joined) == len(shapes)
    assert matched_f1([j.polygon for j in joined], shapes) == 1


@pytest.mark.parametrize(("merge", "at_least"), [(0.0, 0.985), (0.05, 0.955), (0.15, 0.90)])
def test_real_footprints_with_a_detector_that_errs(shared: Path, merge: float, at_least: float) -> None:
    """One dense scene; the figures over all scenes are a little higher."""
    with rasterio.open(shared / "data/buildings/banepa_block.tif") as raster:
        georef = Georef(tuple(raster.transform)[:6], raster.crs.to_wkt(), "affine")
        height, width = raster.shape
    footprints = read_footprints(shared / "data/buildings/banepa_block.geojson", to_crs_wkt=georef.crs_wkt)
    scene = box(0, 0, width, height)
    cut = [polygon_parts(polygon.intersection(scene)) for polygon in to_pixels(footprints.polygons, georef)]
    things = [SceneObject(polygon) for polygon in cut if polygon is not None and polygon.area >= 40]
    assert len(things) > 200
    grid = make_grid(height, width, size=256, overlap=0.25)
    joined = join(detect_noisily(things, grid, Noise(merge=merge), seed=1), grid)
    assert matched_f1([j.polygon for j in joined], [thing.polygon for thing in things]) >= at_least
