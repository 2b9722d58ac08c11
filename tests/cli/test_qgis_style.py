"""`rsp qgis-style`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from tests.conftest import ROOT

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "examples" / "scene" / "town.geojson", tmp_path))


def test_recipe_on_stdout_summary_on_stderr(town: Path, capsys: Captured) -> None:
    assert run(["qgis-style", str(town)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("1. Layer > Add Layer")
    assert "class, roof, covering" in out
    assert "town.qml" in err
    assert town.with_suffix(".qml").is_file()


def test_json_names_style_and_colours(town: Path, capsys: Captured) -> None:
    assert run(["qgis-style", str(town), "--by", "roof", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["style"] == str(town.with_suffix(".qml"))
    assert facts["attribute"] == "roof"
    assert facts["features"] == 89
    assert facts["scores"] is None
    assert len(set(facts["colours"].values())) == len(facts["colours"]) == 7


def test_slips_are_one_line(town: Path, capsys: Captured) -> None:
    assert run(["qgis-style", str(town), "--by", "rof"]) == 2
    assert "roof" in capsys.readouterr().err
    assert run(["qgis-style", str(town.with_suffix(".tif"))]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    town.with_suffix(".qml").write_text("mine")
    assert run(["qgis-style", str(town)]) == 7
    assert "--overwrite" in capsys.readouterr().err
    assert town.with_suffix(".qml").read_text() == "mine"
