"""`rsp filter` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from tests.make.layers import house, write_layer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shapes = [house(0, 0, 3, 3), house(20, 0), house(40, 0)]
    columns = {"id": [4, 5, 6], "class_": ["a", "b", "a"], "score": [0.9, 0.7, 0.5], "area_m2": [9.0, 100.0, 100.0]}
    write_layer(tmp_path / "in.geojson", shapes, **columns)
    return tmp_path


def test_what_is_kept_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["filter", "in.geojson", "--score", ".6", "--min-area", "20", "--out", "out.geojson"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "wrote out.geojson: 1 of 3 features; dropped: 1 by score, 1 by min_area\n"
    (kept,) = json.loads(Path("out.geojson").read_text())["features"]
    assert kept["properties"] == {"id": 5, "class": "b", "score": 0.7, "area_m2": 100.0}


def test_classes_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["filter", "in.geojson", "--classes", "a, c", "--out", "out.gpkg", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "out": "out.gpkg",
        "read": 3,
        "kept": 2,
        "dropped": {"classes": 1},
        "repaired": 0,
        "unmeasured": 0,
    }
    assert "no feature has the class 'c'" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["in.geojson", "--out", "out.geojson"], 2, "nothing to filter by"),
        (["in.geojson", "--score", "0.5"], 2, "--out"),
        (["in.geojson", "--score", "60", "--out", "out.geojson"], 2, "--score"),
        (["in.geojson", "--score", "nan", "--out", "out.geojson"], 2, "--score"),
        (["in.geojson", "--min-area", "-1", "--out", "out.geojson"], 2, "--min-area"),
        (["in.geojson", "--min-area", "inf", "--out", "out.geojson"], 2, "--min-area inf"),
        (["in.geojson", "--classes", ",", "--out", "out.geojson"], 2, "--classes names no class"),
        (["in.geojson", "--score", "0.5", "--out", "out.docx"], 2, ".docx"),
        (["in.geojson", "--score", "0.5", "--out", ""], 2, "no vector format"),
        (["in.geojson", "--score", "0.5", "--out", "in.geojson", "--overwrite"], 7, "is the input"),
        (["none.geojson", "--score", "0.5", "--out", "out.geojson"], 3, "none.geojson: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert run(["filter", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert [path.name for path in folder.iterdir()] == ["in.geojson"]
