"""Sets as labelling tools export them, through `rsp data`, `rsp train`, `rsp eval` and `rsp convert`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import dump_config, load_config
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from tests.make.coco_sets import make_set, read_document, write_document
from tests.make.tiny_models import tiny_config

Capture = pytest.CaptureFixture[str]


def _spread(root: Path, documents: dict[str, dict[str, Any]]) -> None:
    """Put documents at their places instead of `annotations/`."""
    shutil.rmtree(root / "annotations")
    for place, document in documents.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(json.dumps(document), encoding="utf-8")


def _documents(root: Path, *splits: str) -> list[dict[str, Any]]:
    for split in splits:
        make_set(root, split=split)
    return [read_document(root, split) for split in splits]


def _roboflow(root: Path) -> None:
    """train/, valid/ and test/ with pictures and annotations side by side; category 0 is the project."""
    folders = {"train": "train", "val": "valid", "test": "test"}
    documents = _documents(root, *folders)
    for document, (split, folder) in zip(documents, folders.items(), strict=True):
        (root / folder).mkdir()
        for image in document["images"]:
            new = image["file_name"].replace(f"{split}_", "im")
            shutil.move(root / "images" / image["file_name"], root / folder / new)
            image |= {"file_name": new, "extra": {"name": f"{new}.orig"}, "license": 1, "date_captured": ""}
        for category in document["categories"]:
            category["supercategory"] = "house"
        document["categories"].insert(0, {"id": 0, "name": "house", "supercategory": "none"})
    (root / "images").rmdir()
    _spread(
        root, {f"{folder}/_annotations.coco.json": d for folder, d in zip(folders.values(), documents, strict=True)}
    )


def _cvat(root: Path) -> None:
    """One file, masks of the brush as RLE with iscrowd 1, licenses and info without values."""
    (document,) = _documents(root, "train")
    for annotation in document["annotations"]:
        annotation["iscrowd"] = int(isinstance(annotation["segmentation"], dict))
    document |= {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {"year": "", "url": ""}}
    _spread(root, {"annotations/instances_default.json": document})


def _label_studio(root: Path) -> None:
    """result.json beside images/, which the names of pictures repeat."""
    (document,) = _documents(root, "train")
    for image in document["images"]:
        image["file_name"] = f"images\\{image['file_name']}"
    document["info"] = {"version": "1.0", "contributor": "Label Studio"}
    _spread(root, {"result.json": document})


def _via(root: Path) -> None:
    """A file of its own name, sizes and ids as text or missing, flat polygons."""
    (document,) = _documents(root, "train")
    for image in document["images"]:
        image |= {"id": str(image["id"]), "width": "", "height": None}
    for annotation in document["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        if isinstance(annotation["segmentation"], list):
            (annotation["segmentation"],) = annotation["segmentation"]
    _spread(root, {"via_project_coco.json": document})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "roboflow": _roboflow, "cvat": _cvat, "label-studio": _label_studio, "via": _via,
}  # fmt: skip


@pytest.mark.parametrize("tool", LAYOUTS)
def test_each_export_is_checked_counted_and_shown(tmp_path: Path, capsys: Capture, tool: str) -> None:
    root = tmp_path / "set"
    LAYOUTS[tool](root)
    files = 3 if tool == "roboflow" else 1
    assert run(["data", "check", str(root), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert len(reports) == files
    assert {(one["images"], one["objects"] + one["crowds"]) for one in reports} == {(4, 9)}
    assert {tuple(one["classes"]) for one in reports} == {("house", "tank")}
    assert run(["data", "check", reports[0]["file"]]) == 0
    assert "0 errors" in capsys.readouterr().out
    assert run(["data", "stats", str(root), "--crowds-are-objects", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert [(one["objects"], one["crowds"]) for one in counts] == [(9, 0)] * files
    assert run(["data", "show", str(root), "--out", str(tmp_path / "shown"), "--count", "2", "--json"]) == 0
    shown = [Path(path) for path in json.loads(capsys.readouterr().out)]
    assert len(shown) == 2
    assert all(path.parent == tmp_path / "shown" and path.is_file() for path in shown)


@pytest.mark.parametrize("tool", LAYOUTS)
def test_each_export_becomes_a_yolo_set(tmp_path: Path, capsys: Capture, tool: str) -> None:
    root, out = tmp_path / "set", tmp_path / "yolo"
    LAYOUTS[tool](root)
    assert run(["convert", "coco2yolo", str(root), "--out", str(out), "--crowds-are-objects"]) == 0
    labels = sorted(path.relative_to(out).as_posix() for path in out.glob("labels/**/*.txt"))
    splits = ("test", "train", "val") if tool == "roboflow" else ("train",)
    name = "im" if tool == "roboflow" else "train_"
    assert labels == [f"labels/{split}/{name}{index}.txt" for split in splits for index in range(4)]
    text = (out / "data.yaml").read_text("utf-8")
    assert "house" in text
    assert "2:" not in text


@pytest.mark.parametrize("tool", ["cvat", "label-studio", "via"])
def test_a_single_file_is_cut_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tool: str
) -> None:
    monkeypatch.chdir(tmp_path)
    LAYOUTS[tool](tmp_path / "set")
    Path("tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 1})), encoding="utf-8")
    train = ["train", "tiny.toml", "--data", "set", "--device", "cpu", "--random-sam", "--out", "r"]
    assert run(train) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "which has no val split" in error
    assert "rsp data split set/" in error.replace("\\", "/")
    assert run(["data", "split", "set", "--val", "0.5"]) == 0
    assert run(["data", "check", "set"]) == 0
    assert capsys.readouterr().out.count("0 errors") == 2
    assert run(train) == 0
    assert read_checkpoint(Path("r/last")).meta.class_names == ("house", "tank")


def test_an_export_trains_and_is_evaluated_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    _roboflow(tmp_path / "set")
    Path("tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 1})), encoding="utf-8")
    command = ["train", "tiny.toml", "--data", "set", "--device", "cpu", "--random-sam", "--out", "r"]
    assert run(command) == 0
    assert "category 0 ('house') is the supercategory of others" in capsys.readouterr().err
    meta = read_checkpoint(Path("r/last")).meta
    assert (meta.class_names, meta.category_ids) == (("house", "tank"), (10, 20))
    for split in ("val", "valid", "test"):
        assert run(["eval", "r/last", "--data", "set", "--split", split, "--json"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert [one["name"] for one in tree["per_class"]] == ["house", "tank"]


def _crowds(root: Path, *splits: str) -> None:
    """Every object of the class tank is a crowd."""
    for split in splits:
        make_set(root, split=split)
        document = read_document(root, split)
        for annotation in document["annotations"]:
            annotation["iscrowd"] = int(annotation["category_id"] == 20)
        write_document(root, document, split)


def test_crowds_are_counted_apart_and_warned_of(tmp_path: Path, capsys: Capture) -> None:
    _crowds(tmp_path, "train")
    assert run(["data", "check", str(tmp_path)]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith("instances_train.json: 4 images, 6 annotations, 3 crowds, 0 errors, 2 warnings")
    assert "3 of 9 annotations are crowds (iscrowd 1), not training targets" in others[0]
    assert "--crowds-are-objects" in others[0]
    assert "category 20 ('tank') has 3 crowds and no object" in others[1]
    assert run(["data", "check", str(tmp_path), "--crowds-are-objects"]) == 0
    assert capsys.readouterr().out.endswith("4 images, 9 annotations, 0 errors, 0 warnings\n")
    assert run(["data", "stats", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["objects_per_class"] == {"house": 6, "tank": 0}
    assert "3 of 9 annotations are crowds" in captured.err


def test_split_writes_crowds_as_objects_when_asked(tmp_path: Path, capsys: Capture) -> None:
    _crowds(tmp_path, "all")
    source = tmp_path / "annotations" / "instances_all.json"
    assert run(["data", "split", str(source), "--val", "0.5", "--crowds-are-objects", "--json"]) == 0
    parts = [read_coco(path) for path in json.loads(capsys.readouterr().out)]
    assert sum(len(part.annotations) for part in parts) == 9
    assert not any(annotation.iscrowd for part in parts for annotation in part.annotations)
    assert [one["iscrowd"] for one in read_document(tmp_path, "all")["annotations"]].count(1) == 3


def test_training_keeps_how_crowds_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    _crowds(tmp_path / "data", "train", "val")
    Path("tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 2})), encoding="utf-8")
    command = ["train", "tiny.toml", "--data", "data", "--device", "cpu", "--random-sam"]
    assert run([*command, "--epochs", "1", "--out", "plain"]) == 0
    assert "warning: data/annotations/instances_train.json: 3 of 9" in capsys.readouterr().err.replace("\\", "/")
    assert run([*command, "--crowds-are-objects", "--minutes", "0", "--out", "r"]) == 0
    assert "crowds" not in capsys.readouterr().err
    assert load_config("r/config.toml").data.crowds_are_objects
    assert run(["train", "--resume", "--out", "r", "--device", "cpu"]) == 0
    checkpoint = read_checkpoint(Path("r/last"))
    assert checkpoint.config.data.crowds_are_objects
    assert checkpoint.meta.provenance["train"]["objects"] == 9
    resumed = ["train", "--resume", "--out", "r", "--device", "cpu", "--epochs", "3"]
    capsys.readouterr()
    assert run([*resumed, "--set", "data.crowds_are_objects=false"]) == 8
    assert "data.crowds_are_objects was True" in capsys.readouterr().err
    evaluate = ["eval", "r/last", "--data", "data", "--split", "val", "--json"]
    assert run(evaluate) == 0
    captured = capsys.readouterr()
    assert [one["objects"] for one in json.loads(captured.out)["per_class"]] == [6, 3]
    assert "crowds" not in captured.err
    assert run(["eval", "plain/last", *evaluate[2:]]) == 0
    captured = capsys.readouterr()
    assert [one["objects"] for one in json.loads(captured.out)["per_class"]] == [6, 0]
    assert "3 of 9 annotations are crowds" in captured.err


def test_a_set_of_crowds_only_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    _crowds(tmp_path / "data", "train", "val")
    document = read_document(tmp_path / "data")
    document["annotations"] = [one for one in document["annotations"] if one["iscrowd"]]
    write_document(tmp_path / "data", document)
    Path("tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 1})), encoding="utf-8")
    assert run(["train", "tiny.toml", "--data", "data", "--device", "cpu", "--random-sam"]) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no usable object to train on" in error
    assert "--crowds-are-objects" in error


def test_names_of_pictures_are_told_and_never_lead_out(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path / "set")
    document = read_document(tmp_path / "set")
    prefixes = ["C:\\Users\\me\\set\\images\\", "/home/me/set/images/", "/data/local-files/?d=images/", "images/"]
    for image, prefix in zip(document["images"], prefixes, strict=True):
        image["file_name"] = prefix + image["file_name"].replace(".png", ".PNG")
    write_document(tmp_path / "set", document)
    assert run(["data", "check", str(tmp_path / "set")]) == 0
    captured = capsys.readouterr()
    assert "0 errors, 0 warnings" in captured.out
    assert "4 images were found by the end of the path" in captured.err
    out = tmp_path / "yolo"
    assert run(["convert", "coco2yolo", str(tmp_path / "set"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.glob("images/train/*")) == [f"train_{index}.png" for index in range(4)]
    assert {path.name for path in tmp_path.iterdir()} == {"set", "yolo"}


def test_image_folder_is_the_way_out_of_two_matches(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path / "set")
    document = read_document(tmp_path / "set")
    for image in document["images"]:
        image["file_name"] = "/srv/" + image["file_name"]
    write_document(tmp_path / "set", document)
    shutil.copytree(tmp_path / "set" / "images", tmp_path / "set" / "copies" / "a")
    assert run(["data", "check", str(tmp_path / "set")]) == 3
    out = capsys.readouterr().out
    assert "matches 2 files" in out
    assert "--image-folder" in out
    assert run(["data", "check", str(tmp_path / "set"), "--image-folder", "copies"]) == 0


def test_split_of_the_train_file_names_the_way_out(tmp_path: Path, capsys: Capture) -> None:
    make_set(tmp_path)
    assert run(["data", "split", str(tmp_path), "--overwrite"]) == 7
    error = capsys.readouterr().err
    assert "would replace the file that is divided" in error
    assert "instances_all.json" in error


def test_split_of_pictures_beside_their_file(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "set"
    _roboflow(root)
    shutil.rmtree(root / "valid")
    shutil.rmtree(root / "test")
    assert run(["data", "split", str(root), "--val", "0.5"]) == 0
    (root / "other").mkdir()
    shutil.copy(root / "train" / "im0.png", root / "other" / "im0.png")
    assert run(["data", "check", str(root)]) == 0
    assert capsys.readouterr().out.count("0 errors") == 2
