"""Two processes killed again and again, at random moments: no run is lost, and it ends as if nothing had been."""

from __future__ import annotations

import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.models.load import load_model
from rsprompter_cli.train.run_folder import STATE_FILE
from rsprompter_cli.train.state import load_state
from tests.make.ranks import Job, fork_ranks
from tests.train.runs import equal, make_data, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 and no fork"),
]

KILLS = int(os.environ.get("RSP_KILLS", "50"))
PICTURES, EVAL_EVERY = 6, 5


def _kill_one(processes: list[BaseProcess], errors: Path, chance: random.Random, state: Path) -> None:
    """Kill a random rank at a random moment, most often after `state` was written anew."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    if chance.random() < 0.8:
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert all(process.is_alive() for process in processes), _said(errors)
            time.sleep(0.002)
    time.sleep(chance.uniform(0, 1))
    chance.choice(processes).kill()
    # The other one notices by itself where the two have met, else its launcher ends it.
    for process in processes:
        process.join(timeout=20)
        if process.is_alive():
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    assert -9 in codes, _said(errors)
    assert 0 not in codes


def _run_to_its_end(job: Job, errors: Path) -> None:
    processes = fork_ranks(job, errors)
    for process in processes:
        process.join(timeout=3000)
    assert [process.exitcode for process in processes] == [0, 0], _said(errors)


def _said(errors: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8")[-3000:] for path in sorted(errors.iterdir()))


@pytest.mark.parametrize("stage", [0, 2])
def test_no_kill_loses_a_run(tmp_path: Path, stage: int) -> None:
    data = make_data(tmp_path / "data", train=PICTURES, val=2)
    # Saves after every step, so that many kills fall into one; longer than any of the tries together.
    options: dict[str, Any] = {"epochs": 100_000, "eval_every": EVAL_EVERY, "save_minutes": 1e-6, "zero_stage": stage}
    out, chance, step = tmp_path / "killed", random.Random(stage), 0
    for _ in range(KILLS):
        resume = (out / STATE_FILE).exists()
        how = {"resume": True} if resume else {"overwrite": True}
        processes = fork_ranks(Job(str(data), str(out), options, how), tmp_path / "errors")
        try:
            _kill_one(processes, tmp_path / "errors", chance, out / STATE_FILE)
        finally:
            for process in processes:
                process.kill()
        assert not resume or (out / STATE_FILE).exists()
        if (out / STATE_FILE).exists():
            cursor = load_state(out).cursor
            assert cursor.step >= step
            step = cursor.step
            for name in ("last", "best") if cursor.best is not None else ("last",):
                load_model(read_checkpoint(out / name).folder)
    last = load_state(out).cursor
    # A run that was killed between an epoch and its evaluation goes on with that, and has no time for a step.
    evaluates = last.done == PICTURES and (last.epoch + 1) % EVAL_EVERY == 0
    for _ in range(2 if evaluates else 1):
        _run_to_its_end(Job(str(data), str(out), options, {"resume": True, "minutes": 0.0}), tmp_path / "errors")
    end = load_state(out)
    assert end.cursor.step == step + 1
    seldom = options | {"save_minutes": 1000}
    # Forked as well: the same numbers may be added up otherwise in a process that is no fork.
    _run_to_its_end(Job(str(data), str(tmp_path / "whole"), seldom, stop_at=end.cursor.step), tmp_path / "errors")
    whole = load_state(tmp_path / "whole")
    assert whole.cursor == end.cursor
    assert equal(whole.engine, end.engine)
    assert equal(whole.random, end.random)
    for name in ("last", "best") if end.cursor.best is not None else ("last",):
        assert equal(tensors(out / name), tensors(tmp_path / "whole" / name))
