"""A scene predicted by several workers at once: its shards are handed out, then their parts are joined and written.

How workers are started and told is the business of `processes.py` and `ray.py`.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rsprompter_cli.errors import ChangedInputError, InputError, OutputError, plural
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.atomic import not_written
from rsprompter_cli.io.lock import OutputLock
from rsprompter_cli.io.model_files.checkpoint import BUNDLED, find_checkpoint, model_name
from rsprompter_cli.predict.merge import join_and_write, parts_facts, read_parts
from rsprompter_cli.predict.model_source import ModelSource, device_type, meta_of
from rsprompter_cli.predict.options import PredictOptions, Progress
from rsprompter_cli.predict.output.postprocess import chosen_labels
from rsprompter_cli.predict.report import heard_warnings
from rsprompter_cli.predict.scene import ScenePrediction, claim_outputs, open_planned, report_scene
from rsprompter_cli.predict.shard import Shard
from rsprompter_cli.predict.shards import ShardDone
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.fingerprint import scene_identity
from rsprompter_cli.predict.store.journal import identity_difference, journal_identity
from rsprompter_cli.predict.store.resumable import discard_journal, resumable_parts, resumable_windows, shards_folder

_log = logging.getLogger(__name__)

SHARDS_PER_WORKER = 4
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

    def part(self, shard: Shard) -> Path:
        """Where the part of a shard goes."""
        return self.folder / f"{shard.number}-of-{shard.count}"


class ProgressAggregator:
    """Adds up what the workers report, and says what they have to say."""

    def __init__(self, windows: int, stats: RunStats, progress: Progress | None, said: Sequence[str]) -> None:
        """Nothing is done of `windows`; `said` holds what was said already, and grows."""
        self._windows, self._stats, self._progress, self._said = windows, stats, progress, said
        self._done: dict[Shard, int] = {}
        if progress is not None:
            progress(0, windows)
        self._counts: dict[Shard, Mapping[str, int]] = {}

    @property
    def begun(self) -> bool:
        """Whether a worker has reported anything."""
        return bool(self._done)

    def started(self, seconds: float) -> None:
        """A worker has loaded the model and opened the scene."""
        self._stats.take({}, {Stage.START_UP.value: seconds})

    def note(self, shard: Shard, windows_done: int, counts: Mapping[str, int]) -> None:
        """A worker is so far with a shard."""
        before = self._counts.get(shard, {})
        self._stats.take({name: count - before.get(name, 0) for name, count in counts.items()}, {})
        self._counts[shard], self._done[shard] = counts, windows_done
        if self._progress is not None:
            self._progress(sum(self._done.values()), self._windows)

    def finish(self, done: ShardDone) -> None:
        """A shard is done."""
        self.note(done.shard, done.windows, done.counts)
        self._stats.take({}, done.seconds)

    def say(self, level: int, text: str) -> None:
        """Pass on what a worker logs, once for all of them."""
        if text not in self._said:
            _log.log(level, "%s", text)


RunShards = Callable[[Job, Sequence[Shard], ProgressAggregator], None]
"""Makes the parts of all shards, or raises: an RspError of the worker that failed, KeyboardInterrupt."""


def predict_in_parts(
    source: str | Path,
    out: str | Path | None,
    options: PredictOptions,
    run: RunShards,
    *,
    workers: int | Callable[[], int],
    model: ModelSource = None,
    progress: Progress | None = None,
    stats: RunStats | None = None,
) -> ScenePrediction:
    """Find the objects of a scene by several workers and write them; to the byte what `predict_scene` writes.

    The parts lie in a hidden folder beside the output until it is there. A rerun goes on with them, with any number
    of workers.

    Args:
        source, out, options, model, progress, stats: see `predict_scene`.
        run: makes the parts.
        workers: how many there are; a function is asked when all else is found to be in order.

    Raises:
        RspError: see `predict_scene`.
    """
    start = time.perf_counter()
    stats = stats or RunStats()
    options.check()
    kind = claim_outputs(source, out, model, options)
    with ExitStack() as stack:
        warnings = stack.enter_context(heard_warnings())
        with stats.stage(Stage.START_UP):
            meta = meta_of(model)
            chosen_labels(options.output.classes, meta.class_names)
            device = device_type(options.device, None)
            scene, grid, area, plan = open_planned(source, kind, meta, options, device=device, stack=stack)
        if options.dry_run or out is None or kind is None:
            _log.info("the time is estimated for one process; several workers take less")
            return ScenePrediction(None, plan, 0, time.perf_counter() - start)
        score = meta.score_threshold if options.score is None else options.score
        identity = scene_identity(source, scene, grid, options, score=score, area=area)
        aggregator = ProgressAggregator(len(grid), stats, progress, warnings)
        folder = stack.enter_context(_parts_folder(Path(out), identity, aggregator, overwrite=options.overwrite))
        count = max((count for _, count in resumable_parts(folder).values()), default=0)
        hands = workers if isinstance(workers, int) else workers()
        count = count or min(len(grid), SHARDS_PER_WORKER * hands)
        job = _job(source, options, model, folder)
        announce("starting the workers")
        _make_parts(run, job, [Shard(number, count) for number in range(1, count + 1)], aggregator)
        announce("joining the parts")
        parts = read_parts([job.part(Shard(number, count)) for number in range(1, count + 1)])
        join_and_write(Path(out), kind, parts, parts_facts(parts), scene, options, stats=stats)
        shutil.rmtree(folder, ignore_errors=True)
        report_scene(source, out, model, plan, options, stats, warnings)
    return ScenePrediction(Path(out), plan, stats.written, time.perf_counter() - start)


def _job(source: str | Path, options: PredictOptions, model: ModelSource, folder: Path) -> Job:
    output = options.output
    if output.aoi is not None:
        options = replace(options, output=replace(output, aoi=_absolute(output.aoi)))
    return Job(_absolute(source), options, _for_workers(model), folder)


def _for_workers(model: ModelSource) -> ModelSource:
    """The model as a worker in another folder, or on another machine, finds it; the bundled one is its own."""
    if not isinstance(model, str | Path):
        return model
    return BUNDLED if model_name(model) == BUNDLED else _absolute(find_checkpoint(model))


def _absolute(path: str | Path) -> str:
    """The path of a file or folder; an address stays as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else str(path)


def _make_parts(run: RunShards, job: Job, shards: Sequence[Shard], aggregator: ProgressAggregator) -> None:
    """Have the parts made; those of a damaged file go, because it would fail again at the same place."""
    # What is left of an earlier run comes first: if it is of another model, that shows before any work is done.
    first = {Shard(*place) for place in resumable_parts(job.folder).values()}
    try:
        run(job, sorted(shards, key=lambda shard: (shard not in first, shard)), aggregator)
    except ChangedInputError:
        raise
    except InputError:
        if Path(job.source).is_file():
            shutil.rmtree(job.folder, ignore_errors=True)
        raise


@contextmanager
def _parts_folder(
    out: Path, identity: Mapping[str, Any], aggregator: ProgressAggregator, *, overwrite: bool
) -> Iterator[Path]:
    """The folder of the parts of an output, which no other run works on meanwhile.

    After a fault or an interruption it stays if it contains windows, and a message tells how to resume.

    Args:
        identity: of the run, but for its model, as JSON values.
        overwrite: parts of another run may be given up.

    Raises:
        OutputError: another run is at work on this output, or left something and `overwrite` is not set.
    """
    lock, folder = OutputLock(out, shown=out), shards_folder(out.absolute())
    try:
        discard_journal(out, overwrite=overwrite)
        _wait_for_workers(folder, out)
        _see_to_kept(folder, identity, overwrite=overwrite)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise not_written(out, error) from error
        try:
            yield folder
        except BaseException as error:
            kept = resumable_windows(folder)
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)
            elif aggregator.begun or not isinstance(error, OutputError):
                _log.info(
                    "%s keeps the %s done so far: run the same command again to resume", folder, plural(kept, "window")
                )
            raise
    finally:
        with suppress(OSError):
            folder.rmdir()  # when there is nothing in it
        lock.release()


def _wait_for_workers(folder: Path, out: Path) -> None:
    """Workers whose run was killed end by themselves, but not before the window that they are at."""
    for path in folder.glob(".*.lock"):
        try:
            with FileLock(path, timeout=PATIENCE):
                pass
        except Timeout as error:
            raise OutputError(
                f"{out}: workers of an earlier run are still writing it", "wait until they have exited"
            ) from error


def _see_to_kept(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Look what an earlier run has left: go on with it, refuse it or give it up."""
    wanted = json.loads(json.dumps(identity))
    for path in resumable_parts(folder):
        found = journal_identity(path)
        if found is None:
            continue  # it was being begun when the power went
        settings = {name: value for name, value in found.get("settings", {}).items() if name != "shard"}
        known = {**{name: found.get(name) for name in wanted}, "settings": settings}
        if known == wanted:
            continue
        if resumable_windows(folder):
            reason = f"belongs to a run with {identity_difference(known, wanted)}"
            if not overwrite:
                way_out = "resume with the command that started it, or pass --overwrite to start over"
                raise OutputError(f"{folder} {reason}", way_out)
            _log.warning("%s %s: starting over", folder, reason)
        shutil.rmtree(folder, ignore_errors=True)
        return
    if (windows := resumable_windows(folder)) and not overwrite:
        _log.info("%s: resuming after %s", folder, plural(windows, "window"))
