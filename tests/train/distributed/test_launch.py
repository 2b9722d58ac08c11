"""Where a process finds its place, and which of several errors a run ends with."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rsprompter_cli.errors import DependencyError, InputError, OutputError, UsageError
from rsprompter_cli.io import exchange
from rsprompter_cli.train.distributed.ddp import share_norms
from rsprompter_cli.train.distributed.launch import _cause, _failure
from rsprompter_cli.train.distributed.processes import OTHER_ENDED, Ranks, clean_stdout, joined, redirect_output
from rsprompter_cli.train.distributed.rank import Place, find_place
from rsprompter_cli.train.interrupts import StopRequest
from rsprompter_cli.train.setup import build_engine, prepare, require_pictures
from tests.make.ranks import free_port
from tests.make.tiny_models import tiny_config, tiny_model
from tests.train.runs import make_data

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}


def test_a_process_finds_its_place_in_the_environment() -> None:
    assert find_place({}) is None
    assert find_place(TORCHRUN | {"MASTER_PORT": "7"}) == Place(3, 4, 1, 2, "a", 7)
    known = SLURM | {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_JOB_ID": "123456"}
    assert find_place(known) == Place(5, 8, 1, 4, "10.0.0.1", 29956)
    assert find_place(known | {"MASTER_ADDR": "b", "MASTER_PORT": "8"}) == Place(5, 8, 1, 4, "b", 8)
    # Within a batch script, outside of srun, there is one process whatever the allocation.
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (TORCHRUN, "MASTER_PORT is not"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT"),
    ],
)
def test_incomplete_places_are_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_place(environment)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place = Place(0, 2, 0, 2, "127.0.0.1", port)
        with pytest.raises(UsageError, match=f"port {port} is in use"), joined(place, torch.device("cpu")):
            pass


def test_one_process_alone_is_rank_0_of_1() -> None:
    with joined(None, torch.device("cpu")) as ranks:
        assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
        assert ranks.sums([1.0, 2.0]) == [1.0, 2.0]
        assert ranks.gather("x") == ["x"]
        assert ranks.share("x") == "x"
        assert (ranks.any(True), ranks.any(False), ranks.all(True), ranks.all(False)) == (True, False, True, False)
        assert ranks.device(torch.device("cpu")) == torch.device("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DependencyError, match="rank 5: process 2 of this machine, which has 1 CUDA GPU"):
        Ranks(Place(5, 8, 1, 4, "a", 1)).device(torch.device("cuda"))


def test_batch_norms_are_synchronised_on_gpus_only() -> None:
    with pytest.raises(UsageError, match=r"train\.sync_bn"):
        share_norms(tiny_model(), Ranks(), torch.device("cpu"))


def test_more_processes_than_pictures_are_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path, train=5)
    setup = prepare(tiny_config(train={"batch_size": 2}), data, load_from=None, random_sam=True)
    require_pictures(Ranks(Place(0, 3, 0, 3, "a", 1)), setup)
    with pytest.raises(InputError, match=r"too few images \(5\) for 4 processes") as caught:
        require_pictures(Ranks(Place(0, 4, 0, 4, "a", 1)), setup)
    assert "at most 3" in caught.value.hint


def test_zero_needs_processes(tmp_path: Path) -> None:
    setup = prepare(tiny_config(train={"zero_stage": 2}), make_data(tmp_path), load_from=None, random_sam=True)
    with pytest.raises(UsageError, match=r"train\.zero_stage"):
        build_engine(setup, None, Ranks(), device=torch.device("cpu"), dtype=torch.float32)


def _end(
    folder: Path, rank: int, exit_code: int, line: str | None, monkeypatch: pytest.MonkeyPatch, told: int | None = None
) -> Any:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv(exchange.EXCHANGE, str(folder))
    assert line is None or exchange.tell(line, exit_code if told is None else told)
    return _failure(folder, rank, SimpleNamespace(exitcode=exit_code, timestamp=9e9))


def test_a_run_ends_with_the_first_error_that_is_no_echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = _end(tmp_path, 0, 8, f"rank 0: {OTHER_ENDED}: lost", monkeypatch)
    cause = _end(tmp_path, 1, 3, "broken.png: cannot be read (look at it)", monkeypatch)
    later = _end(tmp_path, 2, 3, "other.png: cannot be read", monkeypatch)
    ended = _end(tmp_path, 3, -signal.SIGTERM, None, monkeypatch)
    error = _cause([ended, later, echo, cause])
    assert (error.message, error.exit_code) == ("broken.png: cannot be read (look at it)", 3)
    killed = _end(tmp_path, 4, -9, None, monkeypatch)
    error = _cause([echo, killed, ended])
    assert error.exit_code == 9
    assert "rank 4 was killed by signal 9" in error.message
    assert _cause([echo, ended]).message == echo.line
    # It had said its line when the launcher ended it because of another one.
    cut_short = _end(tmp_path, 5, -signal.SIGTERM, "no weights (fetch them)", monkeypatch, told=4)
    assert _cause([cut_short, killed]).exit_code == 4


def test_without_an_exchange_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(exchange.EXCHANGE, raising=False)
    assert not exchange.tell("x", 1)
    assert exchange.stop_file() is None
    assert exchange.told(tmp_path, 0) is None


def test_a_file_or_its_vanished_folder_stops_a_run(tmp_path: Path) -> None:
    path = tmp_path / "exchange" / "stop"
    path.parent.mkdir()
    stop = StopRequest(file=path)
    assert not stop.wanted
    path.touch()
    assert stop.interrupted
    path.unlink()
    path.parent.rmdir()
    assert stop.wanted


def test_what_libraries_print_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with clean_stdout():
        os.write(1, b"noise\n")
    os.write(1, b"data\n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("data\n", "noise\n")


def test_another_rank_talks_to_its_file_and_leaves_none_that_is_empty(tmp_path: Path) -> None:
    place = Place(1, 2, 1, 2, "a", 1)
    with redirect_output(place, tmp_path / "run" / "ranks"):
        pass
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        with redirect_output(place, tmp_path / "run" / "ranks"):
            os.write(2, b"said\n")
    assert (tmp_path / "run" / "ranks" / "rank-1.log").read_text() == "said\nsaid\n"
    with redirect_output(Place(0, 2, 0, 2, "a", 1), tmp_path / "other"):
        pass
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"rank-1\.log"), redirect_output(place, tmp_path / "file"):
        pass


def test_free_ports_are_free() -> None:
    assert 0 < free_port() < 65536
