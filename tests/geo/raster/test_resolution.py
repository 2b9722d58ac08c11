"""Ground resolution and the working grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.raster.resolution import (
    MAX_FACTOR,
    GroundResolution,
    ground_resolution,
    ground_steps,
    plan_grid,
)
from rsprompter_cli.structures import Georef


def georef(crs: str | None, *affine: float) -> Georef:
    return Georef(affine, CRS.from_user_input(crs).to_wkt() if crs else None, "affine")


def last_corner(place: Georef, height: int, width: int) -> tuple[float, float]:
    a, b, c, d, e, f = place.transform
    return a * width + b * height + c, d * width + e * height + f


def centre(place: Georef, height: int = 100, width: int = 100) -> tuple[float, float]:
    resolution = ground_resolution(place, height, width, name="scene.tif")
    assert resolution is not None
    return resolution.centre


def test_utm_pixels_are_their_size_times_the_scale_factor():
    # On the central meridian UTM shows distances at 0.9996 of their length.
    assert centre(georef("EPSG:32631", 1, 0, 500_000, 0, -1, 5_000_000)) == pytest.approx((1 / 0.9996,) * 2, rel=1e-6)


@pytest.mark.parametrize("latitude", [0.0, 27.6, 52.0, -60.0])
def test_web_mercator_pixels_shrink_with_the_cosine(latitude):
    y = 6378137 * math.asinh(math.tan(math.radians(latitude)))
    per_row, per_col = centre(georef("EPSG:3857", 1, 0, 1e6, 0, -1, y + 50))
    assert per_col == pytest.approx(math.cos(math.radians(latitude)), rel=4e-3)  # sphere against ellipsoid
    assert per_row == pytest.approx(math.cos(math.radians(latitude)), rel=8e-3)


def test_geographic_pixels_are_not_square():
    per_row, per_col = centre(georef("EPSG:4326", 1e-5, 0, 10, 0, -1e-5, 60))
    assert per_row == pytest.approx(1.1141, rel=1e-3)
    assert per_col == pytest.approx(0.5580, rel=1e-3)


def test_rotated_sheared_and_south_up_pixels_are_measured_along_their_axes():
    cos, sin = 2 * math.cos(0.5), 2 * math.sin(0.5)
    expected = pytest.approx((2 / 0.9996,) * 2, rel=1e-6)
    assert centre(georef("EPSG:32631", cos, sin, 500_000, sin, -cos, 5_000_000)) == expected
    assert centre(georef("EPSG:32631", 2, 0, 500_000, 0, 2, 5_000_000)) == expected
    sheared = centre(georef("EPSG:32631", 2, 1.5, 500_000, 0, -2, 5_000_000))
    assert sheared == pytest.approx((2.5 / 0.9996, 2 / 0.9996), rel=1e-6)


def test_feet_are_turned_into_metres():
    per_row, _ = centre(georef("EPSG:2263", 1, 0, 980_000, 0, -1, 200_000))  # New York, US survey feet
    assert per_row == pytest.approx(0.3048, rel=1e-3)


def test_across_the_dateline_pixels_keep_their_size():
    assert centre(georef("EPSG:4326", 1e-4, 0, 179.995, 0, -1e-4, 0.005))[1] == pytest.approx(11.13, rel=1e-3)


@pytest.mark.parametrize("kind", ["gcp", "rpc", "none"])
def test_no_place_no_resolution(kind):
    assert ground_resolution(Georef((1, 0, 0, 0, 1, 0), None, kind), 9, 9, name="a") is None
    assert ground_resolution(georef(None, 2, 0, 0, 0, 2, 0), 9, 9, name="a") is None


def test_a_place_off_the_earth_is_refused():
    with pytest.raises(InputError, match=r"scene\.tif: the centre of the scene has no longitude and latitude"):
        centre(georef("EPSG:4326", 1, 0, 0, 0, -1, 190))


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [
        ("EPSG:27572", 600_000, 2_400_000),  # Lambert II: its base counts grads from Paris
        ("EPSG:27561", 600_000, 200_000),
        ("EPSG:2154", 652_000, 6_830_000),
    ],
)
def test_a_base_in_grads_is_no_matter(crs, x, y):
    place = georef(crs, 0.25, 0, x, 0, -0.25, y)
    assert centre(place) == pytest.approx((0.25, 0.25), rel=2e-3)
    along, down = ground_steps(place, np.array([[50.0, 50.0]]))[0]
    assert np.hypot(*along) == pytest.approx(0.25, rel=2e-3)
    assert abs(along @ down) / (np.hypot(*along) * np.hypot(*down)) < 1e-3


def test_geographic_coordinates_in_grads_and_radians():
    in_degrees = centre(georef("EPSG:4326", 1e-5, 0, 2.3, 0, -1e-5, 48.0))
    grads = centre(georef("EPSG:4807", 1e-5 / 0.9, 0, 0.0, 0, -1e-5 / 0.9, 48.0 / 0.9))
    assert grads == pytest.approx(in_degrees, rel=1e-3)
    wkt = CRS("EPSG:4326").to_wkt("WKT1_GDAL").replace('UNIT["degree",0.0174532925199433', 'UNIT["radian",1')
    factor = math.radians(1)
    radians = centre(georef(wkt, 1e-5 * factor, 0, 2.3 * factor, 0, -1e-5 * factor, 48 * factor))
    assert radians == pytest.approx(in_degrees, rel=1e-3)


def test_varying_resolution_is_refused_unless_native():
    place = georef("EPSG:3857", 5000, 0, 0, 0, -5000, 8_000_000)
    resolution = ground_resolution(place, 1000, 100, name="wide.tif")
    assert resolution is not None
    assert resolution.variation > 1.25
    with pytest.raises(InputError, match=r"wide\.tif: .*25%") as caught:
        plan_grid(place, 1000, 100, resolution, name="wide.tif")
    assert "--native" in caught.value.hint
    assert plan_grid(place, 1000, 100, resolution, name="wide.tif", native=True).height == 1000


def plan(per_row: float, per_col: float, height: int = 400, width: int = 600, **options):
    place = georef("EPSG:32631", per_col, 0, 500_000, 0, -per_row, 5_000_000)
    return plan_grid(place, height, width, GroundResolution((per_row, per_col), 1.0), name="scene.tif", **options)


def test_pixels_are_kept_when_square_and_in_range():
    assert (plan(0.2, 0.2).height, plan(0.2, 0.2).width) == (400, 600)
    assert plan(0.2, 0.2, trained_gsd=(0.1, 0.3)).georef.transform[0] == 0.2
    assert plan(0.3005, 0.2995, trained_gsd=(0.1, 0.3)).width == 600


def test_the_nearest_resolution_in_the_range_is_taken():
    coarser, finer = plan(0.05, 0.05, trained_gsd=(0.1, 0.3)), plan(0.6, 0.6, trained_gsd=(0.1, 0.3))
    assert (coarser.height, coarser.width, coarser.gsd) == (200, 300, pytest.approx((0.1, 0.1)))
    assert (finer.height, finer.width, finer.gsd) == (800, 1200, pytest.approx((0.3, 0.3)))


def test_oblong_pixels_become_square():
    grid = plan(0.4, 0.1)
    assert (grid.height, grid.width) == (800, 300)
    assert grid.gsd == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(
    ("own", "options", "named", "hint"),
    [
        (1.0, {"trained_gsd": (0.1, 0.3)}, "the model was trained at 0.3 m", "finer imagery, of 0.75 m or less"),
        (1.0, {"gsd": 0.3}, "--gsd 0.3 asks for", "omit --gsd to read it at 1 m"),
        (
            1.0,
            {"gsd": 0.1, "trained_gsd": (0.4, 0.5)},
            "--gsd 0.1 asks for",
            "omit --gsd to read it at 0.5 m",
        ),
        (1.0, {"gsd": 0.1, "trained_gsd": (0.2, 0.3)}, "--gsd 0.1 asks for", "finer imagery, of 0.75 m or less"),
    ],
)
def test_an_enlargement_too_far_is_refused_without_a_way_from_the_model(own, options, named, hint):
    with pytest.raises(InputError, match=named) as caught:
        plan(own, own, **options)
    assert hint in caught.value.hint
    assert "between" not in caught.value.hint
    assert plan(own, own, native=True, trained_gsd=options.get("trained_gsd")).height == 400


def test_oblong_pixels_beyond_the_limit_name_the_finest_resolution():
    with pytest.raises(InputError, match="square pixels would be") as caught:
        plan(0.1, 1.0)
    assert caught.value.hint == "pass --gsd 0.4 or more"
    assert plan(0.1, 1.0, gsd=0.4).gsd == pytest.approx((0.4, 0.4))


def test_the_limit_itself_is_admitted():
    assert plan(0.25, 0.25, gsd=0.25 / MAX_FACTOR).height == 1000


@pytest.mark.parametrize("own", [0.03, 0.005, 0.0001])
def test_reducing_is_always_allowed(own):
    grid = plan(own, own, height=4000, width=2000, trained_gsd=(0.25, 0.3))
    assert grid.gsd == pytest.approx((0.25, 0.25), rel=0.35)
    assert grid.height == max(1, round(4000 * own / 0.25))


def test_one_axis_may_be_reduced_a_lot_while_the_other_is_enlarged():
    assert plan(0.02, 0.6, trained_gsd=(0.25, 0.3)).gsd == pytest.approx((0.25, 0.25), rel=0.02)
    with pytest.raises(InputError, match="upsampling by 4"):
        plan(0.02, 1.0, trained_gsd=(0.25, 0.3))


def test_contradictions_are_refused():
    with pytest.raises(UsageError, match="mutually exclusive"):
        plan(0.2, 0.2, gsd=0.2, native=True)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="--gsd"):
            plan(0.2, 0.2, gsd=bad)
    with pytest.raises(UsageError, match="ascending"):
        plan(0.2, 0.2, trained_gsd=(0.3, 0.1))
    with pytest.raises(InputError, match="--gsd does not apply"):
        plan_grid(Georef((1, 0, 0, 0, 1, 0), None, "none"), 9, 9, None, name="a.png", gsd=0.3)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    affine=st.tuples(*[st.floats(-3, 3).filter(lambda v: abs(v) > 0.1)] * 4),
    per_row=st.floats(0.1, 0.4),
    per_col=st.floats(0.1, 0.4),
    gsd=st.floats(0.17, 0.39),
)
def test_the_working_grid_covers_the_scene_exactly(height, width, affine, per_row, per_col, gsd):
    a, b, d, e = affine
    place = Georef((a, b, 500_000.0, d, e, 5_000_000.0), "a wkt", "affine")
    grid = plan_grid(place, height, width, GroundResolution((per_row, per_col), 1.0), name="a", gsd=gsd)
    assert np.allclose(last_corner(grid.georef, grid.height, grid.width), last_corner(place, height, width), atol=1e-6)
    assert grid.georef.transform[2::3] == place.transform[2::3]
    if height > 100:
        assert grid.gsd[0] == pytest.approx(gsd, rel=0.02)


# --- steps on the ground --------------------------------------------------------------------------


def steps(place: Georef) -> np.ndarray:
    return ground_steps(place, np.array([[50.0, 50.0]]))[0]


def test_steps_of_north_up_rotated_sheared_and_geographic_grids():
    # East of the central meridian by nothing: grid north is north, and lengths are divided by 0.9996.
    cos, sin = 2 * math.cos(0.5), 2 * math.sin(0.5)
    grids = {
        (1, 0, 0, -1): [[1, 0], [0, -1]],
        (cos, sin, sin, -cos): [[cos, sin], [sin, -cos]],
        (2, 1.5, 0, -2): [[2, 0], [1.5, -2]],
        (2, 0, 0, 2): [[2, 0], [0, 2]],
    }
    for (a, b, d, e), expected in grids.items():
        place = georef("EPSG:32631", a, b, 500_000 - 50 * (a + b), d, e, 5_000_000)
        assert steps(place) == pytest.approx(np.array(expected) / 0.9996, rel=1e-5, abs=1e-4)
    geographic = steps(georef("EPSG:4326", 1e-5, 0, 10, 0, -1e-5, 60))
    assert geographic == pytest.approx(np.array([[0.558, 0], [0, -1.1141]]), abs=1e-3)


@given(
    st.tuples(*[st.floats(-3, 3)] * 4).filter(lambda m: abs(m[0] * m[3] - m[1] * m[2]) > 0.1),
    st.floats(-50, 50),
)
@settings(max_examples=50, deadline=None)
def test_steps_agree_with_the_resolution_along_each_axis(matrix, north):
    a, b, d, e = matrix
    place = georef("EPSG:32631", a, b, 400_000, d, e, 1e5 * north if north > 0 else 1e6)
    per_row, per_col = centre(place)
    assert np.hypot(*steps(place).T) == pytest.approx([per_col, per_row], rel=1e-4)


def test_a_place_off_the_earth_has_no_steps():
    found = ground_steps(georef("EPSG:4326", 1e-5, 0, 10, 0, -1e-5, 60), np.array([[0.0, 0.0], [0.0, -4e6]]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    assert ground_steps(georef("EPSG:4326", 1, 0, 0, 0, -1, 0), np.zeros((0, 2))).shape == (0, 2, 2)
