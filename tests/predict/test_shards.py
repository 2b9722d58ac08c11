"""Parts of a scene, predicted one by one, become to the byte what one run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsprompter_cli.predict.merge_parts import merge_parts
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.shards import Shard, predict_shard
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import blob_model


def town(folder: Path, side: int = 300, **profile: Any) -> Path:
    rng = np.random.default_rng(5)
    corners, sizes = rng.integers(0, side - 40, (40, 2)), rng.integers(5, 40, (40, 2))
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    return write_scene(folder / "town.tif", paint(side, side, {"red": boxes[::2], "blue": boxes[1::2]}), **profile)


def write_parts(scene: Path, folder: Path, count: int, **options: Any) -> list[Path]:
    """The parts of all shards, the last one first."""
    paths = []
    for number in range(count, 0, -1):
        paths.append(folder / f"{number}.part")
        predict_shard(scene, paths[-1], Shard(number, count), model=blob_model(), native=True, **options)
    return paths


@pytest.mark.parametrize("name", ["a.geojson", "a.fgb", "a.json", "a.gpkg"])
@pytest.mark.parametrize(("count", "batch"), [(1, 1), (4, 1), (7, 5), (50, 1)])
def test_shards_of_any_number_give_the_same_bytes(tmp_path: Path, name: str, count: int, batch: int) -> None:
    scene = town(tmp_path)
    whole, merged = tmp_path / "whole" / name, tmp_path / "merged" / name
    predict_scene(scene, whole, model=blob_model(), native=True)
    parts = write_parts(scene, tmp_path / "parts", count, batch=batch)
    scene.unlink()  # parts know all that merging needs
    result = merge_parts(parts, merged)
    assert result.objects > 10
    assert merged.read_bytes() == whole.read_bytes()
