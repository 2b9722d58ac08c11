"""Filtering the features of a vector file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from shapely import Point, Polygon

from rsprompter_cli.errors import InputError, OutputError, UsageError
from rsprompter_cli.geo.vector import read
from rsprompter_cli.geo.vector.filter import filter_features
from rsprompter_cli.geo.vector.write import object_feature, write_features
from tests.make.layers import EAST, NORTH, house, write_layer
from tests.make.rfc7946 import problems

UTM33 = CRS.from_epsg(32633).to_wkt()
ALL_SUFFIXES = (".geojson", ".gpkg", ".fgb", ".parquet", ".shp")


def predicted(path: Path, crs: str | None = UTM33) -> Path:
    """Four houses as `rsp predict` writes them: ids 1 to 4, scores .9 to .6, sides 2, 4, 6, 8."""
    names = ["house", "shed", "house", "tank"]
    shapes = [house(20 * i, 0, 2 * (i + 1), 2 * (i + 1)) for i in range(4)]
    features = [
        object_feature(shape, class_name=name, score=0.9 - 0.1 * i, area_m2=shape.area if crs else None)
        for i, (shape, name) in enumerate(zip(shapes, names, strict=True))
    ]
    write_features(path, features, crs)
    return path


def ids(path: Path) -> list[int]:
    frame = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
    return sorted(int(value) for value in frame["id"])


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
@pytest.mark.parametrize("source", ALL_SUFFIXES)
def test_attributes_ids_and_crs_stay_in_every_format(tmp_path: Path, source: str, suffix: str) -> None:
    path, out = predicted(tmp_path / f"in{source}"), tmp_path / f"out{suffix}"
    report = filter_features(path, out, score=0.65, min_area=10)
    assert ids(out) == [2, 3]
    assert (report.read, report.kept, report.dropped) == (4, 2, {"score": 1, "min_area": 1})
    frame = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out)
    assert [column for column in frame.columns if column != "geometry"] == ["id", "class", "score", "area_m2"]
    assert frame.crs.to_epsg() == (4326 if ".geojson" in (source, suffix) else 32633)
    row = frame[frame["id"] == 2].iloc[0]
    assert (row["class"], row["score"], row["area_m2"]) == ("shed", 0.8, 16.0)
    assert frame.to_crs(32633).area.sort_values().tolist() == pytest.approx([16, 36], abs=0.1)


def test_what_keeps_all_changes_nothing(tmp_path: Path) -> None:
    for suffix in (".geojson", ".gpkg"):
        path, out = predicted(tmp_path / f"in{suffix}"), tmp_path / "out" / f"in{suffix}"
        assert filter_features(path, out, score=0).kept == 4
        if suffix == ".geojson":
            assert problems(out.read_text()) == []
            before, after = (geopandas.read_file(file) for file in (path, out))  # rings may begin elsewhere
            assert before.normalize().geom_equals_exact(after.normalize(), 0).all()
            assert before.drop(columns="geometry").equals(after.drop(columns="geometry"))
        else:
            assert out.read_bytes() == path.read_bytes()


def test_every_dropped_feature_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report = filter_features(
            predicted(tmp_path / "in.gpkg"), tmp_path / "out.gpkg", score=0.65, min_area=10, classes=["shed", "houses"]
        )
    assert report.dropped == {"score": 1, "classes": 2}
    assert ids(tmp_path / "out.gpkg") == [2]
    assert "no feature has the class 'houses' (did you mean 'house'?)" in caplog.text


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.sampled_from(["a", "b", None]), st.floats(1, 50)),
        min_size=1,
        max_size=12,
    ),
    score=st.one_of(st.none(), st.floats(0, 1)),
    min_area=st.one_of(st.none(), st.floats(0, 50)),
    classes=st.one_of(st.none(), st.just(["a"])),
)
def test_what_is_kept_passes_and_what_is_dropped_does_not(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[float | None, str | None, float]],
    score: float | None,
    min_area: float | None,
    classes: list[str] | None,
) -> None:
    if score is None and min_area is None and classes is None:
        return
    folder = tmp_path_factory.mktemp("filter")
    types = {"id": int, "class": str, "score": float, "area_m2": float}
    features: list[Any] = [
        (house(30 * i, 0), {"id": 100 + i, "class": name, "score": value, "area_m2": area})
        for i, (value, name, area) in enumerate(rows)
    ]
    write_features(folder / "in.parquet", features, UTM33, attributes=types)
    report = filter_features(
        folder / "in.parquet", folder / "out.parquet", score=score, min_area=min_area, classes=classes
    )
    expected = [
        100 + i
        for i, (value, name, area) in enumerate(rows)
        if (score is None or (value is not None and value >= score))
        and (min_area is None or area >= min_area)
        and (classes is None or name in classes)
    ]
    assert ids(folder / "out.parquet") == expected
    assert report.kept + sum(report.dropped.values()) == report.read == len(rows)


def test_batches_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_BATCH", 3)
    assert filter_features(predicted(tmp_path / "in.gpkg"), tmp_path / "out.fgb", score=0.65).kept == 3


def test_without_the_column_areas_are_measured_on_the_ground(tmp_path: Path) -> None:
    path = write_layer(tmp_path / "in.gpkg", [house(0, 0, 5, 5), house(20, 0)], epsg=3857, n=[1, 2])
    report = filter_features(path, tmp_path / "out.gpkg", min_area=50)
    assert (report.kept, report.dropped) == (1, {"min_area": 1})
    assert geopandas.read_file(tmp_path / "out.gpkg")["n"].tolist() == [2]
    bare = write_layer(tmp_path / "bare.geojson", [house(0, 0, 5, 5), house(20, 0)])
    assert filter_features(bare, tmp_path / "out.geojson", min_area=50).kept == 1
    placeless = write_layer(tmp_path / "none.shp", [house(0, 0)], epsg=None, n=[1])
    with pytest.raises(InputError, match="coordinate reference system"):
        filter_features(placeless, tmp_path / "no.gpkg", min_area=50)
    assert not (tmp_path / "no.gpkg").exists()


def test_pixels_have_a_score_but_no_area(tmp_path: Path) -> None:
    path = predicted(tmp_path / "pixels.gpkg", crs=None)
    assert filter_features(path, tmp_path / "out.gpkg", score=0.65).kept == 3
    with pytest.raises(InputError, match="no feature has a value of area_m2"):
        filter_features(path, tmp_path / "small.gpkg", min_area=5)
    assert not (tmp_path / "small.gpkg").exists()


def test_pixels_in_geojson_keep_their_coordinates(tmp_path: Path) -> None:
    shape = Polygon([(600, 700), (610, 700), (610, 720), (600, 720)])
    write_features(tmp_path / "in.geojson", [object_feature(shape, class_name="a", score=0.5, area_m2=None)], None)
    filter_features(tmp_path / "in.geojson", tmp_path / "out.geojson", score=0.1)
    (kept,) = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert shapely.geometry.shape(kept["geometry"]).equals(shape)
    filter_features(tmp_path / "in.geojson", tmp_path / "out.gpkg", score=0.1)
    assert geopandas.read_file(tmp_path / "out.gpkg").crs is None


def test_gaps_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_layer(
        tmp_path / "in.gpkg",
        [house(20 * i, 0) for i in range(4)],
        score=[0.9, None, 0.9, 0.9],
        area_m2=[1, 100, None, 100],
    )
    with caplog.at_level(logging.WARNING):
        report = filter_features(path, tmp_path / "out.gpkg", score=0.5, min_area=50)
    assert report.dropped == {"no_score": 1, "min_area": 1}
    assert (report.kept, report.unmeasured) == (2, 1)
    assert "kept 1 feature without area_m2" in caplog.text


def test_what_is_no_polygon_is_dropped_and_what_is_invalid_repaired(tmp_path: Path) -> None:
    tie = Polygon([(EAST, NORTH), (EAST + 10, NORTH + 10), (EAST + 10, NORTH), (EAST, NORTH + 10)])
    path = write_layer(tmp_path / "in.gpkg", [tie, Point(EAST, NORTH), None, house(50, 0)], score=[0.9] * 4)
    for suffix in (".geojson", ".gpkg"):
        report = filter_features(path, tmp_path / f"out{suffix}", score=0.5)
        assert (report.kept, report.dropped, report.repaired) == (2, {"not_polygons": 2}, 1)
        assert geopandas.read_file(tmp_path / f"out{suffix}").is_valid.all()


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    for suffix in ALL_SUFFIXES:
        write_features(tmp_path / f"in{suffix}", [], UTM33)
        report = filter_features(
            tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", score=0.5, min_area=5, classes=["a"]
        )
        assert (report.read, report.kept, report.dropped) == (0, 0, {})
    assert json.loads((tmp_path / "out.geojson").read_text())["features"] == []


def test_faults_are_named_and_leave_no_file(tmp_path: Path) -> None:
    path, out = predicted(tmp_path / "in.gpkg"), tmp_path / "out.gpkg"
    bare = write_layer(tmp_path / "bare.gpkg", [house(0, 0)], scores=[0.5])
    text = write_layer(tmp_path / "text.gpkg", [house(0, 0), house(20, 0)], score=["0.5", "high"])
    with pytest.raises(UsageError, match="nothing to filter by"):
        filter_features(path, out)
    with pytest.raises(UsageError, match="no attribute 'score'") as caught:
        filter_features(bare, out, score=0.5)
    assert "scores" in caught.value.hint
    with pytest.raises(UsageError, match="no attribute 'class'"):
        filter_features(bare, out, classes=["a"])
    with pytest.raises(InputError, match="feature 2 has the score 'high'"):
        filter_features(text, out, score=0.5)
    for wrong in ({"score": float("nan")}, {"min_area": -1.0}, {"min_area": float("inf")}, {"classes": []}):
        with pytest.raises(UsageError, match="--"):
            filter_features(path, out, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no vector format"):
        filter_features(path, tmp_path / "out.csv", score=0.5)
    without = write_layer(tmp_path / "without.geojson", [house(0, 0)])
    with pytest.raises(UsageError, match="no attribute 'score'"):
        filter_features(without, tmp_path / "out.geojson", score=0.5)
    assert not out.exists()
    assert not (tmp_path / "out.geojson").exists()


def test_an_output_never_replaces_the_input_nor_another_file_unasked(tmp_path: Path) -> None:
    path = predicted(tmp_path / "in.gpkg")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        filter_features(path, path, score=0.5, overwrite=True)
    assert path.read_bytes() == before
    predicted(tmp_path / "out.gpkg")
    with pytest.raises(OutputError, match="--overwrite"):
        filter_features(path, tmp_path / "out.gpkg", score=0.85)
    filter_features(path, tmp_path / "out.gpkg", score=0.85, overwrite=True)
    assert ids(tmp_path / "out.gpkg") == [1]
    shape = predicted(tmp_path / "shape.shp")
    with pytest.raises(OutputError, match="is the input"):
        filter_features(shape, tmp_path / "shape.SHP", score=0.5, overwrite=True)


def test_attributes_that_a_format_cannot_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_layer(tmp_path / "in.geojson", [house(0, 0)], score=[0.5], roof_material_code=["tin"])
    with caplog.at_level(logging.WARNING):
        filter_features(path, tmp_path / "out.shp", score=0.1)
    assert "out.shp: " in caplog.text
    assert "'roof_mater'" in caplog.text
    shape = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    feature = {"type": "Feature", "properties": {"geometry": "x", "score": 0.5}, "geometry": shape}
    (tmp_path / "odd.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert filter_features(tmp_path / "odd.geojson", tmp_path / "out.geojson", score=0.1).kept == 1
    with pytest.raises(UsageError, match="an attribute 'geometry'"):
        filter_features(tmp_path / "odd.geojson", tmp_path / "out.parquet", score=0.1)
