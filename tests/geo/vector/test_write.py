"""Vector files: RFC 7946, formats and bytes, areas, and footprints in any CRS."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from shapely import MultiPolygon, Point, Polygon, box

from rsprompter_cli.errors import InputError, OutputError, UsageError
from rsprompter_cli.geo.antimeridian import cut_antimeridian
from rsprompter_cli.geo.crs import area_m2, areas_m2, geodesic_area, to_lonlat, to_map, to_pixels
from rsprompter_cli.geo.vector import geojson
from rsprompter_cli.geo.vector.geojson import prepare
from rsprompter_cli.geo.vector.write import OBJECT_ATTRIBUTES, Feature, object_feature, read_footprints, write_features
from rsprompter_cli.structures import Georef
from tests.make.rfc7946 import problems

UTM33 = CRS.from_epsg(32633).to_wkt()
WGS84 = CRS.from_epsg(4326).to_wkt()
ALL_SUFFIXES = (".geojson", ".gpkg", ".fgb", ".parquet", ".shp")


def one(geometry: Any, number: int = 1) -> Feature:
    return object_feature(geometry, id=number, class_name="house", score=0.5, area_m2=1.0)


def written(path: Path, features: list[Feature], crs: str | None) -> str:
    assert write_features(path, features, crs) == len(features)
    return path.read_text(encoding="utf-8")


def ring_with_hole(x: float, y: float, size: float = 40) -> Polygon:
    return box(x, y, x + size, y + size).difference(box(x + size / 4, y + size / 4, x + size / 2, y + size / 2))


# --- RFC 7946 -------------------------------------------------------------------------------------


def test_the_checker_sees_each_fault() -> None:
    def faulty(coordinates: list[Any], **extra: Any) -> list[str]:
        feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": coordinates}}
        return problems(json.dumps({"type": "FeatureCollection", "features": [feature], **extra}))

    good = [[0, 0], [1, 0], [1, 1], [0, 0]]
    assert faulty([good]) == []
    assert faulty([good[::-1]])
    assert faulty([good[:3]])
    assert faulty([good], crs={})
    assert faulty([[[0, 0], [1, 0], [1, 1.123456789], [0, 0]]])
    assert faulty([[[0, 0], [1, 0], [1, math.nan], [0, 0]]])
    assert faulty([[[0, 0], [200, 0], [1, 1], [0, 0]]])
    assert faulty([[[-179, 0], [179, 0], [179, 1], [-179, 0]]])
    assert faulty([[[0, 0], [2, 2], [2, 0], [0, 1], [0, 0]]])
    assert faulty([[[-9, -9], [9, -9], [9, 9], [-9, -9]], good])


def test_utm_polygons_with_holes_pass_the_checker(tmp_path: Path) -> None:
    shapes = [ring_with_hole(500_000 + 60 * i, 5_000_000, 40.123456 + i).normalize() for i in range(5)]
    shapes.append(shapely.reverse(shapes[0]))
    text = written(tmp_path / "a.geojson", [one(shape, i) for i, shape in enumerate(shapes)], UTM33)
    assert problems(text) == []
    back = geopandas.read_file(tmp_path / "a.geojson").to_crs(32633)
    assert [len(geometry.interiors) for geometry in back.geometry] == [1] * 6
    for geometry, shape in zip(back.geometry, shapes, strict=True):
        assert geometry.symmetric_difference(shape).area < 0.02 * shape.length
    assert list(back.columns) == [*OBJECT_ATTRIBUTES, "geometry"]


polar_and_dateline = [
    (32660, box(834_000, 1_000_000, 836_000, 1_002_000)),  # UTM zone 60 over 180
    (3832, box(3_339_000, 0, 3_350_000, 9_000)),  # Pacific Mercator over 180
    (32661, box(1_990_000, 1_990_000, 2_012_000, 2_005_000)),  # UPS north, around the pole
    (3031, box(-4_000, -4_000, 5_000, 6_000)),  # polar stereographic, around the south pole
    (3031, box(-4_000, -4_000, 5_000, 6_000).difference(box(-1_000, -1_000, 1_000, 1_000))),
    (3413, box(-30_000, -30_000, -10_000, 500)),  # beside the pole
    (32633, box(400_000, 9_950_000, 401_000, 9_951_000)),  # UTM at 89.6 degrees
    (4326, box(179.9, 60, 180.1, 60.1)),
    (4326, box(-181.0, -1, -179.5, 1).difference(box(-180.2, -0.2, -179.8, 0.2))),
    (4326, box(185, 0, 186, 1)),
]


@pytest.mark.parametrize(("epsg", "shape"), polar_and_dateline)
def test_antimeridian_and_poles(tmp_path: Path, epsg: int, shape: Any) -> None:
    wkt = CRS.from_epsg(epsg).to_wkt()
    text = written(tmp_path / "a.geojson", [one(shape)], wkt)
    assert problems(text) == []
    (feature,) = json.loads(text)["features"]
    geometry = shapely.geometry.shape(feature["geometry"])
    georef = Georef((1, 0, 0, 0, 1, 0), wkt, "affine")
    expected = area_m2(shape, georef)
    assert expected is not None
    # Cutting moves no ground: compare in an equal-area projection, whose edges are densified alike.
    to_equal_area = Transformer.from_crs(4326, 6933, always_xy=True)
    dense = shapely.segmentize(geometry, 0.01)
    flat = shapely.transform(dense, lambda xy: np.column_stack(to_equal_area.transform(xy[:, 0], xy[:, 1])))
    assert flat.area == pytest.approx(expected, rel=2e-4)


def test_long_edges_of_a_multipolygon_are_divided_as_those_of_a_polygon() -> None:
    near, far = box(300_000, 6_000_000, 700_000, 6_100_000), box(300_000, 6_500_000, 700_000, 6_600_000)
    crs = CRS.from_epsg(32633).to_wkt()
    alone = [shapely.get_num_coordinates(one) for one in to_lonlat(np.array([near, far], dtype=object), crs)]
    (both,) = to_lonlat(np.array([MultiPolygon([near, far])], dtype=object), crs)
    assert min(alone) > 5
    assert shapely.get_num_coordinates(both) >= sum(alone)


def test_pieces_on_both_sides_of_the_antimeridian_stay_where_they_are() -> None:
    """As an object has them whose pieces do not touch: in the map's own CRS they lie side by side."""
    to_fiji = Transformer.from_crs("EPSG:4326", "EPSG:3460", always_xy=True).transform
    corners = [(179.9, -17.1), (179.95, -17.1), (179.95, -17.0), (179.9, -17.0)]
    over = [(179.98, -17.1), (-179.9, -17.1), (-179.9, -17.0), (179.98, -17.0)]
    beyond = [(-179.85, -17.1), (-179.8, -17.1), (-179.8, -17.0), (-179.85, -17.0)]
    pieces = [Polygon([to_fiji(*corner) for corner in ring]) for ring in (corners, over, beyond)]
    apart, through = prepare(
        np.array([MultiPolygon([pieces[0], pieces[2]]), MultiPolygon(pieces)], dtype=object), "EPSG:3460"
    )
    assert len(apart.geoms) == 2
    assert len(through.geoms) == 4
    for geometry, degrees in ((apart, 0.01), (through, 0.022)):
        assert geometry.is_valid
        assert all(piece.bounds[2] - piece.bounds[0] < 0.2 for piece in geometry.geoms)
        assert geometry.area == pytest.approx(degrees, rel=1e-3)


def test_a_polygon_over_the_antimeridian_is_two_pieces() -> None:
    cut = cut_antimeridian(Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)]))
    assert cut.equals(MultiPolygon([box(179, 0, 180, 1), box(-180, 0, -179, 1)]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=3, max_size=12),
    st.sampled_from([(15.0, 48.0), (179.999998, -17.0), (0.0, 0.0), (-70.0, 71.5)]),
)
def test_rounding_keeps_validity(points: list[tuple[int, int]], origin: tuple[float, float]) -> None:
    """Shapes of a few centimetres, where the 1 cm grid pinches and folds."""
    shape = shapely.buffer(shapely.MultiPoint(points), 7, quad_segs=2).simplify(0.3)
    degrees = shapely.transform(shape, lambda xy: xy * 3.7e-8 + origin)
    for geometry in prepare(np.array([degrees], dtype=object), WGS84):
        if geometry is not None:
            assert geometry.is_valid
            coordinates = shapely.get_coordinates(geometry)
            assert (coordinates == np.round(coordinates, 7)).all()


def test_empty_is_a_valid_collection_and_nan_is_null(tmp_path: Path) -> None:
    text = written(tmp_path / "none.geojson", [], UTM33)
    assert problems(text) == []
    assert json.loads(text)["features"] == []
    feature = object_feature(box(0, 0, 1, 1), id=1, class_name="ü\n", score=math.nan, area_m2=math.inf)
    text = written(tmp_path / "nan.geojson", [feature], WGS84)
    assert problems(text) == []
    assert json.loads(text)["features"][0]["properties"] == {"id": 1, "class": "ü\n", "score": None, "area_m2": None}


def test_invisible_polygons_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = [one(box(0, 0, 1e-9, 1e-9)), one(box(1, 1, 2, 2))]
    with caplog.at_level(logging.WARNING):
        assert write_features(tmp_path / "a.geojson", features, WGS84) == 1
    assert "1 polygon was" in caplog.text


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
def test_features_without_an_id_are_numbered_as_written(tmp_path: Path, suffix: str) -> None:
    sizes = (1e-9, 1.0, 1e-9, 2.0)
    values: dict[str, Any] = {"class_name": "house", "score": 0.5, "area_m2": 1.0}
    features = [object_feature(box(0, 0, size, size), **values) for size in sizes]
    dropped: list[int] = []
    write_features(tmp_path / f"a{suffix}", features, WGS84, on_dropped=dropped.append)
    back = pyogrio.read_dataframe(tmp_path / f"a{suffix}") if suffix != ".parquet" else None
    back = geopandas.read_parquet(tmp_path / f"a{suffix}") if back is None else back
    kept = 2 if suffix == ".geojson" else 4
    # FlatGeobuf orders its rows by place.
    assert sorted(back["id"]) == list(range(1, kept + 1))
    assert dropped == ([0, 2] if suffix == ".geojson" else [])


def test_a_stream_of_many_features_keeps_its_order(tmp_path: Path) -> None:
    count = geojson._BATCH * 2 + 3
    features = (one(box(i % 300, i // 300, i % 300 + 0.5, i // 300 + 0.5), i) for i in range(count))
    path = tmp_path / "a.geojson"
    assert write_features(path, features, None) == count
    collection = json.loads(path.read_text())
    assert [feature["properties"]["id"] for feature in collection["features"]] == list(range(count))


def test_long_edges_stay_where_they_were(tmp_path: Path) -> None:
    long = box(300_000, 6_000_000, 700_000, 6_000_010)
    written(tmp_path / "a.geojson", [one(long)], UTM33)
    back = geopandas.read_file(tmp_path / "a.geojson").to_crs(32633).geometry[0]
    assert back.symmetric_difference(long).area < 0.01 * long.area
    small = prepare(np.array([box(500_000, 5e6, 500_030, 5e6 + 20)], dtype=object), UTM33)[0]
    assert len(small.exterior.coords) == 5


# --- all formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
def test_formats_hold_the_features_and_repeat_their_bytes(tmp_path: Path, suffix: str) -> None:
    shapes = [ring_with_hole(500_000, 5_000_000), MultiPolygon([box(0, 0, 5, 5), box(9, 9, 15, 15)]), box(20, 0, 30, 9)]
    features = [object_feature(s, id=i, class_name="täg", score=0.12345, area_m2=9.87) for i, s in enumerate(shapes)]
    contents = []
    for folder in ("a", "b"):
        path = tmp_path / folder / f"found{suffix}"
        assert write_features(path, iter(features), UTM33) == 3
        contents.append({file.name: file.read_bytes() for file in path.parent.iterdir()})
    assert contents[0] == contents[1]
    path = tmp_path / "a" / f"found{suffix}"
    frame = geopandas.read_parquet(path) if suffix == ".parquet" else geopandas.read_file(path)
    frame = frame.to_crs(32633).sort_values("id", ignore_index=True)
    assert frame["class"].tolist() == ["täg"] * 3
    assert frame["score"].tolist() == [0.1235 if round(0.12345, 4) == 0.1235 else 0.1234] * 3
    assert frame["area_m2"].tolist() == [9.9] * 3
    for geometry, shape in zip(frame.geometry, shapes, strict=True):
        assert geometry.is_valid
        assert geometry.symmetric_difference(shape).area < 0.02 * shape.length
    if suffix in (".gpkg", ".fgb"):
        assert pyogrio.list_layers(path)[0][0] == "found"


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
def test_empty_files_keep_their_fields(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    assert write_features(path, [], UTM33) == 0
    if suffix == ".parquet":
        frame = geopandas.read_parquet(path)
        assert (len(frame), list(frame.columns)) == (0, [*OBJECT_ATTRIBUTES, "geometry"])
        return
    info = pyogrio.read_info(path)
    assert len(geopandas.read_file(path)) == 0
    if suffix != ".geojson":
        assert list(info["fields"]) == list(OBJECT_ATTRIBUTES)
        assert CRS(info["crs"]).to_epsg() == 32633


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
def test_a_failure_in_the_stream_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_features(path, [one(box(0, 0, 1, 1))], WGS84)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def broken() -> Iterator[Feature]:
        yield one(box(0, 0, 1, 1))
        raise InputError("the scene ends early")

    with pytest.raises(InputError, match="ends early"):
        write_features(path, broken(), WGS84)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_pixel_coordinates_are_written_as_they_are(tmp_path: Path) -> None:
    for suffix in ALL_SUFFIXES:
        path = tmp_path / f"a{suffix}"
        write_features(path, [one(box(1000.5, 2000, 1010, 2010))], None)
        frame = geopandas.read_parquet(path) if suffix == ".parquet" else geopandas.read_file(path)
        assert tuple(frame.geometry.total_bounds) == (1000.5, 2000, 1010, 2010)
        if suffix != ".geojson":  # which can name no CRS
            assert frame.crs is None or frame.crs.is_engineering


def test_a_new_shapefile_keeps_no_companion_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.shp"
    write_features(path, [one(box(0, 0, 1, 1))], UTM33)
    assert path.with_suffix(".prj").exists()
    path.with_suffix(".qix").write_text("an index over the old shapes")
    write_features(path, [one(box(0, 0, 1, 1))], None)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".cpg", ".dbf", ".shp", ".shx"]


def test_unknown_extension_and_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.kml"):
        write_features(tmp_path / "a.kml", [], None)
    (tmp_path / "file").write_text("")
    for suffix in ALL_SUFFIXES:
        with pytest.raises(OutputError):
            write_features(tmp_path / "file" / f"a{suffix}", [], None)


def test_lines_are_not_features(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Point"):
        write_features(tmp_path / "a.geojson", [one(Point(0, 0))], None)
    assert list(tmp_path.iterdir()) == []


# --- place and area -------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-10, 10) for _ in range(6)]))
def test_pixels_and_map_are_inverse(transform: tuple[float, ...]) -> None:
    a, b, c, d, e, f = transform
    georef = Georef((a, b, c, d, e, f), None, "affine")
    if abs(a * e - b * d) < 1e-3:
        return
    shape = box(3, 4, 10, 20)
    (placed,) = to_map([shape], georef)
    assert tuple(placed.exterior.coords[0]) == pytest.approx((a * 10 + b * 4 + c, d * 10 + e * 4 + f))
    (back,) = to_pixels([placed], georef)
    assert back.equals_exact(shape, 1e-6)


def test_no_inverse() -> None:
    with pytest.raises(InputError, match="without area"):
        to_pixels([box(0, 0, 1, 1)], Georef((0, 0, 0, 0, 0, 0), None, "affine"))


@pytest.mark.parametrize("latitude", [0.0, 45.0, 60.0, -75.0, 84.0])
def test_area_is_that_of_the_ellipsoid_at_any_latitude(latitude: float) -> None:
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(30.0, latitude)
    georef = Georef((0.5, 0, x, 0, -0.5, y), CRS.from_epsg(3857).to_wkt(), "affine")
    shape = box(10, 10, 110, 60).difference(box(20, 20, 30, 30))
    got = area_m2(shape, georef)
    assert got is not None
    to_equal_area = Transformer.from_crs(3857, 6933, always_xy=True)
    (placed,) = to_map([shape], georef)
    flat = shapely.transform(placed, lambda xy: np.column_stack(to_equal_area.transform(xy[:, 0], xy[:, 1])))
    assert got == pytest.approx(flat.area, rel=1e-5)
    assert got == pytest.approx(4900 * 0.25 * math.cos(math.radians(latitude)) ** 2, rel=1e-2)


def test_area_of_long_edges_and_around_the_pole() -> None:
    # A cap in polar stereographic coordinates against the closed formula of a circle of latitude.
    circle = shapely.buffer(Point(0, 0), 200_000, quad_segs=256)
    wkt = CRS.from_epsg(3413).to_wkt()
    got = geodesic_area(to_lonlat([circle], wkt)[0])
    _, latitude = Transformer.from_crs(3413, 4326, always_xy=True).transform(200_000, 0)
    lon = np.linspace(-180, 180, 20_000)
    cap = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, np.full_like(lon, latitude))[0])
    assert got == pytest.approx(cap, rel=1e-4)


def test_off_the_earth_there_is_no_area() -> None:
    assert areas_m2([box(0, 0, 9, 9)] * 2, Georef((1, 0, 0, 0, 1, 0), None, "none")) == [None, None]
    assert object_feature(box(0, 0, 1, 1), id=1, class_name="a", score=1, area_m2=None).properties["area_m2"] is None


def test_unplaceable_coordinates_are_named() -> None:
    with pytest.raises(InputError, match="outside the domain"):
        to_lonlat([box(0, 0, 1e12, 1e12)], CRS.from_epsg(3035).to_wkt())


# --- reading footprints ---------------------------------------------------------------------------


def labels(path: Path, geometries: list[Any], crs: Any, classes: list[Any] | None = None) -> Path:
    frame = geopandas.GeoDataFrame({"kind": classes or ["house"] * len(geometries)}, geometry=geometries, crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
@pytest.mark.parametrize("epsg", [4326, 32633, 3035])
def test_footprints_of_any_format_and_crs(tmp_path: Path, suffix: str, epsg: int) -> None:
    shapes = [ring_with_hole(500_000, 5_000_000), box(500_100, 5_000_000, 500_120, 5_000_030)]
    frame = geopandas.GeoSeries(shapes, crs=32633).to_crs(epsg)
    path = labels(tmp_path / f"a{suffix}", list(frame), epsg, ["house", "shed"])
    read = read_footprints(path, to_crs_wkt=UTM33, class_attribute="kind")
    assert (len(read), read.repaired, read.empty, read.not_polygons) == (2, 0, 0, 0)
    got = sorted(zip(read.classes or [], read.polygons, strict=True))
    assert [name for name, _ in got] == ["house", "shed"]
    for (_, polygon), shape in zip(got, shapes, strict=True):
        assert polygon.symmetric_difference(shape).area < 0.2  # datums agree to a millimetre


def test_what_is_not_a_polygon_is_repaired_or_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bow_tie = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    rows: list[Any] = [box(0, 0, 1, 1), bow_tie, Point(0, 0), Polygon(), None, Polygon([(0, 0), (1, 1), (0, 0)])]
    path = labels(tmp_path / "a.gpkg", rows, 4326)
    with caplog.at_level(logging.WARNING):
        read = read_footprints(path, to_crs_wkt=WGS84)
    assert (read.rows, read.repaired, read.empty, read.not_polygons) == ([0, 1], 1, 3, 1)
    assert all(polygon.is_valid for polygon in read.polygons)
    assert read.polygons[1].area == pytest.approx(0.5)
    assert read.classes is None
    assert "repaired" in caplog.text
    assert "1 feature is not a polygon" in caplog.text


def test_only_points_is_an_error_and_no_rows_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 2 features"):
        read_footprints(labels(tmp_path / "a.geojson", [Point(0, 0), Point(1, 1)], 4326))
    write_features(tmp_path / "none.geojson", [], WGS84)
    assert len(read_footprints(tmp_path / "none.geojson", to_crs_wkt=UTM33)) == 0


def test_class_attribute_types(tmp_path: Path) -> None:
    path = labels(tmp_path / "a.geojson", [box(i, 0, i + 1, 1) for i in range(3)], 4326, [3, None, 7])
    assert read_footprints(path, class_attribute="kind").classes == ["3", None, "7"]
    with pytest.raises(UsageError, match="kinds") as caught:
        read_footprints(path, class_attribute="kinds")
    assert "kind" in caught.value.hint


def test_missing_crs(tmp_path: Path) -> None:
    write_features(tmp_path / "a.shp", [one(box(500_000, 5e6, 500_010, 5e6 + 10))], None)
    path = tmp_path / "a.shp"
    with pytest.raises(InputError, match="has no coordinate reference system"):
        read_footprints(path, to_crs_wkt=UTM33)
    assert len(read_footprints(path, to_crs_wkt=UTM33, file_crs="EPSG:32633")) == 1
    assert read_footprints(path).crs_wkt is None


def test_unknown_crs(tmp_path: Path) -> None:
    write_features(tmp_path / "a.shp", [one(box(0, 0, 9, 9))], None)
    with pytest.raises(InputError, match=r"a\.shp: unknown coordinate reference system"):
        read_footprints(tmp_path / "a.shp", to_crs_wkt=UTM33, file_crs="EPSG:nonsense")
    local = 'ENGCRS["field",EDATUM["peg"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    with pytest.raises(InputError, match="no transformation"):
        to_lonlat([box(0, 0, 1, 1)], local)


def test_metres_called_degrees(tmp_path: Path) -> None:
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": shapely.geometry.mapping(box(5e5, 5e6, 5e5 + 9, 5e6 + 9)),
    }
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(InputError, match="not longitude and latitude"):
        read_footprints(path, to_crs_wkt=UTM33)


def test_files_that_are_not_vector_files(tmp_path: Path) -> None:
    secret = labels(tmp_path / "secret.gpkg", [box(0, 0, 1, 1)], 4326)
    virtual = tmp_path / "virtual.geojson"
    virtual.write_text(
        f"<OGRVRTDataSource><OGRVRTLayer name='secret'><SrcDataSource>{secret}</SrcDataSource></OGRVRTLayer>"
        "</OGRVRTDataSource>"
    )
    broken = tmp_path / "broken.geojson"
    broken.write_text('{"type": "FeatureCollection", "features": [')
    cut = tmp_path / "cut.gpkg"
    cut.write_bytes(secret.read_bytes()[:3000])
    parquet = tmp_path / "cut.parquet"
    parquet.write_bytes(b"PAR1" + bytes(100))
    zipped = tmp_path / "a.zip"
    zipped.write_bytes(b"PK\x03\x04")
    for path in (virtual, broken, cut, parquet, zipped, tmp_path, tmp_path / "none.gpkg", Path("/vsicurl/http://x/a")):
        with pytest.raises(InputError) as caught:
            read_footprints(path)
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message


def test_real_footprints(shared: Path) -> None:
    mercator = CRS.from_epsg(3857).to_wkt()
    path = shared / "data/buildings/banepa_core.geojson"
    read = read_footprints(path, to_crs_wkt=mercator, class_attribute="class")
    assert len(read) == 1218
    assert all(polygon.is_valid for polygon in read.polygons)
    assert set(read.classes or []) == {"building"}


def test_file_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.geojson"
    write_features(path, [one(box(500000, 0, 500010, 10))], UTM33)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"a\.geojson: cannot be read: Permission denied"):
        read_footprints(path)
