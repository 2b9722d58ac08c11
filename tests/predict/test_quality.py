"""Masks kept as patches, and the quality of masks on its way through joining into every kind of output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import torch
from pycocotools import mask as coco_mask
from shapely.geometry import shape
from torch import Tensor, nn

from rsprompter_cli.evaluate.coco import to_results
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.masks import paste
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.structures import Detections, MaskPatches, Target
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import BlobModel, blob_model


class PatchModel(nn.Module):
    """The blobs of the stub as patches of logits; the quality of a blob is its share of the window."""

    gives_quality = True

    def __init__(self) -> None:
        super().__init__()
        self.padding = (0.0, 0.0, 0.0)
        self.blobs = BlobModel()

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        return [self._patches(found) for found in self.blobs(images, targets)]

    def _patches(self, found: Detections) -> Detections:
        assert isinstance(found.masks, Tensor)
        rows, columns = found.masks.shape[1:]
        corners, values = [], []
        for mask, box in zip(found.masks, found.boxes.int().tolist(), strict=True):
            left, top = max(box[0] - 1, 0), max(box[1] - 1, 0)
            corners.append((left, top))
            values.append(torch.where(mask[top : box[3] + 1, left : box[2] + 1], 2.0, -2.0).half())
        quality = found.masks.float().mean(dim=(1, 2))
        masks = MaskPatches(tuple(values), tuple(corners), (int(rows), int(columns)))
        return Detections(found.boxes, found.labels, found.scores, masks, quality)


def _model() -> LoadedModel:
    stub = blob_model()
    return LoadedModel(PatchModel(), stub.config, stub.meta)


def _scene(tmp_path: Path) -> Path:
    pixels = paint(100, 100, {"red": [(40, 10, 70, 22)], "blue": [(5, 60, 13, 80)]})
    return write_scene(tmp_path / "scene.tif", pixels)


def test_quality_is_a_column_of_its_own(tmp_path: Path) -> None:
    scene = _scene(tmp_path)
    predict_scene(scene, tmp_path / "out.geojson", model=_model())
    features = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert [list(f["properties"]) for f in features] == [
        ["id", "class", "score", "quality", "area_m2", "perimeter_m", "n_windows"]
    ] * 2
    assert all(f["properties"]["score"] == 0.9 for f in features)
    red = next(f["properties"] for f in features if f["properties"]["class"] == "red")
    # Cut by windows of 64 px, of which the left one sees more; the better guess stays.
    assert 0.03 < red["quality"] < 30 * 12 / 64**2 + 1e-4
    predict_scene(scene, tmp_path / "out.gpkg", model=_model())
    assert "quality" in pyogrio.read_info(tmp_path / "out.gpkg")["fields"]
    predict_scene(scene, tmp_path / "out.json", model=_model())
    found = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert sorted(one["quality"] for one in found) == sorted(f["properties"]["quality"] for f in features)


def test_a_file_without_objects_has_the_column_and_other_models_have_none(tmp_path: Path) -> None:
    empty = write_scene(tmp_path / "empty.tif", paint(64, 64, {}))
    predict_scene(empty, tmp_path / "empty.gpkg", model=_model())
    assert "quality" in pyogrio.read_info(tmp_path / "empty.gpkg")["fields"]
    predict_scene(_scene(tmp_path), tmp_path / "plain.geojson", model=blob_model())
    features = json.loads((tmp_path / "plain.geojson").read_text())["features"]
    assert all("quality" not in f["properties"] for f in features)


def test_patches_give_the_polygons_of_their_masks(tmp_path: Path) -> None:
    scene = _scene(tmp_path)
    polygons: list[Any] = []
    for name, model in (("patches", _model()), ("whole", blob_model())):
        out = tmp_path / f"{name}.geojson"
        predict_scene(scene, out, model=model, pixel_coords=True)
        polygons.append([shape(f["geometry"]) for f in json.loads(out.read_text())["features"]])
    for sub_pixel, exact in zip(*polygons, strict=True):
        # The contour of a step lies half-way between pixel centres and cuts the four corners.
        assert sub_pixel.symmetric_difference(exact).area <= 1.0


def test_results_of_an_evaluation_keep_the_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.from_numpy(paint(40, 60, {"red": [(3, 4, 13, 12), (30, 20, 50, 35)], "blue": [(50, 0, 60, 10)]}))
    found = PatchModel()([image.float()])[0]
    assert isinstance(found.masks, MaskPatches)
    whole = to_results(1, found, {0: 10, 1: 20})
    monkeypatch.setattr("rsprompter_cli.evaluate.coco._PIXELS_AT_ONCE", 1)
    assert to_results(1, found, {0: 10, 1: 20}) == whole
    assert [one["quality"] for one in whole] == pytest.approx([80 / 2400, 300 / 2400, 100 / 2400])
    for result, mask in zip(whole, paste(found.masks), strict=True):
        assert np.array_equal(coco_mask.decode(result["segmentation"]), mask.numpy())
