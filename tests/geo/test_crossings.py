"""How much work intersecting outlines is, before it is done."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crossings import work_between
from rsprompter_cli.geo.geometries import check_overlay
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
    found = work_between(one, other, most_pairs=MANY, most_crossings=MANY)
    assert sum(found[1:]) == sum(crossings(a, b) for a in one for b in other)
    among = work_between(one, None, most_pairs=MANY, most_crossings=MANY)
    if corners < 30:  # with more, an outline's crossings with itself count too
        assert sum(among[1:]) == sum(crossings(a, b) for i, a in enumerate(one) for b in one[i + 1 :])


def test_a_sample_stands_for_many_pairs() -> None:
    one, other = stars(400, 8, 0), stars(300, 8, 1)
    exact = sum(crossings(a, b) for a in one[:40] for b in other) * 10
    found = work_between(one, other, most_pairs=MANY, most_crossings=MANY)
    assert found.crossings_of_small == pytest.approx(exact, rel=0.3)


@pytest.mark.parametrize("teeth", [400, 4000])
def test_combs_across_one_another_are_refused_before_they_take_memory(teeth: int) -> None:
    across, along = comb(teeth), comb(teeth, turned=True)
    with pytest.raises(
        InputError, match=r"^a\.gpkg: the outlines cross one another over [\d,]+ times, which takes too"
    ):
        check_overlay([across], [along], "a.gpkg")
    with pytest.raises(InputError, match="cross one another"):
        check_overlay([across, along], None, "a.gpkg")


def test_products_of_edges_beyond_32_bits() -> None:
    dense = shapely.segmentize(comb(4000, turned=True), 1 / 75)
    assert shapely.get_num_coordinates(dense) > 600_000
    with pytest.raises(InputError, match="cross one another"):
        check_overlay([comb(4000)], [dense], "a.gpkg")


def test_a_pile_is_refused_and_a_town_is_not() -> None:
    pile = shapely.box(0, 0, *np.random.default_rng(0).uniform(1, 2, (2, 4000)))
    with pytest.raises(
        InputError, match=r"^a\.gpkg: so many outlines lie on top of one another that it takes too long"
    ):
        check_overlay(pile, pile, "a.gpkg")
    x, y = np.divmod(np.arange(40_000), 200)
    town = shapely.box(x, y, x + 1.2, y + 1.2)
    check_overlay(town, town, "a.gpkg")
    check_overlay([], town, "a.gpkg")
    check_overlay([None, shapely.Polygon()], [shapely.box(0, 0, 1, 1)], "a.gpkg")
