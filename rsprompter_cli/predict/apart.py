"""A scene predicted by several workers at once: its shards are handed out, then their parts are joined and written.

How workers are started and told is the business of `workers.py` and `on_ray.py`.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rsprompter_cli.errors import InputError, OutputError
from rsprompter_cli.io.atomic import hidden_beside
from rsprompter_cli.predict.chosen import Chosen, device_type, files_of, meta_of
from rsprompter_cli.predict.finish import chosen_labels
from rsprompter_cli.predict.merge_parts import join_and_write, parts_facts, read_parts
from rsprompter_cli.predict.meter import Meter, Stage
from rsprompter_cli.predict.options import PredictOptions, Progress
from rsprompter_cli.predict.plan import plan_scene
from rsprompter_cli.predict.report import heard_warnings, report_document, write_report
from rsprompter_cli.predict.scene import ScenePrediction, area_of, check_georef, claim_outputs
from rsprompter_cli.predict.shards import Shard, ShardDone

_log = logging.getLogger(__name__)

SHARDS_PER_WORKER = 4
"""So many that the last ones to finish keep the others waiting for little."""

_PART = re.compile(r"\.?(\d+)-of-(\d+)(\.journal)?")


@dataclass(frozen=True, slots=True)
class Job:
    """What workers need to know. folder: absolute, where the parts go."""

    source: str
    options: PredictOptions
    model: Chosen
    folder: Path

    def part(self, shard: Shard) -> Path:
        """Where the part of a shard goes."""
        return self.folder / f"{shard.number}-of-{shard.count}"


class Tally:
    """Adds up what the workers report."""

    def __init__(self, windows: int, meter: Meter, progress: Progress | None) -> None:
        """Nothing is done of `windows`."""
        self._windows, self._meter, self._progress = windows, meter, progress
        self._done: dict[Shard, int] = {}
        self._counts: dict[Shard, Mapping[str, int]] = {}

    def note(self, shard: Shard, windows_done: int, counts: Mapping[str, int]) -> None:
        """A worker is so far with a shard."""
        before = self._counts.get(shard, dict.fromkeys(counts, 0))
        self._meter.take({name: counts[name] - before[name] for name in counts}, dict.fromkeys((s.value for s in Stage), 0.0))
        self._counts[shard], self._done[shard] = counts, windows_done
        if self._progress is not None:
            self._progress(sum(self._done.values()), self._windows)

    def finish(self, done: ShardDone) -> None:
        """A shard is done."""
        self.note(done.shard, done.windows, done.counts)
        self._meter.take(dict.fromkeys(done.counts, 0), done.seconds)


RunShards = Callable[[Job, Sequence[Shard], Tally], None]
"""Makes the parts of all shards, or raises: an RspError of the worker that failed, KeyboardInterrupt."""


def predict_apart(
    source: str | Path,
    out: str | Path | None,
    options: PredictOptions,
    run: RunShards,
    *,
    workers: int | Callable[[], int],
    model: Chosen = None,
    progress: Progress | None = None,
    meter: Meter | None = None,
) -> ScenePrediction:
    """Find the objects of a scene by several workers and write them; to the byte what `predict_scene` writes.

    The parts lie in a hidden folder beside the output until it is there. A rerun goes on with them, with any number
    of workers.

    Args:
        source, out, options, model, progress, meter: see `predict_scene`.
        run: makes the parts.
        workers: how many there are; a function is asked when all else is found to be in order.

    Raises:
        RspError: see `predict_scene`.
    """
    start = time.perf_counter()
    meter = meter or Meter()
    options.check()
    kind = claim_outputs(source, out, model, options)
    with ExitStack() as stack:
        warnings = stack.enter_context(heard_warnings())
        with meter.stage(Stage.START_UP):
            meta, output = meta_of(model), options.output
            chosen_labels(output.classes, meta.class_names)
            scene = stack.enter_context(options.reading.open(source, meta, pixel_coords=output.pixel_coords))
            check_georef(source, scene, kind, output)
            grid = options.reading.windows(scene, meta)
            area = area_of(scene, grid, output)
            device = device_type(options.device, None)
            plan = plan_scene(scene, grid, meta, batch=options.batch, device=device, area=area)
        if options.dry_run or out is None or kind is None:
            return ScenePrediction(None, plan, 0, time.perf_counter() - start)
        folder = stack.enter_context(_parts_folder(Path(out)))
        place = str(Path(source).resolve()) if Path(source).exists() else str(source)
        job = Job(place, options, model, folder)
        hands = workers if isinstance(workers, int) else workers()
        count = _count_begun(folder) or min(len(grid), SHARDS_PER_WORKER * hands)
        shards = [Shard(number, count) for number in range(1, count + 1)]
        run(job, shards, Tally(len(grid), meter, progress))
        parts = read_parts([job.part(shard) for shard in shards])
        facts = parts_facts(parts)
        join_and_write(Path(out), kind, parts, facts, scene, options, meter=meter)
        shutil.rmtree(folder)
        if options.report is not None:
            facts_of_run = {
                "input": str(source),
                "output": str(out),
                "model": ", ".join(map(str, files_of(model))) or "bundled",
                "scene": plan.as_dict(),
            }
            document = report_document(meter, options, facts=facts_of_run, warnings=warnings)
            write_report(options.report, document)
    return ScenePrediction(Path(out), plan, meter.written, time.perf_counter() - start)


@contextmanager
def _parts_folder(out: Path) -> Iterator[Path]:
    """The folder of the parts of an output, which no other run works on meanwhile.

    After a fault or an interruption it stays, and the way to go on is said; but for a damaged input, which would
    fail again at the same place.
    """
    folder = hidden_beside(out.absolute(), ".parts")
    lock = FileLock(hidden_beside(out, ".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(f"{out}: another run is at work on it", "wait for it, or name another output") from error
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        yield folder
    except InputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        if any(folder.iterdir()):
            _log.warning("%s keeps the windows done so far: run the same command again to go on", folder)
        raise
    finally:
        with suppress(OSError):
            folder.rmdir()  # when there is nothing in it
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()


def _count_begun(folder: Path) -> int:
    """In how many shards an earlier run has divided the scene; 0 when there was none."""
    names = (_PART.fullmatch(path.name) for path in folder.iterdir())
    return max((int(name[2]) for name in names if name is not None), default=0)
