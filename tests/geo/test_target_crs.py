"""Polygons of a scene in the reference system a user asks for."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.crs import to_map
from rsprompter_cli.geo.target_crs import TargetCrs, check_crs, is_wgs84
from rsprompter_cli.structures import Georef

SIDE = 4000


def wkt(name: str) -> str:
    return str(CRS.from_user_input(name).to_wkt())


def utm(zone: int = 33, *, x: float = 500_000, y: float = 5_000_000, pixel: float = 5.0) -> Georef:
    return Georef((pixel, 0, x, 0, -pixel, y), wkt(f"EPSG:326{zone:02}"), "affine")


def target(georef: Georef, name: str) -> TargetCrs:
    return TargetCrs(georef, SIDE, SIDE, check_crs(name), name="a.tif")


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["EPSG:4326", "EPSG:3857", "EPSG:3035", "EPSG:4258", "EPSG:32632"]),
    corners=st.tuples(*[st.integers(0, SIDE)] * 4).filter(lambda c: c[0] != c[2] and c[1] != c[3]),
)
def test_every_point_of_an_edge_stays_in_its_place(name: str, corners: tuple[int, int, int, int]) -> None:
    georef = utm()
    there = target(georef, name)
    (placed,) = to_map([shapely.box(*corners)], georef)
    (moved,) = there.move([placed])
    assert moved.is_valid
    back = Transformer.from_crs(there.wkt, georef.crs_wkt, always_xy=True)
    dense = shapely.segmentize(moved, moved.length / 500)
    came = shapely.transform(dense, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    # 2 cm for each edge, and that a chord of a piece of it leaves the piece by no more.
    assert shapely.hausdorff_distance(came.exterior, shapely.segmentize(placed.exterior, placed.length / 500)) < 200
    assert max(shapely.distance(placed.exterior, shapely.points(came.exterior.coords))) < 0.06


def test_the_scene_s_own_system_changes_nothing() -> None:
    placed = to_map([shapely.box(3, 4, 9, 9)], utm())
    assert target(utm(), "EPSG:32633").move(placed)[0] is placed[0]


@pytest.mark.parametrize("name", ["EPSG:4326", "EPSG:3857", "EPSG:3832"])
def test_over_the_antimeridian_nothing_is_torn(name: str) -> None:
    georef = utm(60, x=800_000, y=1_000_000, pixel=10)  # its right half lies in the west
    there = target(georef, name)
    frame = to_map([shapely.box(0, 0, SIDE, SIDE)], georef)
    (moved,) = there.move(frame)
    assert moved.is_valid
    # The Pacific's map has its edge elsewhere, so the two pieces are one again.
    assert moved.geom_type == ("Polygon" if name == "EPSG:3832" else "MultiPolygon")
    parts = shapely.get_parts(moved)
    assert all(part.bounds[2] - part.bounds[0] < (1 if name == "EPSG:4326" else 1e5) for part in parts)
    # The equal-area map has its edge away from where the piece lies.
    equal_area = "+proj=cea +lat_ts=30" + (" +lon_0=180" if name == "EPSG:3832" else "")
    areas = Transformer.from_crs(there.wkt, equal_area, always_xy=True)
    measured = shapely.transform(moved, lambda xy: np.column_stack(areas.transform(xy[:, 0], xy[:, 1]))).area
    assert measured == pytest.approx((SIDE * 10) ** 2, rel=5e-3)


@pytest.mark.parametrize("text", ["EPSG:99999999", "utm", "", "EPSG:4979", "EPSG:4978", "EPSG:5773", "EPSG:7405"])
def test_what_is_no_plane_map_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--crs") as caught:
        check_crs(text)
    assert "EPSG:32633" in caught.value.hint


def test_a_system_of_another_region_is_refused_or_said() -> None:
    africa = utm(36, x=450_000, y=30_000)
    with pytest.raises(UsageError, match="cannot represent"):
        target(africa, "+proj=gnom +lat_0=0 +lon_0=-147")
    assert "outside the area" in target(africa, "EPSG:27700").elsewhere
    assert target(africa, "EPSG:21096").elsewhere == ""


def test_geojson_s_system_in_any_spelling() -> None:
    assert is_wgs84(check_crs("EPSG:4326"))
    assert is_wgs84(check_crs("OGC:CRS84"))
    assert not is_wgs84(check_crs("EPSG:4258"))
