"""The local equal-area projection."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.lonlat import geodesic_area, local_equal_area, reproject


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
