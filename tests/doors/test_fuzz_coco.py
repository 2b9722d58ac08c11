"""COCO files, results, labelme files and YOLO labels with random damage: one line or a result, never anything else."""

from __future__ import annotations

import functools
import json
import logging
import random
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.data.check import check_set
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.convert.coco2vector import convert_coco
from rsprompter_cli.data.convert.coco2yolo import convert_to_yolo
from rsprompter_cli.data.convert.labelme2coco import convert_labelme
from rsprompter_cli.data.convert.yolo2coco import convert_from_yolo
from rsprompter_cli.errors import LONGEST_MESSAGE, RspError
from tests.doors import mutate, pool
from tests.make.coco_sets import make_set, read_document

FEW = 250


@functools.cache
def base() -> tuple[Path, dict[str, Any]]:
    """A sound set with polygons and runs, made once in a process."""
    root = Path(tempfile.mkdtemp(prefix="rsp-fuzz-"))
    make_set(root, count=2, objects=3)
    return root, read_document(root)


def write(path: Path, document: Any, rng: random.Random) -> None:
    content = json.dumps(document).encode()
    path.write_bytes(mutate.damaged_bytes(content, rng) if rng.random() < 0.25 else content)


def labelme(rng: random.Random, folder: Path) -> None:
    shapes = [
        {"label": "a", "points": [[1, 1], [20, 2], [9, 30]], "group_id": None, "shape_type": "polygon", "flags": {}},
        {"label": "b", "points": [[5, 5], [9, 9]], "group_id": 1, "shape_type": "circle"},
        {"label": "b", "points": [[30, 30], [40.5, 45]], "group_id": 1, "shape_type": "rectangle"},
    ]
    tree = {"version": "5", "shapes": shapes, "imagePath": "a.png", "imageData": None, "imageHeight": 48}
    write(folder / "a.json", mutate.damaged(tree, rng), rng)
    convert_labelme(folder, folder.parent / "out")


def yolo(rng: random.Random, folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    shutil.move(folder / "a.png", folder / "images" / "a.png")
    rows: list[list[Any]] = [[0, 0.1, 0.1, 0.5, 0.2, 0.3, 0.9], [1, 0.5, 0.5, 0.2, 0.2], [0, *[0.0, 0.0, 1.0, 1.0] * 4]]
    rows = mutate.damaged(rows, rng)
    lines = [" ".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows if rows] if rows else []
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    (folder / "labels" / "a.txt").write_bytes(mutate.damaged_bytes(text, rng) if rng.random() < 0.3 else text)
    tree: Any = {"train": "images", "names": ["a", "b"]}
    tree = mutate.damaged(tree, rng) if rng.random() < 0.3 else tree
    (folder / "data.yaml").write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    convert_from_yolo(folder / "data.yaml", folder.parent / "out", boxes=rng.random() < 0.5)


def results(rng: random.Random, folder: Path) -> None:
    root, document = base()
    found = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "score": 0.5, "bbox": one["bbox"],
         "segmentation": one["segmentation"]}
        for one in document["annotations"]
    ]  # fmt: skip
    write(folder / "found.json", mutate.damaged(found, rng), rng)
    images = root / "annotations" / "instances_train.json"
    convert_coco(folder / "found.json", folder / "out.geojson", images=images, pixel_coords=True)


def coco(rng: random.Random, folder: Path) -> None:
    root, document = base()
    annotations = folder / "annotations"
    annotations.mkdir()
    (folder / "images").symlink_to(root / "images")
    path = annotations / "instances_train.json"
    write(path, mutate.damaged(document, rng), rng)
    for report in check_set(folder if rng.random() < 0.8 else path):
        assert all(len(line) < LONGEST_MESSAGE and "\n" not in line for line in report.lines()), report.lines()
        json.dumps(report.as_json(), allow_nan=False).encode("utf-8")
    if rng.random() < 0.5:
        read_coco(path)
        convert_coco(path, folder / "out.geojson", pixel_coords=True)
        convert_to_yolo(folder, folder.parent / "yolo")


def attempt(seed: int) -> None:
    """One input; an error must be one line of ours."""
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    root, _ = base()
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name:
        folder = Path(name, "in")
        folder.mkdir()
        shutil.copy(root / "images" / "train_0.png", folder / "a.png")
        fault: RspError | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers beyond a float
                rng.choice((coco, coco, coco, results, labelme, yolo))(rng, folder)
        except RspError as error:
            fault = error
        finally:
            logging.disable(logging.NOTSET)
    pool.check_fault(fault, exit_codes=(2, 3, 7, 9))


def test_a_few_hundred_damaged_inputs() -> None:
    assert pool.run_few(attempt, FEW) == []


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_inputs() -> None:
    pool.run_all(attempt, pool.count(100_000)).check()
