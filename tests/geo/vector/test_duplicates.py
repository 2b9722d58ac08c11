"""Outlines that a layer holds twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import translate

from rsprompter_cli.geo.vector.duplicates import COPY_IOU, first_of_each

HOUSE = shapely.box(0, 0, 10, 10)
LAYER = Path("labels.gpkg")


def test_a_copy_goes_and_the_first_stays_whatever_its_ring_begins_with() -> None:
    turned = shapely.Polygon([(10, 10), (10, 0), (0, 0), (0, 10)])
    assert first_of_each([HOUSE, turned, shapely.box(20, 0, 30, 10), HOUSE], ["a"] * 4, LAYER) == [0, 2]
    assert first_of_each([], [], LAYER) == []


@pytest.mark.parametrize(("moved", "kept"), [(0.001, [0]), (0.2, [0]), (0.5, [0, 1]), (5, [0, 1])])
def test_a_quarter_of_a_pixel_makes_no_second_house(moved: float, kept: list[int]) -> None:
    assert first_of_each([HOUSE, translate(HOUSE, moved)], ["a", "a"], LAYER) == kept


def test_another_class_and_what_lies_within_stay() -> None:
    assert first_of_each([HOUSE, HOUSE, HOUSE.buffer(-2)], ["a", "b", "a"], LAYER) == [0, 1, 2]


def test_damaged_rings_are_compared_byte_by_byte() -> None:
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    assert first_of_each([bow, bow, translate(bow, 0.01)], ["a"] * 3, LAYER) == [0, 2]


boxes = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([3, 20])), max_size=25)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 2**31))
def test_each_that_goes_has_one_that_stays(where: list[tuple[int, int, int]], seed: int) -> None:
    polygons = [shapely.box(x, y, x + side, y + side) for x, y, side in where]
    classes = np.random.default_rng(seed).choice(["a", "b"], len(polygons)).tolist()
    kept = first_of_each(polygons, classes, LAYER)
    assert kept == sorted(set(kept))

    def alike(one: int, other: int) -> bool:
        shared = polygons[one].intersection(polygons[other]).area
        return classes[one] == classes[other] and shared >= COPY_IOU * polygons[one].union(polygons[other]).area

    assert not any(alike(one, other) for one in kept for other in kept if one < other)
    assert all(any(alike(one, gone) for one in kept) for gone in range(len(polygons)) if gone not in kept)
