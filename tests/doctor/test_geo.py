"""What `rsp doctor` says of GDAL and PROJ."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import rasterio

from rsprompter_cli.doctor import geo
from rsprompter_cli.doctor.findings import State
from rsprompter_cli.geo.raster.scene import open_scene

Patch = pytest.MonkeyPatch


def test_this_environment_reads_and_writes_all_formats() -> None:
    findings = [*geo.raster_findings(), *geo.vector_findings(), *geo.projection_findings()]
    states = {finding.name: (finding.state, finding.text) for finding in findings if finding.topic == "formats"}
    assert {state for state, _ in states.values()} == {State.OK}
    assert states["GDAL raster drivers"][1] == "GTiff, PNG, JPEG, JP2OpenJPEG, COG, VRT"
    formats = ".geojson, .geojsonl, .geojsonseq, .gpkg, .fgb, .parquet, .shp"
    assert states["vector formats"][1] == f"{formats} written and read back"


def test_missing_drivers_weigh_by_what_needs_them(monkeypatch: Patch) -> None:
    monkeypatch.setattr(rasterio.Env, "drivers", lambda _self: {"GTiff": "", "JPEG": "", "VRT": "", "COG": ""})
    states = {finding.name: finding.state for finding in geo.raster_findings()}
    assert states["PNG"] is State.PROBLEM
    assert states["JP2OpenJPEG"] is State.WARNING


def test_a_missing_codec_is_a_warning(monkeypatch: Patch) -> None:
    monkeypatch.setattr(geo, "_COMPRESSIONS", ("LZW", "JXL_NOT"))
    monkeypatch.setattr(geo, "_can_compress", lambda name: name == "LZW")
    finding = list(geo.raster_findings())[-1]
    assert finding.state is State.WARNING
    assert "JXL_NOT" in finding.text


def test_one_broken_format_leaves_the_others(monkeypatch: Patch) -> None:
    def trip(suffix: str) -> None:
        if suffix == ".parquet":
            raise ImportError("pyarrow is broken")

    monkeypatch.setattr(geo, "_round_trip", trip)
    bad, good = geo.vector_findings()
    assert (bad.name, bad.state) == (".parquet", State.PROBLEM)
    assert "pyarrow is broken" in bad.text
    assert ".gpkg" in good.text
    assert ".parquet" not in good.text


def test_variables_that_lead_to_another_proj(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(geo, "_by_rasterio", lambda *_: (500_000.0, 0.0))
    monkeypatch.setenv("PROJ_LIB", str(tmp_path))
    monkeypatch.setenv("GDAL_DATA", str(tmp_path / "none"))
    monkeypatch.delenv("PROJ_DATA", raising=False)
    found = {finding.name: finding for finding in geo.projection_findings()}
    assert found["coordinates, rasterio"].state is State.PROBLEM
    assert "unset PROJ_LIB" in found["coordinates, rasterio"].way_out
    assert (found["PROJ_LIB"].state, found["GDAL_DATA"].state) == (State.WARNING, State.WARNING)
    assert "no proj.db" in found["PROJ_LIB"].text

    (tmp_path / "proj.db").touch()
    (tmp_path / "none").mkdir()
    found = {finding.name: finding for finding in geo.projection_findings()}
    assert (found["PROJ_LIB"].state, found["PROJ_LIB"].text) == (State.OK, str(tmp_path))
    assert (found["GDAL_DATA"].state, found["GDAL_DATA"].text) == (State.OK, str(tmp_path / "none"))


@pytest.mark.parametrize("database", ["none", "damaged", "of another PROJ"])
def test_a_proj_that_finds_no_database_of_its_own_is_a_problem(tmp_path: Path, database: str) -> None:
    if database == "damaged":
        (tmp_path / "proj.db").write_bytes(b"no database" * 100)
    if database == "of another PROJ":
        with closing(sqlite3.connect(tmp_path / "proj.db")) as old, old:
            old.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
            old.execute("INSERT INTO metadata VALUES ('PROJ.VERSION', '4.9.3')")
    code = (
        "from rsprompter_cli.doctor.geo import projection_findings\n"
        "print(*[finding.state for finding in projection_findings() if 'rasterio' in finding.name])"
    )
    environment = {**os.environ, "PROJ_LIB": str(tmp_path), "PROJ_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True, env=environment
    )
    assert done.stdout.strip() == "problem"


def test_the_test_scene_is_a_scene_at_the_models_resolution(tmp_path: Path) -> None:
    geo.write_test_scene(tmp_path / "scene.tif")
    with open_scene(tmp_path / "scene.tif") as scene:
        assert (scene.height, scene.width) == (256, 256)
        assert scene.gsd is not None
        assert scene.preview(64).std() > 20
