"""A folder with one of everything that `rsp` reads, of little size, and commands that work in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from rsprompter_cli.config import dump_config
from rsprompter_cli.geo.vector.write import Feature, write_features
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.io.model_files.sam_folder import write_sam_folder
from tests.make.coco_sets import CLASSES, make_set
from tests.make.fits import make_start, make_town
from tests.make.foreign_sets import make_labelme, make_pairs, make_yolo, shape, square
from tests.make.labelled import make_labelled_scene
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model
from tests.make.whu import make_buildings, make_whu

TINY = ["--model", "model", "--native", "--score", "0"]
TRAIN = ["train", "tiny.toml", "--data", "data", "--random-sam", "--device", "cpu"]
FIT = ["fit", "town.tif", "town.gpkg", "--model", "start", "--minutes", "0.001", "--device", "cpu"]
ASKED = ["--prompts", "asked.geojson", "--sam", "sam"]

COUNTED = {
    "predict": (["predict", "scene.tif", "--out", "a.geojson", *TINY], "a.geojson"),
    "predict-many": (["predict", "scenes", "--out", "all.gpkg", *TINY], "all.gpkg"),
    "predict-pictures": (["predict", "data/images", "--out", "found.json", *TINY], "found.json"),
    "predict-map": (["predict", "scene.tif", "--out", "a.gpkg", "--preview", "a.html", *TINY], "a.html"),
    "prompts": (["predict", "asked.tif", "--out", "a.geojson", *ASKED], "a.geojson"),
    "everything": (
        ["predict", "scenes/a.tif", "--everything", "--sam", "sam", "--native", "--out", "a.gpkg", "--score", "0"],
        "a.gpkg",
    ),
    "shard": (["predict", "scene.tif", "--shard", "1/2", "--out", "1.part", *TINY], "1.part"),
    "train": ([*TRAIN, "--out", "run"], "run"),
    "fit": ([*FIT, "--out", "mine"], "mine"),
    "eval": (["eval", "model", "--data", "data"], ""),
    "data-check": (["data", "check", "data"], ""),
    "data-show": (["data", "show", "data", "--out", "shown"], "shown"),
    "whu2coco": (["convert", "whu2coco", "--root", "whu", "--out", "whu/annotations"], ""),
    "vector2coco": (["convert", "vector2coco", "town.tif", "town.gpkg", "--out", "set", "--tile", "64"], "set"),
    "coco2vector": (
        ["convert", "coco2vector", "data/annotations/instances_val.json", "--out", "v.geojson", "--pixel-coords"],
        "v.geojson",
    ),
    "mask2coco": (["convert", "mask2coco", "pairs/images", "pairs/masks", "--out", "masks-set"], "masks-set"),
    "coco2yolo": (["convert", "coco2yolo", "data", "--out", "yolo-set"], "yolo-set"),
    "yolo2coco": (["convert", "yolo2coco", "yolo/data.yaml", "--out", "yolo-coco"], "yolo-coco"),
    "labelme2coco": (["convert", "labelme2coco", "drawn", "--out", "drawn-set"], "drawn-set"),
}
"""By name: the command, and what its last lines name."""

TABLES = {
    "info": ["info", "scene.tif"],
    "models": ["models"],
    "config-list": ["config", "list"],
    "checkpoint-show": ["checkpoint", "show", "model"],
    "data-stats": ["data", "stats", "data"],
    "fit-plan": ["fit", "town.tif", "town.gpkg", "--model", "start", "--dry-run"],
    "train-plan": [*TRAIN, "--dry-run"],
    "predict-plan": ["predict", "scene.tif", "--dry-run", *TINY],
    "eval-polygons": ["eval-polygons", "town.gpkg", "town.gpkg", "--scene", "town.tif"],
    "filter": ["filter", "found.geojson", "--out", "few.geojson", "--score", "0.5"],
    "qgis-style": ["qgis-style", "asked.geojson"],
}

FOUND = ["predict", "scene.tif", *TINY, "--out"]
WRITING: dict[str, Sequence[str]] = {
    **{name: command for name, (command, _) in COUNTED.items() if name not in ("eval", "data-check")},
    "geojsonl": [*FOUND, "a.geojsonl"],
    "fgb": [*FOUND, "a.fgb"],
    "parquet": [*FOUND, "a.parquet"],
    "shp": [*FOUND, "a.shp"],
    "merge": ["merge", "parts", "--out", "joined.gpkg"],
    "filter": ["filter", "found.geojson", "--out", "few.geojson", "--score", "0.5"],
    "qgis-style": ["qgis-style", "asked.geojson"],
    "eval": [
        "eval", "model", "--data", "data", "--save-detections", "found.json", "--show-dir", "best", "--pr-curve",
        "curve.png",
    ],
    "eval-polygons": ["eval-polygons", "town.gpkg", "town.gpkg", "--scene", "town.tif", "--map", "errors.png"],
    "data-split": ["data", "split", "data/annotations/instances_train.json", "--out", "split"],
    "export": ["checkpoint", "export", "model", "--out", "weights.pth"],
    "import": ["checkpoint", "import", "exported.pth", "--preset", "tiny.toml", "--out", "imported"],
}  # fmt: skip
"""Commands that write files, by name; those that begin with what other commands write need `prepare_workplace`."""

EVERY: dict[str, Sequence[str]] = {
    **{name: command for name, (command, _) in COUNTED.items()},
    **TABLES,
    **WRITING,
    "config-show": ["config", "show", "rsprompter-anchor-cpu"],
    "config-schema": ["config", "schema"],
    "help": ["help", "predict"],
    "version": ["--version"],
}
"""Commands of every kind that end well, by name."""


def make_workplace(root: Path) -> None:
    """Write tiny models of random weights, small scenes and data sets into a folder."""
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
