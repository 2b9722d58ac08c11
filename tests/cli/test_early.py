"""Mistakes in any command are reported before PyTorch is imported, which takes seconds; all in one fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
from filelock import FileLock

from rsprompter_cli.train.finetune.record import FitResult, Record, run_folder, wishes_of
from rsprompter_cli.train.finetune.schedule import Figures
from rsprompter_cli.train.finetune.verdict import Outcome, Verdict
from tests.make.coco_sets import make_set
from tests.make.fits import make_town
from tests.make.scenes import write_scene

RUN = """
import contextlib, io, json, sys
from rsprompter_cli.cli.app import run
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    print(json.dumps([words, code, out.getvalue(), err.getvalue(), "torch" in sys.modules]), flush=True)
"""

REFUSED: list[tuple[str, int, str]] = [
    ("predict scene.tif --out a.gpkg --bands 4,3,2", 2, "--bands: scene.tif has 3 bands"),
    ("predict scene.tif --out a.gpkg --bands 7", 2, "--bands: scene.tif has 3 bands"),
    ("predict scene.tif --dry-run --bands 4,3,2", 2, "--bands: scene.tif has 3 bands"),
    ("predict scene.tif --out 1.part --shard 1/2 --bands 4,3,2", 2, "--bands: scene.tif has 3 bands"),
    ("predict scene.tif --out a.gpkg --procs 2 --bands 4,3,2", 2, "--bands: scene.tif has 3 bands"),
    ("predict scene.tif --out a.gpkg --aoi far.geojson", 3, "--aoi far.geojson: does not overlap"),
    ("predict scene.tif --out a.gpkg --page 3", 2, "--page 3"),
    ("predict scene.tif --out a.gpkg --scale wide", 2, "--scale"),
    ("predict scene.tif --out a.gpkg --scene-crs nonsense", 2, "--scene-crs nonsense"),
    ("predict plain.tif --out a.gpkg", 3, "cannot be georeferenced"),
    ("predict plain.tif --out a.gpkg --gsd 0.3", 3, "--gsd"),
    ("fit scene.tif town.gpkg --out mine --bands 4,3,2", 2, "--bands: scene.tif has 3 bands"),
    ("fit plain.tif town.gpkg --out mine", 3, "labels cannot be placed on it"),
    ("fit town.tif town.gpkg --out mine --class-column knid", 2, "knid"),
    ("fit --resume --out nowhere", 8, "nowhere-run: no run to resume"),
    ("fit --resume --out done --gsd 3", 2, "--resume: --gsd differs"),
    ("fit --resume --out busy", 7, "another training run is using this folder"),
    ("fit town.tif town.gpkg --out free", 7, "another training run is using this folder"),
    ("train --data nowhere --random-sam", 3, "nowhere: no such folder"),
    ("train --data scene.tif --random-sam", 3, "scene.tif: a file, not a folder"),
    ("train --data empty --random-sam", 3, "contains no file ending in train.json"),
    ("train --data empty --random-sam --dry-run", 3, "contains no file ending in train.json"),
    ("train rsprompter-anchor-wuh", 2, "did you mean 'rsprompter-anchor-whu'?"),
    ("train --set train.epohcs=3", 2, "did you mean 'train.epochs'?"),
    ("train --data data --random-sam --out used", 7, "used already contains a run"),
    ("train --data data --random-sam --out busy-run", 7, "another training run is using this folder"),
    (
        "train --data data --set data.val_split=val --load-from nowhere --out new",
        4,
        "nowhere: no such checkpoint folder",
    ),
    ("train --resume", 8, "no saved state to resume"),
    ("train --resume --out nowhere", 8, "no saved state to resume"),
    ("train rsprompter-anchor-whu --resume --out nowhere", 8, "no saved state to resume"),
    ("eval nowhere --data data --split val", 4, "nowhere: no such checkpoint folder"),
    ("eval bundled --data nowhere", 3, "nowhere: no such folder"),
    ("checkpoint show nowhere", 4, "nowhere: no such checkpoint folder"),
    ("checkpoint export nowhere --out a.pth", 4, "nowhere: no such checkpoint folder"),
    ("checkpoint merge-lora nowhere --out a", 4, "nowhere: no such checkpoint folder"),
    ("checkpoint import a.pth --preset rsprompter-anchor-whu --out a", 4, "a.pth: no such file"),
    ("data show nowhere --out a", 3, "nowhere: no such file or folder"),
    ("merge nowhere --out a.gpkg", 3, "nowhere: no such file or folder"),
    ("merge foreign --out a.gpkg", 3, "foreign/2.part: is not a part written by rsp predict --shard"),
    ("predict scene.tif --out old.gpkg", 7, ".old.gpkg.journal exists and is not a journal of rsp"),
]
"""A command line, its exit code, and a part of its message."""


def _finished(folder: Path) -> FitResult:
    """The record of a fit that has finished."""
    run = run_folder(folder / "done")
    run.mkdir()
    verdict = Verdict(Outcome.BETTER, 0.5, 0.7, 0.05, 40, ("more labels",))
    result = FitResult(
        folder / "done", run, "fitted", ("building",), {"train": 60, "val": 40}, {"train": 9, "val": 4}, (0.5, 0.5),
        Figures(0.5, 0.4, 0.3, 0.5), Figures(0.7, 0.6, 0.4, 0.5), 0.5, 3, 30, True, 1.0, str(folder / "town.tif"),
        verdict,
    )  # fmt: skip
    wishes = wishes_of([(folder / "town.tif", folder / "town.gpkg")])
    Record(wishes, result=result.as_dict()).save(run)
    (folder / "done").mkdir()
    (folder / "done" / "meta.json").write_text("{}", encoding="utf-8")
    return result


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, bool]]:
    """The exit code, the output and the messages of each line, and whether torch was loaded by then."""
    folder = tmp_path_factory.mktemp("early")
    write_scene(folder / "scene.tif", np.full((3, 64, 64), 90, np.uint8))
    write_scene(folder / "plain.tif", np.full((3, 64, 64), 90, np.uint8), crs=None)
    make_town(folder)
    (folder / "far.geojson").write_text(json.dumps(shapely.geometry.mapping(shapely.box(0, 0, 0.01, 0.01))))
    make_set(folder / "data")
    make_set(folder / "data", split="val")
    for name in ("empty", "used/last", "busy-run", "free-run"):
        (folder / name).mkdir(parents=True)
    (folder / "foreign").mkdir()
    for path in (folder / "foreign" / "2.part", folder / ".old.gpkg.journal"):
        path.write_text("[" * 100_000)
    _finished(folder)
    Record(wishes_of([(folder / "town.tif", folder / "town.gpkg")])).save(folder / "busy-run")
    lines = ["fit --resume --out done", *(line for line, *_ in REFUSED)]
    with FileLock(folder / "busy-run" / ".lock"), FileLock(folder / "free-run" / ".lock"):
        before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
        done = subprocess.run(
            [sys.executable, "-c", RUN], cwd=folder, input=json.dumps([line.split() for line in lines]),
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    told = map(json.loads, done.stdout.splitlines())
    return {" ".join(words): (code, out, err, torch) for words, code, out, err, torch in told}


@pytest.mark.parametrize(("line", "code", "message"), REFUSED)
def test_a_mistake_is_reported_before_torch_is_imported(
    line: str, code: int, message: str, answers: dict[str, tuple[int, str, str, bool]]
) -> None:
    ended, out, err, torch = answers[line]
    assert (ended, out) == (code, ""), err
    assert err.startswith("rsp: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not torch


def test_a_finished_fit_repeats_its_verdict_without_torch(answers: dict[str, tuple[int, str, str, bool]]) -> None:
    code, out, err, torch = answers["fit --resume --out done"]
    assert (code, torch) == (0, False), err
    assert "0.700" in out
    assert "verdict: better" in err
    assert "the run is already finished, nothing was trained or written" in err
