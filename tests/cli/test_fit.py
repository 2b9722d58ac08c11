"""`rsp fit` in process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.train import loop
from tests.make.fits import make_start, make_town

SHORT = ["--minutes", "0.001", "--device", "cpu"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Scene, labels and a model to start from."""
    root = tmp_path_factory.mktemp("fit")
    scene, labels = make_town(root)
    return [str(scene), str(labels), "--model", str(make_start(root / "start"))]


def test_a_fit_ends_in_a_table_and_a_word_on_what_was_written(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["fit", *given, "--out", "mine", *SHORT]) == 0
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()]
    assert rows[0] == ["model", "F1", "AP50", "AP", "best", "at", "score", "checkpoint"]
    assert [row[0] for row in rows[1:]] == ["start", "fitted"]
    assert sum("written" in row for row in rows) == 1
    assert "40 labels (10 held back), tiled at 0.5 and 0.625 m per pixel" in captured.err
    last = captured.err.splitlines()[-4:]
    assert [re.split("[: ]", line)[0] for line in last] == ["verdict", "wrote", "next", "would"]
    assert "10 held-back labels" in last[0]
    assert last[1].startswith("wrote mine, ")
    assert last[2] == f"next: rsp predict {given[0]} --model mine --out polygons.geojson"
    assert run(["predict", given[0], "--model", "mine", "--out", "found.geojson", "--device", "cpu"]) == 0
    assert run(["checkpoint", "show", "mine"]) == 0
    capsys.readouterr()
    # The run is over: a second one needs --overwrite, --resume repeats its result.
    assert run(["fit", *given, "--out", "mine", *SHORT]) == 7
    assert "mine already exists" in capsys.readouterr().err
    assert run(["fit", "--resume", "--out", "mine", "--json"]) == 0
    first = capsys.readouterr()
    told = json.loads(first.out)
    assert (told["out"], told["next"]) == ("mine", last[2].removeprefix("next: "))
    assert last[0] == f"verdict: {told['verdict']['sentence']}"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(["fit", "--resume", "--out", "mine", "--minutes", "1"]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert errors[-3:] == [last[0], *last[2:]]
    told_once = [line for line in errors if "mine-run: the run is already finished" in line]
    assert len(told_once) == 1
    assert "start over with --overwrite" in told_once[0]
    assert not any(line.startswith("wrote") for line in errors)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    # Its folder is called as it is typed now.
    assert run(["fit", "--resume", "--out", str(tmp_path / "mine"), "--json"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert named["out"] == str(tmp_path / "mine")
    assert f"--model {tmp_path / 'mine'} " in named["next"]
    # Its checkpoint was removed: the run has what it takes to write it again.
    weights = (tmp_path / "mine" / "model.safetensors").read_bytes()
    shutil.rmtree("mine")
    assert run(["fit", "--resume", "--out", "mine", "--json", "--device", "cpu"]) == 0
    again = capsys.readouterr()
    assert "writing mine again" in again.err
    assert again.out == first.out
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == weights
    assert run(["fit", *given, "--out", "mine", *SHORT, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == {"train": 30, "val": 10}


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["fit", *given, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "building" in out
    assert "of the 15 minutes" in out
    assert "on all 21 training tiles and evaluates on all 3 held-back tiles" in out
    assert "raise --minutes" not in out
    assert run(["fit", *given, "--dry-run", "--json", "--minutes", "4", "--out", "mine"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["train"]["labels"], plan["val"]["labels"], plan["budget_minutes"]) == (30, 10, 4.0)
    assert 0 < plan["expected_minutes"] <= 4
    assert plan["expected_tiles"]["train"] < plan["train"]["tiles"]
    assert plan["expected_tiles"]["val"] == plan["val"]["tiles"]
    assert run(["fit", *given, "--dry-run", "--minutes", "0.001"]) == 0
    out = capsys.readouterr().out
    assert f"on about 8 of the {plan['train']['tiles']} training tiles and evaluates on all " in out
    assert "raise --minutes to use more" in out
    assert re.split("  +", out.splitlines()[0]) == [
        "scene", "tiled at (m/px)", "training labels", "held-back labels", "training tiles", "held-back tiles",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_exits_130_with_a_state_that_resumes(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    original = loop.rate_factor

    def interrupt(step: int, epoch: int, **keywords: int) -> float:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(step, epoch, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_factor", interrupt)
        assert run(["fit", *given, "--out", "mine", *SHORT]) == 130
    captured = capsys.readouterr()
    _, *after = captured.err.partition("stopping after")[2].splitlines()
    assert [line for line in after if not line.startswith("epoch ")] == [
        "stopped in epoch 1; the state is saved",
        "rsp: interrupted; continue with: rsp fit --resume --out mine",
    ]
    assert captured.out == ""
    assert run(["fit", *given, "--out", "mine", *SHORT, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.tif", "--out", "m"], 2, "this SCENE has no LABELS"),
        (["--out", "m"], 2, "no scene given"),
        (["a.tif", "b.geojson"], 2, "--out is missing"),
        (["a.tif", "b.geojson", "--out", "m"], 3, "a.tif: no such file"),
        (["a.tif", "b.geojson", "--out", "m", "--minutes", "0"], 2, "--minutes 0"),
        (["a.tif", "b.geojson", "--out", "m", "--model", "nowhere"], 4, "nowhere"),
        (["--resume", "--out", "m"], 8, "no run to resume"),
        (["--resume", "--overwrite", "--out", "m"], 2, "--resume and --overwrite are mutually exclusive"),
        (["--resume", "--dry-run", "--out", "m"], 2, "--resume and --dry-run are mutually exclusive"),
    ],
)
def test_errors_are_one_line_with_their_code(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["fit", *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_files_in_the_wrong_order_are_named(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", given[1], given[0], *given[2:], "--out", str(tmp_path / "mine")]) == 3
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert "town.tif" in error or "town.gpkg" in error


def test_a_resolution_that_is_refused_names_no_option_of_others(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", *given, "--gsd", "0.1", "--dry-run"]) == 3
    error = capsys.readouterr().err.strip()
    assert "omit --gsd" in error
    assert "--native" not in error
    assert "\n" not in error


def test_labels_in_metres_that_pretend_to_be_degrees_are_refused_in_one_line(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = 500_010, 4_999_990
    ring = [[x, y], [x + 8, y], [x + 8, y + 8], [x, y + 8], [x, y]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    labels = tmp_path / "metres.geojson"
    labels.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert run(["fit", given[0], str(labels), *given[2:], "--dry-run"]) == 3
    error = capsys.readouterr().err.strip()
    assert "are not longitude and latitude" in error
    assert "pixels" not in error
    assert "\n" not in error
