"""`rsp convert` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.cli.app import run
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.tiles.vector2coco import convert_vectors
from tests.make.labelled import make_labelled_scene, rectangle
from tests.make.whu import make_buildings, make_whu

TOWN = [rectangle(20, 30, 50, 40, 20), rectangle(150, 100, 50, 50)]


def test_whu2coco_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    label = make_buildings(np.random.default_rng(0), 64, 4, 9)
    make_whu(tmp_path / "data/WHU", {split: [label] for split in ("train", "val", "test")})
    monkeypatch.chdir(tmp_path)
    assert run(["convert", "whu2coco"]) == 0
    for split in ("train", "val", "test"):
        assert len(read_coco(f"data/WHU/annotations/WHU_building_{split}.json").images) == 1
    assert "wrote " in capsys.readouterr().err
    assert run(["convert", "whu2coco", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "unchanged"


def test_whu2coco_broken_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [np.zeros((8, 8), np.uint8), np.full((8, 8), 9, np.uint8), np.zeros((8, 8), np.uint8)]
    root = make_whu(tmp_path / "WHU", {"train": labels})
    (root / "imgs/train/label/2.tif").unlink()
    arguments = ["convert", "whu2coco", "--root", str(root), "--split", "train"]
    assert run(arguments) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert "1.tif" in lines[0]
    assert "2.tif" in lines[1]
    assert lines[2].startswith("rsp: error: 2 of 3")
    assert not (root / "annotations").exists()
    assert run([*arguments, "--skip-bad"]) == 0
    assert run(["convert", "whu2coco", "--root", str(tmp_path / "none")]) == 3


def test_whu2coco_will_not_replace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_whu(tmp_path / "WHU", {"train": [np.zeros((8, 8), np.uint8)]})
    arguments = ["convert", "whu2coco", "--root", str(root), "--split", "train"]
    assert run(arguments) == 0
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(root / "imgs/train/label/0.tif")
    assert run(arguments) == 7
    assert "--overwrite" in capsys.readouterr().err
    assert run([*arguments, "--overwrite"]) == 0


def test_vector2coco_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_labelled_scene(tmp_path, "one", TOWN)
    two = make_labelled_scene(tmp_path, "two", TOWN, label_suffix=".geojson")
    files = [str(path) for path in (*one, *two)]
    out = tmp_path / "set"
    arguments = ["convert", "vector2coco", *files, "--out", str(out), "--gsd", "0.5", "--gsd", "1"]
    assert run([*arguments, "--val-scene", "two", "--tile", "128", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcome"] == "written"
    assert set(report["splits"]) == {"train", "val"}
    assert run([*arguments, "--val-scene", "two", "--tile", "128"]) == 0
    assert "unchanged" in capsys.readouterr().err
    assert run([*arguments, "--val-scene", "one"]) == 7
    assert run(["convert", "vector2coco", *files[:3], "--out", str(out)]) == 2
    assert "this SCENE has no LABELS" in capsys.readouterr().err
    back = tmp_path / "back.geojson"
    assert run(["convert", "coco2vector", str(out / "annotations/instances_val.json"), "--out", str(back)]) == 0
    assert "wrote " in capsys.readouterr().err
    assert {f["properties"]["class"] for f in json.loads(back.read_text())["features"]} == {"building"}


def test_coco2vector_names_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_whu(tmp_path / "WHU", {"train": [make_buildings(np.random.default_rng(0), 64, 4, 9)]})
    assert run(["convert", "whu2coco", "--root", str(root), "--split", "train"]) == 0
    file = str(root / "annotations/WHU_building_train.json")
    assert run(["convert", "coco2vector", file, "--out", str(tmp_path / "x.geojson")]) == 3
    assert "--pixel-coords" in capsys.readouterr().err
    assert run(["convert", "coco2vector", file, "--out", str(tmp_path / "x.geojson"), "--pixel-coords"]) == 0


def test_vector2coco_has_the_defaults_of_its_function(tmp_path: Path) -> None:
    scene, labels = make_labelled_scene(tmp_path, "one", TOWN)
    assert run(["convert", "vector2coco", str(scene), str(labels), "--out", str(tmp_path / "typed")]) == 0
    convert_vectors([(scene, labels)], tmp_path / "called")
    names = [
        {path.relative_to(tmp_path / at): path for path in (tmp_path / at).rglob("*.*")} for at in ("typed", "called")
    ]
    assert names[0].keys() == names[1].keys()
    assert all(names[0][name].read_bytes() == names[1][name].read_bytes() for name in names[0])


def test_objects_and_annotations_of_tiles_are_each_stated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The first lies in one tile, the second across the border of two that do not overlap.
    make_labelled_scene(tmp_path, "town", [rectangle(20, 30, 50, 40), rectangle(100, 30, 60, 40)])
    words = ["convert", "vector2coco", "town.tif", "town.gpkg", "--tile", "128", "--overlap", "0", "--split", "train"]
    assert run([*words, "--out", "a"]) == 0
    out, err = capsys.readouterr()
    header, row = out.splitlines()
    assert header.split()[-2:] == ["objects", "annotations"]
    assert row.split()[-2:] == ["2", "3"]
    assert "an object is annotated in every tile that it reaches" in err
    assert "both splits" not in err
    assert "annotations" not in err.replace("a/annotations", "")
    # Several rows of a split are added up.
    assert run([*words, "--out", "b", "--gsd", "0.5", "--gsd", "0.7"]) == 0
    out, err = capsys.readouterr()
    tiles, annotations = (sum(int(line.split()[at]) for line in out.splitlines()[1:]) for at in (-3, -1))
    assert f"train in all: {tiles} tiles, {annotations} annotations" in err
    assert run([*words, "--out", "c", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)["scenes"]
    assert (facts["objects"], facts["instances"]) == (2, 3)
    # The check of the set calls the pieces by the same name.
    assert run(["data", "check", "c"]) == 0
    assert ", 3 annotations, 0 errors" in capsys.readouterr().out


def test_objects_on_the_border_of_the_held_back_part_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Long rows of houses, so that any cut goes through some of them.
    rows = [rectangle(column, row, 120, 20) for row in range(20, 480, 40) for column in (20, 150, 280)]
    make_labelled_scene(tmp_path, "town", rows, height=512, width=512)
    words = ["convert", "vector2coco", "town.tif", "town.gpkg", "--tile", "128", "--val", "0.3"]
    assert run([*words, "--out", "a", "--json"]) == 0
    scenes = json.loads(capsys.readouterr().out)["scenes"]
    shared = sum(one["objects"] for one in scenes) - scenes[0]["on_scene"]
    assert shared > 0
    assert {one["in_both_splits"] for one in scenes} == {shared}
    assert run([*words, "--out", "b"]) == 0
    assert f"town.tif: {shared} objects on the border of the held-back part are annotated" in capsys.readouterr().err


def test_the_class_column_has_one_name_and_the_former_one_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_labelled_scene(tmp_path, "town", TOWN, classes=["house", "shed"])
    words = ["convert", "vector2coco", "town.tif", "town.gpkg", "--split", "train", "--json"]
    for option in ("--class-column", "--class-attribute"):
        assert run([*words, option, "kind", "--out", option.strip("-")]) == 0
        assert json.loads(capsys.readouterr().out)["classes"] == ["house", "shed"]
    assert run([*words, "--class-column", "kind", "--class-attribute", "kind", "--out", "both"]) == 2
    assert "--class-column and --class-attribute are one option" in capsys.readouterr().err
    for command in (["convert", "vector2coco"], ["fit"], ["eval-polygons"]):
        assert run([*command, "--help"]) == 0
        page = capsys.readouterr().out
        assert "--class-column" in page
        assert "--class-attribute" not in page


def test_the_order_of_the_arguments_is_doubted_only_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_labelled_scene(tmp_path, "town", TOWN)
    doubt = "town.gpkg: is a vector file where a raster is expected (is the order of the arguments right?)"
    for command in (["convert", "vector2coco"], ["fit"]):
        assert run([*command, "town.gpkg", "town.tif", "--out", "a"]) == 3
        assert doubt in capsys.readouterr().err
    for command in (["predict", "town.gpkg", "--out", "a.gpkg"], ["info", "town.gpkg"]):
        assert run(command) == 3
        error = capsys.readouterr().err
        assert "town.gpkg: is a vector file where a raster is expected" in error
        assert "order" not in error
