"""Runs tens of thousands of inputs of a fuzzer in other processes and measures what they take."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rsprompter_cli.errors import LONGEST_MESSAGE, RspError

CHUNK = 100
HANG_SECONDS = 30
PEAK_BYTES = 1_500_000_000

Try = Callable[[int], None]
"""Makes the input of a seed, gives it to the program, and raises what is not a one-line error."""


def count() -> int:
    """Inputs of a slow run; RSP_FUZZ changes it."""
    return int(os.environ.get("RSP_FUZZ", "20000"))


def run_all(attempt: Try, total: int) -> dict[str, Any]:
    """Try seeds 0..total-1 in two processes.

    Returns:
        inputs; failures, as (seed, error); peak, the largest resident set of a process in bytes.
    """
    starts = range(0, total, CHUNK)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        parts = list(pool.map(_run, [attempt] * len(starts), starts, [min(CHUNK, total - one) for one in starts]))
    failures = [failure for found, _ in parts for failure in found]
    return {"inputs": total, "failures": failures, "peak": max(peak for _, peak in parts)}


def _run(attempt: Try, start: int, length: int) -> tuple[list[tuple[int, str]], int]:
    signal.signal(signal.SIGALRM, _hang)
    failures = []
    for seed in range(start, start + length):
        signal.alarm(HANG_SECONDS)
        try:
            attempt(seed)
        except Exception as error:
            failures.append((seed, f"{type(error).__name__}: {error}"[:300]))
        finally:
            signal.alarm(0)
    return failures, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _hang(*_: object) -> None:
    raise TimeoutError(f"an input took more than {HANG_SECONDS} s")


def run_few(attempt: Try, count: int) -> list[str]:
    """Try some seeds in this process; those that failed or took longer than an input may, with the reason."""
    failures = []
    for seed in range(count):
        began = time.monotonic()
        try:
            attempt(seed)
        except Exception as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")
        if time.monotonic() - began >= HANG_SECONDS:
            failures.append(f"seed {seed}: took over {HANG_SECONDS} s")
    return failures


def check_fault(fault: RspError | None, *, exit_codes: tuple[int, ...]) -> None:
    """Check that an error, if there was one, has a code of a bad input and a message that can be read."""
    if fault is None:
        return
    assert fault.exit_code in exit_codes, repr(fault)
    assert len(fault.message) <= LONGEST_MESSAGE
    assert len(fault.hint) < LONGEST_MESSAGE + 1000  # every key of a configuration
