"""What tiles show of footprints."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.data.tiles import tiles
from rsprompter_cli.data.tiles.tiles import burn
from rsprompter_cli.geo.windows import Window


def coast(vertices: int, seed: int) -> shapely.Polygon:
    """A winding outline around (50, 50) with a lake in it."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outer = 50 + rays * rng.uniform(25, 45, (vertices, 1))
    return shapely.Polygon(outer, [50 + rays[::-1] * rng.uniform(5, 20, (vertices, 1))])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(-10, 90), st.integers(-10, 90), st.integers(1, 40))
def test_a_polygon_of_many_vertices_shows_the_same_pixels(seed: int, left: int, top: int, side: int) -> None:
    polygon, window = coast(700, seed), Window(0, 0, top, left, side, side)
    whole = burn(polygon, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_MANY_VERTICES", 100)
        assert np.array_equal(burn(polygon, window), whole)
    x, y = np.meshgrid(np.arange(left, left + side) + 0.5, np.arange(top, top + side) + 0.5)
    assert np.array_equal(whole, shapely.contains_xy(polygon, x, y))
