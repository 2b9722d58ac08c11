"""The scene pipeline with a model whose detections are known exactly."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import Transformer
from shapely.geometry import shape

from rsprompter_cli.data.convert.coco2vector import convert_coco
from rsprompter_cli.errors import InputError, OutputError, RspError, UsageError
from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.predict.scene import predict_scene
from tests.make.rfc7946 import problems
from tests.make.scenes import ORIGIN, UTM, paint, write_scene
from tests.make.stub_model import BlobModel, blob_model, stub_config


def _features(path: Path) -> list[dict[str, Any]]:
    assert problems(path.read_text()) == []
    return list(json.loads(path.read_text())["features"])


def _in_utm(feature: dict[str, Any]) -> Any:
    from shapely import transform

    mover = Transformer.from_crs("EPSG:4326", UTM, always_xy=True)
    return transform(shape(feature["geometry"]), lambda xy: np.column_stack(mover.transform(xy[:, 0], xy[:, 1])))


def test_one_object_over_four_windows_is_one_feature_of_the_right_area(tmp_path: Path) -> None:
    # 64 px windows with a quarter of overlap: this rectangle crosses the corner where four of them meet.
    scene = write_scene(tmp_path / "a.tif", paint(120, 120, {"red": [(30, 35, 90, 80)]}))
    result = predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True)
    assert result.plan.windows >= 4
    (feature,) = _features(tmp_path / "a.geojson")
    polygon = _in_utm(feature)
    assert feature["properties"]["area_m2"] == pytest.approx(60 * 45 * 0.25, rel=2e-3)  # UTM scale is 0.9996 here
    # Seven decimals of a degree are 1 cm: half of that along 105 m of outline.
    assert polygon.area == pytest.approx(60 * 45 * 0.25, abs=0.5)
    x0, y0, x1, y1 = polygon.bounds
    assert (x0 - ORIGIN[0], ORIGIN[1] - y1) == pytest.approx((15, 17.5), abs=0.02)
    assert (x1 - ORIGIN[0], ORIGIN[1] - y0) == pytest.approx((45, 40), abs=0.02)
    assert feature["properties"]["class"] == "red"
    assert feature["properties"]["score"] == 0.9


def test_touching_classes_and_neighbours_stay_apart(tmp_path: Path) -> None:
    objects = {"red": [(10, 10, 60, 60), (62, 10, 100, 60)], "blue": [(10, 60, 100, 110)]}
    scene = write_scene(tmp_path / "a.tif", paint(130, 130, objects))
    predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True)
    features = _features(tmp_path / "a.geojson")
    areas = sorted((f["properties"]["class"], round(_in_utm(f).area)) for f in features)
    assert areas == [("blue", round(90 * 50 / 4)), ("red", round(38 * 50 / 4)), ("red", round(50 * 50 / 4))]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_same_bytes_for_any_batch(tmp_path: Path, batch: int) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(200, 170, {"red": [(5, 5, 150, 20), (40, 60, 95, 190)]}))
    predict_scene(scene, tmp_path / "one.geojson", model=blob_model(), native=True, batch=1)
    predict_scene(scene, tmp_path / "more.geojson", model=blob_model(), native=True, batch=batch)
    assert (tmp_path / "one.geojson").read_bytes() == (tmp_path / "more.geojson").read_bytes()


def test_nothing_found_is_a_valid_empty_collection(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(50, 50, {}))
    predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True)
    assert _features(tmp_path / "a.geojson") == []


def test_a_scene_smaller_than_a_window_is_padded_not_enlarged(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(20, 30, {"red": [(3, 4, 13, 14)]}))
    model = blob_model(keep=True)
    predict_scene(scene, tmp_path / "a.geojson", model=model, native=True)
    assert isinstance(model.model, BlobModel)
    assert [tuple(image.shape) for image in model.model.images] == [(3, 64, 64)]
    (feature,) = _features(tmp_path / "a.geojson")
    assert _in_utm(feature).area == pytest.approx(25, rel=1e-3)


def test_windows_without_data_never_reach_the_model_and_nothing_lies_in_nodata(tmp_path: Path) -> None:
    pixels = paint(200, 200, {"red": [(60, 20, 100, 40)]})
    pixels[:, :, 80:] = 0  # the right part of the object and all beyond is nodata,
    pixels[:, -1, -1] = 90  # but for the last pixel, so that it is no collar
    scene = write_scene(tmp_path / "a.tif", pixels, nodata=0)
    model = blob_model()
    result = predict_scene(scene, tmp_path / "a.geojson", model=model, native=True)
    assert isinstance(model.model, BlobModel)
    assert 0 < model.model.seen < result.plan.windows
    (feature,) = _features(tmp_path / "a.geojson")
    assert max(x for x, _ in _in_utm(feature).exterior.coords) - ORIGIN[0] <= 80 * 0.5 + 0.02


def test_all_nodata_is_an_empty_collection(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", np.zeros((3, 100, 100), np.uint8), nodata=0)
    model = blob_model()
    predict_scene(scene, tmp_path / "a.geojson", model=model, native=True)
    assert isinstance(model.model, BlobModel)
    assert model.model.seen == 0
    assert _features(tmp_path / "a.geojson") == []


@pytest.mark.parametrize(
    "transform",
    [
        Affine.translation(*ORIGIN) * Affine.rotation(30) * Affine.scale(0.5, -0.5),
        Affine.translation(*ORIGIN) * Affine.shear(10, 5) * Affine.scale(0.5, -0.5),
        Affine(0.5, 0, ORIGIN[0], 0, 0.5, ORIGIN[1]),  # south-up
    ],
    ids=["rotated", "sheared", "south-up"],
)
def test_polygons_follow_the_affine(tmp_path: Path, transform: Affine) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(90, 90, {"red": [(20, 30, 60, 50)]}), transform=transform)
    predict_scene(scene, tmp_path / "a.geojson", model=blob_model(image_size=96), native=True)
    (feature,) = _features(tmp_path / "a.geojson")
    from shapely import Polygon

    corners = [transform @ corner for corner in [(20, 30), (60, 30), (60, 50), (20, 50)]]
    overlap = _in_utm(feature).intersection(Polygon(corners)).area
    assert overlap == pytest.approx(Polygon(corners).area, rel=0.02)
    assert _in_utm(feature).area == pytest.approx(Polygon(corners).area, rel=0.02)


def test_the_scene_is_read_at_the_resolution_the_model_knows(tmp_path: Path) -> None:
    # 0.25 m/px; the model knows 0.5: a 40 px object is 20 px on the working grid, its area is the same.
    scene = write_scene(tmp_path / "a.tif", paint(160, 160, {"red": [(40, 40, 80, 80)]}), gsd=0.25)
    model = blob_model(gsd_range=(0.5, 0.6))
    result = predict_scene(scene, tmp_path / "a.geojson", model=model)
    assert result.plan.windows == 4
    (feature,) = _features(tmp_path / "a.geojson")
    assert feature["properties"]["area_m2"] == pytest.approx(100, rel=0.02)


def test_no_georeference_is_refused_by_name_unless_pixels_are_asked_for(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(50, 60, {"red": [(10, 12, 30, 40)]}), crs=None)
    with pytest.raises(InputError, match="is not georeferenced") as caught:
        predict_scene(scene, tmp_path / "a.geojson", model=blob_model())
    assert "--pixel-coords" in caught.value.hint
    assert not (tmp_path / "a.geojson").exists()
    predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), pixel_coords=True)
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert shape(feature["geometry"]).bounds == (10, 12, 30, 40)
    assert feature["properties"]["area_m2"] is None


def test_coco_output_in_pixels_of_the_file(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(50, 60, {"blue": [(10, 12, 30, 40)]}), crs=None)
    predict_scene(scene, tmp_path / "a.json", model=blob_model())
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["images"] == [{"id": 1, "file_name": "a.tif", "width": 60, "height": 50}]
    (annotation,) = document["annotations"]
    assert annotation["bbox"] == [10, 12, 20, 28]
    assert annotation["category_id"] == 7
    assert annotation["area"] == 20 * 28
    assert {c["id"]: c["name"] for c in document["categories"]} == {1: "red", 7: "blue"}


PLACES = {
    "north up, read at another resolution": (UTM, Affine(0.25, 0, ORIGIN[0], 0, -0.25, ORIGIN[1]), (0.5, 0.6)),
    "rotated": (UTM, Affine.translation(*ORIGIN) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5), None),
    "south up, degrees": ("EPSG:4326", Affine(6e-6, 0, 15, 0, 4.5e-6, 45), None),
}


@pytest.mark.parametrize("place", PLACES)
def test_coco_output_finds_back_to_the_map(tmp_path: Path, place: str) -> None:
    crs, transform, trained = PLACES[place]
    pixels = paint(160, 200, {"red": [(20, 30, 90, 70)], "blue": [(100, 80, 190, 150)]})
    pixels[:, 100:120, 120:140] = 90  # a hole becomes RLE, the other stays a polygon
    scene = write_scene(tmp_path / "a.tif", pixels, crs=crs, transform=transform)
    options: dict[str, Any] = {"model": blob_model(gsd_range=trained), "native": trained is None}
    predict_scene(scene, tmp_path / "a.json", **options)
    predict_scene(scene, tmp_path / "direct.gpkg", **options)
    report = convert_coco(tmp_path / "a.json", tmp_path / "back.gpkg")
    direct = read_footprints(tmp_path / "direct.gpkg", to_crs_wkt=UTM, class_attribute="class")
    back = read_footprints(tmp_path / "back.gpkg", to_crs_wkt=UTM, class_attribute="class")
    assert (report.features, back.classes) == (2, direct.classes)
    for one, other in zip(back.polygons, direct.polygons, strict=True):
        assert one.intersection(other).area / one.union(other).area > 0.99
    (image,) = json.loads((tmp_path / "a.json").read_text())["images"]
    assert image["gsd"] == pytest.approx(0.25 if trained else 0.5, rel=0.06)


def test_a_hole_becomes_rle_in_coco_output(tmp_path: Path) -> None:
    pixels = paint(50, 60, {"red": [(10, 12, 40, 40)]})
    pixels[:, 20:30, 20:30] = 90
    scene = write_scene(tmp_path / "a.tif", pixels, crs=None)
    predict_scene(scene, tmp_path / "a.json", model=blob_model())
    from pycocotools import mask as coco_mask

    (annotation,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    rle = annotation["segmentation"]
    decoded = coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()})
    assert np.array_equal(decoded.astype(bool), pixels[0] == 220)


def test_overlay_output(tmp_path: Path) -> None:
    from PIL import Image

    pixels = paint(50, 60, {"red": [(10, 12, 40, 40)]})
    scene = write_scene(tmp_path / "a.tif", pixels, crs=None)
    predict_scene(scene, tmp_path / "a.png", model=blob_model())
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(60 / 50, rel=0.05)
    ground = drawn[: drawn.shape[0] // 8, : drawn.shape[1] // 8]
    assert np.abs(ground.astype(int) - 90).max() <= 2
    assert np.abs(drawn.astype(int) - 90).max() > 60


def test_output_rules(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(20, 20, {}))
    existing = tmp_path / "old.geojson"
    existing.write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        predict_scene(scene, existing, model=blob_model(), native=True)
    assert existing.read_text() == "precious"
    predict_scene(scene, existing, model=blob_model(), native=True, overwrite=True)
    assert json.loads(existing.read_text())["type"] == "FeatureCollection"
    with pytest.raises(UsageError, match="extension"):
        predict_scene(scene, tmp_path / "a.docx", model=blob_model())
    picture = tmp_path / "same.png"
    with rasterio.open(picture, "w", driver="PNG", height=20, width=20, count=3, dtype="uint8") as file:
        file.write(paint(20, 20, {}))
    with pytest.raises(OutputError, match="input"):
        predict_scene(picture, picture, model=blob_model(), overwrite=True)


def test_a_shapefile_companion_is_not_replaced_unasked(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(20, 20, {}))
    (tmp_path / "town.dbf").write_text("precious")
    with pytest.raises(OutputError, match=r"town\.dbf already exists"):
        predict_scene(scene, tmp_path / "town.shp", model=blob_model(), native=True)
    assert (tmp_path / "town.dbf").read_text() == "precious"


def test_too_many_windows_are_refused_with_the_number(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(200, 200, {}))
    with pytest.raises(InputError, match="16 windows"):
        predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True, max_windows=3)


def test_a_failing_read_leaves_no_output(tmp_path: Path) -> None:
    scene = write_scene(
        tmp_path / "a.tif", paint(400, 400, {"red": [(5, 5, 350, 350)]}), compress="deflate", tiled=True
    )
    content = scene.read_bytes()
    scene.write_bytes(content[: len(content) // 2] + b"\0" * 8)
    with pytest.raises(RspError):
        predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_min_area_and_score(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(60, 60, {"red": [(2, 2, 6, 6), (20, 20, 50, 50)]}))
    predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True, min_area=10)
    assert len(_features(tmp_path / "a.geojson")) == 1
    predict_scene(scene, tmp_path / "b.geojson", model=blob_model(), native=True, score=0.95)
    assert _features(tmp_path / "b.geojson") == []


def test_ids_and_count_are_those_of_what_the_file_holds(tmp_path: Path) -> None:
    # Half a millimetre per pixel: 7 decimals of a degree have no room for the first object.
    pixels = paint(60, 60, {"red": [(2, 2, 5, 5), (20, 20, 58, 58)]})
    scene = write_scene(tmp_path / "a.tif", pixels, gsd=0.0005)
    result = predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True)
    assert [feature["properties"]["id"] for feature in _features(tmp_path / "a.geojson")] == [1]
    assert result.objects == 1
    table = predict_scene(scene, tmp_path / "a.gpkg", model=blob_model(), native=True)
    assert table.objects == 2


def test_an_object_of_unknown_area_is_written_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "rsprompter_cli.predict.output.postprocess.measures_m",
        lambda polygons, _: [(math.nan, math.nan)] * len(polygons),
    )
    # The command line turns propagation off, which caplog needs.
    logging.getLogger("rsprompter_cli").propagate = True
    scene = write_scene(tmp_path / "a.tif", paint(60, 60, {"red": [(2, 2, 6, 6), (20, 20, 50, 50)]}))
    predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True, min_area=10)
    assert [feature["properties"]["area_m2"] for feature in _features(tmp_path / "a.geojson")] == [None, None]
    assert any("the area of 2 objects cannot be measured" in message for message in caplog.messages)


def test_a_dry_run_keeps_the_rules_of_outputs_and_loads_no_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_checkpoint(folder, {}, stub_config(), blob_model().meta)
    scene = write_scene(tmp_path / "a.tif", paint(50, 60, {}), crs=None)
    (tmp_path / "old.json").write_text("precious")
    with pytest.raises(InputError, match="is not georeferenced"):
        predict_scene(scene, tmp_path / "a.geojson", model=folder, dry_run=True)
    with pytest.raises(OutputError, match="already exists"):
        predict_scene(scene, tmp_path / "old.json", model=folder, dry_run=True)
    with pytest.raises(UsageError, match="extension"):
        predict_scene(scene, tmp_path / "a.docx", model=folder, dry_run=True)
    result = predict_scene(scene, tmp_path / "a.json", model=folder, dry_run=True)
    assert (result.out, result.plan.windows) == (None, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "model", "old.json"]


def test_dry_run_reads_nothing_and_writes_nothing(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(200, 200, {}))
    model = blob_model()
    result = predict_scene(scene, None, model=model, native=True)
    assert isinstance(model.model, BlobModel)
    assert model.model.seen == 0
    assert result.out is None
    assert result.plan.windows == 16
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_crs_without_room_for_the_scene_is_refused_before_the_model_runs(tmp_path: Path) -> None:
    scene, model = write_scene(tmp_path / "a.tif", paint(100, 100, {})), blob_model()
    with pytest.raises(UsageError, match=r"^--crs \+proj=ortho.*: cannot represent"):
        predict_scene(scene, tmp_path / "a.gpkg", model=model, native=True, crs="+proj=ortho +lat_0=-40 +lon_0=-150")
    assert isinstance(model.model, BlobModel)
    assert model.model.seen == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_an_overlay_is_as_detailed_as_the_file(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(120, 160, {"red": [(20, 20, 100, 80)]}))
    predict_scene(scene, tmp_path / "a.png", model=blob_model(), gsd=1.0)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (160, 120)


def test_nothing_above_the_threshold_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(120, 120, {"red": [(30, 35, 90, 80)]}))
    assert predict_scene(scene, tmp_path / "a.geojson", model=blob_model(), native=True, score=0.99).objects == 0
    assert f"{scene}: no object has a score of 0.99 or more; --score sets a lower threshold" in caplog.messages
    caplog.clear()
    options = {"model": blob_model(), "native": True, "min_area": 1e6}
    assert predict_scene(scene, tmp_path / "b.geojson", **options).objects == 0
    assert "no object has a score" not in caplog.text
