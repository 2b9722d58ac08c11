"""Two processes killed again and again, at random moments: no run is lost, and it ends as if nothing had been."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.io.checkpoint import read_checkpoint
from rsprompter_cli.models.load import load_model
from rsprompter_cli.train.state import STATE_FILE, load_state
from tests.make.ranks import Job, run_ranks, start_ranks
from tests.train.runs import equal, make_data, tensors

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

KILLS = int(os.environ.get("RSP_KILLS", "50"))


def _kill_one(processes: list[subprocess.Popen[str]], chance: random.Random, state: Path) -> None:
    """Kill a random rank at a random moment, most often after `state` was written anew."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    if chance.random() < 0.8:
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert all(process.poll() is None for process in processes), [one.communicate() for one in processes]
            time.sleep(0.01)
    time.sleep(chance.uniform(0, 1.5))
    chance.choice(processes).kill()
    # The other one notices by itself where the two have met, else its launcher ends it.
    for process in processes:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
    errors = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert -9 in codes, errors
    assert 0 not in codes


@pytest.mark.parametrize("stage", [0, 2])
def test_no_kill_loses_a_run(tmp_path: Path, stage: int) -> None:
    data = make_data(tmp_path / "data", train=6, val=2)
    # Saves after every step, so that many kills fall into one; longer than any of the tries together.
    options: dict[str, Any] = {"epochs": 100_000, "eval_every": 5, "save_minutes": 1e-6, "zero_stage": stage}
    out, chance, step = tmp_path / "killed", random.Random(stage), 0
    for _ in range(KILLS):
        resume = (out / STATE_FILE).exists()
        how = {"resume": True} if resume else {"overwrite": True}
        processes = start_ranks([Job(str(data), str(out), options, how)])
        try:
            _kill_one(processes, chance, out / STATE_FILE)
        finally:
            for process in processes:
                process.kill()
        if (out / STATE_FILE).exists():
            reached = load_state(out).cursor.step
            assert reached >= step
            step = reached
            load_model(read_checkpoint(out / "last").folder)
    run_ranks([Job(str(data), str(out), options, {"resume": True, "minutes": 0.0})], seconds=3000)
    end = load_state(out)
    assert end.cursor.step == step + 1
    seldom = options | {"save_minutes": 1000}
    run_ranks([Job(str(data), str(tmp_path / "whole"), seldom, stop_at=end.cursor.step)], seconds=3000)
    whole = load_state(tmp_path / "whole")
    assert whole.cursor == end.cursor
    assert equal(whole.engine, end.engine)
    assert equal(whole.random, end.random)
    for name in ("last", "best") if end.cursor.best is not None else ("last",):
        assert equal(tensors(out / name), tensors(tmp_path / "whole" / name))
