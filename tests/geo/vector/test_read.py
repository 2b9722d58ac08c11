"""Rows of vector files with all their attributes."""

from __future__ import annotations

import datetime
import json
import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from pyproj import CRS

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.vector import read
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import object_feature, read_footprints, write_features
from tests.make.layers import house, write_layer


def rows(path: Path) -> list[dict[str, Any]]:
    return [
        dict(zip(batch.columns, values, strict=True))
        for batch in open_layer(path).batches()
        for values in zip(*batch.columns.values(), strict=True)
    ]


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", ".parquet"])
def test_attributes_come_as_they_are_in_every_format(tmp_path: Path, suffix: str) -> None:
    shapes = [house(0, 0), house(20, 0)]
    path = write_layer(tmp_path / f"a{suffix}", shapes, id=[7, 9], class_=["a", None], score=[0.25, 0.5], n=[1.5, None])
    layer = open_layer(path)
    assert dict(layer.attributes) == {"id": int, "class": str, "score": float, "n": float}
    got = sorted(rows(path), key=lambda row: row["id"])  # FlatGeobuf sorts by place
    assert got[0] == {"id": 7, "class": "a", "score": 0.25, "n": 1.5}
    assert got[1] == {"id": 9, "class": None, "score": 0.5, "n": None}
    assert layer.crs_wkt is not None
    assert CRS.from_wkt(layer.crs_wkt) == CRS.from_epsg(4326)
    geometries = np.concatenate([batch.geometries for batch in layer.batches()])
    assert all(geometry.geom_type in ("Polygon", "MultiPolygon") for geometry in geometries)


def test_many_rows_come_in_batches_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_BATCH", 10)
    for suffix in (".gpkg", ".geojson", ".parquet"):
        path = write_layer(tmp_path / f"a{suffix}", [house(20 * i, 0) for i in range(25)], id=range(25))
        batches = list(open_layer(path).batches())
        assert [len(batch.geometries) for batch in batches] == [10, 10, 5]
        assert [row["id"] for row in rows(path)] == list(range(25))


def test_other_types_are_read_as_text(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    frame = geopandas.GeoDataFrame({"day": [day], "yes": [True]}, geometry=[house(0, 0)], crs=32633)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_file(tmp_path / "a.gpkg")
    for name, as_text in (("a.parquet", ("day",)), ("a.gpkg", ())):  # geopandas itself writes a text there
        layer = open_layer(tmp_path / name)
        assert layer.as_text == as_text
        assert dict(layer.attributes) == {"day": str, "yes": bool}
        assert rows(tmp_path / name) == [{"day": "2026-01-02", "yes": True}]


def test_short_floats_keep_their_decimals(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"score": np.array([0.9], np.float32)}, geometry=[house(0, 0)], crs=32633)
    frame.to_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [{"score": 0.9}]


def test_heights_are_dropped_and_absent_geometries_are_none(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[shapely.force_3d(house(0, 0), 5.0), None], crs=32633)
    frame.to_file(tmp_path / "a.gpkg")
    (batch,) = open_layer(tmp_path / "a.gpkg").batches()
    assert not shapely.has_z(batch.geometries[0])
    assert batch.geometries[1] is None


def test_a_missing_attribute_names_the_nearest(tmp_path: Path) -> None:
    layer = open_layer(write_layer(tmp_path / "a.gpkg", [house(0, 0)], score=[1.0]))
    layer.require("score")
    with pytest.raises(UsageError, match="no attribute 'scores'") as caught:
        layer.require("scores")
    assert "score" in caught.value.hint


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for suffix in (".geojson", ".gpkg", ".parquet"):
        write_features(tmp_path / f"a{suffix}", [], None)
        assert rows(tmp_path / f"a{suffix}") == []


def test_files_that_are_no_layers(tmp_path: Path) -> None:
    (tmp_path / "x.geojson").write_text("<OGRVRTDataSource/>")
    (tmp_path / "broken.geojson").write_text('{"type": "FeatureCollection", "features": [')
    pq.write_table(pa.table({"a": [1]}), tmp_path / "plain.parquet")
    whole = write_layer(tmp_path / "whole.gpkg", [house(0, 0)])
    (tmp_path / "cut.gpkg").write_bytes(whole.read_bytes()[:3000])
    for name in ("x.geojson", "broken.geojson", "plain.parquet", "cut.gpkg", "none.gpkg"):
        with pytest.raises(InputError, match=name) as caught:
            list(open_layer(tmp_path / name).batches())
        assert "\n" not in caught.value.message


def test_lists_and_times_in_geojson(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shape = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    values = {"list": [1, 2], "when": "2026-01-02T03:04:05", "big": 12345678901234, "none": None}
    feature = {"type": "Feature", "properties": values, "geometry": shape}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with caplog.at_level(logging.INFO):
        (row,) = rows(tmp_path / "a.geojson")
    assert row["list"] == "[1, 2]"
    assert row["when"].startswith("2026-01-02 03:04:05")
    assert row["big"] == 12345678901234
    assert row["none"] is None
    assert "read as text: list, when" in caplog.text


def test_a_parquet_file_of_ours_is_read(tmp_path: Path) -> None:
    wkt = CRS.from_epsg(32633).to_wkt()
    write_features(tmp_path / "a.parquet", [object_feature(house(0, 0), class_name="a", score=0.5, area_m2=100)], wkt)
    assert rows(tmp_path / "a.parquet") == [{"id": 1, "class": "a", "score": 0.5, "area_m2": 100.0}]
    assert len(read_footprints(tmp_path / "a.parquet", to_crs_wkt=wkt)) == 1


def test_a_table_without_geometry(tmp_path: Path) -> None:
    import pandas
    import pyogrio

    pyogrio.write_dataframe(pandas.DataFrame({"a": [1]}), tmp_path / "a.gpkg", driver="GPKG")
    with pytest.raises(InputError, match="no geometries"):
        open_layer(tmp_path / "a.gpkg")


def test_a_file_damaged_in_the_middle_is_one_line(tmp_path: Path) -> None:
    path = write_layer(tmp_path / "a.fgb", [house(20 * i, 0) for i in range(500)], id=range(500))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=r"a\.fgb: cannot be read"):
        list(open_layer(path).batches())
