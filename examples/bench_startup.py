"""How much CPU time help pages take: the median of several starts of `rsp --help` and its like.

User and system time of the started process are measured, which other programs on the machine disturb less than the
time on the clock. Runs on Linux and macOS.

python examples/bench_startup.py
"""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOALS = {
    "--version": 0.35,
    "--help": 0.30,
    "predict --help": 0.45,
    "train --help": 0.35,
    "fit --help": 0.35,
    "eval-polygons --help": 0.35,
    "convert --help": 0.35,
    "checkpoint import --help": 0.35,
}
"""Seconds of CPU time each command may take."""
LIMIT_SECONDS = 0.55
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""An installation has compiled files: where they are not written, compiling would be measured too."""
RUNS = 15


def seconds(arguments: list[str]) -> tuple[float, float]:
    """CPU and clock time of one start, in seconds."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rsprompter_cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, time.perf_counter() - began


def processor() -> str:
    """The model name of the CPU."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", facts.read_text()) if facts.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def main() -> None:
    """Start each command once unmeasured, so that compiled files and disk caches exist, and then several times."""
    print(f"{processor()}, Python {platform.python_version()}, median of {RUNS} starts")
    slow = []
    for words, goal in GOALS.items():
        seconds(words.split())
        cpus, clocks = zip(*(seconds(words.split()) for _ in range(RUNS)), strict=True)
        middle = statistics.median(cpus)
        verdict = "within" if middle <= goal else "over"
        print(
            f"rsp {words:<24} CPU {middle:.3f} s ({verdict} {goal:.2f} s), fastest {min(cpus):.3f} s, "
            f"clock {statistics.median(clocks):.3f} s"
        )
        slow += [words] if middle > LIMIT_SECONDS else []
    if slow:
        sys.exit(f"over the limit of {LIMIT_SECONDS} s: {', '.join(slow)}")


if __name__ == "__main__":
    main()
