"""A part of a scene's windows at a time, so that many processes and machines can share a scene.

A shard is a stretch of the row-major order of the windows. What the model finds in it is a *part*: a journal that
says what run and which shard it is of, and what joining and writing need of the scene. `merge.py` joins parts.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import shapely

from rsprompter_cli.errors import OutputError, UsageError
from rsprompter_cli.geo.raster.frame import frame_facts
from rsprompter_cli.io.atomic import refuse_existing
from rsprompter_cli.models.base import RatesMasks
from rsprompter_cli.models.precision import resolve_precision
from rsprompter_cli.predict.detect import outline
from rsprompter_cli.predict.model_source import ModelSource, device_of, files_of, load_chosen
from rsprompter_cli.predict.options import PredictOptions, Progress, fits_in_one_window
from rsprompter_cli.predict.output.write import KNOWN_SUFFIXES
from rsprompter_cli.predict.scene import DetectedBatch, area_of, detect_windows
from rsprompter_cli.predict.shard import Shard
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.fingerprint import run_identity
from rsprompter_cli.predict.store.journal import Journal, count_windows, identity_difference, journal_identity

_log = logging.getLogger(__name__)

_BESIDE = 2
"""Batches that may wait to be outlined while the model goes on."""


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What became of a shard.

    windows: in it. counts, seconds: of its stats.
    """

    shard: Shard
    windows: int
    counts: Mapping[str, int]
    seconds: Mapping[str, float]


class ShardRunner:
    """A loaded model and an open scene, for one shard after the other; use it as a context manager."""

    def __init__(self, source: str | Path, options: PredictOptions, model: ModelSource = None) -> None:
        """Load the model and open the scene.

        Raises:
            RspError: see `predict_scene`.
        """
        self._source, self._options, self._model = source, options, model
        options.check()
        with ExitStack() as stack:
            self._loaded = load_chosen(model, options.device)
            meta = self._loaded.meta
            pixels = options.output.pixel_coords
            self._scene = stack.enter_context(options.reading.open(source, meta, pixel_coords=pixels))
            self._grid = options.reading.windows(self._scene, meta)
            self._area = area_of(self._scene, self._grid, options.output)
            self._score = meta.score_threshold if options.score is None else options.score
            self._identity = run_identity(
                source, self._scene, self._grid, self._loaded, options, score=self._score, area=self._area
            )
            self._opened = stack.pop_all()

    def __enter__(self) -> ShardRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the scene."""
        self._opened.close()

    @property
    def windows(self) -> int:
        """Of the whole scene."""
        return len(self._grid)

    def run(
        self, shard: Shard, out: Path, *, progress: Progress | None = None, stats: RunStats | None = None
    ) -> ShardDone:
        """Write the part of a shard, or the rest of it where an earlier run was stopped; a whole one stays.

        Args:
            out: of the part, a file.
            progress: called after each batch with (windows done, windows of the shard); what it raises ends the run.
            stats: told what is done.

        Raises:
            OutputError: `out` is something else and may not be replaced.
            RspError: see `predict_scene`.
        """
        stats = stats or RunStats()
        windows = shard.windows(len(self._grid))
        stats.windows = len(windows)
        identity = self.identity_of(shard)
        inputs = [self._source, *files_of(self._model)]
        if is_whole(out, identity, len(windows), inputs, overwrite=self._options.overwrite):
            stats.known = len(windows)
            return ShardDone(shard, len(windows), stats.counts(), stats.seconds())
        with Journal(out, identity, overwrite=self._options.overwrite) as journal:
            stats.known = journal.windows_done
            self._detect(windows, journal, stats, progress)
            # Those at the end that hold nothing are in no batch.
            if journal.windows_done < len(windows):
                journal.add([], windows_done=len(windows))
            journal.complete()
        return ShardDone(shard, len(windows), stats.counts(), stats.seconds())

    def _detect(self, windows: range, journal: Journal, stats: RunStats, progress: Progress | None) -> None:
        """Run the model over the windows that the journal lacks; outlining has a thread of its own beside it."""

        def take(batch: DetectedBatch) -> None:
            with stats.stage(Stage.OUTLINES):
                found = [one for detected in batch.windows for one in outline(*detected, score=self._score)]
            stats.instances += len(found)
            with stats.stage(Stage.JOURNAL):
                journal.add(found, windows_done=batch.windows_done - windows.start)

        options = self._options
        batches = detect_windows(
            self._loaded.model,
            self._scene,
            self._grid,
            first=windows.start + journal.windows_done,
            stop=windows.stop,
            score=self._score,
            pad=not fits_in_one_window(self._scene, self._loaded.meta, native=options.reading.native),
            batch=options.batch,
            dtype=resolve_precision(options.precision, device_of(self._loaded)),
            area=self._area,
            stats=stats,
        )
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsp-outline") as beside, closing(batches):
            for batch in batches:
                pending.append(beside.submit(take, batch))
                while len(pending) > _BESIDE or (pending and pending[0].done()):
                    pending.popleft().result()
                if progress is not None:
                    progress(batch.windows_done - windows.start, len(windows))
            while pending:
                pending.popleft().result()

    def identity_of(self, shard: Shard) -> dict[str, Any]:
        """What a part says at its head: the run, the shard, and what joining and writing need to know."""
        meta, area = self._loaded.meta, self._area
        identity = {
            **self._identity,
            "settings": {**self._identity["settings"], "shard": str(shard)},
            "scene": {
                **frame_facts(self._scene.frame),
                "grid": asdict(self._grid),
                "class_names": meta.class_names,
                "category_ids": meta.category_ids,
                "gsd_range": meta.gsd_range,
                "bands": meta.bands,
                "scaling": meta.scaling,
                "image_size": meta.image_size,
                "quality": isinstance(self._loaded.model, RatesMasks) and self._loaded.model.gives_quality,
                "area": None
                if area is None
                else {
                    "polygon": shapely.to_wkb(area.polygon, hex=True, byte_order=1),
                    "cut": self._options.output.aoi_cut,
                },
            },
        }
        return dict(json.loads(json.dumps(identity)))  # as it is read back: lists for tuples


def predict_shard(
    source: str | Path,
    out: str | Path,
    shard: Shard,
    options: PredictOptions | None = None,
    *,
    model: ModelSource = None,
    progress: Progress | None = None,
    stats: RunStats | None = None,
    **changes: Any,
) -> ShardDone:
    """Find the objects in one shard of a scene and write them as a part, for `merge_parts`.

    Args:
        source: a raster or picture file, the same for all shards.
        out: the part.
        shard: which.
        options, model, progress, stats, changes: see `predict_scene`; of the output only the area of interest counts.

    Raises:
        RspError: any of its children.
    """
    options = (options or PredictOptions()).changed(**changes)
    check_part_name(out)
    refuse_existing(out, overwrite=True)  # before the model is loaded
    with ShardRunner(source, options, model) as runner:
        return runner.run(shard, Path(out), progress=progress, stats=stats)


def check_part_name(out: str | Path) -> None:
    """Raise UsageError for a part that is called like a vector file or a picture."""
    suffix = Path(out).suffix.lower()
    if suffix in KNOWN_SUFFIXES:
        raise UsageError(
            f"--out {out}: --shard writes a part, which rsp merge turns into {suffix}",
            "for example --out parts/3.part",
        )


def is_whole(
    out: Path, identity: Mapping[str, Any], windows: int, inputs: list[str | Path], *, overwrite: bool
) -> bool:
    """Whether a part is there already; what else is there is refused where it may not be replaced.

    Raises:
        OutputError: it is of another run or no part, or `out` cannot be written.
    """
    refuse_existing(out, overwrite=True, inputs=inputs)
    if not out.exists():
        return False
    found = journal_identity(out)
    same = found is not None and not identity_difference(found, identity)
    if same and count_windows(out) == windows:
        _log.info("%s: already complete", out)
        return True
    if not overwrite and found is not None:
        reason = f"belongs to a run with {identity_difference(found, identity)}" if not same else "is incomplete"
        raise OutputError(f"{out} {reason}", "name another file, or pass --overwrite to replace it")
    refuse_existing(out, overwrite=overwrite)
    return False
