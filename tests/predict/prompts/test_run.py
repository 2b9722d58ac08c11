"""From a file of prompts to a file of polygons: places, attributes, formats, what is left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from rsprompter_cli.errors import InputError, OutputError, UsageError
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.io.model_files.sam_folder import write_sam_folder
from rsprompter_cli.predict.prompts import run
from rsprompter_cli.predict.prompts.run import PromptPrediction, predict_prompts
from rsprompter_cli.predict.prompts.windows import Miss
from tests.make.asked import SightedSam
from tests.make.rfc7946 import problems
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.scenes import ORIGIN, UTM, paint, write_scene

RED = [(30, 40, 60, 55), (150, 20, 190, 70), (5, 5, 13, 13)]
GSD = 0.5


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene of three rectangles, a SAM folder, and instead of its SAM one that sees exactly."""
    source: dict[str, str | None] = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}
    write_sam_folder(tmp_path / "sam", small_sam_tensors(), SMALL_SAM, source)
    monkeypatch.setattr(run, "load_prompted", lambda folder, device: SightedSam())
    monkeypatch.chdir(tmp_path)
    return write_scene(Path("scene.tif"), paint(100, 200, {"red": RED}))


def _on_map(geometry: Any, crs: str = "EPSG:4326") -> Any:
    """A geometry in pixels of the scene, in a CRS."""
    move = Transformer.from_crs(UTM, crs, always_xy=True)

    def place(xy: np.ndarray) -> np.ndarray:
        return np.column_stack(move.transform(ORIGIN[0] + GSD * xy[:, 0], ORIGIN[1] - GSD * xy[:, 1]))

    return shapely.transform(geometry, place)


def _write(
    path: Path, geometries: Sequence[Any], attributes: Mapping[str, Sequence[Any]] | None = None, crs: str = "EPSG:4326"
) -> Path:
    """A GeoJSON of geometries in pixels of the scene, None for a feature without one."""
    columns = attributes or {}
    features = [
        {
            "type": "Feature",
            "properties": {name: values[row] for name, values in columns.items()},
            "geometry": None if one is None else shapely.geometry.mapping(_on_map(one, crs)),
        }
        for row, one in enumerate(geometries)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def _run(scene: Path, prompts: Path, out: str = "out.geojson", **options: Any) -> PromptPrediction:
    return predict_prompts(scene, prompts, out, sam="sam", device="cpu", **{"native": True, **options})


def _features(out: str = "out.geojson") -> list[dict[str, Any]]:
    text = Path(out).read_text(encoding="utf-8")
    assert problems(text) == []
    features: list[dict[str, Any]] = json.loads(text)["features"]
    return features


def _boxes() -> list[Any]:
    return [shapely.box(*box) for box in RED]


def test_one_polygon_for_each_box_in_the_order_of_the_file_with_its_attributes(scene: Path) -> None:
    attributes = {
        "name": ["Ä", None, "c"],
        "storeys": [1, None, 3],
        "height": [2.5, 3.0, None],
        "flat": [True, False, None],
        "built": ["2020-01-02", "2021-03-04", None],
        "tags": [["a", 1], None, None],
    }
    prompts = _write(Path("boxes.geojson"), _boxes(), attributes)
    result = _run(scene, prompts)
    assert (result.prompts, result.objects, result.misses) == (3, 3, {})
    features = _features()
    for row, (feature, box) in enumerate(zip(features, _boxes(), strict=True)):
        values = feature["properties"]
        assert list(values) == ["id", *attributes, "score", "area_m2"]
        assert values["id"] == row + 1
        assert values["score"] == 0.9
        assert values["area_m2"] == pytest.approx(box.area * GSD**2, rel=0.02)
        for name in ("name", "storeys", "height", "flat"):
            assert values[name] == attributes[name][row]
        assert feature["geometry"]["type"] == "Polygon"
        found, truth = shapely.geometry.shape(feature["geometry"]), _on_map(box)
        assert shapely.intersection(found, truth).area > 0.95 * shapely.union(found, truth).area
    assert features[0]["properties"]["built"].startswith("2020-01-02")
    assert isinstance(features[1]["properties"]["storeys"], type(None))


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet", ".shp"])
def test_formats(scene: Path, suffix: str) -> None:
    prompts = _write(Path("boxes.geojson"), _boxes(), {"name": ["a", "b", None], "storeys": [1, 2, None]})
    _run(scene, prompts, f"out{suffix}")
    layer = open_layer(f"out{suffix}")
    assert CRS.from_user_input(layer.crs_wkt).to_epsg() == 32633
    assert list(layer.attributes) == ["id", "name", "storeys", "score", "area_m2"]
    rows = sorted(row for batch in layer.batches() for row in zip(*batch.columns.values(), strict=True))
    assert [row[:3] for row in rows] == [(1, "a", 1), (2, "b", 2), (3, None, None)]


def test_a_shapefile_says_that_it_cuts_names(
    scene: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    prompts = _write(Path("boxes.geojson"), _boxes(), {"building:levels": [1, 2, 3], "building:height": [4, 5, 6]})
    _run(scene, prompts, "out.shp")
    assert pyogrio.read_info("out.shp")["fields"].tolist() == ["id", "building_l", "building_h", "score", "area_m2"]
    assert "truncates attribute names to 10 bytes: building:levels, building:height" in caplog.text
    assert [str(one.message) for one in recwarn] == []


def test_prompts_in_any_crs_and_format(scene: Path) -> None:
    import geopandas as gpd

    wanted = [shapely.Point(45, 50), shapely.box(*RED[1])]
    for crs in ("EPSG:3857", "EPSG:32632", "EPSG:3035"):
        for suffix in ("gpkg", "parquet"):
            frame = gpd.GeoDataFrame({"n": [7, 8]}, geometry=[_on_map(one, crs) for one in wanted], crs=crs)
            path = Path(f"p.{suffix}")
            frame.to_parquet(path) if suffix == "parquet" else frame.to_file(path)
            _run(scene, path, overwrite=True)
            found = [shapely.geometry.shape(feature["geometry"]) for feature in _features()]
            assert [feature["properties"]["n"] for feature in _features()] == [7, 8]
            for one, box in zip(found, RED, strict=False):
                assert one.centroid.distance(_on_map(shapely.box(*box)).centroid) < 1e-5


def test_what_has_no_polygon_is_counted_and_named(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    geometries = [
        shapely.box(*RED[0]),
        None,
        shapely.LineString([(1, 1), (30, 30)]),
        shapely.box(500, 10, 520, 20),
        shapely.Polygon(),
        shapely.box(70, 80, 90, 95),
        shapely.Point(1e7, 4e7),
    ]
    prompts = _write(Path("mixed.geojson"), geometries, {"id": ["a", "b", "c", "d", "e", "f", "g"]})
    with caplog.at_level(logging.WARNING):
        result = _run(scene, prompts)
    assert result.objects == 1
    assert result.misses == {Miss.UNUSABLE: ["b", "c", "e"], Miss.OUTSIDE: ["d", "g"], Miss.EMPTY: ["f"]}
    facts = result.as_dict()["without_polygon"]
    assert facts == {
        "unusable": ["b", "c", "e"],
        "too_many_points": [],
        "outside": ["d", "g"],
        "nodata": [],
        "empty": ["f"],
        "low_score": [],
        "too_small": [],
    }
    assert [feature["properties"]["id"] for feature in _features()] == ["a"]
    said = "\n".join(caplog.messages)
    assert "mixed.geojson: no polygon for 2 of 7 prompts, outside the scene: d, g" in said
    assert "3 of 7 prompts, neither a point nor a box" in said
    assert "1 of 7 prompts, empty mask: f" in said


def test_features_without_an_id_of_their_own_are_named_by_their_place(scene: Path) -> None:
    far = shapely.box(500, 10, 520, 20)
    for values in ([5, 5, 6], [None, 3, 4]):
        prompts = _write(Path("p.geojson"), [far, *_boxes()[:2]], {"id": values})
        assert _run(scene, prompts, overwrite=True).misses == {Miss.OUTSIDE: [1]}
    # One that is not complete cannot serve as the features' id, but is kept.
    assert next(f["properties"] for f in _features()) == {
        "id": 2, "prompt_id": 3, "score": 0.9, "area_m2": pytest.approx(112, abs=1)
    }  # fmt: skip


def test_none_on_the_scene_is_told_with_both_extents(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    swapped = [shapely.transform(_on_map(box), lambda xy: xy[:, ::-1]) for box in _boxes()]
    path = Path("swapped.geojson")
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(one)} for one in swapped]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(InputError, match=r"does not overlap .*: prompts longitude .*, scene longitude .*swapped"):
        _run(scene, path)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with caplog.at_level(logging.WARNING):
        assert _run(scene, path, overwrite=True).objects == 0
    assert "contains no features" in caplog.text


def test_names_that_the_output_uses_are_kept_beside(scene: Path) -> None:
    values = {"score": [0.1, 0.2, 0.3], "Area_M2": [1, 2, 3], "geom": ["x", "y", "z"], "fid": ["k", "l", "m"]}
    prompts = _write(Path("p.geojson"), _boxes(), values)
    _run(scene, prompts)
    names = ["id", "prompt_score", "prompt_Area_M2", "prompt_geom", "fid", "score", "area_m2"]
    assert list(_features()[0]["properties"]) == names
    assert _features()[1]["properties"]["prompt_score"] == 0.2
    _run(scene, prompts, "out.gpkg")
    fields = pyogrio.read_info("out.gpkg")["fields"].tolist()
    assert fields == ["id", "prompt_score", "prompt_Area_M2", "prompt_geom", "prompt_fid", "score", "area_m2"]
    # The output may be the next prompts.
    _run(scene, Path("out.geojson"), "again.geojson")
    again = _features("again.geojson")[1]["properties"]
    assert (again["prompt_score"], again["prompt_prompt_score"], again["score"]) == (0.2, 0.9, 0.9)


def test_thresholds_leave_out_and_name(scene: Path) -> None:
    prompts = _write(Path("p.geojson"), [*_boxes(), shapely.Point(100, 10)])
    assert _run(scene, prompts, score=0.5).misses == {Miss.LOW_SCORE: [4]}
    result = _run(scene, prompts, min_area=20, score=0.5, overwrite=True)
    assert result.misses == {Miss.LOW_SCORE: [4], Miss.TOO_SMALL: [3]}
    assert [feature["properties"]["id"] for feature in _features()] == [1, 2]


def test_coco_and_overlay(scene: Path) -> None:
    prompts = _write(Path("p.geojson"), _boxes(), {"name": ["a", "b", "c"], "n": [1.5, None, 2]})
    _run(scene, prompts, "out.json")
    annotations = json.loads(Path("out.json").read_text())["annotations"]
    assert [one["attributes"] for one in annotations] == [
        {"name": "a", "n": 1.5}, {"name": "b", "n": None}, {"name": "c", "n": 2.0}
    ]  # fmt: skip
    assert annotations[0]["bbox"] == pytest.approx([30, 40, 30, 15])
    _run(scene, prompts, "out.png")
    assert Path("out.png").stat().st_size > 0


def test_pictures_take_prompts_in_pixels(scene: Path) -> None:
    plain = write_scene(Path("plain.tif"), paint(100, 200, {"red": RED}), crs=None)
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(box)} for box in _boxes()]
    path = Path("pixels.geojson")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    for out in ("out.geojson", "out.json", "out.png"):
        with pytest.raises(InputError, match="--pixel-coords"):
            _run(plain, path, out)
    _run(plain, path, pixel_coords=True)
    for feature, box in zip(json.loads(Path("out.geojson").read_text())["features"], RED, strict=True):
        assert shapely.geometry.shape(feature["geometry"]).bounds == pytest.approx(box)
        assert feature["properties"]["area_m2"] is None
    # On a placed scene that is read coarser they stay pixels of the file.
    _run(scene, path, pixel_coords=True, native=False, gsd=1.0, overwrite=True)
    for feature, box in zip(json.loads(Path("out.geojson").read_text())["features"], RED, strict=True):
        assert shapely.geometry.shape(feature["geometry"]).bounds == pytest.approx(box, abs=2)
    # Without --pixel-coords these numbers would have to be degrees, and cannot be.
    features[0]["geometry"] = shapely.geometry.mapping(shapely.box(700, 800, 900, 1000))
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(InputError, match="--pixel-coords"):
        _run(scene, path, overwrite=True)


def test_a_scene_over_the_antimeridian(scene: Path) -> None:
    west = write_scene(
        Path("dateline.tif"),
        paint(100, 200, {"red": RED}),
        crs="EPSG:4326",
        transform=Affine(1e-5, 0, 179.999, 0, -1e-5, 10.0),
    )
    # 150 px are at 180.0005, which a file may call -179.9995; and it may cut a box there.
    box = shapely.box(179.999 + 150e-5 - 360, 10 - 70e-5, 179.999 + 190e-5 - 360, 10 - 20e-5)
    cut = shapely.MultiPolygon([shapely.box(179.999, 9.999, 180, 10), shapely.box(-180, 9.999, -179.999, 10)])
    path = Path("p.geojson")
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(one)} for one in (box, cut)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert _run(west, path).objects == 2
    found = [shapely.geometry.shape(feature["geometry"]) for feature in _features()]
    for one in found:
        # Of three rectangles the one beyond the antimeridian is the largest.
        assert one.bounds == pytest.approx(box.bounds, abs=6e-5)


def test_the_whole_earth_is_the_whole_scene(scene: Path) -> None:
    east = write_scene(
        Path("east.tif"), paint(100, 200, {"red": RED}), crs="EPSG:4326", transform=Affine(1e-5, 0, 30, 0, -1e-5, 10.0)
    )
    earth = shapely.geometry.mapping(shapely.box(-180, -90, 180, 90))
    features = [{"type": "Feature", "properties": {}, "geometry": earth}]
    Path("p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert _run(east, Path("p.geojson")).objects == 1


def test_a_rotated_scene_takes_the_bounds_in_its_pixels(scene: Path) -> None:
    turn = Affine.translation(*ORIGIN) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    turned = write_scene(Path("turned.tif"), paint(100, 200, {"red": RED}), transform=turn)
    place = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    boxes = [
        shapely.transform(box, lambda xy: np.column_stack(place.transform(*(turn @ (xy[:, 0], xy[:, 1])))))
        for box in _boxes()
    ]
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(box)} for box in boxes]
    Path("p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    _run(turned, Path("p.geojson"))
    for feature, truth in zip(_features(), boxes, strict=True):
        found = shapely.geometry.shape(feature["geometry"])
        assert shapely.intersection(found, truth).area > 0.95 * shapely.union(found, truth).area


def test_dry_run_says_what_would_be_asked(scene: Path) -> None:
    prompts = _write(Path("p.geojson"), [*_boxes(), shapely.box(500, 10, 520, 20)])
    before = sorted(Path().iterdir())
    result = _run(scene, prompts, dry_run=True)
    assert sorted(Path().iterdir()) == before
    assert (result.out, result.objects, result.windows) == (None, 3, 3)
    assert result.summary() == "3 of 4 prompts to segment in 3 windows of 64 px"


def test_refused_at_the_door(scene: Path) -> None:
    prompts = _write(Path("p.geojson"), _boxes())
    with pytest.raises(OutputError, match="is the input"):
        _run(scene, prompts, "p.geojson", overwrite=True)
    with pytest.raises(InputError, match="no such file"):
        _run(scene, Path("nowhere.geojson"))
    with pytest.raises(UsageError, match="unknown extension"):
        _run(scene, prompts, "out.docx")
    Path("out.geojson").write_text("")
    with pytest.raises(OutputError, match="already exists"):
        _run(scene, prompts)
