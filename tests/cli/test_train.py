"""`rsp train` in process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import dump_config, load_config
from rsprompter_cli.train import loop
from tests.make.coco_sets import make_set
from tests.make.tiny_models import tiny_config


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny preset file and its data in the working folder."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        make_set(tmp_path / "data", split=split)
    Path("tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 1})), encoding="utf-8")
    return "tiny.toml"


def _train(preset: str, *more: str) -> int:
    return run(["train", preset, "--data", "data", "--device", "cpu", "--random-sam", *more])


def test_a_run_ends_in_a_table_and_a_default_folder(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(preset, "--epochs", "2", "--set", "train.batch_size=4") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["run", str(Path("runs") / "tiny")]
    assert "mask AP50" in captured.out
    assert Path("runs/tiny/best/model.safetensors").is_file()
    # The table of what trains and the progress of each epoch are talk, not data.
    rows = {line.split()[0]: line.split()[1:] for line in captured.err.splitlines() if line}
    assert rows["encoder"][0] == "0"
    assert int(rows["all"][0].replace(",", "")) > 0
    assert "epoch 2/2 step 2/2: loss" in captured.err
    assert "losses: " not in captured.err


def test_json_is_the_only_thing_on_stdout(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-v", "train", preset, "--data", "data", "--random-sam", "--out", "r", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["finished"] is True
    assert result["best"] == str(Path("r") / "best")
    assert "segm_AP" in result["metrics"]


def test_ctrl_c_exits_130_with_a_state_that_resumes(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    original = loop.rate_factor

    def interrupt(step: int, epoch: int, **keywords: int) -> float:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(step, epoch, **keywords)

    options = ("--out", "r", "--epochs", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "rate_factor", interrupt)
        assert _train(preset, *options) == 130
    captured = capsys.readouterr()
    # What is kept, and the command that continues; after the answer to Ctrl-C nothing else is shown.
    answer, *after = captured.err.partition("stopping after")[2].splitlines()
    assert answer == " this training step and saving the state (interrupt again to stop at once)"
    assert [line for line in after if not line.startswith("epoch ")] == [
        "stopped after epoch 1; the state is saved",
        "rsp: interrupted; continue with: rsp train --resume --out r",
    ]
    assert captured.out == ""
    assert "warning" not in captured.err
    assert _train(preset, *options, "--resume") == 0
    assert "yes" in capsys.readouterr().out


def test_resume_needs_the_run_folder_only(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(preset, "--epochs", "2", "--set", "train.lr=0.003", "--minutes", "0", "--out", "r") == 0
    assert "continue with: rsp train --resume --out r --minutes 0\n" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert run(["train", "--resume", "--out", "../r", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finished"], result["epochs_done"], result["folder"]) == (True, 2, str(Path("../r")))
    config = load_config(tmp_path / "r" / "config.toml")
    assert (config.train.lr, config.name, Path(config.data.root)) == (0.003, "tiny", tmp_path / "data")
    assert run(["train", "--resume", "--out", "empty"]) == 8
    assert "no saved state to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--resume", "--overwrite"], ["--resume", "--load-from", "x"], ["--load-from", "x", "--random-sam"]]
)
def test_options_that_contradict_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "nothing.toml", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert all(name in error for name in options if name.startswith("--"))
    assert "\n" not in error


def test_a_time_budget_ends_cleanly(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(preset, "--out", "r", "--minutes", "0", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finished"], result["interrupted"], result["steps"], result["best"]) == (False, False, 1, None)
    assert _train(preset, "--out", "s", "--minutes", "0") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "the model is first evaluated after epoch 1; until then there is no best checkpoint, only s/last" in told
    assert _train(preset, "--out", "r", "--minutes", "2", "--resume") == 0
    assert "time limit: 2 min of training; the run then saves its state and stops" in capsys.readouterr().err


def test_a_finished_run_says_so_and_is_left_as_it_is(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-v", "train", preset, "--data", "data", "--random-sam", "--out", "r"]) == 0
    captured = capsys.readouterr().err
    assert "losses: " in captured
    assert "wrote r/log.jsonl" in captured
    assert _train(preset, "--out", "r", "--minutes", "2", "--resume") == 0
    again = capsys.readouterr().err
    assert "r: the run is already finished after 1 epoch, nothing was trained or written" in again
    assert "wrote" not in again


def test_a_second_run_needs_overwrite_or_resume(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(preset, "--out", "r") == 0
    capsys.readouterr()
    assert _train(preset, "--out", "r") == 7
    error = capsys.readouterr().err.strip()
    assert error.startswith("rsp: error: r already contains a run")
    assert "\n" not in error
    assert _train(preset, "--out", "r", "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "train.epoch=3"], 2, "did you mean 'train.epochs'"),
        (["--set", "data.val_split=test"], 3, "test.json"),
        (["--load-from", "nowhere"], 4, "nowhere: no such checkpoint folder"),
        (["--resume"], 8, "no saved state to resume"),
        (["--sam", "a b=c"], 2, "a b=c"),
    ],
)
def test_errors_are_one_line_with_their_code(
    preset: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert run(["train", preset, "--data", "data", "--out", "r", *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert not Path("r").exists()


def test_alone_it_takes_the_default_preset_and_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train"]) == 3
    assert "data/WHU" in capsys.readouterr().err


def test_missing_sam_weights_name_the_command(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    assert run(["train", preset, "--data", "data", "--sam", "large"]) == 4
    assert "rsp download-sam large" in capsys.readouterr().err


def test_a_dry_run_tells_and_leaves_nothing(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert _train(preset, "--dry-run") == 0
    captured = capsys.readouterr()
    rows = dict(line.split("  ", 1) for line in captured.out.splitlines())
    assert rows.keys() >= {"dry run", "engine", "parameters", "trainable", "peak memory", "step", "steps", "total time"}
    assert rows["steps"].strip() == "2 = 1 epoch x 2 (4 images)"
    assert "step 2: loss" in captured.err
    assert sorted(Path().rglob("*")) == before


def test_a_dry_run_does_not_mind_a_run_in_the_folder(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r").mkdir()
    Path("r/log.jsonl").write_text("mine")
    assert _train(preset, "--out", "r", "--dry-run", "--json", "--overwrite") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["processes"], found["epochs"], found["steps"]) == (1, 1, 2)
    assert found["seconds"] > 0
    assert [path.name for path in Path("r").iterdir()] == ["log.jsonl"]
    assert Path("r/log.jsonl").read_text() == "mine"


@pytest.mark.parametrize("options", [["--resume"], ["--minutes", "3"]])
def test_a_dry_run_refuses_what_means_nothing_to_it(
    preset: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(preset, "--dry-run", *options) == 2
    error = capsys.readouterr().err.strip()
    assert options[0] in error
    assert "\n" not in error
