"""Polygons with holes and parts as one ring."""

from __future__ import annotations

import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from rsprompter_cli.data.convert.rings import count_rings, to_one_ring
from rsprompter_cli.geo.polygonize import mask_to_polygon

MASKS = hnp.arrays(bool, st.tuples(st.integers(2, 14), st.integers(2, 14))).filter(np.any)


def fill(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    (rle,) = coco_mask.frPyObjects([ring.ravel().tolist()], height, width)
    return coco_mask.decode(rle).astype(bool)


def signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_masks_of_any_shape_come_back(mask: np.ndarray) -> None:
    polygon = mask_to_polygon(mask)
    ring = to_one_ring(polygon)
    assert np.array_equal(fill(ring, *mask.shape), mask)
    # Holes run against exteriors, so the winding is 1 in the object and 0 in holes.
    assert abs(signed_area(ring)) == pytest.approx(mask.sum())
    assert len(ring) == len(shapely.get_coordinates(polygon)) - count_rings(polygon) + 2 * (count_rings(polygon) - 1)


@given(st.lists(st.tuples(*[st.integers(0, 400) for _ in range(3)]), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_area_of_parts_and_holes_is_kept(discs: list[tuple[int, int, int]]) -> None:
    shapes = [shapely.Point(x / 7, y / 7).buffer(1 + size / 40, quad_segs=3) for x, y, size in discs]
    geometry = shapely.union_all(shapes).difference(shapely.union_all([s.buffer(-1) for s in shapes[::2]]))
    ring = to_one_ring(geometry)
    assert abs(signed_area(ring)) == pytest.approx(geometry.area, rel=1e-9)
    again = shapely.make_valid(shapely.Polygon(ring))
    assert again.symmetric_difference(geometry).area < 1e-6 * geometry.area


def test_a_plain_polygon_keeps_its_vertices() -> None:
    corners = [(0.0, 0.0), (4.0, 0.0), (4.0, 3.0)]
    assert sorted(map(tuple, to_one_ring(shapely.Polygon(corners)).tolist())) == sorted(corners)


def test_channels_are_short() -> None:
    parts = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1), shapely.box(9, 0, 10, 1)])
    ring = to_one_ring(parts)
    closed = np.vstack([ring, ring[:1]])
    assert np.linalg.norm(np.diff(closed, axis=0), axis=1).sum() == pytest.approx(3 * 4 + 2 * (1 + 6))


def test_thousands_of_holes_take_a_moment() -> None:
    mask = np.random.default_rng(0).random((250, 250)) > 0.3
    polygon = mask_to_polygon(mask)
    assert count_rings(polygon) > 4000
    begin = time.process_time()
    ring = to_one_ring(polygon)
    assert time.process_time() - begin < 20  # a search of each ring for each other would take minutes
    assert np.array_equal(fill(ring, *mask.shape), mask)
