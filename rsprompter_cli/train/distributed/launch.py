"""Starting the processes of a run on this machine, by torch's elastic launcher, and ending with what they end with.

Each process is the same command once more; it finds its place in the environment (`rank.find_place`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rsprompter_cli.errors import INTERRUPTED_EXIT_CODE, ResourceError, RspError
from rsprompter_cli.io.exchange import EXCHANGE, stop_file, told
from rsprompter_cli.train.distributed.processes import OTHER_ENDED

_PATIENCE = "10"
"""Seconds that processes have to exit by themselves when one of them failed."""


@dataclass(frozen=True)
class _Failure:
    """How a process ended: when, its error line (None when it left none), its exit code (negative: a signal)."""

    rank: int
    when: float
    line: str | None
    exit_code: int

    @property
    def is_echo(self) -> bool:
        """It only lost another process, or the launcher ended it."""
        if self.exit_code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return True
        return self.line is not None and OTHER_ENDED in self.line


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `rsp ARGUMENTS` in `count` processes that know of each other.

    Ctrl-C and SIGTERM ask them to save and end; a second one ends them at once.

    Returns:
        0, or the exit code of an interruption.

    Raises:
        RspError: the error, with the exit code, of the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher's own messages add nothing to our line.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)
    with tempfile.TemporaryDirectory(prefix="rsp-ranks-") as folder, _environment({EXCHANGE: folder}):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=f"rsp-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            max_restarts=0,
            monitor_interval=0.2,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            **_hands_off_signals(LaunchConfig),
        )
        with _stop_by_file(Path(folder)):
            try:
                elastic_launch(config, sys.executable)("-m", "rsprompter_cli", *arguments)
            except SignalException:
                return INTERRUPTED_EXIT_CODE
            except ChildFailedError as error:
                failures = [_failure(Path(folder), rank, found) for rank, found in error.failures.items()]
                if any(failure.exit_code == INTERRUPTED_EXIT_CODE for failure in failures):
                    return INTERRUPTED_EXIT_CODE
                raise _cause(failures) from error
    return 0


def _hands_off_signals(config: Any) -> dict[str, Any]:
    """Let the launcher leave the signals that users send to us; one of an older torch takes them all the same."""
    return {"signals_to_handle": "SIGABRT"} if "signals_to_handle" in config.__dataclass_fields__ else {}


def _failure(folder: Path, rank: int, found: Any) -> _Failure:
    """A `ProcessFailure` of torch with what the process itself left."""
    left = told(folder, rank)
    if left is None:
        return _Failure(rank, float(found.timestamp), None, found.exitcode)
    # The launcher may have ended it between its line and its end.
    return _Failure(rank, left.when, left.line, left.exit_code)


def _cause(failures: Sequence[_Failure]) -> RspError:
    """The error to end with: of the first process that did not only fail because another one had."""
    first = min(failures, key=lambda failure: (failure.is_echo, failure.when))
    if first.line is None and first.exit_code < 0:
        return ResourceError(
            f"the process of rank {first.rank} was killed by signal {-first.exit_code}",
            "most often out of memory; --resume continues from the last save",
        )
    # Without a line of its own it has shown its traceback.
    error = RspError(first.line or f"the process of rank {first.rank} exited with code {first.exit_code}")
    error.exit_code = first.exit_code if first.exit_code > 0 else RspError.exit_code
    return error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _stop_by_file(folder: Path) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into the file that asks the processes to end, the second into an end at once."""
    path = stop_file(folder)
    assert path is not None

    def note(_number: int, _frame: FrameType | None) -> None:
        if path.exists():
            raise KeyboardInterrupt
        path.touch()

    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
