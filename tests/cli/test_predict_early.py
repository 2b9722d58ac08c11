"""What `rsp predict` refuses before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsprompter_cli.train.finetune.record import RECORD_FILE, run_folder
from tests.make.scenes import write_scene

REFUSE = """
import sys
from rsprompter_cli.cli.app import run
code = run(["predict", *sys.argv[1:]])
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def refuse(folder: Path, *words: str) -> tuple[int, list[str]]:
    """The exit code, and the lines on standard error of a fresh process; the last says whether torch was imported."""
    command = [sys.executable, "-c", REFUSE, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scene(tmp_path / "scene.tif", np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "there.geojson").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "nowhere"], 4, "nowhere: no such checkpoint folder"),
        (["--model", "nowhere", "--procs", "2"], 4, "nowhere: no such checkpoint folder"),
        (["--model", "nowhere", "--everything"], 4, "nowhere: no such checkpoint folder"),
        (["--model", "nowhere", "--dry-run"], 4, "nowhere: no such checkpoint folder"),
        (["--model", "scene.tif"], 4, "scene.tif: a file, not a checkpoint folder"),
        (["--crs", "EPSG:32633"], 2, "--crs EPSG:32633: GeoJSON is always in longitude and latitude"),
        (["--crs", "nonsense"], 2, "--crs nonsense: is not a coordinate reference system"),
        (["--aoi", "scene.tif"], 3, "scene.tif: "),
        (["--aoi", "nowhere.gpkg"], 3, "nowhere.gpkg: no such file"),
        (["--aoi-cut"], 2, "--aoi-cut requires --aoi"),
        (["--prompts", "scene.tif"], 3, "scene.tif: "),
        (["--everything", "--sam", "nowhere/sam"], 4, "nowhere/sam"),
        (["--classes", "boat"], 2, "boat"),
        (["--preview", "map.pdf"], 2, "--preview map.pdf: must be an .html file"),
        (["--report", "report.txt"], 2, "--report report.txt: must be a .json file"),
        (["--report", "there.geojson"], 2, "must be a .json file"),
        (["scene.tif", "--out", "a.gpkg", "--model", "nowhere"], 4, "nowhere: no such checkpoint folder"),
        (["scene.tif", "--preview", "map.html"], 2, "--preview: a map shows one scene"),
        (["scene.tif", "--out", "a.gpkg", "--aoi", "scene.tif"], 3, "scene.tif: "),
        (["scene.tif", "--out", "there.geojson"], 7, "there.geojson already exists"),
    ],
)
def test_a_cheap_mistake_is_reported_before_torch_is_imported(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    out = [] if "--out" in words else ["--out", "a.geojson"]
    ended, lines = refuse(folder, "scene.tif", *out, *words)
    assert ended == code, lines
    assert message in lines[-2]
    assert lines[-1] == "False", "torch was imported"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_unfinished_fit_is_named_with_the_command_that_continues_it(folder: Path) -> None:
    run = run_folder(folder / "my-model")
    run.mkdir()
    (run / RECORD_FILE).write_text("{}", encoding="utf-8")
    ended, lines = refuse(folder, "scene.tif", "--out", "a.geojson", "--model", "my-model")
    assert ended == 4
    assert "my-model: no such checkpoint folder" in lines[-2]
    assert "my-model-run contains an unfinished fit; continue it with rsp fit --resume --out my-model" in lines[-2]
    (run / RECORD_FILE).unlink()
    _, lines = refuse(folder, "scene.tif", "--out", "a.geojson", "--model", "my-model")
    assert "rsp fit --resume" not in lines[-2]
