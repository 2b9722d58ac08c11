"""`rsp data` in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    assert out[1].endswith("instances_val.json: 4 images, 9 annotations, 0 errors, 0 warnings")


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
        assert "error: annotation 4 (image 2, train_1.png): polygon 0 contains NaN or infinity" in out
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


@pytest.mark.parametrize("command", [["check"], ["stats"], ["show", "--out", "a"], ["split", "--out", "a"]])
def test_a_missing_set_is_called_as_elsewhere(command: list[str], capsys: Capture) -> None:
    assert run(["data", command[0], "nowhere", *command[1:]]) == 3
    error = capsys.readouterr().err
    assert "nowhere: no such file" in error
    assert "No such file or directory" not in error


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
    assert "4 images (1 without annotations), 64 x 48 px" in text
    assert "tank" in text


def test_split_then_check(tmp_path: Path, capsys: Capture) -> None:
    path = make_set(tmp_path, count=8)
    moved = path.rename(path.with_name("all.json"))
    assert run(["data", "split", str(moved), "--val", "0.25", "--seed", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(["data", "check", str(tmp_path), "--json"]) == 0
    assert [report["images"] for report in json.loads(capsys.readouterr().out)] == [6, 2]
    assert run(["data", "split", str(moved), "--val", "1.5"]) == 2


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"segmentation": [[float("inf"), 3, 6, 3, 6, 7]]}, "polygon-not-finite"),
        ({"segmentation": [[2, 3, 6, 3, 6]]}, "polygon-odd"),
        ({"segmentation": [[2, 3, 6, 3]]}, "polygon-short"),
        ({"segmentation": [[2, 3, 4, 3, 6, 3]]}, "polygon-flat"),
        ({"segmentation": {"size": [64, 48], "counts": [3072]}}, "rle-size"),
        ({"segmentation": {"size": [48, 64], "counts": [3000, 71]}}, "rle-counts"),
        ({"segmentation": {"size": [48, 64], "counts": "d0T3"}}, "rle-counts"),
        ({"bbox": [1, 1, 5, -5]}, "bbox-empty"),
        ({"bbox": [60, 40, 20, 20]}, "bbox-outside"),
        ({"id": 2}, "annotation-id-twice"),
        ({"image_id": 99}, "image-unknown"),
        ({"category_id": 1}, "category-unknown"),
    ],
)
def test_check_names_the_faulty_annotation(tmp_path: Path, capsys: Capture, change: dict[str, Any], kind: str) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["annotations"][0].update(change)
    write_document(tmp_path, document)
    assert run(["data", "check", str(tmp_path), "--json"]) == 3
    (report,) = json.loads(capsys.readouterr().out)
    named = 2 if kind == "annotation-id-twice" else 1
    assert [(error["kind"], error["annotation_id"]) for error in report["errors"]] == [(kind, named)]
    assert run(["data", "check", str(tmp_path)]) == 3
    assert f"annotation {named}" in capsys.readouterr().out


def test_check_reports_a_box_beside_its_mask_and_goes_on(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["annotations"][0]["bbox"] = [50, 40, 4, 4]
    write_document(tmp_path, document)
    assert run(["data", "check", str(tmp_path)]) == 0
    assert "do not match" in capsys.readouterr().out


def test_check_takes_ids_from_zero_gaps_and_crowds(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path, first_id=0)
    document = read_document(tmp_path)
    document["categories"][0]["id"] = 0
    for annotation in document["annotations"]:
        annotation["category_id"] *= annotation["category_id"] != 10
    document["annotations"][0]["iscrowd"] = 1
    write_document(tmp_path, document)
    assert run(["data", "check", str(tmp_path)]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith("4 images, 8 annotations, 1 crowd, 0 errors, 1 warning")
    assert "1 of 9 annotations is a crowd (iscrowd 1)" in others[0]


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/passwd", "C:\\secret.png"])
def test_check_refuses_names_that_leave_the_folder(tmp_path: Path, capsys: Capture, name: str) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["images"][3]["file_name"] = name
    write_document(tmp_path, document)
    assert run(["data", "check", str(tmp_path), "--json"]) == 3
    (report,) = json.loads(capsys.readouterr().out)
    assert [error["kind"] for error in report["errors"]] == ["file-name"]


@pytest.mark.parametrize("fault", ["link", "bomb", "turned"])
def test_check_names_the_faulty_picture(tmp_path: Path, capsys: Capture, fault: str) -> None:
    root = tmp_path / "set"
    make_set(root)
    picture = root / "images" / "train_0.png"
    if fault == "link":
        try:
            (tmp_path / "link").symlink_to(picture.rename(tmp_path / "outside.png"))
        except OSError:
            pytest.skip("this system makes no links for this user")
        (tmp_path / "link").rename(picture)
    elif fault == "bomb":
        Image.new("1", (10000, 9000)).save(picture)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (64, 48)).save(picture, exif=exif)
    assert run(["data", "check", str(root), "--json"]) == 3
    (report,) = json.loads(capsys.readouterr().out)
    assert [(error["kind"], error["image_id"]) for error in report["errors"]] == [("picture", 1)]
    assert {"link": "outside", "bomb": "pixels", "turned": "48 x 64"}[fault] in report["errors"][0]["message"]
