"""Damaged vector files end in a result or one line: no traceback, no crash of the process, no hang."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from tests.doors.fuzz_vectors import FORMATS, case, read, seeds, write

ROUNDS = 30
SECONDS = 10

CHILD = """
import sys, logging, warnings
from pathlib import Path
from tests.doors.fuzz_vectors import case, read, seeds, write
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
folder, suffix, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
folder.mkdir()
made = seeds(folder)
for number in range(first, last):
    print("case", number, flush=True)
    reason = read(write(case(suffix, number, made), folder / f"case{suffix}"))
    if reason:
        print("wrong", number, " ".join(reason.split())[:300], flush=True)
print("end", flush=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files(tmp_path: Path, made: dict[str, bytes], suffix: str) -> None:
    logging.getLogger("rsprompter_cli").setLevel(logging.CRITICAL)
    assert read(write(made[suffix], tmp_path / f"case{suffix}")) == ""
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(ROUNDS):
            start = time.process_time()
            reason = read(write(case(suffix, number, made), tmp_path / f"case{suffix}"))
            if reason or time.process_time() - start > SECONDS:
                wrong.append(f"{number}: {reason or 'slow'}")
    assert wrong == []


def run_child(folder: Path, suffix: str, first: int, last: int, seconds: float) -> list[str]:
    """What went wrong in a child process that reads the damaged files of some numbers."""
    wrong: list[str] = []
    while first < last:
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-c", CHILD, str(folder), suffix, str(first), str(last)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            lines, code = ended.stdout.splitlines(), ended.returncode
        except subprocess.TimeoutExpired as error:
            lines, code = (error.stdout or b"").decode().splitlines(), -1
        wrong += [f"{suffix} {line}" for line in lines if line.startswith("wrong")]
        if lines[-1:] == ["end"]:
            break
        cases = [int(line.split()[1]) for line in lines if line.startswith("case")]
        assert cases, ended.stderr
        wrong.append(f"{suffix} case {cases[-1]}: the process ended with {code}")
        first = cases[-1] + 1
    return wrong


def test_a_crash_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aborts = "    if number == 2: import os; os.abort()\n    reason ="
    monkeypatch.setitem(globals(), "CHILD", CHILD.replace("    reason =", aborts))
    assert [line.split(":")[0] for line in run_child(tmp_path / "a", ".geojson", 0, 4, 120)] == [".geojson case 2"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_damaged_files(tmp_path: Path, suffix: str) -> None:
    rounds = int(os.environ.get("RSP_FUZZ_ROUNDS", "6000"))
    wrong = []
    for first in range(0, rounds, 500):
        wrong += run_child(tmp_path / "a", suffix, first, min(first + 500, rounds), 300)
    assert wrong == []
