"""The local equal-area projection."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs import (
    EDGE_METRES,
    geodesic_area,
    local_equal_area,
    move_edges,
    reproject,
)


@settings(max_examples=50, deadline=None)
@given(st.floats(-180, 180), st.floats(-89, 89), st.floats(5, 300), st.floats(-20_000, 20_000))
def test_areas_in_it_are_those_on_the_ellipsoid(lon: float, lat: float, side: float, away: float) -> None:
    here = f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84"
    shapes = [shapely.box(0, 0, side, side), shapely.box(away, away, away + side, away + 2 * side)]
    local = local_equal_area({"a": (shapes[:1], here), "b": (shapes[1:], here), "none": ([], "")})
    got = shapely.area(reproject(shapes, here, local))
    degrees = reproject(shapes, here, "EPSG:4326")
    assert got == pytest.approx([geodesic_area(shape) for shape in degrees], rel=1e-5)


def test_its_centre_is_between_layers_also_over_the_antimeridian() -> None:
    east, west = shapely.box(179.9, 0, 179.92, 0.02), shapely.box(-179.92, 0, -179.9, 0.02)
    wgs84 = CRS.from_epsg(4326).to_wkt()
    local = local_equal_area({"a": ([east], wgs84), "b": ([west], wgs84)})
    assert "lon_0=180" in local or "lon_0=-180" in local
    x = shapely.bounds(reproject([east, west], wgs84, local))[:, 0]
    assert np.all(np.abs(x) < 12_000)


def test_coordinates_it_cannot_place_name_their_layer() -> None:
    with pytest.raises(InputError, match="far: coordinates"):
        local_equal_area({"far": ([shapely.box(0, 0, 1e12, 1e12)], "EPSG:3035")})


def test_long_edges_keep_their_place_on_another_map(caplog: pytest.LogCaptureFixture) -> None:
    strips = shapely.box(300_000, y := np.arange(5_000_000.0, 5_100_000, 500), 700_000, y + 400)
    moved = move_edges(strips[:5], "EPSG:32633", "EPSG:3035")
    middle = reproject([shapely.Point(500_000 + 123, y[0])], "EPSG:32633", "EPSG:3035")[0]
    assert moved[0].exterior.distance(middle) < EDGE_METRES
    assert not caplog.messages


def test_edges_that_need_too_many_vertices_are_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsprompter_cli.geo.crs._MAX_ADDED", 100)
    monkeypatch.setattr("rsprompter_cli.geo.crs._MAX_ADDED_PER_VERTEX", 0)
    strips = shapely.box(300_000, y := np.arange(5_000_000.0, 5_010_000, 500), 700_000, y + 400)
    moved = move_edges(strips, "EPSG:32633", "EPSG:3035")
    assert shapely.get_num_coordinates(moved).sum() < 400
    (message,) = caplog.messages
    assert message.startswith("outlines have edges so long that keeping them within 2 cm")
    middle = reproject([shapely.Point(500_000, y[0])], "EPSG:32633", "EPSG:3035")[0]
    assert moved[0].exterior.distance(middle) > EDGE_METRES
