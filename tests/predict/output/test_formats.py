"""Every format that `rsp predict` writes: what is in it, that equal runs give equal bytes, and who can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely
from pyproj import CRS

from rsprompter_cli.errors import OutputError, UsageError
from rsprompter_cli.evaluate.polygons import evaluate_polygons
from rsprompter_cli.geo.vector.filter import filter_features
from rsprompter_cli.geo.vector.qgis_style import write_qgis_style
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import GEOJSON_SUFFIXES, VECTOR_SUFFIXES, read_footprints
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.stats import RunStats
from tests.make.rfc7946 import problems, sequence_problems
from tests.make.scenes import UTM, paint, write_scene
from tests.make.stub_model import BlobModel, blob_model

OBJECTS = {"red": [(10, 12, 50, 40), (70, 60, 118, 112)], "blue": [(60, 10, 110, 30)]}
NAMES = ["id", "class", "score", "area_m2", "perimeter_m", "n_windows"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = paint(120, 120, OBJECTS)
    pixels[:, 80:90, 85:95] = 90  # a hole
    return write_scene(tmp_path / "a.tif", pixels)


def predict(scene: Path, out: Path, **options: Any) -> Any:
    return predict_scene(scene, out, model=blob_model(), native=True, **options)


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_attributes_bytes_and_readers(suffix: str, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / f"a{suffix}"
    assert predict(scene, out).objects == 3
    first = out.read_bytes()
    predict(scene, out, overwrite=True)
    assert out.read_bytes() == first
    layer = open_layer(out)
    shown = [name.replace("perimeter_m", "perim_m") for name in NAMES] if suffix == ".shp" else NAMES
    assert list(layer.attributes) == shown
    assert CRS.from_wkt(layer.crs_wkt or "") == (CRS("EPSG:4326") if suffix in GEOJSON_SUFFIXES else CRS(UTM))
    (batch,) = layer.batches()
    rows = sorted(zip(*batch.columns.values(), strict=True))  # FlatGeobuf has an order of its own
    assert [row[:3] for row in rows] == [(1, "red", 0.9), (2, "blue", 0.9), (3, "red", 0.9)]
    # UTM is 0.9996 true here; the last has a hole of 10 x 10 px.
    assert [row[3] for row in rows] == pytest.approx([280, 250, 599], rel=2e-3)
    assert [row[4] for row in rows] == pytest.approx([68, 70, 120], rel=2e-3)
    assert all(1 <= row[5] <= 9 for row in rows)
    kept = filter_features(out, tmp_path / f"kept{suffix}", classes=["red"], min_area=500)
    assert (kept.read, kept.kept) == (3, 1)
    assert list(open_layer(tmp_path / f"kept{suffix}").attributes) == shown
    assert evaluate_polygons(out, out).counts.f1 == 1
    assert list(write_qgis_style(out).colours) == ["blue", "red"]


def test_windows_are_counted(tmp_path: Path) -> None:
    # Windows of 64 px every 48: one object in the first alone, one in four.
    scene = write_scene(tmp_path / "a.tif", paint(112, 112, {"red": [(5, 5, 20, 20), (40, 42, 90, 95)]}))
    predict(scene, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [feature["properties"]["n_windows"] for feature in features] == [1, 4]


@pytest.mark.parametrize("suffix", [".geojsonl", ".geojsonseq"])
def test_sequences_hold_one_feature_a_line(suffix: str, scene: Path, tmp_path: Path) -> None:
    predict(scene, tmp_path / f"a{suffix}")
    text = (tmp_path / f"a{suffix}").read_text()
    assert sequence_problems(text, marked=suffix == ".geojsonseq") == []
    predict(scene, tmp_path / "a.geojson")
    lines = [json.loads(line.removeprefix("\x1e")) for line in text.split("\n")[:-1]]
    assert lines == json.loads((tmp_path / "a.geojson").read_text())["features"]


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_nothing_found_is_a_file_that_can_be_read(suffix: str, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(50, 50, {}))
    out = tmp_path / f"a{suffix}"
    assert predict(scene, out).objects == 0
    assert sum(len(batch.geometries) for batch in open_layer(out).batches()) == 0
    assert len(read_footprints(out)) == 0
    assert filter_features(out, tmp_path / f"b{suffix}", score=0.5).kept == 0


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet", ".shp"])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
def test_another_reference_system(suffix: str, crs: str, scene: Path, tmp_path: Path) -> None:
    predict(scene, tmp_path / f"a{suffix}", crs=crs)
    predict(scene, tmp_path / "own.gpkg")
    layer = open_layer(tmp_path / f"a{suffix}")
    assert CRS.from_wkt(layer.crs_wkt or "").equals(CRS(crs), ignore_axis_order=True)
    moved = read_footprints(tmp_path / f"a{suffix}", to_crs_wkt=CRS(UTM).to_wkt(), columns=["area_m2"])
    own = read_footprints(tmp_path / "own.gpkg", columns=["area_m2"])
    sides = [sorted(zip(layer.columns["area_m2"], layer.polygons, strict=True)) for layer in (moved, own)]
    for (area, one), (other_area, other) in zip(*sides, strict=True):
        assert area == other_area
        assert shapely.symmetric_difference(one, other).area < 1e-3 * other.area


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.geojson", {"crs": "EPSG:3857"}, "RFC 7946"),
        ("a.geojsonl", {"crs": UTM}, "RFC 7946"),
        ("a.json", {"crs": UTM}, "pixel coordinates"),
        ("a.png", {"crs": UTM}, "pixel coordinates"),
        ("a.gpkg", {"crs": "EPSG:123456789"}, "is not a coordinate reference system"),
        ("a.gpkg", {"crs": UTM, "pixel_coords": True}, "mutually exclusive"),
        ("a.gpkg", {"classes": ("rde",)}, "did you mean 'red'"),
        ("a.gpkg", {"classes": ()}, "names no class"),
        ("a.gpkg", {"aoi_cut": True}, "requires --aoi"),
        ("a.gmt", {}, ".geojsonl"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_runs(
    name: str, options: dict[str, Any], said: str, scene: Path, tmp_path: Path
) -> None:
    model = blob_model()
    with pytest.raises(UsageError) as caught:
        predict_scene(scene, tmp_path / name, model=model, native=True, **options)
    assert said in str(caught.value)
    assert isinstance(model.model, BlobModel)
    assert model.model.seen == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_geojson_may_be_asked_for_in_what_it_is_in(scene: Path, tmp_path: Path) -> None:
    predict(scene, tmp_path / "a.geojson", crs="EPSG:4326")
    assert problems((tmp_path / "a.geojson").read_text()) == []


def found_in(path: Path) -> list[tuple[str, int]]:
    """(class, square pixels) of each object of a COCO file."""
    document = json.loads(path.read_text())
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    return [(names[one["category_id"]], round(one["area"])) for one in document["annotations"]]


def write_area(path: Path, x0: float, y0: float, x1: float, y1: float) -> Path:
    """A rectangle in pixels of the scene as a file in its own CRS."""
    from rsprompter_cli.geo.vector.write import Feature, write_features
    from tests.make.scenes import ORIGIN

    box = shapely.box(ORIGIN[0] + x0 / 2, ORIGIN[1] - y1 / 2, ORIGIN[0] + x1 / 2, ORIGIN[1] - y0 / 2)
    write_features(path, [Feature(box, {})], CRS(UTM).to_wkt(), attributes={})
    return path


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".json", ".png"])
def test_classes_and_area_hold_for_every_family(suffix: str, scene: Path, tmp_path: Path) -> None:
    aoi = write_area(tmp_path / "aoi.gpkg", 30, 0, 120, 70)
    out = tmp_path / f"a{suffix}"
    assert predict(scene, out, classes=("red",)).objects == 2
    assert predict(scene, out, classes=("red", "blue"), aoi=str(aoi), overwrite=True).objects == 3
    assert predict(scene, out, classes=("blue",), aoi=str(aoi), overwrite=True).objects == 1


def test_objects_on_the_border_stay_whole_or_end_there(scene: Path, tmp_path: Path) -> None:
    aoi = str(write_area(tmp_path / "aoi.gpkg", 30, 0, 120, 70))
    predict(scene, tmp_path / "whole.json", aoi=aoi)
    assert found_in(tmp_path / "whole.json") == [("red", 40 * 28), ("blue", 50 * 20), ("red", 48 * 52 - 100)]
    predict(scene, tmp_path / "cut.json", aoi=aoi, aoi_cut=True)
    assert found_in(tmp_path / "cut.json") == [("red", 20 * 28), ("blue", 50 * 20), ("red", 48 * 10)]
    predict(scene, tmp_path / "large.json", aoi=aoi, aoi_cut=True, min_area=130)
    assert found_in(tmp_path / "large.json") == [("red", 20 * 28), ("blue", 50 * 20)]


def test_windows_away_from_the_area_are_not_read(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(640, 640, {"red": [(300, 300, 340, 340), (20, 20, 60, 60)]}))
    aoi = str(write_area(tmp_path / "aoi.gpkg", 310, 310, 330, 330))
    model = blob_model()
    result = predict_scene(scene, tmp_path / "a.geojson", model=model, native=True, aoi=aoi)
    assert isinstance(model.model, BlobModel)
    assert result.objects == 1
    assert model.model.seen == result.plan.windows_in_area < result.plan.windows / 10
    plan = predict_scene(scene, None, model=model, native=True, aoi=aoi, aoi_cut=True).plan
    assert (plan.windows_in_area or 0) <= 4
    assert "in the area" in plan.summary()


def test_the_area_is_an_input_that_is_not_replaced(scene: Path, tmp_path: Path) -> None:
    aoi = write_area(tmp_path / "aoi.gpkg", 30, 0, 120, 70)
    with pytest.raises(OutputError, match="input"):
        predict(scene, aoi, aoi=str(aoi), overwrite=True)


def test_a_stopped_run_goes_on_in_its_own_area_alone(tmp_path: Path) -> None:
    objects = {"red": [(30 + 90 * i, 30 + 90 * j, 60 + 90 * i, 70 + 90 * j) for i in range(5) for j in range(5)]}
    scene = write_scene(tmp_path / "a.tif", paint(500, 500, objects))
    here, there = (str(write_area(tmp_path / f"{x}.gpkg", x, 20, x + 200, 480)) for x in (20, 240))
    predict(scene, tmp_path / "whole.geojson", aoi=here)

    def stop(done: int, _total: int) -> None:
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(scene, tmp_path / "a.geojson", aoi=here, progress=stop)
    with pytest.raises(OutputError):
        predict(scene, tmp_path / "a.geojson", aoi=there)
    stats = RunStats()
    predict(scene, tmp_path / "a.geojson", aoi=here, stats=stats)
    assert stats.known > 0
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "whole.geojson").read_bytes()
