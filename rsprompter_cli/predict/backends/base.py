"""What a run asks of workers, and how what they report is added up; how they are started is up to each backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsprompter_cli.io.model_files.checkpoint import BUNDLED, find_checkpoint, model_name
from rsprompter_cli.predict.model_source import ModelSource
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.shards import ShardDone
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.parts import Parts
from rsprompter_cli.structures import Progress

_log = logging.getLogger(__name__)

RANGES_PER_WORKER = 4
"""So many that the last ones to finish keep the others waiting for little."""

PATIENCE = 10.0
"""Seconds that workers get to bring to the disk what they have, when a run ends early."""


@dataclass(frozen=True, slots=True)
class Job:
    """What workers need to know; paths are absolute, because a worker may have another working directory.

    folder: where the parts go.
    """

    source: str
    options: PredictOptions
    model: ModelSource
    folder: Path

    def part(self, windows: WindowRange) -> Path:
        """Where the part of some windows goes."""
        return Parts(self.folder).path(windows)


class ProgressAggregator:
    """Adds up what the workers report, and says what they have to say."""

    def __init__(
        self, windows: int, stats: RunStats, progress: Progress | None, said: Sequence[str], *, known: int = 0
    ) -> None:
        """Of `windows`, `known` are done; `said` holds what was said already, and grows."""
        self._windows, self._known, self._stats, self._progress, self._said = windows, known, stats, progress, said
        self._done: dict[WindowRange, int] = {}
        if progress is not None:
            progress(known, windows)
        self._counts: dict[WindowRange, Mapping[str, int]] = {}

    def started(self, seconds: float) -> None:
        """A worker has loaded the model and opened the scene."""
        self._stats.take({}, {Stage.START_UP.value: seconds})

    def note(self, windows: WindowRange, windows_done: int, counts: Mapping[str, int]) -> None:
        """A worker is so far with some windows."""
        before = self._counts.get(windows, {})
        self._stats.take({name: count - before.get(name, 0) for name, count in counts.items()}, {})
        self._counts[windows], self._done[windows] = counts, windows_done
        if self._progress is not None:
            self._progress(self._known + sum(self._done.values()), self._windows)

    def finish(self, done: ShardDone) -> None:
        """A part is whole."""
        assert isinstance(done.shard, WindowRange)
        self.note(done.shard, done.windows, done.counts)
        self._stats.take({}, done.seconds)

    def say(self, level: int, text: str) -> None:
        """Pass on what a worker logs, once for all of them."""
        if text not in self._said:
            _log.log(level, "%s", text)


RunRanges = Callable[[Job, Sequence[WindowRange], ProgressAggregator], None]
"""Makes the parts of all ranges, or raises: an RspError of the worker that failed, KeyboardInterrupt."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Workers other than this process that run the model over the windows of a scene.

    run: makes the parts.
    workers: how many there are; a function is asked when all else is found to be in order.
    """

    run: RunRanges
    workers: int | Callable[[], int]

    def count(self) -> int:
        """How many workers there are."""
        return self.workers if isinstance(self.workers, int) else self.workers()


def job_for_workers(source: str | Path, options: PredictOptions, model: ModelSource, parts: Parts) -> Job:
    """What workers in another folder, or on another machine, need to know."""
    output = options.output
    if output.aoi is not None:
        options = replace(options, output=replace(output, aoi=_absolute(output.aoi)))
    return Job(_absolute(source), options, _for_workers(model), parts.folder.absolute())


def _for_workers(model: ModelSource) -> ModelSource:
    """The model as a worker finds it; the bundled one is its own."""
    if not isinstance(model, str | Path):
        return model
    return BUNDLED if model_name(model) == BUNDLED else _absolute(find_checkpoint(model))


def _absolute(path: str | Path) -> str:
    """The path of a file or folder; an address stays as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else str(path)
