"""`rsp data` in process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.cli.app import run
from tests.make.coco_sets import make_set, read_document, write_document

Capture = pytest.CaptureFixture[str]


def test_check_of_a_sound_set(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path)
    make_set(tmp_path, split="val")
    assert run(["data", "check", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[1].endswith("instances_val.json: 4 images, 9 objects, 0 errors, 0 warnings")


def test_check_of_a_faulty_set(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["annotations"][3]["segmentation"] = [[1, 2, float("nan"), 3, 4, 9]]
    document["annotations"][5]["bbox"] = [1, 2, 0, 3]
    path = write_document(tmp_path, document)
    for source in (tmp_path, path):
        assert run(["data", "check", str(source)]) == 3
        out = capsys.readouterr().out
        assert "2 errors" in out
        assert "error: annotation 4 (image 2, train_1.png): polygon 0 holds NaN or infinity" in out
        assert run(["data", "check", str(source), "--json", "--no-pictures"]) == 3
        reports = json.loads(capsys.readouterr().out)
        assert [error["annotation_id"] for error in reports[0]["errors"]] == [4, 6]


def test_check_of_no_coco_file(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert run(["data", "check", str(tmp_path / "a.json")]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rsp: error: ")
    assert len(captured.err.splitlines()) == 1


def test_show_writes_overlays(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path, split="val")
    out = tmp_path / "out"
    command = ["data", "show", str(tmp_path), "--split", "val", "--out", str(out), "--count", "2"]
    assert run([*command, "--json"]) == 0
    files = [Path(text) for text in json.loads(capsys.readouterr().out)]
    assert files == [out / "1_val_0.png", out / "2_val_1.png"]
    drawn, plain = np.asarray(Image.open(files[0])), np.asarray(Image.open(tmp_path / "images" / "val_0.png"))
    assert drawn.shape[1] == plain.shape[1]
    assert not np.array_equal(drawn[-48:], plain)
    assert run(command) == 7
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0


def test_show_takes_images_without_objects_last(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path)
    assert run(["data", "show", str(tmp_path), "--out", str(tmp_path / "out"), "--count", "50"]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_stats(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path)
    assert run(["data", "stats", str(tmp_path), "--json"]) == 0
    (counts,) = json.loads(capsys.readouterr().out)
    assert counts["objects_per_class"] == {"house": 6, "tank": 3}
    assert run(["data", "stats", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "4 images (1 without objects), 64-64 x 48-48 px" in text
    assert "tank" in text


def test_split_then_check(tmp_path: Path, capsys: Capture) -> None:
    path = make_set(tmp_path, count=8)
    moved = path.rename(path.with_name("all.json"))
    assert run(["data", "split", str(moved), "--val", "0.25", "--seed", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(["data", "check", str(tmp_path), "--json"]) == 0
    assert [report["images"] for report in json.loads(capsys.readouterr().out)] == [6, 2]
    assert run(["data", "split", str(moved), "--val", "1.5"]) == 2
