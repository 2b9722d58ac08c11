"""A worker in another process or on another machine: it works on ranges of windows and reports when it is asked.

It knows nothing of what carries its words: `ray.py` makes a Ray actor of it. Its parts are made in a folder of its
own and handed over in pieces, so it needs no folder that others see.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli import __version__
from rsprompter_cli.errors import DependencyError, UsageError
from rsprompter_cli.predict.backends.base import Job
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.shards import SceneRun, ShardDone, open_run
from rsprompter_cli.predict.stats import RunStats

PIECE = 8 << 20
"""Bytes of a part that are handed over at once."""

_BREATH = 0.5
"""Seconds until a question is answered though nothing is done yet."""

_PATIENCE = 5.0
"""Seconds that a batch of windows gets to end, when the run does."""


@dataclass(frozen=True, eq=False, slots=True)
class Started:
    """A worker is ready.

    node: the machine it is on. identity: what a part of all windows would say at its head. seconds: that starting took.
    """

    node: str
    identity: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True, eq=False, slots=True)
class News:
    """How far a worker is with its windows.

    windows_done, counts: so far. said: its warnings since it was last asked, with their levels.
    piece: the next bytes of the part. done: the part is whole, and `piece` was the last one.
    """

    windows_done: int
    counts: Mapping[str, int]
    said: Sequence[tuple[int, str]]
    piece: bytes = b""
    done: ShardDone | None = None


class RayWorker:
    """Call `start`, then for each range `begin` and `hear` until it is done, then `close`."""

    def __init__(self, job: Job, device: str, threads: int) -> None:
        """Nothing is read yet, so that what goes wrong has a message.

        Args:
            job: its files are read here.
            device: of the model. threads: of the CPU.
        """
        self._job = replace(job, options=replace(job.options, device=device))
        self._thread = ThreadPoolExecutor(1, "rsp-shard", initializer=torch.set_num_threads, initargs=(threads,))
        self._listener = _Listener()
        self._folder = tempfile.TemporaryDirectory(prefix="rsp-parts-", ignore_cleanup_errors=True)
        self._part = Path(self._folder.name) / "part"
        self._opened = ExitStack()
        self._doing: Future[ShardDone] | None = None
        self._over = False

    def start(self, version: str, files: Sequence[str]) -> Started:
        """Load the model and open the scene.

        Args:
            version: of the package, by which the other workers predict.
            files: absolute paths that must be there.

        Raises:
            DependencyError: this is another version.
            UsageError: a file is not there.
            RspError: see `predict_scene`.
        """
        node = socket.gethostname()
        if version != __version__:
            raise DependencyError(
                f"{node} has version {__version__} of rsprompter_cli, but the run uses {version}",
                "install the same version on every machine",
            )
        # No InputError: that says that a file is damaged, and gives up what is done of it.
        for path in files:
            if not Path(path).exists():
                hint = "every worker reads this file: make it available under the same path on every machine"
                raise UsageError(f"{path}: no such file or folder on {node}", hint)
        logger = logging.getLogger("rsprompter_cli")
        logger.addHandler(self._listener)
        self._opened.callback(logger.removeHandler, self._listener)
        start = time.perf_counter()
        self._run = self._thread.submit(self._open).result()
        seconds = time.perf_counter() - start
        return Started(node, self._run.part_head(WindowRange(0, len(self._run.grid))), seconds)

    def begin(self, windows: WindowRange) -> News:
        """Begin a range of windows; what is answered is what `hear` says."""
        self._stats, self._windows_done, self._handed = RunStats(), 0, 0
        self._doing = self._thread.submit(self._do, windows)
        return self.hear()

    def hear(self) -> News:
        """How far it is, soon; of a part that is whole, the next piece of its part.

        Raises:
            RspError: see `predict_scene`.
        """
        assert self._doing is not None, "nothing was begun"
        wait([self._doing], timeout=_BREATH)
        if not self._doing.done():
            return News(self._windows_done, self._stats.counts(), self._listener.heard())
        done = self._doing.result()
        with self._part.open("rb") as file:
            file.seek(self._handed)
            piece = file.read(PIECE)
        self._handed += len(piece)
        ended = self._handed == self._part.stat().st_size
        if ended:
            self._part.unlink()
        return News(done.windows, done.counts, self._listener.heard(), piece, done if ended else None)

    def close(self) -> None:
        """Stop what it is at, and leave nothing behind."""
        self._over = True
        # A scene is closed by the thread that opened it, after the windows that it is at.
        wait([self._thread.submit(self._opened.close)], timeout=_PATIENCE)
        self._thread.shutdown(wait=False)
        self._folder.cleanup()

    def _open(self) -> SceneRun:
        return self._opened.enter_context(open_run(self._job.source, self._job.options, self._job.model))

    def _do(self, windows: WindowRange) -> ShardDone:
        return self._run.write_part(windows, self._part, progress=self._note, stats=self._stats)

    def _note(self, windows_done: int, _total: int) -> None:
        if self._over:
            raise KeyboardInterrupt
        self._windows_done = windows_done


class _Listener(logging.Handler):
    """Keeps the warnings of the package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append((record.levelno, record.getMessage()))

    def heard(self) -> list[tuple[int, str]]:
        """What was said since this was last asked."""
        self.acquire()
        try:
            said, self._said = self._said, []
        finally:
            self.release()
        return said
