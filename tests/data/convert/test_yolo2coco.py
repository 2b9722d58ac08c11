"""YOLO sets as people bring them to COCO."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.data.check import check_set
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.convert.yolo2coco import convert_from_yolo
from rsprompter_cli.errors import InputError, OutputError
from tests.make.foreign_sets import SQUARE, YAML, make_yolo


def test_outlines(tmp_path: Path) -> None:
    labels = {"images/train/a": SQUARE + "\n1 0 0 1 0 1 1\n", "images/val/a": SQUARE, "images/val/b": ""}
    report = convert_from_yolo(make_yolo(tmp_path / "yolo", labels), tmp_path / "set")
    assert report.splits == {"train": (1, 2), "val": (2, 1)}
    assert [r.errors for r in check_set(tmp_path / "set")] == [(), ()]
    coco = read_coco(tmp_path / "set/annotations/instances_train.json")
    assert coco.class_names == ("house", "tank")
    assert [image.file_name for image in coco.images] == ["train/a.png"]
    square, triangle = coco.annotations
    assert (square.id, square.bbox, square.area, square.category_id) == (1, (10, 8, 40, 32), 40 * 32, 1)
    assert square.segmentation[0].tolist() == [[10, 8], [50, 8], [50, 40], [10, 40]]  # type: ignore[index]
    assert triangle.area == pytest.approx(4000, abs=100)
    assert convert_from_yolo(tmp_path / "yolo/data.yaml", tmp_path / "set").outcome == "unchanged"
    (tmp_path / "yolo/labels/val/b.txt").write_text(SQUARE)
    with pytest.raises(OutputError, match="--overwrite"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    assert convert_from_yolo(tmp_path / "yolo", tmp_path / "set", overwrite=True).outcome == "written"


def test_boxes_only_when_asked_for(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": "1 0.5 0.5 0.2 0.4\n" + SQUARE, "images/val/a": SQUARE})
    with pytest.raises(InputError, match=r"labels/train/a\.txt:1: is a box, not an outline .*pass --boxes"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    convert_from_yolo(tmp_path / "yolo", tmp_path / "set", boxes=True)
    box, _ = read_coco(tmp_path / "set/annotations/instances_train.json").annotations
    assert (box.bbox, box.area, box.category_id) == ((40, 24, 20, 32), 640, 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.1 0.2 x 0.1 0.5 0.5", "'x' is not a number"),
        ("0 0.1 0.2 nan 0.1 0.5 0.5", "NaN"),
        ("0 0.1 0.2 inf 0.1 0.5 0.5", "NaN or infinity"),
        ("0", "has 1 numbers"),
        ("0 0.5 0.5 0.3 0.3", "a box"),
        ("0 0.1 0.2 0.3 0.3 0.9", "has 6 numbers"),
        ("0 0.1 0.2 0.3 0.3 0.9 0.9 0.5", "has 8 numbers"),
        ("0.5 0.1 0.2 0.3 0.3 0.1 0.9", "'0.5', which is not a class index"),
        ("-1 0.1 0.2 0.3 0.3 0.1 0.9", "not a class index"),
        ("2 0.1 0.2 0.3 0.3 0.1 0.9", r"class 2 has no name in .*data\.yaml"),
        ("house 0.1 0.2 0.3 0.3 0.1 0.9", "'house' is not a number"),
        ("0 10 20 30 30 10 90", "coordinate 90 is outside 0..1; coordinates must be shares"),
        ("0 0.1 0.2 0.3 0.3 0.1 1.02", "coordinate 1.02 is outside"),
        ("0 0.1 -0.02 0.3 0.3 0.1 0.9", "coordinate -0.02 is outside"),
        ("0 0.1 0.2 1e999 0.3 0.1 0.9", "infinity"),
        ("0,0.1,0.2,0.3,0.3,0.1,0.9", "is not a number"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path: Path, line: str, words: str) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE + line + "\n", "images/val/a": SQUARE})
    with pytest.raises(InputError, match=rf"labels/train/a\.txt:2: .*{words}"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_all_faults_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("rsprompter_cli").propagate = True
    make_yolo(tmp_path / "yolo", {"images/train/a": "x\n0 1\n" + SQUARE, "images/val/b": "7 0 0 1 1 0 1"})
    with pytest.raises(InputError, match="3 errors"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    for where in ("train/a.txt:1", "train/a.txt:2", "val/b.txt:1"):
        assert any(where in message for message in caplog.messages)


def test_a_hair_outside_is_cut_off_and_nothing_left_is_left_out(tmp_path: Path) -> None:
    lines = "0 -0.004 0.1 0.5 0.1 0.5 1.004\n0 0.2 0.2 0.2 0.2 0.2 0.2\n1 1.001 0 1.005 0 1.005 1 1.001 1\n"
    report = convert_from_yolo(
        make_yolo(tmp_path / "yolo", {"images/train/a": lines}, YAML.replace("val: images/val\n", "")), tmp_path / "set"
    )
    (label,) = (tmp_path / "yolo").rglob("*.txt")
    assert report.left_out == {"lines without area in their picture": [f"{label}:2", f"{label}:3"]}
    (annotation,) = read_coco(tmp_path / "set/annotations/instances_train.json").annotations
    x, y, w, h = annotation.bbox
    assert min(x, y) >= 0
    assert x + w <= 100
    assert y + h <= 80


def test_what_has_no_partner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("rsprompter_cli").propagate = True
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/train/b": None, "images/val/a": SQUARE})
    (tmp_path / "yolo/labels/train/gone.txt").write_text(SQUARE)
    (tmp_path / "yolo/labels/train/classes.txt").write_text("house\n")
    (tmp_path / "yolo/images/train/x.bmp").write_bytes(b"BM")
    report = convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    assert report.splits == {"train": (2, 1), "val": (1, 1)}
    assert report.skipped == 2
    assert [len(names) for names in report.left_out.values()] == [1]
    assert any("1 image has no label" in message and "train/b.png" in message for message in caplog.messages)


def test_no_label_at_all_is_a_wrong_place(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": None, "images/val/a": None})
    with pytest.raises(InputError, match=r"none of 2 images has a label, such as .*labels/train/a\.txt"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")


def test_exports_with_their_paths_one_folder_up(tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    yaml = "train: ../train/images\nval: ../valid/images\ntest: \nnc: 2\nnames: ['house', 'tank']\n"
    make_yolo(root, {"train/images/a": SQUARE, "valid/images/a": SQUARE}, yaml)
    report = convert_from_yolo(root, tmp_path / "set")
    assert report.splits == {"train": (1, 1), "val": (1, 1)}
    assert read_coco(tmp_path / "set/annotations/instances_val.json").images[0].file_name == "valid/a.png"


def test_lists_of_folders_and_lists_in_files(tmp_path: Path) -> None:
    yaml = "path: .\ntrain: [images/one, images/two]\nval: val.txt\nnames: {0: house, 5: tank}\n"
    labels = {f"images/{name}/a": SQUARE.replace("0 ", "5 ", 1) for name in ("one", "two", "three")}
    root = make_yolo(tmp_path / "yolo", labels, yaml)
    (root / "val.txt").write_text("./images/three/a.png\n\n")
    report = convert_from_yolo(root, tmp_path / "set")
    assert report.splits == {"train": (2, 2), "val": (1, 1)}
    (annotation,) = read_coco(tmp_path / "set/annotations/instances_val.json").annotations
    assert annotation.category_id == 2
    for line in ("../outside.png", "./images/three/none.png", "/etc/passwd", "\0.png"):
        (root / "val.txt").write_text(f"./images/three/a.png\n{line}\n")
        with pytest.raises(InputError, match=r"val\.txt:2: .* is not an image in"):
            convert_from_yolo(root, tmp_path / "other")


def test_a_picture_in_two_splits_stays_in_the_first(tmp_path: Path) -> None:
    yaml = YAML.replace("images/val", "images/train")
    report = convert_from_yolo(make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE}, yaml), tmp_path / "set")
    assert report.splits == {"train": (1, 1)}
    assert [len(names) for names in report.left_out.values()] == [1]


def test_the_root_of_another_machine(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE})
    (tmp_path / "set.yaml").write_text(f"path: /content/datasets\n{YAML}")
    with pytest.raises(InputError, match=r"path: '/content/datasets' is not a folder in .*--root"):
        convert_from_yolo(tmp_path / "set.yaml", tmp_path / "set")
    report = convert_from_yolo(tmp_path / "set.yaml", tmp_path / "set", root=tmp_path / "yolo")
    assert report.splits == {"train": (1, 1), "val": (1, 1)}


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [a]\n", "has none of train, val, test"),
        ("train: images/train\n", "has no names"),
        ("train: images/train\nnames: [a, a]\n", "duplicate index or name"),
        ("train: images/train\nnames: [a, '']\n", "is not a class"),
        ("train: images/train\nnames: {x: a}\n", "is not a class"),
        ("train: images/train\nnc: 3\nnames: [a, b]\n", "nc is 3, but there are 2 names"),
        ("train: images/none\nnames: [a]\n", "no such folder"),
        ("train: ../../etc\nnames: [a]\n", "is outside .*--root"),
        ("train: /etc\nnames: [a]\n", "is outside"),
        ("path: ..\ntrain: images/train\nnames: [a]\n", "--root"),
        ("train: {a: b}\nnames: [a]\n", "is not a path"),
        ("kpt_shape: [17, 3]\ntrain: images/train\nnames: [a]\n", "keypoint"),
        ("- a\n- b\n", "is not the data.yaml"),
        ("train: [unclosed\n", "is not YAML"),
        ("[" * 2000, "is not YAML"),
        ("a: \x07", "is not YAML"),
        ("x" * (1 << 21), "more than 1,048,576"),
    ],
)
def test_files_that_describe_no_set(tmp_path: Path, yaml: str, words: str) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE}, yaml)
    with pytest.raises(InputError, match=words):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    yaml = f"{YAML}x: !!python/object/apply:os.mkdir ['{marker}']\ndownload: |\n  import os; os.mkdir('{marker}')\n"
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE}, yaml)
    convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    assert not marker.exists()


def test_yaml_that_would_grow_without_end(tmp_path: Path) -> None:
    layers = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    yaml = YAML + "\n".join(layers)
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE}, yaml)
    assert convert_from_yolo(tmp_path / "yolo", tmp_path / "set").classes == ["house", "tank"]


@pytest.mark.parametrize("key", ["path", "names", "nc", "train"])
def test_aliases_that_grow_without_end_are_refused(tmp_path: Path, key: str) -> None:
    word = "x" * 1_000
    layers = [f"a0: &a0 [{word}, {word}]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    lines = [line for line in YAML.splitlines() if not line.startswith(f"{key}:")]
    yaml = "\n".join([*layers, *lines, f"{key}: *a11", ""])
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE}, yaml)
    with pytest.raises(InputError, match=r"data\.yaml: its aliases stand for too many values"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")


@pytest.mark.parametrize("text", ["[" * 500_000, "[" * 300_000 + "]" * 300_000, "{a: " * 200_000])
def test_lists_in_lists_without_end_are_refused(tmp_path: Path, text: str) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE}, f"names: {text}\n")
    with pytest.raises(InputError, match=r"data\.yaml: is not YAML"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")


def test_which_file_is_the_sets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        convert_from_yolo(tmp_path / "none", tmp_path / "set")
    with pytest.raises(InputError, match=r"contains 0 YAML files"):
        convert_from_yolo(tmp_path, tmp_path / "set")
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text(YAML)
    with pytest.raises(InputError, match=r"contains 2 YAML files \(a\.yaml, b\.yml\)"):
        convert_from_yolo(tmp_path, tmp_path / "set")


def test_labels_that_are_no_text(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE})
    (tmp_path / "yolo/labels/val/a.txt").write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(InputError, match=r"val/a\.txt: is not UTF-8 text"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_label_that_leads_out_of_the_set(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": None})
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    (tmp_path / "yolo/labels/val").mkdir(exist_ok=True)
    (tmp_path / "yolo/labels/val/a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(InputError, match=r"is a link to .*secret\.txt, outside"):
        convert_from_yolo(tmp_path / "yolo", tmp_path / "set")


def test_an_output_among_the_inputs(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE})
    for out in (tmp_path / "yolo", tmp_path / "yolo/images/train/set"):
        with pytest.raises(OutputError):
            convert_from_yolo(tmp_path / "yolo", out, overwrite=True)


def test_a_turned_photograph(tmp_path: Path) -> None:
    make_yolo(tmp_path / "yolo", {"images/train/a": SQUARE, "images/val/a": SQUARE})
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "yolo/images/val/a.png").unlink()
    Image.fromarray(np.zeros((100, 80, 3), np.uint8)).save(tmp_path / "yolo/images/val/a.jpg", exif=exif)
    convert_from_yolo(tmp_path / "yolo", tmp_path / "set")
    coco = read_coco(tmp_path / "set/annotations/instances_val.json")
    assert [(image.height, image.width) for image in coco.images] == [(80, 100)]
    assert coco.annotations[0].bbox == (10, 8, 40, 32)
    assert [r.errors for r in check_set(tmp_path / "set")] == [(), ()]
