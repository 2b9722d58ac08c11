"""Vector files from strangers: no connection, no other file, no endless work, and one line for each."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from shapely.affinity import affine_transform

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crossings import work_of
from rsprompter_cli.geo.vector.formats import geojson_check
from rsprompter_cli.geo.vector.formats.source import admit
from rsprompter_cli.geo.vector.formats.wkb import is_shallow
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import read_footprints
from tests.make.fits import make_start, make_town
from tests.make.hostile_vectors import ENDLESS, TRIANGLE, collection, comb, endless_layer, geopackage, listener
from tests.make.layers import house, write_layer
from tests.make.reading import features, refused


def geoparquet(path: Path, wkb: pa.Array, crs: Any = "OGC:CRS84") -> Path:
    column = {"encoding": "WKB", "geometry_types": [], "crs": crs}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    pq.write_table(pa.table({"geometry": wkb}).replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


CRS_MEMBERS: list[Callable[[str], str]] = [
    lambda url: f'"crs":{{"type":"link","properties":{{"href":"{url}"}}}}',
    lambda url: f'"crs":{{"type":"URL","properties":{{"url":"{url}"}}}}',
    lambda url: f'"CRS" : {{"Type":"Link","Properties":{{"Href":"{url}","type":"proj4"}}}}',
    lambda url: f'"\\u0063r\\u0073":{{"t\\u0079pe":"li\\u006ek","properties":{{"href":"{url}"}}}}',
    lambda url: f'"crs":{{"type":"name","properties":{{"name":"{url}"}}}}',
    lambda url: f'"crs":{{"type":"name","type":"url","properties":{{"url":"{url}"}}}}',
    lambda url: f'"crs":{{"properties":{{"href":"{url}"}},"type":"link"}}',
]


@pytest.mark.parametrize("member", range(len(CRS_MEMBERS)))
@pytest.mark.parametrize("last", [False, True])
def test_a_crs_that_is_an_address_is_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, member: int, last: bool
) -> None:
    path = tmp_path / "a.geojson"
    with listener() as (port, made):
        text = CRS_MEMBERS[member](f"http://127.0.0.1:{port}/crs")
        whole = collection()
        path.write_text(f"{whole[:-1]},{text}}}" if last else f"{{{text},{whole[1:]}")
        assert features(path) == 1
        assert open_layer(path).crs_wkt is not None
        assert made == []
    assert "is a web address" in caplog.text
    far = json.loads(json.dumps(TRIANGLE).replace("39", "500000"))
    path.write_text(f"{{{text},{collection(far)[1:]}")
    refused(path, "not longitude and latitude")


def test_a_crs_that_has_a_name_is_read(tmp_path: Path) -> None:
    for name in ("urn:ogc:def:crs:EPSG::32633", "http://www.opengis.net/def/crs/EPSG/0/32633", "EPSG:32633"):
        crs = {"type": "name", "properties": {"name": name}}
        (tmp_path / "a.geojson").write_text(collection(crs=crs))
        assert "UTM zone 33N" in str(open_layer(tmp_path / "a.geojson").crs_wkt)
    (tmp_path / "a.geojson").write_text(collection(crs=None))
    assert features(tmp_path / "a.geojson") == 1


def test_commands_connect_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.geojson").write_text(collection())
    with listener() as (port, made):
        link = {"type": "link", "properties": {"href": f"http://127.0.0.1:{port}/crs"}}
        Path("l.geojson").write_text(collection(crs=link))
        Path("v.vrt").write_text(
            f"<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>/vsicurl/http://127.0.0.1:{port}/a</SrcDataSource>"
            "</OGRVRTLayer></OGRVRTDataSource>"
        )
        with zipfile.ZipFile("p.zip", "w") as archive:
            archive.write("v.vrt")
        whole = Path("p.zip").read_bytes()
        for name in ("p.zip", "p.geojson.zip", "p.shp.zip"):
            Path(name).write_bytes(b"{" + whole)
        pipeline = {"type": "gdal_streamed_alg", "command_line": f"gdal vector read http://127.0.0.1:{port}/a"}
        Path("g.json").write_text(json.dumps(pipeline))
        assert run(["eval-polygons", "l.geojson", "t.geojson"]) == 0
        assert run(["qgis-style", "l.geojson"]) == 0
        names = ["p.zip", "p.geojson.zip", "p.shp.zip", "g.json", "v.vrt", f"http://127.0.0.1:{port}/a", "p.zip!v.vrt"]
        for name in (*names, "zip://p.zip", "/vsizip/p.zip", f"/vsicurl/http://127.0.0.1:{port}/a", "WFS:x", "PG:x"):
            assert run(["eval-polygons", name, "t.geojson"]) == 3, name
            assert run(["filter", name, "--classes", "a", "--out", "o.geojson"]) == 3, name
        assert made == []


@pytest.mark.parametrize(
    "name",
    [
        "a.geojson.zip",
        "a.zip",
        "b!a.geojson",
        "a;b.geojson",
        "a?b.geojson",
        "a#b.geojson",
        "a\nb.geojson",
        "x[",
        "é.json",
    ],
)
def test_a_name_means_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("{}")
    (tmp_path / "a.geojson").write_text("{}")
    (tmp_path / name).write_text(collection(), encoding="utf-8")
    assert features(tmp_path / name) == 1
    assert open_layer(tmp_path / name).crs_wkt is not None
    for suffix in (".gpkg", ".fgb", ".shp"):
        write_layer(tmp_path / f"w{suffix}", [house(0, 0)], kind=["a"])
    for suffix, other in ((".gpkg", ".csv"), (".fgb", ".zip"), (".gpkg", ".zip"), (".shp", ";b.shp")):
        target = tmp_path / f"n{other}"
        for part in tmp_path.glob(f"w{suffix}" if suffix != ".shp" else "w.*"):
            if suffix != ".shp" or part.suffix in (".shp", ".shx", ".dbf", ".prj"):
                shutil.copy(part, target.with_suffix(part.suffix) if suffix == ".shp" else target)
        assert features(target) == 1


STRACE = """
import sys
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.errors import RspError
import pyogrio
open("begin.mark", "w").close()
try:
    list(open_layer(sys.argv[1]).batches())
except RspError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crs", "zip", "geopackage", "pipeline"])
def test_no_other_file_is_opened(tmp_path: Path, kind: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    secret = tmp_path / "secret.txt"
    secret.write_text("EPSG:32633")
    path = tmp_path / "a.geojson"
    if kind == "crs":
        path.write_text(collection(crs={"type": "name", "properties": {"name": str(secret)}}))
    elif kind == "zip":
        virtual = f"<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>{secret}</SrcDataSource></OGRVRTLayer>"
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.vrt", f"{virtual}</OGRVRTDataSource>")
        path.write_bytes(b"{" + path.read_bytes())
    elif kind == "geopackage":
        entry = f"('table', 'z', 'z', 0, 'CREATE VIRTUAL TABLE z USING VirtualOGR(''{secret}'')')"
        path = geopackage(
            tmp_path / "a.gpkg", "PRAGMA writable_schema = ON", f"INSERT INTO sqlite_master VALUES {entry}"
        )
    else:
        path.write_text(json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector read {secret}"}))
    command = [
        "strace",
        "-f",
        "-e",
        "trace=open,openat,connect",
        "-o",
        "trace",
        sys.executable,
        "-c",
        STRACE,
        str(path),
    ]
    traced = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "Operation not permitted" in traced.stderr:
        pytest.skip("strace may not trace here")
    assert traced.returncode == 0, traced.stderr
    _, mark, after = (tmp_path / "trace").read_text().partition("begin.mark")
    assert mark
    assert path.name in after
    assert "secret.txt" not in after
    assert "AF_INET" not in after


def test_views_and_virtual_tables_of_a_geopackage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = geopackage(tmp_path / "a.gpkg", *endless_layer("v"))
    with caplog.at_level(logging.INFO):
        assert features(path) == 2  # of the table: the view is left alone
    assert "1 layer is a view and not read: 'v'" in caplog.text
    with pytest.raises(UsageError, match="no layer 'v'"):
        open_layer(path, layer="v")
    for number, table in enumerate(
        ("gpkg_contents", "gpkg_geometry_columns", "gpkg_spatial_ref_sys", "gpkg_extensions")
    ):
        rename = f"ALTER TABLE {table} RENAME TO o", f"CREATE VIEW {table} AS {ENDLESS} o.* FROM o, r WHERE n < 0"
        refused(geopackage(tmp_path / f"{number}.gpkg", *rename), f"its {table} is a view")
    path = geopackage(
        tmp_path / "r.gpkg",
        "DROP TABLE rtree_a_geom",
        f"CREATE VIEW rtree_a_geom AS {ENDLESS} n AS id, n AS minx FROM r",
    )
    assert features(path) == 2
    entry = "('table', 'z', 'z', 0, 'CREATE VIRTUAL TABLE z USING VirtualOGR(''/etc/hostname'')')"
    statements = "PRAGMA writable_schema = ON", f"INSERT INTO sqlite_master VALUES {entry}"
    refused(geopackage(tmp_path / "z.gpkg", *statements), "virtual table 'z' \\(VirtualOGR\\)")
    only = (*endless_layer("v"), "DELETE FROM gpkg_contents WHERE table_name = 'a'")
    refused(geopackage(tmp_path / "o.gpkg", *only), "a view and not read: 'v'")


def test_computed_columns_and_counts_of_a_geopackage(tmp_path: Path) -> None:
    def computed(name: str, expression: str) -> Path:
        table = f"CREATE TABLE b (fid INTEGER PRIMARY KEY, geom BLOB, x TEXT AS ({expression}) VIRTUAL)"
        moved = "INSERT INTO b SELECT fid, geom FROM a"
        named = [f"UPDATE {table} SET table_name = 'b'" for table in ("gpkg_contents", "gpkg_geometry_columns")]
        return geopackage(tmp_path / name, table, moved, "PRAGMA foreign_keys = OFF", *named)

    refused(computed("plain.gpkg", "round(fid * 2)"), "has a computed column 'x', which is not evaluated")
    refused(computed("bad.gpkg", "hex(zeroblob(1000 + fid))"), "has a computed column 'x', which is not evaluated")
    path = geopackage(tmp_path / "a.gpkg", "UPDATE gpkg_ogr_contents SET feature_count = 1000000000000000")
    assert features(path) == 2
    path = geopackage(tmp_path / "b.gpkg", "UPDATE gpkg_ogr_contents SET feature_count = 1")
    assert features(path) == 2


def test_a_tree_whose_branches_meet_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    write_layer(path, [house(20 * i, 0) for i in range(3000)], kind=["some text"] * 3000)
    import sqlite3

    base = sqlite3.connect(path)
    (size,) = base.execute("PRAGMA page_size").fetchone()
    (root,) = base.execute("SELECT rootpage FROM sqlite_master WHERE name = 'a'").fetchone()
    base.close()
    data = bytearray(path.read_bytes())
    start = (root - 1) * size
    assert data[start] == 5  # an inner page of a table
    (cells,) = struct.unpack_from(">H", data, start + 3)
    places = struct.unpack_from(f">{cells}H", data, start + 12)
    for place in places[1:]:
        data[start + place : start + place + 4] = data[start + places[0] : start + places[0] + 4]
    path.write_bytes(data)
    refused(path, "is damaged: table 'a' has rows twice")


def nested(levels: int) -> bytes:
    return b"\x01\x07\0\0\0\x01\0\0\0" * levels + shapely.to_wkb(shapely.Point(1, 2))


def test_geometries_that_nest_do_not_crash(tmp_path: Path) -> None:
    table = geoparquet(tmp_path / "a.parquet", pa.array([nested(200_000)], pa.binary()))
    with pytest.raises(InputError, match="nested more than 32 levels"):
        read_footprints(table)
    refused(table, "nested more than 32 levels")
    deep = '{"type":"GeometryCollection","geometries":[' * 20_000 + "]}" * 20_000
    (tmp_path / "a.geojson").write_text(
        f'{{"type":"FeatureCollection","features":[{{"type":"Feature","geometry":{deep}}}]}}'
    )
    refused(tmp_path / "a.geojson", "nested|cannot be read")
    for text in ("[" * 500_000, '{"a":' * 500_000, '{"type":"Feature","properties":{"a":' + "[" * 100_000):
        (tmp_path / "b.geojson").write_text("{" + text if text[0] == "[" else text)
        refused(tmp_path / "b.geojson", "nested|cannot be read")


def test_how_deep_binary_is() -> None:
    assert is_shallow(nested(20), 100)
    assert not is_shallow(nested(40), 100)
    many = shapely.MultiPolygon([shapely.box(2 * i, 0, 2 * i + 1, 1) for i in range(200)])
    shapes = [shapely.box(0, 0, 1, 1), many, shapely.MultiPoint([(0, 0), (1, 1)]), shapely.LineString([(0, 0), (1, 1)])]
    for shape in [*shapes, shapely.GeometryCollection(shapes)]:
        for wkb in (shapely.to_wkb(shape), shapely.to_wkb(shapely.force_3d(shape), byte_order=0)):
            assert is_shallow(wkb, 2_000)
    assert not is_shallow(shapely.to_wkb(many), 300)
    assert is_shallow(shapely.to_wkb(many)[:100], 2_000)


def test_coordinates_that_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [shapely.box(0, 0, 1, 1)]
    shapes += [shapely.Polygon([(0, 0), (odd, 1), (1, 1)]) for odd in (np.nan, np.inf, 1e300, -1e13)]
    path = geoparquet(tmp_path / "a.parquet", pa.array([shapely.to_wkb(shape) for shape in shapes], pa.binary()))
    assert len(read_footprints(path)) == 1
    assert "4 features have coordinates that are not finite or over 1e+12" in caplog.text


def test_work_is_counted_before_it_is_done(tmp_path: Path) -> None:
    bow_tie = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    assert work_of(bow_tie, most_pairs=100, most_crossings=100).crossings == 1
    assert work_of(shapely.Point(0, 0).buffer(1), most_pairs=1000, most_crossings=100).crossings == 0
    generator = np.random.default_rng(0)
    scribble = shapely.Polygon(generator.random((3_000, 2)))
    (tmp_path / "a.geojson").write_text(collection(shapely.geometry.mapping(scribble)))
    refused(tmp_path / "a.geojson", "its edges cross over")
    many = [shapely.geometry.mapping(shapely.Polygon(generator.random((100, 2)))) for _ in range(100)]
    (tmp_path / "b.geojson").write_text(collection(*many))
    refused(tmp_path / "b.geojson", "its edges cross over")
    turns = np.arange(20_000)
    lines = np.column_stack([np.where(turns % 2, 50, 0) + turns * 1e-4, np.where(turns % 2, 50.0, 0)])
    (tmp_path / "c.geojson").write_text(collection(shapely.geometry.mapping(shapely.Polygon(lines))))
    refused(tmp_path / "c.geojson", "side by side")
    star = shapely.Polygon(generator.random((30, 2)))
    (tmp_path / "d.geojson").write_text(collection(shapely.geometry.mapping(star)))
    assert read_footprints(tmp_path / "d.geojson").repaired == 1


@pytest.mark.parametrize("command", ["convert vector2coco", "fit", "eval-polygons", "eval-polygons --aoi"])
def test_outlines_that_cross_one_another_too_often(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    scene, labels = make_town(tmp_path)
    frame = shapely.union_all(read_footprints(labels, to_crs_wkt="EPSG:4326").polygons).bounds
    place = [frame[2] - frame[0], 0, 0, frame[3] - frame[1], *frame[:2]]
    combs = [shapely.geometry.mapping(affine_transform(comb(3000, turned=turned), place)) for turned in (False, True)]
    one, other, both = (tmp_path / f"{name}.geojson" for name in ("one", "other", "both"))
    for path, shapes in ((one, combs[:1]), (other, combs[1:]), (both, combs)):
        path.write_text(collection(*shapes))
    out = str(tmp_path / "out")
    arguments = {
        "convert vector2coco": ["convert", "vector2coco", str(scene), str(both), "--out", out],
        "fit": ["fit", str(scene), str(both), "--out", out, "--model", str(make_start(tmp_path / "start"))],
        "eval-polygons": ["eval-polygons", str(one), str(other)],
        "eval-polygons --aoi": ["eval-polygons", str(one), str(labels), "--aoi", str(other)],
    }[command]
    assert run(arguments) == 3
    assert "takes too long to intersect" in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize(
    "command",
    [["eval-polygons", "pipe", "pipe"], ["info", "pipe"], ["data", "check", "pipe"], ["checkpoint", "import", "pipe"]],
)
def test_a_pipe_is_named_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    more = ["--preset", "rsprompter-anchor-cpu", "--out", "imported"] if "import" in command else []
    assert run([*command, *more]) in (3, 4)
    assert "pipe: is not a regular file" in capsys.readouterr().err


def test_json_outside_of_features_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson_check, "LOOSE_JSON", 2_000)
    monkeypatch.setattr(geojson_check, "_CHUNK", 1_000)
    path = tmp_path / "a.geojson"
    flat, words = "[" + "[]," * 3_000 + "[]]", ["[[[", 'a "quoted" \\', "features", "type", "{,,,"]
    shapes = [TRIANGLE] * 500
    path.write_text(collection(*shapes, title=words, name="x" * 3_000))
    assert features(path) == 500
    tail = json.dumps({"type": "FeatureCollection", "note": words})[1:]
    path.write_text('{"features":' + json.dumps(json.loads(collection(*shapes))["features"]) + "," + tail)
    assert features(path) == 500
    whole = collection()[1:]
    for text in (
        f'{{"type":"Polygon","coordinates":{flat}}}',
        f'{{"x":{flat},{whole}',
        f'{{"x":{{"features":{flat}}},{whole}',
        f'{{"type":"Feature","features":{flat}}}',
        f'{{"f\\u0065atures":{flat},{whole}',
    ):
        path.write_text(text)
        refused(path, "outside the features")
    path = tmp_path / "a.geojsonl"
    path.write_text(f'{{"type":"Feature","properties":{{"a":{flat}}},"geometry":null}}\n')
    refused(path, "a feature of it has more than")
    topology = {"type": "Topology", "arcs": [[[0, 0]] * 5_000], "objects": {"a": {"type": "MultiLineString"}}}
    topology["objects"]["a"]["arcs"] = [[0]] * 5_000  # type: ignore[index]
    (tmp_path / "a.topojson").write_text(json.dumps(topology))
    refused(tmp_path / "a.topojson", "more than 5,000,000 vertices")


def test_files_that_promise_too_much(tmp_path: Path) -> None:
    wkb = shapely.to_wkb(shapely.Point(0, 0).buffer(1, quad_segs=5_000))
    shared_shape = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), pa.array([wkb], pa.binary()))
    refused(geoparquet(tmp_path / "a.parquet", shared_shape), "times as large as the file")
    refused(geoparquet(tmp_path / "b.parquet", pa.nulls(100_000_000, pa.binary())), "promises 100,000,000 rows")
    path = write_layer(tmp_path / "a.shp", [house(0, 0)] * 3, kind=["a"] * 3)
    index = bytearray(path.with_suffix(".shx").read_bytes())
    index += index[100:108] * 50_000
    index[24:28] = struct.pack(">i", len(index) // 2)
    path.with_suffix(".shx").write_bytes(index)
    refused(path, "has more entries than the file has")
    path = write_layer(tmp_path / "a.fgb", [house(0, 0)] * 3, kind=["a"] * 3)
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack("<Q", 3), 12)
    data[at : at + 8] = struct.pack("<Q", 1 << 40)
    path.write_bytes(data)
    refused(path, "promises 1,099,511,627,776 features")
    names = [{"type": "Feature", "properties": {f"p{i}": 1}, "geometry": TRIANGLE} for i in range(2_001)]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": names}))
    with pytest.raises(InputError, match="has 2,001 attributes"):
        open_layer(tmp_path / "a.geojson")


def test_the_limits_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [{"type": "Feature", "properties": {f"p{i}": 1}, "geometry": TRIANGLE} for i in range(2_001)]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": names}))
    monkeypatch.setenv("RSP_VECTOR_LIMITS", "2")
    assert len(open_layer(tmp_path / "a.geojson").attributes) == 2_001
    monkeypatch.setenv("RSP_VECTOR_LIMITS", "none")
    with pytest.raises(UsageError, match="RSP_VECTOR_LIMITS=none"):
        open_layer(tmp_path / "a.geojson")


@pytest.mark.parametrize("suffix", [".geojson", ".geojsonl"])
def test_latin_1_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    text = collection(crs={"type": "link", "properties": {"href": "http://127.0.0.1:9/"}}, name="Größe")
    if suffix == ".geojsonl":
        text = json.dumps(json.loads(text)["features"][0]) + "\n"
    text = text.replace('"class": "a"', '"class": "Straße"').replace("\\u00f6\\u00df", "öß")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(text.encode("latin-1"))
    (batch,) = open_layer(path).batches()
    assert batch.columns["class"] == ["Straße"]
    assert read_footprints(path, class_attribute="class").classes == ["Straße"]
    assert "decoded as Windows-1252" in caplog.text
    assert "Stra" in caplog.text or "Gr" in caplog.text


def test_a_layer_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = write_layer(tmp_path / "longname.fgb", [house(0, 0)], kind=["a"])
    data = path.read_bytes()
    assert data.count(b"longname") == 1
    path.write_bytes(data.replace(b"longname", b"l\x9f\xffgname"))
    assert features(path) == 1


def test_a_damaged_or_foreign_crs_is_one_line(tmp_path: Path) -> None:
    wkb = pa.array([shapely.to_wkb(shapely.box(0, 0, 1, 1))], pa.binary())
    for number, crs in enumerate(({"type": "GeographicCRS", "name": "x"}, "EPSG:nonsense", 7, [], "\x00")):
        path = geoparquet(tmp_path / f"{number}.parquet", wkb, crs)
        refused(path, "coordinate reference system is damaged")
    for definition in (
        "+proj=longlat +ellps=bessel +nadgrids=/etc/hostname +type=crs",
        "+proj=longlat +ellps=bessel +nadgrids=https://127.0.0.1/a.tif +type=crs",
        "+proj=longlat +ellps=bessel +nadgrids=@../a.gsb +type=crs",
    ):
        refused(geoparquet(tmp_path / "g.parquet", wkb, definition), "reads a grid")


def test_a_file_is_looked_at_again_once_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(collection())
    assert admit(path) is admit(path)
    path.write_text(collection(TRIANGLE, TRIANGLE))
    assert features(path) == 2


@pytest.mark.parametrize("case", ["geojson-crs-link", "zip-polyglot", "gpkg-recursive-view", "vector-latin1"])
def test_reference_cases(shared: Path, case: str) -> None:
    files = [path for path in (shared / "doors" / case).iterdir() if path.suffix in (".geojson", ".zip", ".gpkg")]
    assert files
    for path in files:
        if case in ("zip-polyglot", "gpkg-recursive-view"):
            refused(path, "contains binary data|is a view")
        else:
            assert features(path) > 0


def attributes_table(path: Path, geometry: list[bytes], values: list[str] | None = None, **options: Any) -> Path:
    """A GeoParquet file with a column `class`, written with options of Parquet."""
    column = {"encoding": "WKB", "geometry_types": [], "crs": "OGC:CRS84"}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table({"geometry": pa.array(geometry, pa.binary()), "class": values or ["a"] * len(geometry)})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path, **options)
    return path


def varint(value: int, width: int = 0) -> bytes:
    """A number as Thrift's compact protocol writes it, in so many bytes or more."""
    value, result = 2 * value, b""
    while value > 127 or len(result) + 1 < width:
        result, value = result + bytes([value & 127 | 128]), value >> 7
    return result + bytes([value])


def test_values_of_parquet_are_bounded(tmp_path: Path) -> None:
    box = shapely.to_wkb(shapely.box(9, 47, 9.1, 47.1))
    path = attributes_table(tmp_path / "a.parquet", [box], ["a" * 80_000_000], compression="snappy")
    with pytest.raises(InputError, match=r"a\.parquet: column 'class' takes .* bytes of memory for 1 value"):
        read_footprints(path, class_attribute="class")
    assert len(read_footprints(path)) == 1  # that column is not read
    # A footer that states less than the pages take.
    path = attributes_table(tmp_path / "b.parquet", [box], ["a" * 2_000_000], compression="zstd", use_dictionary=False)
    stated = pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size
    content = path.read_bytes()
    assert content.count(varint(stated)) == 1
    path.write_bytes(content.replace(varint(stated), varint(100, len(varint(stated)))))
    assert pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size == 100
    with pytest.raises(InputError, match=r"b\.parquet: .*its pages are larger than it states"):
        read_footprints(path, class_attribute="class")


def test_values_of_parquet_that_repeat_their_beginnings(tmp_path: Path) -> None:
    box, options = shapely.to_wkb(shapely.box(9, 47, 9.1, 47.1)), {"use_dictionary": False, "compression": "zstd"}
    encoding = {"geometry": "PLAIN", "class": "DELTA_BYTE_ARRAY"}
    values = [f"kind {number}" for number in range(1_000)]
    path = attributes_table(tmp_path / "a.parquet", [box] * 1_000, values, column_encoding=encoding, **options)
    assert read_footprints(path, class_attribute="class").classes == values
    values = ["a" * 50_000 + str(number) for number in range(10_000)]  # 500 MB in 70 KB
    path = attributes_table(tmp_path / "b.parquet", [box] * 10_000, values, column_encoding=encoding, **options)
    with pytest.raises(InputError, match="over 200 times as large as the file"):
        read_footprints(path, class_attribute="class")
    with pytest.raises(InputError, match="over 200 times as large as the file"):
        list(open_layer(path).batches())
    round_one = shapely.to_wkb(shapely.Point(9, 47).buffer(1, quad_segs=5_000))
    encoding = {"geometry": "DELTA_BYTE_ARRAY", "class": "PLAIN"}
    path = attributes_table(tmp_path / "c.parquet", [round_one] * 2_000, column_encoding=encoding, **options)
    refused(path, "over 200 times as large as the file")


def test_files_beside_a_shapefile_that_do_not_end(tmp_path: Path) -> None:
    write_layer(tmp_path / "a.shp", [house(0, 0)], kind=["é"])
    with (tmp_path / "a.cpg").open("wb") as file:
        file.truncate(1 << 40)
    assert features(tmp_path / "a.shp") == 1
