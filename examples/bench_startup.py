"""How long a user waits for help: the median of ten runs of `rsp --help` and its like.

python examples/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

GOAL_SECONDS = 0.3
COMMANDS = (["--version"], ["--help"], ["predict", "--help"], ["train", "--help"], ["convert", "--help"])
RUNS = 10


def seconds(arguments: list[str]) -> float:
    """Wall time of one start."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "rsprompter_cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """One unmeasured run each, so that compiled files and disk caches are there, then ten."""
    for arguments in COMMANDS:
        seconds(arguments)
        times = [seconds(arguments) for _ in range(RUNS)]
        middle, words = statistics.median(times), " ".join(["rsp", *arguments])
        verdict = "within" if middle < GOAL_SECONDS else "over"
        print(f"{words:<24} median {middle:.3f} s, fastest {min(times):.3f} s ({verdict} {GOAL_SECONDS} s)")


if __name__ == "__main__":
    main()
