"""`rsp eval-polygons` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rsprompter_cli.cli.app import run
from tests.make.layers import house, write_layer
from tests.make.scenes import paint, write_scene


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predictions with scores, truth and a scene in the working folder."""
    monkeypatch.chdir(tmp_path)
    houses = [house(5, -25), house(25, -25), house(45, -25)]
    write_layer(tmp_path / "pred.geojson", houses, score=[0.9, 0.8, 0.3], class_=["house"] * 3)
    write_layer(tmp_path / "truth.gpkg", houses[:1] + houses[2:], class_=["house"] * 2)
    write_scene(tmp_path / "scene.tif", paint(60, 120, {}))
    return tmp_path


def test_a_sentence_and_a_short_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval-polygons", "pred.geojson", "truth.gpkg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "F1 0.800: 2 of 2 objects found (recall 1.000), 1 of 3 predictions wrong (precision 0.667), at IoU 0.5."
    )
    assert lines[2].split() == ["IoU", "F1", "precision", "recall", "wrong", "missed"]
    assert [line.split()[0] for line in lines[3:]] == ["0.25", "0.5", "0.75"]


def test_full_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval-polygons", "pred.geojson", "truth.gpkg", "--full"]) == 0
    out = capsys.readouterr().out
    for word in ("AP50", "best F1", "PoLiS distance", "Boundary IoU, 1 m", "small: below 50 m2", "0.9 "):
        assert word in out


def test_the_scene_limits_what_is_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The scene ends at x = 60 m: of the house at 57 m less than half lies on it, of that at 54 m more.
    write_layer(folder / "true.gpkg", [house(5, -25), house(54, -12), house(57, -25), house(99, -25)])
    write_layer(folder / "found.geojson", [house(5, -25), house(54, -12, 6), house(57, -25, 3)])
    assert run(["eval-polygons", "found.geojson", "true.gpkg", "--scene", "scene.tif"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("F1 1.000: 2 of 2 objects found (recall 1.000), 0 of 2 predictions wrong")
    assert "the valid pixels of scene.tif: 2 of 4 objects and 0 of 3 predictions are clipped" in lines[1]
    assert "1 object and 0 predictions are outside." in lines[1]
    write_layer(folder / "inside.gpkg", [house(5, -25)])
    assert run(["eval-polygons", "inside.gpkg", "inside.gpkg", "--scene", "scene.tif"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("Compared inside the valid pixels of scene.tif. Pieces of less")
    assert run(["eval-polygons", "found.geojsn", "true.gpkg"]) == 3
    assert "found.geojsn: no such file (did you mean 'found.geojson'?)" in capsys.readouterr().err
    assert run(["eval-polygons", "found.geojson", "true.gpkg"]) == 0
    assert "2 of 4 objects found" in capsys.readouterr().out


def test_json_and_a_map(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extras = ["--map", "errors.png", "--scene", "scene.tif", "--score", "0.5", "--sizes", "20,60", "--iou", "0.6"]
    assert run(["eval-polygons", "pred.geojson", "truth.gpkg", *extras, "--json"]) == 0
    captured = capsys.readouterr()
    tree = json.loads(captured.out)
    assert (tree["true_positives"], tree["false_positives"], tree["missed"]) == (1, 1, 1)
    assert (tree["iou"], tree["score"], tree["matching"], tree["f1"]) == (0.6, 0.5, "by score", 0.5)
    assert tree["AP"]["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert tree["best"] == {"score": 0.3, "f1": 0.8}
    assert tree["outlines"]["polis_m"] == pytest.approx(0, abs=1e-6)
    assert tree["outlines"]["boundary_iou"] == pytest.approx(1)
    assert tree["outlines"]["corners"]["truth"] == {
        "count": 8,
        "right_share": 1.0,
        "mean_deviation_degrees": pytest.approx(0, abs=0.01),
    }
    assert (tree["truth"]["cut"], tree["truth"]["outside"], tree["scene"]) == (0, 0, "scene.tif")
    assert [one["size"] for one in tree["by_size"]] == ["small", "medium", "large"]
    assert tree["by_class"][0]["class"] == "house"
    assert Image.open("errors.png").width == 1080


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.geojson", "truth.gpkg"], 3, "none.geojson: no such file"),
        (
            ["pred.geojson", "scene.tif"],
            3,
            "scene.tif: is a raster where a vector file is expected (is the order of the arguments right?)",
        ),
        (["pred.geojson", "truth.gpkg", "--iou", "0"], 2, "--iou 0"),
        (["pred.geojson", "truth.gpkg", "--iou", "nan"], 2, "--iou nan"),
        (["pred.geojson", "truth.gpkg", "--score", "7"], 2, "--score"),
        (["pred.geojson", "truth.gpkg", "--sizes", "9"], 2, "--sizes 9"),
        (["pred.geojson", "truth.gpkg", "--class-column", "klass"], 2, "did you mean 'class'?"),
        (["pred.geojson", "truth.gpkg", "--score-column", "scores"], 2, "did you mean 'score'?"),
        (["pred.geojson", "truth.gpkg", "--map", "errors.jpg"], 2, "--map errors.jpg"),
        (["pred.geojson", "truth.gpkg", "--scene", "no.tif"], 3, "no.tif"),
        (["pred.geojson", "truth.gpkg", "--scene", "pred.geojson"], 3, "pred.geojson"),
        (["pred.geojson", "truth.gpkg", "--map", "e.png", "--scene", "no.tif"], 3, "no.tif"),
        (["pred.geojson", "truth.gpkg", "--map", "pred.geojson/e.png"], 7, "cannot be written"),
        (["pred.geojson", "truth.gpkg", "--aoi", "none.gpkg"], 3, "none.gpkg: no such file"),
        (["pred.geojson"], 2, "truth"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    assert run(["eval-polygons", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_map_is_not_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval-polygons", "pred.geojson", "truth.gpkg", "--map", "errors.png"]
    assert run(command) == 0
    assert capsys.readouterr().err == "wrote errors.png\n"
    assert run(command) == 7
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0


def test_real_footprints_against_themselves(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, truth = (shared / f"data/buildings/kampala_b.{suffix}" for suffix in ("tif", "geojson"))
    out = tmp_path / "errors.png"
    assert run(["eval-polygons", str(truth), str(truth), "--map", str(out), "--scene", str(scene), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["f1"] == 1.0
    assert (tree["true_positives"], tree["truth"]["objects"]) == (81, 92)  # 11 lie on it with less than half
    assert tree["AP"] is None
    assert Image.open(out).size[0] == 1024
