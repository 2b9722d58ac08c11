"""Scenes of every place and layout: each output is what its standard says, valid, and holds what was drawn."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.geometry
import torch
from affine import Affine
from pyproj import Geod, Transformer
from scipy import ndimage
from torch import Tensor, nn

from rsprompter_cli.geo.vector.write import VECTOR_SUFFIXES, read_footprints
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.structures import Detections, Target
from tests.make.rfc7946 import problems, sequence_problems
from tests.make.scenes import ORIGIN, UTM, paint, write_scene
from tests.make.stub_model import blob_model, stub_config

HEIGHT, WIDTH = 170, 210
DRAWN = {
    "red": [(0, 0, 9, 7), (20, 30, 90, 70), (90, 30, 100, 160), (150, 0, 151, 60), (175, 100, WIDTH, HEIGHT)],
    "blue": [(20, 70, 80, 75), (105, 80, 165, 95), (30, 100, 70, 140)],
}
HOLE, EMPTY = np.s_[:, 40:55, 40:60], np.s_[:, 145:, :15]


def centred(crs: str, lon: float, lat: float, pixel: float, turned: Affine | None = None) -> tuple[str, Affine]:
    """A scene whose middle lies at a place; `turned`: of unit pixels, y down, before they are scaled."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    turned = turned or Affine.scale(1, -1)
    return crs, Affine.translation(x, y) @ Affine.scale(pixel) @ turned @ Affine.translation(-WIDTH / 2, -HEIGHT / 2)


PLACES = {
    "north up": (UTM, Affine(0.5, 0, ORIGIN[0], 0, -0.5, ORIGIN[1])),
    "south up": centred(UTM, 15.1, 45, 0.3, Affine.identity()),
    "west up": centred(UTM, 15.1, 45, 0.3, Affine.rotation(90)),
    "rotated": centred(UTM, 15.1, 45, 0.5, Affine.rotation(33) @ Affine.scale(1, -1)),
    "sheared": centred(UTM, 15.1, 45, 0.5, Affine.shear(12, 5) @ Affine.scale(1, -1)),
    "southern hemisphere": centred("EPSG:32733", 15.1, -33, 0.5),
    "degrees": centred("EPSG:4326", 15, 45, 4e-6),
    "degrees, south up": centred("EPSG:4326", 15, 45, 4e-6, Affine.identity()),
    "degrees, rotated": centred("EPSG:4326", 15, 2, 4e-6, Affine.rotation(20) @ Affine.scale(1, -1)),
    "Mercator": centred("EPSG:3857", 24, 60, 0.6),
    "feet": centred("EPSG:2263", -73.97, 40.75, 1.0),
    "antimeridian, degrees": ("EPSG:4326", Affine(5e-6, 0, 180 - 100 * 5e-6, 0, -5e-6, -16)),
    "antimeridian, UTM": centred("EPSG:32760", 180, -17, 0.5),
    "antimeridian, Mercator of the Pacific": centred("EPSG:3832", 180, -17, 0.5),
    "polar UTM": centred("EPSG:32633", 14, 83.9, 0.5),
    "polar stereographic": centred("EPSG:3413", 40, 81, 0.5),
    "the north pole": centred("EPSG:3413", 0, 90, 0.5),
    "the south pole": centred("EPSG:3031", 0, -90, 0.5),
    "antimeridian, polar": centred("EPSG:3413", 180, 80, 0.5),
}


def draw() -> np.ndarray:
    pixels = paint(HEIGHT, WIDTH, DRAWN)
    pixels[HOLE] = 90
    pixels[EMPTY] = 0
    return pixels


def areas(pixels: np.ndarray) -> Counter[str]:
    """Pixels of each class."""
    return Counter({"red": int((pixels[0] == 220).sum()), "blue": int((pixels[2] == 220).sum())})


def check(path: Path) -> list[dict[str, Any]]:
    """The attributes of every feature, after the file was found to be without fault."""
    text = path.read_text(encoding="utf-8") if "geojson" in path.suffix else ""
    if path.suffix == ".geojson":
        assert problems(text) == []
        for feature in json.loads(text)["features"]:
            area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shapely.geometry.shape(feature["geometry"]))
            assert area == pytest.approx(feature["properties"]["area_m2"], rel=0.02, abs=0.2)
    elif text:
        assert sequence_problems(text, marked=path.suffix == ".geojsonseq") == []
    footprints = read_footprints(path)
    assert (footprints.repaired, footprints.empty, footprints.not_polygons) == (0, 0, 0)
    assert all(shapely.is_valid(footprints.polygons))
    names = ["id", "class", "score", "area_m2", "n_windows"]
    found = read_footprints(path, columns=names)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(found.columns[name] for name in names), strict=True)]
    rows.sort(key=lambda row: row["id"])  # FlatGeobuf has an order of its own
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    return rows


@pytest.mark.parametrize("place", PLACES)
def test_every_format_of_a_place(tmp_path: Path, place: str) -> None:
    crs, transform = PLACES[place]
    pixels = draw()
    scene = write_scene(tmp_path / "scene.tif", pixels, crs=crs, transform=transform, nodata=0)
    first: list[dict[str, Any]] | None = None
    for suffix in VECTOR_SUFFIXES:
        predict_scene(scene, tmp_path / f"out{suffix}", model=blob_model(), native=True)
        rows = check(tmp_path / f"out{suffix}")
        first = first or rows
        assert rows == first
    assert first is not None
    drawn = areas(pixels)
    assert Counter(row["class"] for row in first) == {"red": 4, "blue": 3}
    # The scene is small: a pixel has the same ground everywhere.
    ground = {name: sum(row["area_m2"] for row in first if row["class"] == name) for name in drawn}
    assert ground["red"] / ground["blue"] == pytest.approx(drawn["red"] / drawn["blue"], rel=0.005)


class Bright(nn.Module):
    """What is brighter than most of a window: hundreds of ragged outlines with holes."""

    def __init__(self) -> None:
        super().__init__()
        self.padding = (0.0, 0.0, 0.0)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        return [self._one(image.numpy().mean(0)) for image in images]

    def _one(self, grey: np.ndarray) -> Detections:
        numbered, count = ndimage.label(ndimage.uniform_filter(grey, 3) > np.percentile(grey, 75))
        sizes = ndimage.sum_labels(np.ones_like(grey), numbered, range(1, count + 1))
        masks = [numbered == k + 1 for k in np.argsort(-np.atleast_1d(sizes))[:40] if sizes[k] >= 20]
        stack = np.stack(masks) if masks else np.zeros((0, *grey.shape), bool)
        boxes = torch.zeros((len(masks), 4))
        return Detections(
            boxes, torch.zeros(len(masks), dtype=torch.int64), torch.full((len(masks),), 0.9), torch.from_numpy(stack)
        )


SCENES = ("banepa_block", "banepa_core", "catanduanes", "kampala_a", "kampala_b", "zanzibar_a", "zanzibar_b")


@pytest.mark.parametrize("name", SCENES)
def test_ragged_outlines_of_photographs(shared: Path, tmp_path: Path, name: str) -> None:
    meta = CheckpointMeta(("bright",), (1,), 256, gsd_range=(0.4, 0.5))
    model = LoadedModel(Bright(), stub_config(), meta)
    scene = shared / "data" / "buildings" / f"{name}.tif"
    for suffix, options in ((".geojson", {}), (".gpkg", {"simplify": 0.5}), (".geojsonseq", {"regularize": True})):
        predict_scene(scene, tmp_path / f"out{suffix}", model=model, **options)
        assert len(check(tmp_path / f"out{suffix}")) > 10
