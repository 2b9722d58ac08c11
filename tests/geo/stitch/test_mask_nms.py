"""Two outlines of one object in a window become one, and nothing else is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from rsprompter_cli.geo.stitch.joiner import Instance
from rsprompter_cli.geo.stitch.mask_nms import TWIN_IOU, mask_nms


def _instance(index: int, score: float, polygon: Any, label: int = 0) -> Instance:
    return Instance(0, 0, index, label, score, polygon)


def _kept(*instances: Instance) -> list[int]:
    return [instance.index for instance in mask_nms(instances)]


def test_the_better_of_two_outlines_stays() -> None:
    assert _kept(_instance(0, 0.6, box(0, 0, 10, 10)), _instance(1, 0.9, box(0, 0, 10, 9))) == [1]


def test_of_equal_ones_the_first_stays() -> None:
    assert _kept(*(_instance(index, 0.5, box(0, 0, 10, 10)) for index in range(3))) == [0]


@pytest.mark.parametrize(
    ("other", "label"),
    [(box(10, 0, 20, 10), 0), (box(2, 2, 5, 5), 0), (box(0, 0, 21, 10), 0), (box(0, 0, 10, 10), 1)],
    ids=["touching", "within", "half as large", "another class"],
)
def test_others_stay(other: Any, label: int) -> None:
    assert _kept(_instance(0, 0.9, box(0, 0, 10, 10)), _instance(1, 0.5, other, label)) == [0, 1]


def test_what_goes_takes_nothing_with_it() -> None:
    chain = [box(0, 0, 10, 10), box(3, 0, 13, 10), box(6, 0, 16, 10)]
    assert _kept(*(_instance(index, 0.9 - 0.1 * index, one) for index, one in enumerate(chain))) == [0, 2]


def test_nothing_of_nothing() -> None:
    assert mask_nms([]) == []


boxes = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2).map(
    lambda one: box(one[0], one[1], one[0] + one[2], one[1] + one[3])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(boxes, st.sampled_from([0.3, 0.5, 0.7]), st.integers(0, 1)), max_size=12), st.randoms())
def test_no_twins_are_left_whatever_the_order(drawn: list[tuple[Any, float, int]], chance: Any) -> None:
    instances = [_instance(index, score, one, label) for index, (one, score, label) in enumerate(drawn)]
    kept = mask_nms(instances)
    for first in kept:
        for second in kept:
            if first.index < second.index and first.label == second.label:
                shared = first.polygon.intersection(second.polygon).area
                assert shared < TWIN_IOU * first.polygon.union(second.polygon).area + 1e-9
    assert mask_nms(kept) == kept
    shuffled = list(instances)
    chance.shuffle(shuffled)
    assert {one.index for one in mask_nms(shuffled)} == {one.index for one in kept}
