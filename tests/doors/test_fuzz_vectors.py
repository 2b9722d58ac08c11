"""Damaged vector files end in features or one line: no traceback, no crash of the process, no hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doors import pool
from tests.doors.fuzz_vectors import FORMATS, attempt, read, seeds, write

FEW = 210


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_undamaged_files(suffix: str, tmp_path: Path) -> None:
    assert read(write(seeds(tmp_path)[suffix], tmp_path / f"case{suffix}")) == ""


def test_a_few_damaged_files() -> None:
    assert pool.run_few(attempt, FEW) == []


@pytest.mark.slow
def test_tens_of_thousands_of_damaged_files() -> None:
    pool.run_all(attempt, pool.count(30_000)).check()
