"""The process that forks commands, and the files they work on: tiny models of random weights, small scenes and sets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely

from rsprompter_cli.config import dump_config
from rsprompter_cli.geo.vector import Feature, write_features
from rsprompter_cli.io.checkpoint import write_checkpoint
from rsprompter_cli.io.sam_folder import write_sam_folder
from tests.make.coco_sets import CLASSES, make_set
from tests.make.fits import make_start, make_town
from tests.make.foreign_sets import make_labelme, make_pairs, make_yolo, shape, square
from tests.make.labelled import make_labelled_scene
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model
from tests.make.whu import make_buildings, make_whu
from tests.terminal.harness import Server


@pytest.fixture(scope="session")
def rsp() -> Iterator[Server]:
    """Runs commands in a terminal."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything."""
    root = tmp_path_factory.mktemp("terminal")
    scene = paint(90, 110, {"red": [(10, 10, 50, 40), (60, 50, 90, 80)]})
    write_scene(root / "scene.tif", scene)
    (root / "scenes").mkdir()
    for name in "ab":
        write_scene(root / "scenes" / f"{name}.tif", scene[:, :60, :60])
    houses = [shapely.box(20, 20, 40, 50), shapely.box(100, 90, 130, 110)]
    make_labelled_scene(root, "asked", houses, label_suffix=".geojson", classes=["barn", "house"])
    found = [Feature(house, {"class": "barn", "score": 0.9}) for house in houses]
    write_features(root / "found.geojson", found, "EPSG:4326", attributes={"class": str, "score": float})
    model, meta = tiny_model(num_classes=2), tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint(root / "model", model.state_dict(), tiny_config(), meta)
    source: dict[str, str | None] = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}
    write_sam_folder(root / "sam", small_sam_tensors(), SMALL_SAM, source)
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        make_set(root / "data", split=split, count=count)
    (root / "tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 2})), encoding="utf-8")
    make_town(root)
    make_start(root / "start")
    rng = np.random.default_rng(0)
    make_whu(root / "whu", {split: [make_buildings(rng, 128, 4, 6)] for split in ("train", "val", "test")})
    make_yolo(root / "yolo", {"images/train/a": "0 0.1 0.1 0.5 0.1 0.5 0.5\n", "images/val/b": ""})
    make_labelme(root / "drawn", "one", [shape(square(4, 4, 20))])
    masks = {name: np.pad(np.full((20, 20), 255, np.uint8), 20) for name in ("a", "b")}
    make_pairs(root / "pairs", masks)
    return root


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files for one test, and an empty cache."""
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVERAGE_PROCESS_START", "")
    folder = tmp_path / "here"
    shutil.copytree(files, folder)
    return folder
