"""The coordinate reference system of a scene: its own, beside it, or stated; and those that are not on the earth."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS
from shapely import Point, box

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crs import to_lonlat, to_map
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.raster.source import Stated
from rsprompter_cli.geo.target_crs import TargetCrs, check_crs
from rsprompter_cli.geo.vector.read import check_degrees
from rsprompter_cli.structures import Georef
from tests.make.rasters import pattern, write_raster

WORLD_FILE = "2\n0\n0\n-2\n600001\n4999999\n"
LAMBERT_2_ESRI = CRS("EPSG:27572").to_wkt("WKT1_ESRI")
MOON = CRS("IAU_2015:30110").to_wkt("WKT1_GDAL")
MARS = CRS("IAU_2015:49910").to_wkt("WKT1_GDAL")
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'


def bare(path, **profile):
    return write_raster(path, pattern(60, 70), crs=None, **profile)


def system_of(path, **stated):
    with open_scene(path, stated=Stated(**stated)) as scene:
        crs = scene.georef.crs_wkt
        return (None if crs is None else CRS.from_wkt(crs)), scene.crs_from, scene.gsd


@pytest.mark.parametrize("ending", [".prj", ".PRJ", ".qpj", ".tif.prj"])
@pytest.mark.parametrize("placed", ["inside", "beside"])
def test_a_system_beside_the_file(tmp_path, caplog, ending, placed):
    path = bare(tmp_path / "a.tif", **({} if placed == "inside" else {"transform": None}))
    if placed == "beside":
        (tmp_path / "a.tfw").write_text(WORLD_FILE)
    beside = tmp_path / f"a{ending}"
    beside.write_text(CRS("EPSG:32631").to_wkt("WKT1_ESRI"))
    with caplog.at_level(logging.INFO):
        crs, origin, gsd = system_of(path)
    assert (crs.to_epsg(), origin) == (32631, beside.name)
    assert gsd[0] == pytest.approx(0.5 if placed == "inside" else 2, rel=1e-2)
    assert f"using that of {beside.name}" in caplog.text


def test_a_system_beside_the_file_in_grads(tmp_path):
    path = bare(tmp_path / "a.tif", transform=Affine(0.25, 0, 600_000, 0, -0.25, 2_400_000))
    (tmp_path / "a.prj").write_text(LAMBERT_2_ESRI)
    _, _, gsd = system_of(path)
    assert gsd == pytest.approx((0.25, 0.25), rel=2e-3)


def test_the_file_itself_comes_first(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(60, 70))
    (tmp_path / "a.prj").write_text(LAMBERT_2_ESRI)
    crs, origin, _ = system_of(path)
    assert (crs.to_epsg(), origin) == (32631, "file")


def test_a_file_beside_that_is_not_understood_is_ignored_and_told(tmp_path, caplog):
    path = bare(tmp_path / "a.tif")
    (tmp_path / "a.prj").write_text("Projection UTM\nZone 31\n")
    assert system_of(path)[0] is None
    assert "a.prj: ignored, its coordinate reference system cannot be parsed" in caplog.text


def test_a_stated_system(tmp_path):
    path = bare(tmp_path / "a.tif")
    crs, origin, gsd = system_of(path, crs="EPSG:32631")
    assert (crs.to_epsg(), origin) == (32631, "--scene-crs")
    assert gsd == pytest.approx((0.5, 0.5), rel=1e-2)
    (tmp_path / "a.prj").write_text(LAMBERT_2_ESRI)
    assert system_of(path, crs="EPSG:32631")[1] == "--scene-crs"


def test_a_stated_system_has_to_agree_with_the_file(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(60, 70))
    assert system_of(path, crs="EPSG:32631")[1] == "file"
    with pytest.raises(InputError, match=r"a\.tif: its CRS is EPSG:32631, not --scene-crs EPSG:2154") as caught:
        system_of(path, crs="EPSG:2154")
    assert "omit --scene-crs" in caught.value.hint
    with pytest.raises(InputError, match=r"b\.tif: has no geotransform"):
        system_of(bare(tmp_path / "b.tif", transform=None), crs="EPSG:2154")
    for bad in ("EPSG:1", "nonsense", "EPSG:4979", MOON):
        with pytest.raises(UsageError, match="--scene-crs"):
            system_of(path, crs=bad)


def test_a_stated_system_takes_the_place_of_a_local_one(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(60, 70), crs=LOCAL)
    crs, origin, _ = system_of(path, crs="EPSG:32631")
    assert (crs.to_epsg(), origin) == (32631, "--scene-crs")


@pytest.mark.parametrize("wkt", [MOON, MARS, LOCAL])
def test_systems_off_the_earth_have_no_place(tmp_path, wkt):
    path = write_raster(tmp_path / "a.tif", pattern(60, 70), crs=wkt)
    with open_scene(path) as scene:
        assert (scene.georef.kind, scene.georef.on_earth, scene.gsd) == ("off_earth", False, None)


def test_grads_from_paris_are_turned_into_degrees_from_greenwich():
    place = Georef((1e-5, 0, 0, 0, -1e-5, 54), CRS("EPSG:4807").to_wkt(), "affine")
    (point,) = to_lonlat(to_map([Point(0, 0)], place), place.crs_wkt)
    assert (point.x, point.y) == pytest.approx((2.3366, 48.6), abs=2e-3)


def test_polygons_are_written_in_grads():
    place = Georef((1, 0, 652_000, 0, -1, 6_830_000), CRS("EPSG:2154").to_wkt(), "affine")
    target = TargetCrs(place, 100, 100, check_crs("EPSG:4807"), name="scene.tif")
    (moved,) = target.move(to_map([box(0, 0, 100, 100)], place))
    (degrees,) = to_lonlat([moved], CRS("EPSG:4807").to_wkt())
    (expected,) = to_lonlat(to_map([box(0, 0, 100, 100)], place), place.crs_wkt)
    assert degrees.symmetric_difference(expected).area < 1e-3 * expected.area


def test_coordinates_in_grads_may_be_larger_than_degrees():
    wkt = CRS("EPSG:4807").to_wkt()
    check_degrees(np.array([Point(10, 99.9)], dtype=object), wkt, hint="")
    with pytest.raises(InputError):
        check_degrees(np.array([Point(10, 101)], dtype=object), wkt, hint="")
