"""Ranges of windows handed out to workers on many machines; those of a worker that was lost are done by another one."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rsprompter_cli import __version__
from rsprompter_cli.errors import ResourceError, UsageError
from rsprompter_cli.io.atomic import atomic_path, hidden_beside, not_written
from rsprompter_cli.predict.backends.base import Job, ProgressAggregator
from rsprompter_cli.predict.backends.ray_worker import News, Started
from rsprompter_cli.predict.model_source import files_of
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.shards import ShardDone
from rsprompter_cli.predict.store.fingerprint import file_facts, unchanging
from rsprompter_cli.predict.store.journal import identity_difference

_log = logging.getLogger(__name__)

TRIES = 3
"""Windows at which so many workers were lost are what loses them."""

_LOOK = 1.0
"""Seconds between looks at whether anybody is at work."""

_LONG = 30.0
"""Seconds without anybody at work that are worth a word."""


class WorkerLostError(Exception):
    """A worker is gone; says why in a line."""


class Crew(Protocol):
    """How workers are reached. A worker and a question are whatever it makes of them."""

    @property
    def count(self) -> int:
        """How many workers there may be."""

    def start(self) -> Any:
        """A new worker, which may wait for room on a machine."""

    def ask(self, worker: Any, method: str, *arguments: Any) -> Hashable:
        """Call a method of `RayWorker`; the question goes to `answer` once it is answered."""

    def answered(self, questions: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those that are answered, after so many seconds at the latest."""

    def answer(self, question: Any) -> Any:
        """What was answered.

        Raises:
            WorkerLostError: the worker is gone.
            RspError: what it raised.
        """

    def end(self, workers: Sequence[tuple[Any, bool]]) -> None:
        """End workers; those marked are to close what they have open."""


@dataclass(eq=False, slots=True)
class _Worker:
    """hand: what the crew calls it. ready: it has started. windows: what it is at."""

    hand: Any
    ready: bool = False
    windows: WindowRange | None = None

    @property
    def idle(self) -> bool:
        return self.ready and self.windows is None


def hand_out(job: Job, ranges: Sequence[WindowRange], aggregator: ProgressAggregator, crew: Crew) -> None:
    """Make the parts of all ranges.

    Raises:
        ResourceError: a range loses every worker that takes it, or none can be started.
        UsageError: workers read other files than each other or than this machine.
        RspError: what a worker raised.
    """
    desk = _Desk(job, ranges, aggregator, crew)
    try:
        desk.run()
    finally:
        desk.close()


def files_needed(job: Job) -> list[str]:
    """The files and folders that each worker reads by its own."""
    aoi = job.options.output.aoi
    named = [Path(job.source), *map(Path, files_of(job.model)), *([] if aoi is None else [Path(aoi)])]
    return [str(path) for path in named if path.exists()]


class _Desk:
    """Where ranges are handed out and parts come in."""

    def __init__(self, job: Job, ranges: Sequence[WindowRange], aggregator: ProgressAggregator, crew: Crew) -> None:
        self._job, self._aggregator, self._crew = job, aggregator, crew
        self._left, self._unfinished = deque(ranges), len(ranges)
        self._workers: list[_Worker] = []
        self._asked: dict[Any, _Worker] = {}
        self._first: Started | None = None
        self._lost: Counter[WindowRange | None] = Counter()
        self._at_work = time.monotonic()

    def run(self) -> None:
        """Until all parts are there."""
        self._staff()
        while self._unfinished:
            for question in self._crew.answered(list(self._asked), _LOOK):
                worker = self._asked.pop(question)
                try:
                    answer = self._crew.answer(question)
                except WorkerLostError as error:
                    self._lose(worker, str(error))
                else:
                    self._take(worker, answer)
            self._staff()
            self._mind_idleness()

    def close(self) -> None:
        """End the workers and forget parts that came in half."""
        for worker in self._workers:
            if worker.windows is not None:
                self._coming(worker.windows).unlink(missing_ok=True)
        self._crew.end([(worker.hand, worker.ready) for worker in self._workers])

    def _staff(self) -> None:
        """Give each idle worker a range, and see that there are as many workers as there is work for."""
        for worker in self._workers:
            if worker.idle and self._left:
                worker.windows = self._left.popleft()
                self._coming(worker.windows).unlink(missing_ok=True)
                self._ask(worker, "begin", worker.windows)
        while len(self._workers) < min(self._crew.count, self._unfinished):
            self._workers.append(_Worker(self._crew.start()))
            self._ask(self._workers[-1], "start", __version__, files_needed(self._job))

    def _ask(self, worker: _Worker, method: str, *arguments: Any) -> None:
        self._asked[self._crew.ask(worker.hand, method, *arguments)] = worker

    def _take(self, worker: _Worker, answer: Started | News) -> None:
        if isinstance(answer, Started):
            worker.ready = True
            self._lost[None] = 0
            self._aggregator.started(answer.seconds)
            self._check(answer)
            return
        for level, text in answer.said:
            self._aggregator.say(level, text)
        windows = worker.windows
        assert windows is not None
        self._aggregator.note(windows, answer.windows_done, answer.counts)
        self._add(windows, answer.piece)
        if answer.done is None:
            self._ask(worker, "hear")
            return
        with atomic_path(self._job.part(windows)) as temporary:
            os.replace(self._coming(windows), temporary)
        worker.windows = None
        self._finish(answer.done)

    def _finish(self, done: ShardDone) -> None:
        self._aggregator.finish(done)
        self._unfinished -= 1

    def _lose(self, worker: _Worker, reason: str) -> None:
        """A worker is gone: what it was at is next."""
        windows = worker.windows
        self._workers.remove(worker)
        self._crew.end([(worker.hand, False)])
        self._lost[windows] += 1
        at = "at startup" if windows is None else f"at windows {windows}"
        if self._lost[windows] >= (TRIES if windows is not None else TRIES * self._crew.count):
            raise ResourceError(
                f"{self._lost[windows]} workers were lost {at}: {reason}",
                "usually memory ran out: use fewer workers; the same command resumes the run",
            )
        self._aggregator.say(logging.WARNING, f"a worker was lost {at} and is replaced: {reason}")
        if windows is not None:
            self._left.appendleft(windows)

    def _check(self, started: Started) -> None:
        """What a worker predicts on and with is what the others do."""
        if self._first is not None:
            words = identity_difference(_of_any_copy(started.identity), _of_any_copy(self._first.identity))
            if words:
                raise UsageError(
                    f"{started.node} would predict with {words}, unlike {self._first.node}",
                    "every machine needs the same input and the same model",
                )
            return
        self._first = started
        facts = unchanging(file_facts(self._job.source))
        if started.identity["input"] != {**started.identity["input"], **facts}:
            raise UsageError(f"{self._job.source}: differs from the file on {started.node}", "copy it there again")

    def _coming(self, windows: WindowRange) -> Path:
        """Where the pieces of a part are put together."""
        return hidden_beside(self._job.part(windows), ".coming")

    def _add(self, windows: WindowRange, piece: bytes) -> None:
        path = self._coming(windows)
        try:
            with path.open("ab") as file:
                file.write(piece)
        except OSError as error:
            raise not_written(path, error) from error

    def _mind_idleness(self) -> None:
        """Say it when nobody has been at work for long: the cluster may have no room."""
        now = time.monotonic()
        if any(worker.ready for worker in self._workers):
            self._at_work = now
        elif now - self._at_work > _LONG:
            self._aggregator.say(
                logging.WARNING,
                "no worker is ready yet: they load the model or wait for resources (see ray status)",
            )


def _of_any_copy(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "input": unchanging(identity["input"])}
