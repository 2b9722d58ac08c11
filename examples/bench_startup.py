"""How long a user waits for help: the median of ten runs of `rsp --help` and its like.

The goal is for an idle machine. The CPU time beside it says less about other programs (on Windows it reads 0).

python examples/bench_startup.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

GOAL_SECONDS = 0.3
COMMANDS = (["--version"], ["--help"], ["predict", "--help"], ["train", "--help"], ["convert", "--help"])
RUNS = 10


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU time of one start."""
    began, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "rsprompter_cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return time.perf_counter() - began, cpu


def main() -> None:
    """One unmeasured run each, so that compiled files and disk caches are there, then ten."""
    for arguments in COMMANDS:
        seconds(arguments)
        walls, cpus = zip(*(seconds(arguments) for _ in range(RUNS)), strict=True)
        middle, words = statistics.median(walls), " ".join(["rsp", *arguments])
        verdict = "within" if middle < GOAL_SECONDS else "over"
        print(
            f"{words:<24} median {middle:.3f} s, fastest {min(walls):.3f} s ({verdict} {GOAL_SECONDS} s), "
            f"CPU {statistics.median(cpus):.3f} s"
        )


if __name__ == "__main__":
    main()
