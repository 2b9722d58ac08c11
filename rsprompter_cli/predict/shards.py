"""A part of a scene's windows at a time, so that many processes and machines can share a scene.

A shard is a stretch of the row-major order of the windows. What the model finds in it is a *part*: a journal that
says what run and which shard it is of, and what joining and writing need of the scene. `merge.py` joins parts.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapely

from rsprompter_cli.errors import OutputError, UsageError
from rsprompter_cli.geo.raster.frame import frame_facts
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.stitch.instances import Instance
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.io.atomic import refuse_existing
from rsprompter_cli.models.base import RatesMasks
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.precision import resolve_precision
from rsprompter_cli.predict.aoi import AreaOfInterest, read_area
from rsprompter_cli.predict.detect import DetectedBatch, detect_windows, outline
from rsprompter_cli.predict.model_source import ModelSource, device_of, files_of, load_chosen
from rsprompter_cli.predict.options import PredictOptions, fits_in_one_window
from rsprompter_cli.predict.output.postprocess import OutputOptions
from rsprompter_cli.predict.output.write import KNOWN_SUFFIXES
from rsprompter_cli.predict.shard import Shard, WindowRange
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.fingerprint import run_identity
from rsprompter_cli.predict.store.journal import Journal, count_windows, identity_difference, journal_identity
from rsprompter_cli.structures import Progress

_log = logging.getLogger(__name__)

_BESIDE = 2
"""Batches that may wait to be outlined and joined while the model goes on."""


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What became of a shard, or of a range of windows.

    windows: in it. counts, seconds: of its stats.
    """

    shard: Shard | WindowRange
    windows: int
    counts: Mapping[str, int]
    seconds: Mapping[str, float]


@dataclass(frozen=True, eq=False, slots=True)
class SceneRun:
    """An open scene, its windows and a loaded model, to be run over one range of windows after the other.

    source, options, model: as the user named them. area: of interest. score: lowest score kept.
    """

    source: str | Path
    options: PredictOptions
    model: ModelSource
    loaded: LoadedModel
    scene: Scene
    grid: WindowGrid
    area: AreaOfInterest | None
    score: float

    @property
    def with_quality(self) -> bool:
        """Whether the model rates its masks."""
        return isinstance(self.loaded.model, RatesMasks) and self.loaded.model.gives_quality

    def write_part(
        self,
        shard: Shard | WindowRange,
        out: Path,
        *,
        progress: Progress | None = None,
        stats: RunStats | None = None,
        alone: bool = False,
    ) -> ShardDone:
        """Write the part of some windows, or the rest of it where an earlier run was stopped; a whole one stays.

        Args:
            out: of the part, a file.
            progress: called after each batch with (windows done, windows of the part); what it raises ends the run.
            stats: told what is done.
            alone: see `Journal`.

        Raises:
            OutputError: `out` is something else and may not be replaced.
            RspError: see `predict_scene`.
        """
        stats = stats or RunStats()
        windows = shard.windows(len(self.grid))
        stats.windows = len(windows)
        head = self.part_head(shard)
        inputs = [self.source, *files_of(self.model)]
        if is_whole(out, head, len(windows), inputs, overwrite=self.options.overwrite):
            stats.known = len(windows)
            return ShardDone(shard, len(windows), stats.counts(), stats.seconds())
        with Journal(out, head, overwrite=self.options.overwrite, alone=alone) as journal:
            stats.known = journal.windows_done
            self.detect(windows, journal, stats, progress=progress)
            journal.complete()
        return ShardDone(shard, len(windows), stats.counts(), stats.seconds())

    def detect(
        self,
        windows: range,
        journal: Journal,
        stats: RunStats,
        *,
        progress: Progress | None = None,
        on_found: Callable[[Sequence[Instance], int], None] = lambda _found, _stop: None,
    ) -> None:
        """Run the model over those of some windows that the journal lacks.

        Outlining, the journal and what becomes of instances have a thread of their own, beside the model.

        Args:
            windows: positions in the row-major order.
            journal: of these windows.
            stats: told what is done.
            progress: called after each batch with (windows done, windows in all); what it raises ends the run.
            on_found: called with the instances of the next windows, and the position after the last of these.
        """

        def take(batch: DetectedBatch) -> None:
            with stats.stage(Stage.OUTLINES):
                found = [one for detected in batch.windows for one in outline(*detected, score=self.score)]
            stats.instances += len(found)
            with stats.stage(Stage.JOURNAL):
                journal.add(found, windows_done=batch.windows_done - windows.start)
            on_found(found, batch.windows_done)

        options, model = self.options, self.loaded.model
        batches = detect_windows(
            model,
            self.scene,
            self.grid,
            first=windows.start + journal.windows_done,
            stop=windows.stop,
            score=self.score,
            pad=not fits_in_one_window(self.scene, self.loaded.meta, native=options.reading.native),
            batch=options.batch,
            dtype=resolve_precision(options.precision, device_of(self.loaded)),
            area=self.area,
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
        # Those at the end that hold nothing are in no batch.
        if journal.windows_done < len(windows):
            journal.add([], windows_done=len(windows))

    def part_head(self, shard: Shard | WindowRange) -> dict[str, Any]:
        """What a part says at its head: the run, its windows, and what joining and writing need to know."""
        meta, area = self.loaded.meta, self.area
        identity = run_identity(
            self.source, self.scene, self.grid, self.loaded, self.options, score=self.score, area=area
        )
        head = {
            **identity,
            "settings": {**identity["settings"], "shard": str(shard)},
            "scene": {
                **frame_facts(self.scene.frame),
                "grid": asdict(self.grid),
                "class_names": meta.class_names,
                "category_ids": meta.category_ids,
                "gsd_range": meta.gsd_range,
                "bands": meta.bands,
                "scaling": meta.scaling,
                "image_size": meta.image_size,
                "quality": self.with_quality,
                "area": None
                if area is None
                else {
                    "polygon": shapely.to_wkb(area.polygon, hex=True, byte_order=1),
                    "cut": self.options.output.aoi_cut,
                },
            },
        }
        return dict(json.loads(json.dumps(head)))  # as it is read back: lists for tuples


@contextmanager
def open_run(source: str | Path, options: PredictOptions, model: ModelSource = None) -> Iterator[SceneRun]:
    """Load the model and open the scene.

    Raises:
        RspError: see `predict_scene`.
    """
    options.check()
    loaded = load_chosen(model, options.device)
    meta, output = loaded.meta, options.output
    with options.reading.open(source, meta, pixel_coords=output.pixel_coords) as scene:
        grid = options.reading.windows(scene, meta)
        score = meta.score_threshold if options.score is None else options.score
        yield SceneRun(source, options, model, loaded, scene, grid, area_of(scene, grid, output), score)


def area_of(scene: Scene, grid: WindowGrid, options: OutputOptions) -> AreaOfInterest | None:
    """The area of interest that the user named."""
    if options.aoi is None:
        return None
    return read_area(
        options.aoi, scene, grid, cut=options.aoi_cut, pixel_coords=options.pixel_coords, layer=options.layer
    )


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
    with open_run(source, options, model) as run:
        return run.write_part(shard, Path(out), progress=progress, stats=stats, alone=True)


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
