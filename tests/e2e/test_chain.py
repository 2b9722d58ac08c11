"""The real program in subprocesses: from footprints to a trained model to polygons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from rsprompter_cli.config import dump_config
from tests.make.tiny_models import tiny_config

pytestmark = pytest.mark.e2e

GSD = 0.3
SIDE = 384


def rsp(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rsprompter_cli", *(str(word) for word in arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of bright squares on dark ground, with their outlines in the scene's own metres."""
    folder = tmp_path_factory.mktemp("town")
    rng = np.random.default_rng(5)
    pixels = rng.integers(40, 70, (3, SIDE, SIDE), dtype=np.uint8)
    features = []
    for row in range(30, SIDE - 60, 64):
        for column in range(30, SIDE - 60, 64):
            size = int(rng.integers(24, 40))
            pixels[:, row : row + size, column : column + size] = rng.integers(180, 230, (3, 1, 1))
            left, top = 500_000 + column * GSD, 300_000 - row * GSD
            right, bottom = left + size * GSD, top - size * GSD
            ring = [[left, top], [left, bottom], [right, bottom], [right, top], [left, top]]
            features.append(
                {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
            )
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(folder / "scene.tif", "w", transform=from_origin(500_000, 300_000, GSD, GSD), **profile) as file:
        file.write(pixels)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    labels = {"type": "FeatureCollection", "crs": crs, "features": features}
    (folder / "labels.geojson").write_text(json.dumps(labels), encoding="utf-8")
    return folder


def test_from_footprints_to_polygons(town: Path) -> None:
    data, run, out = town / "set", town / "run", town / "found.geojson"
    rsp("convert", "vector2coco", town / "scene.tif", town / "labels.geojson", "--out", data, "--tile", "128")
    rsp("data", "check", data)

    config = town / "tiny.toml"
    config.write_text(dump_config(tiny_config(train={"epochs": 1}, image_size=128)), encoding="utf-8")
    trained = rsp("train", config, "--data", data, "--out", run, "--random-sam", "--json")
    facts = json.loads(trained.stdout)
    assert facts["finished"] is True
    assert (run / "last" / "model.safetensors").is_file()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line for line in log if not isinstance(line, dict)] == []

    figures = json.loads(rsp("eval", run / "last", "--data", data, "--split", "val", "--json").stdout)
    assert set(figures) >= {"segm", "bbox", "objects"}

    rsp("predict", town / "scene.tif", "--model", run / "last", "--score", "0", "--out", out)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection"
    assert "crs" not in found
    for feature in found["features"]:
        assert feature["properties"]["class"] == "building"
        assert 0 <= feature["properties"]["score"] <= 1
        assert feature["properties"]["area_m2"] > 0


def test_damaged_scene_leaves_no_output(town: Path) -> None:
    broken = town / "broken.tif"
    broken.write_bytes((town / "scene.tif").read_bytes()[:60])
    failed = rsp("info", broken, code=3)
    assert "broken.tif" in failed.stderr
    assert failed.stderr.count("\n") == 1
