"""A coordinate reference system that names a grid by a path or an address: PROJ would open it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs import parse_crs
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.vector.write import move_footprints, read_footprints

WKT1 = (
    'PROJCS["x",GEOGCS["x",DATUM["x",SPHEROID["International 1924",6378388,297],EXTENSION["PROJ4_GRIDS","{}"]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",3],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1]]'
)
PLAIN = "+proj=longlat +ellps=bessel +nadgrids={} +type=crs"
PATHS = (
    *("/srv/a.gsb", "@/srv/a.gsb", "@null,/srv/a.gsb", "ntf_r93.gsb,@../a.gsb", "~/a.gsb", "a/b.gsb", "./a.gsb"),
    *(r"C:\a.gsb", "c:a.gsb", r"\\host\a.gsb", "https://127.0.0.1/a.tif", "/vsicurl/http://127.0.0.1/a.tif", "..", "@"),
)


@pytest.mark.parametrize("path", PATHS[:-1])
@pytest.mark.parametrize(
    "form",
    [
        PLAIN,
        "+proj=longlat +ellps=bessel +nadgrids = {} +type=crs",
        "proj=longlat ellps=bessel NADGRIDS={}",
        '+proj=longlat +ellps=bessel +geoidgrids="{}"',
        "+proj=vgridshift +grids={}",
        "+proj=defmodel +model={}",
        WKT1,
        'ABRIDGEDTRANSFORMATION["x",METHOD["NTv2"],PARAMETERFILE["Latitude and longitude difference file", "{}"]]',
        '{{"parameters": [{{"name": "Latitude and longitude difference file", "value": "{}"}}]}}',
    ],
)
def test_no_spelling_of_a_path_passes(form: str, path: str) -> None:
    with pytest.raises(InputError, match=r"^a\.shp: its coordinate reference system reads a grid from a file") as error:
        check_grids(form.format(path), "a.shp")
    assert "EPSG" in error.value.hint
    with pytest.raises(InputError, match="reads a grid"):
        parse_crs(form.format(path))


def test_escapes_of_json_hide_no_path() -> None:
    for value in (r"\/srv\/a.gsb", r"\u002fsrv\u002fa.gsb", r"\\\\host\\a.gsb"):
        with pytest.raises(InputError, match="reads a grid"):
            check_grids('{"name": "Latitude and longitude difference file", "value": "' + value + '"}')


@pytest.mark.parametrize("name", ["ntf_r93.gsb", "@null", "@ntf_r93.gsb,null", "us_noaa_conus.tif", "@"])
def test_names_without_a_path_pass(name: str) -> None:
    for form in (PLAIN, WKT1):
        check_grids(form.format(name), "a.shp")


def test_the_crs_of_the_registry_pass() -> None:
    for code in (4326, 3857, 27572, 4807, 31467, 2056, 26910, 5514, 4979, 7415, 9518):
        crs = CRS.from_epsg(code)
        for definition in (crs.to_wkt(), crs.to_wkt("WKT2_2015"), json.dumps(crs.to_json_dict()), f"EPSG:{code}"):
            check_grids(definition)
    check_grids("+init=epsg:4326")
    check_grids(CRS.from_user_input(PLAIN.format("@null")).to_wkt())


def test_a_raster_does_not_lead_to_a_grid(tmp_path: Path) -> None:
    grid = tmp_path / "grid.gsb"
    grid.write_bytes(b"x" * 400)
    with rasterio.open(
        *(tmp_path / "a.tif", "w"),
        **{"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8"},
        transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    ) as file:
        file.write(np.ones((3, 64, 64), np.uint8))
    (tmp_path / "a.prj").write_text(WKT1.format(grid), encoding="ascii")
    with pytest.raises(InputError, match=r"a\.prj: its coordinate reference system reads a grid"):
        open_scene(tmp_path / "a.tif", native=True)


@pytest.mark.parametrize("suffix", [".shp", ".gpkg", ".fgb", ".geojson"])
def test_the_grid_is_not_opened(tmp_path: Path, suffix: str) -> None:
    """A pipe in its place would keep GDAL waiting for ever."""
    path, grid = tmp_path / f"a{suffix}", tmp_path / "grid.gsb"
    os.mkfifo(grid)
    layer = geopandas.GeoDataFrame(geometry=[shapely.box(2, 45, 2.1, 45.1)])
    if suffix == ".geojson":
        layer.to_file(path)
        name = json.dumps({"type": "name", "properties": {"name": PLAIN.format(grid)}})
        path.write_text(path.read_text().replace('"features"', f'"crs": {name}, "features"', 1), encoding="utf-8")
    else:
        layer.set_crs(WKT1.format("@null")).to_file(path)
        if suffix == ".shp":
            path.with_suffix(".prj").write_text(WKT1.format(grid), encoding="ascii")
        elif suffix == ".gpkg":
            with closing(sqlite3.connect(path)) as base, base:
                base.execute("UPDATE gpkg_spatial_ref_sys SET definition = ?", (WKT1.format(grid),))
        else:
            data = path.read_bytes()
            assert data.count(b"@null") == 1
            path.write_bytes(data.replace(b"@null", b"/dev/"))
    program = "import sys; from rsprompter_cli.cli.app import main; main()"
    command = [sys.executable, "-c", program, "filter", str(path), "--out", str(tmp_path / "b.geojson"), "--score", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "reads a grid from a file or an address" in done.stderr


def test_a_definition_within_a_geotiff_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    crs = rasterio.crs.CRS.from_wkt(WKT1.format("@null").replace('"x"', f'"{"y" * 400}"', 1))
    with rasterio.open(
        *(path, "w"), **{"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8"}, crs=crs
    ) as file:
        file.write(np.ones((1, 64, 64), np.uint8))
    text = f"ESRI PE String = {WKT1.format('/srv/a.gsb')}"[:400]
    data = path.read_bytes()
    assert b"y" * 400 in data
    path.write_bytes(data.replace(b"y" * 400, text.encode().ljust(400), 1))
    with pytest.raises(InputError, match="reads a grid"):
        open_scene(path, native=True)


@pytest.mark.parametrize("suffix", [".shp", ".gpkg", ".fgb", ".parquet"])
def test_a_vector_file_does_not_lead_to_a_grid(tmp_path: Path, suffix: str) -> None:
    grid = tmp_path / "grid.gsb"
    grid.write_bytes(b"x" * 400)
    path = tmp_path / f"a{suffix}"
    layer = geopandas.GeoDataFrame(geometry=[shapely.box(500_000, 5e6, 500_010, 5e6 + 10)], crs=WKT1.format(grid))
    layer.to_parquet(path) if suffix == ".parquet" else layer.to_file(path)
    if suffix == ".shp":
        path.with_suffix(".prj").write_text(WKT1.format(grid), encoding="ascii")
    with pytest.raises(InputError, match="reads a grid"):
        move_footprints(read_footprints(path), "EPSG:3035", name=str(path))
