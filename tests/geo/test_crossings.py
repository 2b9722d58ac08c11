"""How much work intersecting outlines is, before it is done."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crossings import meeting_pairs, work_of_pairs
from rsprompter_cli.geo.vector.intersections import check_intersections, shared_areas
from tests.make.hostile_vectors import comb

MANY = 10**9


def stars(count: int, corners: int, seed: int) -> np.ndarray:
    """Outlines around random places, object [count]."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (count, corners)), axis=1)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=2) * rng.uniform(1, 5, (count, corners, 1))
    return shapely.polygons(rays + rng.uniform(0, 12, (count, 1, 2)))


def crossings(one: shapely.Geometry, other: shapely.Geometry) -> int:
    """Points in which two outlines cross."""
    return len(shapely.get_coordinates(shapely.intersection(one.boundary, other.boundary)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([5, 60]), st.integers(0, 2**31))
def test_crossings_of_outlines_are_counted(count: int, others: int, corners: int, seed: int) -> None:
    one, other = stars(count, corners, seed), stars(others, corners, seed + 1)
    assert counted(one, other) == sum(crossings(a, b) for a in one for b in other)
    if corners < 30:  # with more, an outline's crossings with itself count too
        assert counted(one, None) == sum(crossings(a, b) for i, a in enumerate(one) for b in one[i + 1 :])


def counted(one: np.ndarray, other: np.ndarray | None) -> int:
    first, second, _ = meeting_pairs(one, other, most=MANY)
    right = one if other is None else other
    return sum(work_of_pairs(one[first], right[second], most_pairs=MANY, most_crossings=MANY)[1:])


def test_a_sample_stands_for_many_pairs() -> None:
    one, other = stars(400, 8, 0), stars(300, 8, 1)
    exact = sum(crossings(a, b) for a in one[:40] for b in other) * 10
    first, second, count = meeting_pairs(one, other, most=MANY)
    assert count == len(first) > 10_000
    found = work_of_pairs(one[first], other[second], most_pairs=MANY, most_crossings=MANY)
    assert found.crossings_of_small == pytest.approx(exact, rel=0.3)


@pytest.mark.parametrize("teeth", [400, 4000])
def test_combs_across_one_another_are_refused_before_they_take_memory(teeth: int) -> None:
    across, along = comb(teeth), comb(teeth, turned=True)
    with pytest.raises(
        InputError, match=r"^a\.gpkg: the outlines cross one another over [\d,]+ times, which takes too"
    ):
        check_intersections(outlines(across), outlines(along), "a.gpkg")
    with pytest.raises(InputError, match="cross one another"):
        shared_areas(outlines(across, along), None, "a.gpkg")
    none = shared_areas(outlines(across, along), None, "a.gpkg", alike=lambda first, second: first > second)
    assert len(none.area) == 0


def test_products_of_edges_beyond_32_bits() -> None:
    dense = shapely.segmentize(comb(4000, turned=True), 1 / 75)
    assert shapely.get_num_coordinates(dense) > 600_000
    with pytest.raises(InputError, match="cross one another"):
        check_intersections(outlines(comb(4000)), outlines(dense), "a.gpkg")


def test_a_pile_is_refused_and_a_town_is_not() -> None:
    pile = shapely.box(0, 0, *np.random.default_rng(0).uniform(1, 2, (2, 4000)))
    with pytest.raises(
        InputError, match=r"^a\.gpkg: so many outlines lie on top of one another that it takes too long"
    ):
        shared_areas(pile, pile, "a.gpkg", alike=lambda first, second: first > MANY)
    x, y = np.divmod(np.arange(40_000), 200)
    town = shapely.box(x, y, x + 1.2, y + 1.2)
    check_intersections(town, town, "a.gpkg")
    check_intersections(town[:0], town, "a.gpkg")
    check_intersections(town, town[:0], "a.gpkg")


def test_shared_areas_are_those_of_the_pairs_of_interest() -> None:
    one, other = stars(60, 8, 0), stars(50, 8, 1)
    first, second, area = shared_areas(one, other, "a.gpkg")
    met = {(i, j): value for i, j, value in zip(first.tolist(), second.tolist(), area.tolist(), strict=True) if value}
    assert met == {
        (i, j): a.intersection(b).area for i, a in enumerate(one) for j, b in enumerate(other) if a.intersection(b).area
    }
    some = shared_areas(one, None, "a.gpkg", alike=lambda first, second: (first + second) % 2 == 0)
    assert (some.first < some.second).all()
    assert ((some.first + some.second) % 2 == 0).all()
    assert some.area.tolist() == [
        one[i].intersection(one[j]).area for i, j in zip(some.first, some.second, strict=True)
    ]


def outlines(*polygons: shapely.Geometry) -> np.ndarray:
    return np.array(polygons, dtype=object)
