"""Joining row by row: the same objects as without windows, whatever the layout, and memory that stays bounded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely import Polygon, box

from rsprompter_cli.geo.polygonize import label_polygons
from rsprompter_cli.geo.stitch.joiner import Instance, JoinedInstance, Joiner
from rsprompter_cli.geo.stitch.overlap import common_areas
from rsprompter_cli.geo.windows import WindowGrid, make_grid
from tests.make import join_reference
from tests.make.joining import join, join_rows
from tests.make.shapes import Noise, SceneObject, detect, detect_noisily

CELL = 12


def same(joined: Sequence[JoinedInstance]) -> list[tuple[object, ...]]:
    return [(shapely.to_wkb(o.polygon, byte_order=1), o.label, o.score, o.quality, o.key, o.members) for o in joined]


def tessellation(cells: np.ndarray) -> list[SceneObject]:
    """The connected areas of a picture of few colours: blocks, L shapes, rings, what lies in rings, all touching."""
    things = []
    for colour, polygon in enumerate(label_polygons(cells.astype(np.int32), int(cells.max()))):
        for part in [] if polygon is None else shapely.get_parts(polygon):
            shape = shapely.transform(part, lambda xy: xy * CELL)
            things.append(SceneObject(shape, label=colour % 2, score=0.5 + 0.1 * colour))
    return things


def in_pieces(instances: Sequence[Instance]) -> list[Instance]:
    """A detector that calls every connected piece in a window an instance of its own."""
    parts = [replace(one, polygon=part) for one in instances for part in shapely.get_parts(one.polygon)]
    return [replace(one, index=number) for number, one in enumerate(parts)]


tessellations = arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 11)), elements=st.integers(0, 3)).map(
    tessellation
)
layouts = st.tuples(st.integers(20, 70), st.floats(0.1, 0.49))


def check_tessellation(
    things: list[SceneObject], layout: tuple[int, float], at_once: int, order: random.Random, *, pieces: bool
) -> None:
    width, height = (int(side) for side in shapely.total_bounds([box(0, 0, 9, 9), *(t.polygon for t in things)])[2:])
    grid = make_grid(height, width, size=layout[0], overlap=layout[1])
    instances = detect(things, grid)
    instances = in_pieces(instances) if pieces else instances
    joined = sorted(join_rows(instances, grid, at_once=at_once), key=lambda one: one.key)
    whole = join(detect(things, make_grid(height, width, size=1000)), make_grid(height, width, size=1000))
    found = sorted((shapely.to_wkb(one.polygon), one.label, one.score) for one in joined)
    assert found == sorted((shapely.to_wkb(one.polygon), one.label, one.score) for one in whole)
    order.shuffle(instances)  # windows of several machines, as they happen to come
    assert same(join(instances, grid)) == same(joined)


@settings(max_examples=20, deadline=None)
@given(tessellations, layouts, st.sampled_from([1, 5, 4096]), st.randoms(use_true_random=False), st.booleans())
def test_a_tessellation_comes_back_whole(
    things: list[SceneObject], layout: tuple[int, float], at_once: int, order: random.Random, pieces: bool
) -> None:
    check_tessellation(things, layout, at_once, order, pieces=pieces)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(tessellations, layouts, st.sampled_from([1, 5, 4096]), st.randoms(use_true_random=False), st.booleans())
def test_many_tessellations_come_back_whole(
    things: list[SceneObject], layout: tuple[int, float], at_once: int, order: random.Random, pieces: bool
) -> None:
    check_tessellation(things, layout, at_once, order, pieces=pieces)


def random_scene(seed: int) -> tuple[list[Instance], WindowGrid]:
    rng = np.random.default_rng(seed)
    size, overlap = [(64, 0.25), (100, 0.25), (100, 0.4), (120, 0.45), (90, 0.0)][seed % 5]
    grid = make_grid(250, 400, size=size, overlap=overlap)
    corners = rng.integers((0, 0, 6, 6), (360, 210, 180, 120), (int(rng.integers(1, 15)), 4))
    shapes = [box(x, y, min(400, x + w), min(250, y + h)) for x, y, w, h in corners.tolist()]
    things = [SceneObject(shape, label=number % 2) for number, shape in enumerate(shapes)]
    return list(detect_noisily(things, grid, Noise(merge=0.2, miss=0.1, shift=2, swell=2), seed=seed)), grid


def check_reference(seed: int) -> None:
    instances, grid = random_scene(seed)
    joined = sorted(join_rows(instances, grid, at_once=(1, 3, 1000)[seed % 3]), key=lambda one: one.key)
    assert same(joined) == same(join_reference.join(instances, grid))


@pytest.mark.parametrize("seed", range(15))
def test_the_objects_of_a_noisy_detector_are_those_of_the_plain_rule(seed: int) -> None:
    check_reference(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15, 600))
def test_the_objects_of_many_noisy_detectors_are_those_of_the_plain_rule(seed: int) -> None:
    check_reference(seed)


def test_a_river_through_thirty_windows() -> None:
    grid = make_grid(2500, 150, size=100, overlap=0.2)
    y = np.arange(-20, 2540, 20.0)
    river = shapely.LineString(np.stack([75 + 40 * np.sin(y / 90), y], axis=1)).buffer(8)
    river = shapely.intersection(shapely.set_precision(river, 1 / 256), box(0, 0, 150, 2500))
    assert grid.rows >= 30
    instances = detect([SceneObject(river)], grid)
    (joined,) = join(instances, grid)
    assert joined.polygon.symmetric_difference(river).area < 1
    assert len(joined.members) == len(instances) >= 30


@pytest.mark.parametrize("hole", [(90, 90, 160, 160), (30, 30, 220, 220), (75, 75, 175, 175)])
def test_a_ring_around_a_window_and_what_stands_in_it(hole: tuple[int, int, int, int]) -> None:
    grid = make_grid(250, 250, size=100, overlap=0.25)
    inner = box(*hole).buffer(-10, join_style="mitre")
    ring = box(5, 5, 245, 245).difference(box(*hole))
    joined = join(detect([SceneObject(ring), SceneObject(inner)], grid), grid)
    assert {shapely.to_wkb(one.polygon) for one in joined} == {
        shapely.to_wkb(ring.normalize()),
        shapely.to_wkb(inner.normalize()),
    }


def noisy_column(rows: int) -> tuple[WindowGrid, Iterator[Instance]]:
    """Two columns of windows; wall-to-wall houses all along the strip between them: every one touches the next."""
    grid = make_grid(75 * rows + 25, 175, size=100, overlap=0.25)
    houses = [SceneObject(box(70, y, 105, y + 14)) for y in range(0, grid.height - 14, 14)]
    return grid, detect_noisily(houses, grid, Noise(merge=0.1, shift=1.5, swell=1.5), seed=1)


def test_what_is_held_does_not_grow_with_the_rows() -> None:
    most = []
    for rows in (10, 40):
        grid, instances = noisy_column(rows)
        joiner, held, waiting = Joiner(grid), [0], []
        given_out: list[JoinedInstance] = []
        for one in instances:
            if waiting and one.window_row != waiting[-1].window_row:
                given_out += joiner.add(waiting, rows_done=one.window_row)
                held.append(len(joiner))
                waiting = []
            waiting.append(one)
        given_out += joiner.add(waiting, rows_done=grid.rows)
        assert len(joiner) == 0
        assert same(sorted(given_out, key=lambda one: one.key)) == same(
            join_reference.join(noisy_column(rows)[1], grid)
        )
        most.append(max(held))
    assert most[1] <= most[0] * 1.5


def test_rows_come_in_order_and_only_once() -> None:
    grid = make_grid(250, 100, size=100)
    shape = box(10, 10, 20, 20)
    late = [Instance(1, 0, 0, 0, 1, box(10, 110, 20, 120)), Instance(0, 0, 0, 0, 1, shape)]
    with pytest.raises(ValueError, match="came after"):
        list(join_rows(late, grid))
    joiner = Joiner(grid)
    joiner.add([Instance(0, 0, 0, 0, 1, shape)], rows_done=1)
    with pytest.raises(ValueError, match="came after"):
        joiner.add([Instance(0, 0, 1, 0, 1, shape)], rows_done=2)
    with pytest.raises(IndexError, match="outside the grid"):
        join([Instance(9, 0, 0, 0, 1, shape)], grid)


blobs = st.lists(st.tuples(st.floats(2, 25), st.floats(0, 0.7)), min_size=3, max_size=14).map(
    lambda spokes: Polygon(
        [
            (30 + r * np.cos(6.28 * i / len(spokes)), 30 + r * np.sin(6.28 * i / len(spokes)))
            for i, (r, _) in enumerate(spokes)
        ],
        [[(30 + d, 30), (30, 30 + d), (30 - d, 30 - d)] for d in [spokes[0][1]]] if spokes[0][1] > 0.1 else [],
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(blobs.filter(lambda blob: blob.is_valid), min_size=2, max_size=6), st.floats(-9, 9))
def test_common_areas_are_those_of_geos(shapes: list[Polygon], shift: float) -> None:
    moved = shapely.reverse(shapely.transform(shapes, lambda xy: xy + shift))
    polygons = np.array([*shapes, *moved], dtype=object)
    first, second = np.divmod(np.arange(len(polygons) ** 2), len(polygons))
    expected = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    areas = common_areas(polygons, first, second)
    assert np.allclose(areas, expected, atol=1e-6)
    assert common_areas(polygons, first[3:5], second[3:5]).tolist() == areas[3:5].tolist()
