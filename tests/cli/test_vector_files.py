"""Layers, encodings and class values of vector files in every command that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import pyogrio
import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.data.tiles.vector2coco import convert_vectors
from rsprompter_cli.evaluate.polygons import evaluate_polygons
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.models import load
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.output.postprocess import chosen_labels
from rsprompter_cli.train.finetune.dry_run import plan_fit
from tests.make.dbf import write_shapefile_with_text
from tests.make.fits import make_start, make_town
from tests.make.layers import house, write_layer
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

COMMAND = list[str]


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """town.tif, its labels in town.gpkg, and layers.gpkg with these labels as `houses` beside `parcels`."""
    monkeypatch.chdir(tmp_path)
    scene, labels = make_town(tmp_path, classes=["house ", " ", "House", "\u00a0house"] * 10)
    frame = geopandas.read_file(labels)
    parcels = frame.to_crs(32633)
    parcels = parcels.set_geometry(parcels.buffer(1)).assign(kind="p")
    for name, rows in (("parcels", parcels), ("houses", frame)):
        pyogrio.write_dataframe(rows, "layers.gpkg", layer=name, driver="GPKG", append=name == "houses")
    assert scene.name == "town.tif"
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> str:
    write_checkpoint(tmp_path / "best", tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2))
    return str(tmp_path / "best")


READERS: dict[str, COMMAND] = {
    "filter": ["filter", "layers.gpkg", "--min-area", "1", "--out", "out.geojson"],
    "qgis-style": ["qgis-style", "layers.gpkg", "--by", "kind"],
    "eval-polygons": ["eval-polygons", "layers.gpkg", "town.gpkg"],
    "vector2coco": ["convert", "vector2coco", "town.tif", "layers.gpkg", "--class-column", "kind", "--out", "set"],
    "fit": ["fit", "town.tif", "layers.gpkg", "--class-column", "kind", "--dry-run"],
    "aoi": ["predict", "town.tif", "--aoi", "layers.gpkg", "--dry-run"],
    "aoi of many": ["predict", "town.tif", "town.tif", "--aoi", "layers.gpkg", "--out", "folder", "--dry-run"],
}


@pytest.mark.parametrize("name", READERS)
def test_a_layer_is_named_in_every_command(town: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = READERS[name]
    assert run(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "layers.gpkg: has 2 layers: 'parcels'" in error
    assert "'houses'" in error
    assert "--layer" in error
    assert run([*command, "--layer", "hauses"]) == 2
    assert "did you mean 'houses'?" in capsys.readouterr().err
    assert run([*command, "--layer", "houses"]) == 0


def test_what_was_read_is_the_layer(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*READERS["eval-polygons"], "--layer", "houses", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == 1.0
    assert run(["eval-polygons", "town.gpkg", "layers.gpkg", "--layer", "parcels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] is not None
    assert run(["eval-polygons", "layers.gpkg", "layers.gpkg", "--layer", "houses", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == 1.0
    both = ["eval-polygons", "layers.gpkg", "layers.gpkg", "--layer", "houses", "--truth-layer", "parcels"]
    assert run([*both, "--iou", "0.99", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == 0.0
    assert run(["eval-polygons", "town.gpkg", "layers.gpkg"]) == 2
    assert "--truth-layer" in capsys.readouterr().err
    aoi = ["eval-polygons", "town.gpkg", "town.gpkg", "--aoi", "layers.gpkg"]
    assert run(aoi) == 2
    assert "--aoi-layer" in capsys.readouterr().err
    assert run([*aoi, "--aoi-layer", "houses"]) == 0
    assert run(["eval-polygons", "town.gpkg", "town.gpkg", "--aoi-layer", "houses"]) == 2


def test_labels_of_several_files_each_in_its_layer(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (town / "east").mkdir()
    scene, labels = make_town(town / "east", "east")
    pairs = ["town.tif", "layers.gpkg", str(scene), str(labels)]
    assert run(["convert", "vector2coco", *pairs, "--layer", "houses", "--out", "set"]) == 0
    assert run(["fit", *pairs, "--layer", "houses", "--layer", "east", "--dry-run"]) == 0
    capsys.readouterr()
    assert run(["fit", *pairs, "--layer", "houses", "--layer", "west", "--dry-run"]) == 2
    assert "--layer west: none of the files has a layer of that name" in capsys.readouterr().err


def test_the_layer_of_prompts(town: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rsprompter_cli.io.model_files.sam_folder import write_sam_folder
    from rsprompter_cli.io.network.hub import sam_folder_for
    from tests.make.sam_files import SMALL_SAM, small_sam_tensors

    monkeypatch.setenv("RSP_CACHE", str(town / "cache"))
    source: dict[str, str | None] = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}
    write_sam_folder(sam_folder_for("base"), small_sam_tensors(), SMALL_SAM, source)
    command = ["predict", "town.tif", "--prompts", "layers.gpkg", "--dry-run"]
    assert run(command) == 2
    assert "has 2 layers: 'parcels'" in capsys.readouterr().err
    assert run([*command, "--layer", "houses"]) == 0
    assert "40 of 40 prompts" in capsys.readouterr().out


def test_layer_needs_a_vector_file(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "town.tif", "--layer", "houses", "--dry-run"]) == 2
    assert "--layer requires --aoi or --prompts" in capsys.readouterr().err


def test_classes_are_spelled_alike_from_the_labels_to_the_check(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "vector2coco", "town.tif", "town.gpkg", "--class-column", "kind", "--out", "set"]
    assert run([*command, "--class-name", " hut "]) == 0
    assert "the classes 'House', 'house' differ only in case or spaces" in capsys.readouterr().err
    document = json.loads(Path("set/annotations/instances_train.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["House", "house", "hut"]
    assert run(["data", "check", "set"]) == 0
    for words in (command, ["fit", "town.tif", "town.gpkg", "--dry-run"]):
        assert run([*words, "--class-name", "\u00a0 ", *(["--overwrite"] if words is command else [])]) == 2
        assert "--class-name is blank" in capsys.readouterr().err
    start = str(make_start(town / "start"))
    assert run(["fit", "town.tif", "town.gpkg", "--class-column", "kind", "--model", start, "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["classes"] == {"House": 10, "building": 10, "house": 20}
    assert "'House', 'house' differ only in case or spaces" in captured.err


def test_filter_style_and_comparison_of_blank_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = ["tank", "tank ", "\u00a0tank", "Tank", " ", None]
    write_layer(tmp_path / "in.gpkg", [house(20 * i, 0) for i in range(6)], class_=kinds)
    assert run(["filter", "in.gpkg", "--classes", "tank", "--out", "out.geojson"]) == 0
    captured = capsys.readouterr()
    assert "3 of 6 features" in captured.err
    assert "'Tank', 'tank' differ only in case or spaces" in captured.err
    features = json.loads(Path("out.geojson").read_text(encoding="utf-8"))["features"]
    assert {feature["properties"]["class"] for feature in features} == {"tank", "tank ", "\u00a0tank"}  # as they came
    assert run(["qgis-style", "in.gpkg", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["colours"]) == ["Tank", "tank"]
    assert 'attr="trim(&quot;class&quot;)"' in Path("in.qml").read_text()
    write_layer(tmp_path / "truth.gpkg", [house(20 * i, 0) for i in range(6)], class_=["tank"] * 3 + ["Tank", "", ""])
    assert run(["eval-polygons", "in.gpkg", "truth.gpkg", "--json"]) == 0
    captured = capsys.readouterr()
    assert {one["class"]: one["f1"] for one in json.loads(captured.out)["by_class"]} == {
        "(no class)": 1.0, "Tank": 1.0, "tank": 1.0
    }  # fmt: skip
    assert "'Tank', 'tank' differ only in case or spaces" in captured.err


@pytest.mark.parametrize(
    ("encoding", "cpg"), [("latin-1", None), ("utf-8", None), ("latin-1", b"UTF-8"), ("cp1252", b"1252")]
)
def test_text_of_a_shapefile_is_the_same_in_every_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoding: str,
    cpg: bytes | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapefile_with_text(tmp_path / "in.shp", ["Gebäude".encode(encoding)] * 2, cpg=cpg)
    assert run(["filter", "in.shp", "--classes", "Gebäude", "--out", "out.geojson"]) == 0
    assert run(["filter", "in.shp", "--min-area", "1", "--out", "again.shp"]) == 0
    assert "2 of 2 features" in capsys.readouterr().err
    for pair in (["in.shp", "out.geojson"], ["again.shp", "in.shp"]):
        assert run(["eval-polygons", *pair, "--json"]) == 0
        assert [one["class"] for one in json.loads(capsys.readouterr().out)["by_class"]] == ["Gebäude"]
    assert run(["qgis-style", "in.shp", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["colours"]) == ["Gebäude"]


def test_a_name_that_the_format_refuses_comes_before_the_model(
    town: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_keywords: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(load, "load_model", fail)
    predict = ["predict", "town.tif", "--model", model, "--native"]
    (town / "gpkg_b.tif").write_bytes((town / "town.tif").read_bytes())
    (town / "afile").write_text("")
    for words in (
        [*predict, "--out", "gpkg_a.gpkg"],
        [*predict, "--out", "sqlite_a.gpkg"],
        [*predict, "--out", "afile/a.gpkg"],
        [*predict, "--out", "afile/a.geojson"],
        [*predict, "--out", "afile/1.part", "--shard", "1/2"],
        ["predict", "town.tif", "gpkg_b.tif", "--model", model, "--native", "--out", "folder", "--format", "gpkg"],
        ["predict", "town.tif", "gpkg_b.tif", "--model", model, "--native", "--out", "gpkg_all.gpkg"],
        ["filter", "town.gpkg", "--min-area", "1", "--out", "gpkg_a.gpkg"],
        ["eval-polygons", "town.gpkg", "town.gpkg", "--map", "afile/a.png"],
    ):
        assert run(words) == 7, words
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("rsp: error: ")
        assert "cannot be written" in line
        assert line.endswith(")"), "the way out is named"
    left = {path.name for path in town.iterdir() if path.name.startswith((".", "folder", "gpkg_a", "sqlite"))}
    assert left <= {"folder"}


def test_a_set_on_the_map_under_a_reserved_name(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "vector2coco", "town.tif", "town.gpkg", "--out", "set"]) == 0
    capsys.readouterr()
    command = ["convert", "coco2vector", "set/annotations/instances_train.json", "--out"]
    assert run([*command, "gpkg_a.gpkg"]) == 7
    assert "choose another file name, for example objects.gpkg" in capsys.readouterr().err
    assert run([*command, "a.gpkg"]) == 0


def test_attributes_that_a_table_refuses(town: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layer(town / "names.geojson", [house(0, 0)], Name=["a"], name=["b"])
    assert run(["filter", "names.geojson", "--min-area", "1", "--out", "out.gpkg"]) == 7
    assert "write .geojson" in capsys.readouterr().err
    assert not Path("out.gpkg").exists()
    assert run(["filter", "names.geojson", "--min-area", "1", "--out", "out.geojson"]) == 0


def test_layers_and_classes_from_python(town: Path) -> None:
    plan = plan_fit([("town.tif", "layers.gpkg")], layer="houses", model=make_start(town / "start"))
    assert plan["train"]["labels"] + plan["val"]["labels"] == 40
    assert convert_vectors([("town.tif", "layers.gpkg")], "set", layer="houses").splits["train"][1] > 0
    assert evaluate_polygons("layers.gpkg", "town.gpkg", layer="houses").counts.f1 == 1.0
    assert PredictOptions().changed(aoi="layers.gpkg", layer="houses").output.layer == "houses"
    assert chosen_labels(["house", "\u00a0Tank"], ["Tank", "house "]) == {0, 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.gpkg", "nowhere.gpkg: no such file\n"),
        ("towm.gpkg", "towm.gpkg: no such file (did you mean 'town.gpkg'?)\n"),
        ("https://example.org/town.gpkg", "no such file (download it: vector input must be a local file)\n"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["fit", "town.tif", "FILE", "--out", "mine"],
        ["convert", "vector2coco", "town.tif", "FILE", "--out", "set"],
        ["eval-polygons", "FILE", "town.gpkg"],
        ["filter", "FILE", "--score", "0.5", "--out", "few.gpkg"],
        ["qgis-style", "FILE"],
        ["predict", "town.tif", "--aoi", "FILE", "--out", "a.gpkg"],
    ],
    ids=lambda command: command[0],
)
def test_a_missing_vector_file_is_one_short_line(
    command: COMMAND, name: str, message: str, town: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name if word == "FILE" else word for word in command]) == 3
    error = capsys.readouterr().err
    assert error.endswith(message)
    assert error.count("\n") == 1
