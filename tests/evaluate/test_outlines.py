"""PoLiS, Boundary IoU and right angles, against figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon, box
from shapely.affinity import rotate, translate

from rsprompter_cli.evaluate.outlines import (
    boundary_ious,
    compare_outlines,
    polis_distances,
    right_angles,
)

SQUARE = box(0, 0, 10, 10)
L_SHAPE = Polygon([(0, 0), (20, 0), (20, 8), (8, 8), (8, 20), (0, 20)])
WITH_HOLE = Polygon(box(0, 0, 30, 30).exterior, [box(10, 10, 20, 20).exterior])


def array(*shapes: Any) -> np.ndarray:
    out = np.empty(len(shapes), dtype=object)
    out[:] = shapes
    return out


def polis(one: Any, other: Any) -> float:
    return float(polis_distances(array(one), array(other))[0])


def boundary(one: Any, other: Any, width: float = 1.0) -> float:
    return float(boundary_ious(array(one), array(other), width)[0])


def regular(corners: int, radius: float = 20) -> Polygon:
    turns = [2 * math.pi * step / corners for step in range(corners)]
    return Polygon([(radius * math.cos(turn), radius * math.sin(turn)) for turn in turns])


def test_polis_by_hand() -> None:
    # Shifted by 2 along x: of each square two corners lie on the other's long sides, two are 2 away.
    assert polis(SQUARE, translate(SQUARE, 2)) == pytest.approx(1)
    # Grown by 1 on all sides: from outside sqrt(2) to the corner, from inside 1 to the edge.
    assert polis(SQUARE, SQUARE.buffer(1, join_style="mitre")) == pytest.approx((1 + math.sqrt(2)) / 2)
    # Disjoint: the near corners are 5 away, the far ones 15.
    assert polis(SQUARE, translate(SQUARE, 15)) == pytest.approx(10)


def test_polis_counts_the_vertices_of_holes_and_parts() -> None:
    # Four of eight vertices belong to the hole, whose corners are 10 from the outer edge.
    assert polis(WITH_HOLE, box(0, 0, 30, 30)) == pytest.approx((10 / 2 + 0) / 2)
    pair = MultiPolygon([SQUARE, translate(SQUARE, 20)])
    assert polis(pair, SQUARE) == pytest.approx(((2 * 10 + 2 * 20) / 8 + 0) / 2)


def test_boundary_iou_by_hand() -> None:
    # Bands of 1 m are 36 m2 each. Shifted by 1 along x they share the two long sides, 1 x 9 each, and nothing of the
    # short ones but the corners: columns 1..2 and 9..10 hold only rows 0..1 and 9..10 of the other's band.
    share = 18
    assert boundary(SQUARE, translate(SQUARE, 1)) == pytest.approx(share / (72 - share))
    # A band wider than the object holds all of it: mask IoU.
    assert boundary(SQUARE, translate(SQUARE, 1), width=5) == pytest.approx(90 / 110)
    assert boundary(WITH_HOLE, box(0, 0, 30, 30)) == pytest.approx(116 / (116 + 44 + 0.0), abs=0.005)


def test_right_angles_by_hand() -> None:
    for shape, corners, share, deviation in (
        (SQUARE, 4, 1.0, 0),
        (L_SHAPE, 6, 1.0, 0),
        (WITH_HOLE, 8, 1.0, 0),
        (regular(6), 6, 0.0, 30),
        (regular(8), 8, 0.0, 45),
        (regular(3), 3, 0.0, 30),
        (Polygon([(0, 0), (10, 0), (20, 0), (20, 10), (0, 10)]), 4, 1.0, 0),  # a vertex that is no corner
    ):
        got = right_angles(array(shape))
        assert (got.corners, got.right_share) == (corners, share)
        assert got.mean_deviation == pytest.approx(deviation, abs=1e-6)
    both = right_angles(array(SQUARE, regular(6)))
    assert (both.corners, both.right_share, both.mean_deviation) == (10, 0.4, pytest.approx(18))


def test_steps_of_pixels_are_no_corners() -> None:
    # A slanting edge of 0.3 m pixels: 45 degrees at both ends, whatever its steps.
    steps = [(0.3 * (i + j), 0.3 * i) for i in range(40) for j in (0, 1)]
    got = right_angles(array(Polygon([*steps, (12, 30), (0, 30)])))
    assert got.corners <= 5


def test_corners_made_by_the_border_are_left_out() -> None:
    border = box(0, 0, 20, 20)
    cut = shapely.intersection(rotate(box(10, 10, 30, 18), 30, origin=(10, 10)), border)
    assert right_angles(array(cut)).right_share < 1  # type: ignore[operator]
    assert right_angles(array(cut), border).right_share == 1.0


def test_nothing_to_compare_is_none() -> None:
    got = compare_outlines(array(), array(), array())
    assert (got.pairs, got.polis, got.boundary_iou) == (0, None, None)
    assert (got.pred_corners.corners, got.truth_corners.right_share) == (0, None)


sizes = st.floats(2, 60)


@given(sizes, sizes, st.floats(0, 180))
def test_identical_outlines_agree(width: float, height: float, turn: float) -> None:
    shape = rotate(box(0, 0, width, height), turn)
    assert polis(shape, shape) == pytest.approx(0, abs=1e-9)
    assert boundary(shape, shape) == pytest.approx(1)
    assert right_angles(array(shape)).mean_deviation == pytest.approx(0, abs=1e-6)


@given(sizes, sizes, st.floats(0, 1))
def test_a_shift_along_an_edge(width: float, height: float, share: float) -> None:
    """By d along x two corners of each rectangle stay on the long edges and two are d away: d / 2 while d is small."""
    shift = share * min(width, height) / 2
    shape = box(0, 0, width, height)
    assert polis(shape, translate(shape, shift)) == pytest.approx(shift / 2, abs=1e-9)


@given(sizes, sizes, st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 360))
def test_symmetric_and_independent_of_place(width: float, height: float, dx: float, dy: float, turn: float) -> None:
    one, other = box(0, 0, width, height), rotate(box(dx, dy, dx + height, dy + width), 20)
    there = [translate(rotate(shape, turn, origin=(0, 0)), 1000, -500) for shape in (one, other)]
    assert polis(one, other) == pytest.approx(polis(other, one))
    assert polis(*there) == pytest.approx(polis(one, other), abs=1e-6)
    assert boundary(one, other) == pytest.approx(boundary(other, one))
    assert boundary(*there) == pytest.approx(boundary(one, other), abs=1e-6)
    assert 0 <= boundary(one, other) <= 1
