"""`rsp predict --prompts` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely

from rsprompter_cli.cli.app import run
from rsprompter_cli.io.model_files.sam_folder import write_sam_folder
from rsprompter_cli.io.network.hub import sam_folder_for
from rsprompter_cli.predict.prompts import run as run_module
from tests.make.asked import SightedSam
from tests.make.labelled import make_labelled_scene
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.tiny_models import TINY_TINY_VIT

SOURCE: dict[str, str | None] = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scene with two buildings and their footprints, and no SAM on the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    houses = [shapely.box(20, 20, 40, 50), shapely.box(100, 90, 130, 110)]
    make_labelled_scene(Path(), "scene", houses, label_suffix=".geojson", classes=["barn", None])


def _sam(name: str = "base") -> None:
    write_sam_folder(sam_folder_for(name), small_sam_tensors(), SMALL_SAM, SOURCE)


def test_facts_and_polygons(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _sam()
    monkeypatch.setattr(run_module, "load_prompted", lambda folder, device: SightedSam())
    command = ["predict", "scene.tif", "--prompts", "scene.geojson", "--out", "x.geojson"]
    assert run([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.pop("seconds") >= 0
    nothing: dict[str, list[int]] = {
        key: [] for key in ("unusable", "too_many_points", "outside", "nodata", "empty", "low_score", "too_small")
    }
    assert facts == {
        "out": "x.geojson", "prompts": 2, "objects": 2, "windows": 2, "window_size": 64, "without_polygon": nothing
    }  # fmt: skip
    kinds = [feature["properties"]["kind"] for feature in json.loads(Path("x.geojson").read_text())["features"]]
    assert kinds == ["barn", None]
    assert run([*command, "--overwrite", "--keep-parts"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("wrote x.geojson: 2 polygons for 2 prompts from 2 windows of 64 px in ")


def test_the_whole_way_with_a_random_sam() -> None:
    _sam("mine")
    assert run(["predict", "scene.tif", "--prompts", "scene.geojson", "--sam", "mine", "--out", "x.gpkg"]) == 0
    assert Path("x.gpkg").is_file()


def test_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    _sam()
    assert run(["predict", "scene.tif", "--prompts", "scene.geojson", "--dry-run"]) == 0
    assert capsys.readouterr().out == "2 of 2 prompts to segment in 2 windows of 64 px\n"
    assert run(["predict", "scene.tif", "--prompts", "scene.geojson", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--everything"], 2, "--prompts and --everything are mutually exclusive"),
        (["--model", "m"], 2, "--prompts and --model are mutually exclusive"),
        (["--overlap", "0.25"], 2, "--prompts and --overlap are mutually exclusive"),
        (["--batch", "1"], 2, "--prompts and --batch are mutually exclusive"),
        (["--max-windows", "5"], 2, "--prompts and --max-windows are mutually exclusive"),
        (["--aoi", "a.gpkg"], 2, "--prompts and --aoi are mutually exclusive"),
        (["--classes", "a"], 2, "--prompts and --classes are mutually exclusive"),
        (["--preview", "a.html"], 2, "--prompts and --preview are mutually exclusive"),
        (["--report", "a.json"], 2, "--prompts and --report are mutually exclusive"),
        (["--crs", "EPSG:3857"], 2, "RFC 7946"),
        ([], 4, "run: rsp download-sam base"),
        (["--sam", "huge"], 4, "run: rsp download-sam huge"),
        (["--sam", ""], 2, "the name of the SAM is empty"),
        (["--sam", "bsae"], 2, "did you mean 'base'?"),
        (["--score", "nan"], 2, "--score"),
        (["--gsd", "0.3", "--native"], 2, "--gsd"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--gsd" in arguments or "--crs" in arguments:
        _sam()
    command = ["predict", "scene.tif", "--prompts", "scene.geojson", "--out", "x.geojson"]
    assert run([*command, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not Path("x.geojson").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep-parts", "--out", "x.geojson"], "--keep-parts requires --prompts"),
        (["--sam", "base", "--out", "x.geojson"], "--sam requires --everything or --prompts"),
        (["--prompts", "scene.geojson"], "--out is missing"),
    ],
)
def test_options_that_lack_their_partner(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "scene.tif", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_points_are_refused_for_a_sam_that_knows_boxes_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # No weights: it is refused before they are read.
    write_sam_folder(sam_folder_for("tiny-vit"), {}, TINY_TINY_VIT, SOURCE)
    features = json.loads(Path("scene.geojson").read_text())["features"]
    for feature in features[1:]:
        feature["geometry"] = {"type": "Point", "coordinates": feature["geometry"]["coordinates"][0][0]}
    Path("mixed.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    command = ["predict", "scene.tif", "--sam", "tiny-vit", "--out", "x.geojson", "--prompts"]
    assert run([*command, "mixed.geojson"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mixed.geojson: the SAM tiny-vit was trained on boxes only, but these prompts are points: 2" in error
    assert "rsp download-sam base" in error
    assert run([*command, "scene.geojson", "--dry-run"]) == 0


def test_files_that_are_no_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    _sam()
    Path("text.geojson").write_text("hello")
    Path("broken.geojson").write_text('{"type": "FeatureCollection", "features": [{')
    for name, said in (("none.geojson", "no such file"), ("text.geojson", "not a vector file"), ("broken.geojson", "")):
        assert run(["predict", "scene.tif", "--prompts", name, "--out", "x.geojson"]) == 3
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert name in error
        assert said in error


@pytest.mark.parametrize("option", ["--prompts", "--aoi"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_prompts_beside_the_scene_end_as_an_area_does(
    option: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _sam()
    make_labelled_scene(Path(), "far", [shapely.box(5000, 5000, 5020, 5020)], label_suffix=".geojson", classes=[None])
    capsys.readouterr()
    assert run(["predict", "scene.tif", option, "far.geojson", "--out", "x.geojson", *more]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"rsp: error: {option} far.geojson: does not overlap scene.tif: " in captured.err
    assert captured.err.splitlines()[-1].startswith("rsp: error: ")
    assert not Path("x.geojson").exists()
