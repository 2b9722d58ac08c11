"""Runs tens of thousands of inputs of a fuzzer in other processes: what failed, hung or crashed, and what they take."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from rsprompter_cli.errors import LONGEST_MESSAGE, RspError

PROCESSES = 2
HANG_SECONDS = 30
PEAK_BYTES = 1_500_000_000

Try = Callable[[int], None]
"""Makes the input of a seed, gives it to the program, and raises what is not a one-line error."""


def count(default: int) -> int:
    """Inputs of a slow run; RSP_FUZZ changes it."""
    return int(os.environ.get("RSP_FUZZ", default))


@dataclass
class Done:
    """What a run has found.

    failures: seed and reason. peak: the largest resident set of a process, bytes. slowest: seconds of an input.
    """

    inputs: int
    failures: list[tuple[int, str]] = field(default_factory=list)
    peak: int = 0
    slowest: float = 0.0

    def check(self) -> None:
        """Assert that all went well."""
        print(f"{self.inputs} inputs, peak {self.peak >> 20} MiB, slowest {self.slowest:.1f} s")
        assert self.failures == []
        assert self.peak < PEAK_BYTES


def run_all(attempt: Try, total: int, *, seconds: float = HANG_SECONDS) -> Done:
    """Try seeds 0..total-1 in some processes; one that crashes or hangs is replaced and goes on after that seed.

    With RSP_FUZZ_KEEP=FOLDER in the environment, the files of each input that failed are kept there.
    """
    done = Done(total)
    share = -(-total // PROCESSES)
    running = [_Process(attempt, start, min(start + share, total)) for start in range(0, total, share)]
    while running:
        for process in running:
            process.collect(done)
            if not process.is_at_work(seconds):
                process.replace(done)
        running = [process for process in running if not process.has_ended]
        time.sleep(0.1)
    for seed, _ in done.failures if "RSP_FUZZ_KEEP" in os.environ else ():
        _keep(attempt, seed, Path(os.environ["RSP_FUZZ_KEEP"]))
    return done


class _Process:
    """A process that tries the seeds of a range, and what the parent knows of it."""

    def __init__(self, attempt: Try, start: int, end: int) -> None:
        self._attempt, self._end, self._seed, self._began = attempt, end, start, time.monotonic()
        self._connection: Connection
        self.has_ended = False
        self._start(start)

    def _start(self, start: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(self._attempt, start, self._end, other), daemon=True)
        self._process.start()
        other.close()
        self._seed, self._began = start, time.monotonic() + 60  # its imports take time

    def collect(self, done: Done) -> None:
        """Take what it has sent."""
        with suppress(EOFError):
            while self._connection.poll():
                kind, value = self._connection.recv()
                if kind == "began":
                    self._seed, self._began = value, time.monotonic()
                elif kind == "failed":
                    done.failures.append((self._seed, value))
                else:
                    peak, slowest = value
                    done.peak, done.slowest = max(done.peak, peak), max(done.slowest, slowest)
                    self.has_ended = True

    def is_at_work(self, seconds: float) -> bool:
        return self.has_ended or (self._process.is_alive() and time.monotonic() - self._began < seconds)

    def replace(self, done: Done) -> None:
        """Note why it ended or hangs, and let another process go on behind the seed."""
        self.collect(done)
        if self.has_ended:
            return
        hangs = self._process.is_alive()
        self._process.kill()
        self._process.join()
        done.failures.append((self._seed, "hangs" if hangs else f"the process ended with {self._process.exitcode}"))
        if self._seed + 1 < self._end:
            self._start(self._seed + 1)
        else:
            self.has_ended = True


def _run(attempt: Try, start: int, end: int, parent: Connection) -> None:
    slowest = 0.0
    for seed in range(start, end):
        parent.send(("began", seed))
        began = time.monotonic()
        try:
            attempt(seed)
        except Exception as error:
            parent.send(("failed", f"{type(error).__name__}: {error}"[:300]))
        slowest = max(slowest, time.monotonic() - began)
    parent.send(("ended", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, slowest)))


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


def _keep(attempt: Try, seed: int, folder: Path) -> None:
    """Try a seed once more in a process whose temporary folders stay."""
    target = folder / f"{attempt.__module__.rpartition('.')[2]}-{seed}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    process = multiprocessing.get_context("spawn").Process(target=_try_in, args=(attempt, seed, target))
    process.start()
    process.join(HANG_SECONDS)
    process.kill()


def _try_in(attempt: Try, seed: int, folder: Path) -> None:
    class Lasting(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
        def cleanup(self) -> None:
            self._finalizer.detach()  # type: ignore[attr-defined]

    tempfile.tempdir, tempfile.TemporaryDirectory = str(folder), Lasting  # type: ignore[misc]
    with suppress(Exception):
        attempt(seed)
