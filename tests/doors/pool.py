"""Runs tens of thousands of inputs of a fuzzer in other processes and measures what they take."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

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
