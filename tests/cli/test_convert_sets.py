"""`rsp convert` of masks, YOLO and labelme sets as typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.cli.app import run
from tests.make.coco_sets import make_set
from tests.make.foreign_sets import SQUARE, buildings, make_labelme, make_pairs, make_yolo, shape, square

Captured = pytest.CaptureFixture[str]


def test_mask2coco(tmp_path: Path, capsys: Captured) -> None:
    make_pairs(tmp_path, {name: buildings() for name in "abc"}, mask_suffix="_mask")
    (tmp_path / "masks/c_mask.png").unlink()
    out = tmp_path / "set"
    arguments = ["convert", "mask2coco", str(tmp_path / "images"), str(tmp_path / "masks"), "--out", str(out)]
    assert run(arguments) == 3
    assert "--mask-suffix" in capsys.readouterr().err
    arguments += ["--mask-suffix", "_mask"]
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[-7:] == [
        "train: 1 image, 6 annotations",
        "val: 1 image, 6 annotations",
        "omitted: pictures without a mask (1)",
        "classes: building",
        f"wrote {out / 'annotations/instances_train.json'}",
        f"wrote {out / 'annotations/instances_val.json'}",
        f"wrote {out}",
    ]
    assert "images/c.png" in said.err
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "unchanged"
    assert run([*arguments, "--connectivity", "8", "--kind", "binary", "--min-area", "1"]) == 0
    assert run([*arguments, "--classes", "roof"]) == 7
    assert run([*arguments, "--classes", "roof", "--overwrite", "--link"]) == 0
    assert run([*arguments, "--connectivity", "6"]) == 2
    assert run(["data", "check", str(out)]) == 0


def test_mask2coco_of_classes(tmp_path: Path, capsys: Captured) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[1:5, 1:5], mask[8:12, 8:12], mask[15] = 10, 20, 255
    make_pairs(tmp_path, {"a": mask})
    arguments = ["convert", "mask2coco", str(tmp_path / "images"), str(tmp_path / "masks")]
    arguments += ["--out", str(tmp_path / "set"), "--classes", "house=10, road=20"]
    assert run(arguments) == 3
    assert "contains 255" in capsys.readouterr().err
    assert run([*arguments, "--ignore", "255"]) == 0
    assert "classes: house, road" in capsys.readouterr().err


def test_coco2yolo_and_back(tmp_path: Path, capsys: Captured) -> None:
    make_set(tmp_path / "coco")
    yolo = str(tmp_path / "yolo")
    assert run(["convert", "coco2yolo", str(tmp_path / "coco"), "--out", yolo]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"wrote {tmp_path / 'yolo/data.yaml'}"
    assert "no val split" in said.err
    assert run(["convert", "coco2yolo", str(tmp_path / "coco"), "--out", yolo, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "unchanged"
    assert run(["convert", "yolo2coco", yolo, "--out", str(tmp_path / "back")]) == 0
    assert "wrote " in capsys.readouterr().err
    assert run(["convert", "yolo2coco", yolo, "--out", str(tmp_path / "back"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "unchanged"
    assert run(["data", "check", str(tmp_path / "back")]) == 0


def test_yolo2coco_names_the_line(tmp_path: Path, capsys: Captured) -> None:
    root = make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE + "0 0.5 0.5 0.1 0.1\n", "images/val/a": SQUARE})
    arguments = ["convert", "yolo2coco", str(root / "data.yaml"), "--out", str(tmp_path / "set")]
    assert run(arguments) == 3
    assert "labels/train/a.txt:2: is a box" in capsys.readouterr().err
    assert run([*arguments, "--boxes"]) == 0
    assert run([*arguments, "--root", str(tmp_path / "none")]) == 3


def test_labelme2coco(tmp_path: Path, capsys: Captured) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(5, 5, 20)), shape([[1, 1]], "point")])
    arguments = ["convert", "labelme2coco", str(root), "--out", str(tmp_path / "set"), "--split", "val"]
    assert run(arguments) == 0
    assert "omitted: shapes of type point (1)" in capsys.readouterr().err
    assert run([*arguments, "--classes", "tank"]) == 3
    assert run([*arguments, "--embedded"]) == 3
    assert run(["data", "check", str(tmp_path / "set")]) == 0


def test_masks_that_could_be_anything(tmp_path: Path, capsys: Captured) -> None:
    make_pairs(tmp_path, {"a": buildings()})
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "masks/a.png")
    arguments = ["convert", "mask2coco", str(tmp_path / "images"), str(tmp_path / "masks")]
    assert run([*arguments, "--out", str(tmp_path / "set")]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "contains 0, 1, 2, 3, 4, 5, ... (4,096 values), which may be instances or classes" in error
    assert "--kind instances" in error
