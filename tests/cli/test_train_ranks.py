"""`rsp train` in several processes: how they start, what they say, how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import dump_config
from rsprompter_cli.train.run_folder import STATE_FILE
from rsprompter_cli.train.state import load_state
from tests.conftest import ROOT
from tests.make.coco_sets import make_set
from tests.make.tiny_models import tiny_config


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny preset file and its data in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for split in ("train", "val"):
        make_set(tmp_path / "data", split=split)
    Path("tiny.toml").write_text(dump_config(tiny_config(train={"epochs": 1})), encoding="utf-8")
    return "tiny.toml"


def _arguments(preset: str, *more: str) -> list[str]:
    return ["train", preset, "--data", "data", "--random-sam", "--out", "r", *more]


def test_procs_start_two_that_train_together(preset: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(_arguments(preset, "--procs", "2", "--json")) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["finished"] is True
    # Four pictures in one step of two processes, told once.
    assert captured.err.count("epoch 1/1 step 1/1: loss") == 1
    assert "epoch 1/1 step 1/1: loss" in Path("r/ranks/rank-1.log").read_text(encoding="utf-8")
    assert len(load_state(Path("r")).random) == 2


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ([], "DistributedDataParallel"),
        pytest.param(
            ["--deepspeed"],
            "DeepSpeed ZeRO-2",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="the test extra has deepspeed on Linux only"),
        ),
    ],
)
def test_a_dry_run_starts_the_processes(
    preset: str, options: list[str], engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    assert run(_arguments(preset, "--procs", "2", "--dry-run", "--json", *options)) == 0
    captured = capfd.readouterr()
    found = json.loads(captured.out)
    assert (found["engine"], found["processes"]) == (engine, 2)
    # Four pictures are one step of two processes.
    assert (found["step_images"], found["steps_per_epoch"]) == (4, 1)
    assert found["parameters"] > found["trainable"] > 0
    assert captured.err.count("step 2: loss") == 1
    assert sorted(Path().rglob("*")) == before


def test_an_error_of_any_rank_is_the_one_line_of_the_run(preset: str, capfd: pytest.CaptureFixture[str]) -> None:
    for picture in Path("data/images").glob("train_*.png"):
        picture.write_bytes(b"no picture")
    assert run(_arguments(preset, "--procs", "2")) == 3
    errors = [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith("rsp: error: ")
    assert ".png" in errors[0]
    assert not Path("r/last").exists()


def _one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The error of a run that was refused: one line, and no folder is left."""
    captured = capfd.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "error" in line.lower()]
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not Path("r").exists()
    return line


def test_more_processes_than_batches_of_pictures_are_refused(preset: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(_arguments(preset, "--procs", "2", "--set", "train.batch_size=4")) == 3
    line = _one_line(capfd)
    assert "instances_train.json: too few images (4) for 2 processes at train.batch_size=4" in line
    assert "start at most 1 process, or lower train.batch_size" in line


def test_a_port_in_use_is_one_line(
    preset: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        assert run(_arguments(preset)) == 2
    line = _one_line(capfd)
    assert line.startswith(f"rsp: error: port {port} is in use on this machine")
    assert "MASTER_PORT" in line


def test_missing_sam_weights_are_one_line_of_several_processes(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    command = [part for part in _arguments(preset, "--procs", "2") if part != "--random-sam"]
    assert run(command) == 4
    assert "rsp download-sam base" in _one_line(capfd)


def _start(preset: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rsprompter_cli", *_arguments(preset, *more)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def _children(parent: int) -> dict[int, int]:
    """Process ids of the children of a process by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                variables = (folder / "environ").read_bytes().split(b"\0")
                ranks = [int(one.removeprefix(b"RANK=")) for one in variables if one.startswith(b"RANK=")]
                found |= {rank: int(folder.name) for rank in ranks}
        except (OSError, ValueError, IndexError):
            continue
    return found


def _wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes through /proc")
def test_a_killed_rank_ends_the_run_which_then_goes_on(preset: str) -> None:
    # A save after every step.
    options = ["--procs", "2", "--epochs", "400", "--set", "train.save_minutes=1e-6"]
    with _start(preset, *options) as process:
        _wait_for(Path("r") / STATE_FILE, process)
        os.kill(_children(process.pid)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 9
        assert errors.splitlines()[-1].startswith("rsp: error: the process of rank 1 was killed by signal 9")
        assert "Traceback" not in errors
    reached = load_state(Path("r")).cursor.step
    assert reached > 0
    # Ctrl-C is sent to the one that started the others.
    with _start(preset, *options, "--resume") as process:
        end = time.monotonic() + 300
        while load_state(Path("r")).cursor.step == reached:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1] == "rsp: interrupted; continue with: rsp train --resume --out r"
        assert "the state is saved" in errors
    assert load_state(Path("r")).cursor.step > reached


@pytest.mark.skipif(torch.cuda.device_count() >= 8, reason="this machine has the GPUs")
def test_more_gpus_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        make_set(tmp_path / "data", split=split)
    data = ["--data", "data", "--set", "data.val_split=val", "--random-sam"]
    assert run(["train", "--gpus", "8", "--deepspeed", *data]) == 5
    error = capsys.readouterr().err.strip()
    assert error.startswith("rsp: error: --gpus 8: torch sees ")
    assert "\n" not in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "2", "--procs", "2"], "--gpus and --procs are mutually exclusive"),
        (["--gpus", "2", "--device", "cpu"], "contradict"),
        (["--procs", "2", "--device", "cuda"], "contradict"),
        (["--procs", "0"], "--procs"),
    ],
)
def test_options_that_name_two_devices_are_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *options]) == 2
    assert words in capsys.readouterr().err
