"""A fuzzer's processes: what fails, crashes or hangs in one is seen, and the rest is tried all the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.doors import pool


def misbehave(seed: int) -> None:
    """Fail, crash and hang at some seeds, and write all of them down."""
    with open(os.environ["RSP_TRIED"], "a") as file:
        file.write(f"{seed}\n")
    if seed == 3:
        raise ValueError("no good")
    if seed == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 7:
        time.sleep(1000)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_failures_crashes_and_hangs_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSP_TRIED", str(tmp_path / "tried"))
    done = pool.run_all(misbehave, 10, seconds=2)
    assert sorted(done.failures) == [
        (3, "ValueError: no good"),
        (5, f"the process ended with {-signal.SIGSEGV}"),
        (7, "hangs"),
    ]
    assert sorted(map(int, (tmp_path / "tried").read_text().split())) == list(range(10))
    with pytest.raises(AssertionError):
        done.check()
