"""`rsp predict` as typed, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from tests.make.rfc7946 import problems
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "best"
    write_checkpoint(folder, tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2))
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", paint(70, 90, {"red": [(10, 10, 50, 40)]}))


def test_geojson_with_the_promised_attributes(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.geojson"
    code = run(["predict", str(scene), "--out", str(out), "--model", str(model), "--native", "--score", "0", "--json"])
    assert code == 0
    facts = json.loads(capsys.readouterr().out)
    collection = json.loads(out.read_text())
    assert problems(out.read_text()) == []
    assert facts["objects"] == len(collection["features"]) > 0
    for number, feature in enumerate(collection["features"], start=1):
        assert list(feature["properties"]) == ["id", "class", "score", "area_m2", "perimeter_m", "n_windows"]
        assert feature["properties"]["id"] == number
        assert 0 <= feature["properties"]["score"] <= 1


def test_regularize_goes_with_simplify_and_min_area(model: Path, scene: Path, tmp_path: Path) -> None:
    options = ["--model", str(model), "--native", "--score", "0", "--simplify", "0.1", "--min-area", "1"]
    vertices = []
    for name, more in (("plain", []), ("square", ["--regularize"])):
        out = tmp_path / f"{name}.geojson"
        assert run(["predict", str(scene), "--out", str(out), *options, *more]) == 0
        assert problems(out.read_text()) == []
        vertices.append(out.read_text().count("["))
    assert vertices[1] < vertices[0]


def test_a_map_and_a_report_beside_the_output(
    model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    beside = ["--preview", "map.html", "--report", "report.json", "--crs", "EPSG:3857"]
    command = ["predict", str(scene), "--out", "a.fgb", "--model", str(model), "--native", "--score", "0", *beside]
    assert run(command) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    err = capsys.readouterr().err
    assert f"{report['counts']['objects']} object" in err
    assert err.endswith("wrote map.html\nwrote report.json\n")
    assert report["model"] == str(model)
    assert run(command) == 7
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite", "--classes", report_classes(model)[0]]) == 0


def report_classes(model: Path) -> list[str]:
    return list(json.loads((model / "meta.json").read_text())["class_names"])


def test_into_a_folder_goes_a_file_of_the_name_of_the_scene(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "polygons"
    command = ["predict", str(scene), "--out", str(out), "--model", str(model), "--native", "--score", "0"]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "polygons: no extension" in said
    assert ".geojson" in said
    out.mkdir()
    assert run([*command, "--preview", str(tmp_path / "map.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(out / "scene.geojson")
    assert [path.name for path in out.iterdir()] == ["scene.geojson"]
    assert run(command) == 7
    assert "scene.geojson already exists" in capsys.readouterr().err
    assert run([*command, "--shard", "1/2"]) == 7
    assert "polygons is a folder" in capsys.readouterr().err


def test_dry_run_says_the_plan_and_writes_nothing(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(scene), "--dry-run", "--model", str(model), "--native", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["out"] is None
    assert facts["plan"]["windows"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "--out"),
        (["--out", "x.docx"], 2, ".geojson"),
        (["--out", "x.geojson", "--bands", "red"], 2, "--bands"),
        (["--out", ""], 2, "--out names no file"),
        (["--out", "x.geojson", "--bands", "²"], 2, "--bands"),
        (["--out", "x.geojson", "--bands", "9" * 5000], 2, "--bands"),
        (["--out", "x.geojson", "--gsd", "1e300"], 2, "--gsd 1e+300"),
        (["--out", "x.geojson", "--gsd", "inf"], 2, "--gsd inf"),
        (["--out", "x.geojson", "--gsd", "nan"], 2, "--gsd"),
        (["--out", "x.geojson", "--min-area", "inf"], 2, "--min-area inf"),
        (["--out", "x.geojson", "--min-area", "nan"], 2, "--min-area"),
        (["--out", "x.geojson", "--simplify", "nan"], 2, "--simplify"),
        (["--out", "x.geojson", "--score", "nan"], 2, "--score"),
        (["--out", "x.geojson", "--crs", "EPSG:3857"], 2, "RFC 7946"),
        (["--out", "x.gpkg", "--crs", "utm33"], 2, "--crs utm33"),
        (["--out", "x.gpkg", "--crs", ""], 2, "--crs"),
        (["--out", "x.geojson", "--classes", " , "], 2, "--classes names no class"),
        (["--out", "x.geojson", "--classes", "buildings"], 2, "--classes buildings: the model has no such class"),
        (["--out", "x.geojson", "--aoi", "nowhere.gpkg"], 3, "nowhere.gpkg: no such file"),
        (["--out", "x.geojson", "--aoi", "scene.tif"], 3, "is a raster where a vector file is expected"),
        (["--out", "x.geojson", "--aoi-cut"], 2, "--aoi-cut requires --aoi"),
        (["--out", "x.geojson", "--preview", "x.geojson"], 2, "--preview x.geojson"),
        (["--out", "x.geojson", "--report", "scene.tif"], 2, "--report scene.tif"),
        (["--out", "x.geojson", "--model", "n" * 300], 4, "no such checkpoint folder"),
        (["--out", "x.geojson", "--overlap", "0.7"], 2, "--overlap 0.7"),
        (["--out", "x.geojson", "--model", "nowhere"], 4, "nowhere"),
        (["--out", "x.geojson", "--device", "cude"], 2, "cude"),
        (["--out", "x.geojson", "--nativ"], 2, "--native"),
    ],
)
def test_a_mistake_is_one_line(
    model: Path,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [] if "--model" in arguments else ["--model", str(model)]
    assert run(["predict", str(scene), *chosen, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize("name", ["scene.tif/a.geojson", "n" * 300 + ".geojson"])
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_output_that_cannot_be_written_is_refused_before_the_model_is_read(
    name: str, dry_run: list[str], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    # A model that is not there would be the next error.
    assert run(["predict", str(scene), "--out", str(out), "--model", "nowhere", *dry_run]) == 7
    err = capsys.readouterr().err
    assert err.startswith(f"rsp: error: {out}: cannot be written")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_a_missing_scene_is_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["predict", str(tmp_path / "no.tif"), "--out", str(tmp_path / "x.geojson"), "--model", str(model)])
    assert code == 3
    assert "no.tif" in capsys.readouterr().err


def test_many_scenes_say_what_failed_and_end_with_10(
    model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(model), "--native", "--score", "0"]
    assert run(["predict", "scene.tif", "gone.tif", "--out", "all.gpkg", "--json", *options]) == 10
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert [one["state"] for one in facts["scenes"]] == ["done", "failed"]
    assert facts["scenes"][1]["reason"].startswith("gone.tif: no such file")
    assert captured.err.strip().split("\n")[-1].startswith("rsp: error: 1 of 2 scenes failed: gone.tif")
    assert run(["predict", "scene.tif", "--out", "each", "--format", "fgb", *options]) == 0
    assert (tmp_path / "each" / "scene.fgb").is_file()
    assert "1 of 1 scene" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([".", "--out", "x.docx"], 2, "unknown extension"),
        ([".", "--out", ""], 2, "--out names neither a file nor a folder"),
        ([".", "--out", "x.png"], 2, "--out FOLDER --format png"),
        (["scene.tif", "--out", "x", "--format", "docx"], 2, "--format docx"),
        (["scene.tif", "--out", "scene.tif", "--format", "fgb"], 7, "scene.tif is a file"),
        ([".", "--out", "x.gpkg", "--preview", "m.html"], 2, "--preview"),
        ([".", "--out", "x.gpkg", "--prompts", "p.geojson"], 2, "--prompts takes one scene"),
        (["*.jp2", "--out", "x.gpkg"], 3, "matches no raster"),
        (["@none", "--out", "x.gpkg"], 3, "no such list"),
        ([".", "--out", "x.gpkg", "--model", "nowhere"], 4, "nowhere"),
    ],
)
def test_a_mistake_with_many_scenes_is_one_line(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
