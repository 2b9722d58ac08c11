"""From a scene or a picture to polygons: read, detect, join, write.

`path -> Georef + windows -> float32 tile -> Detections (tile px) -> polygons (scene px) ->
joined over window borders -> CRS -> features`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.errors import UsageError, plural
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.stitch.joiner import AT_ONCE, Instance, Joiner
from rsprompter_cli.geo.windows import Window, WindowGrid
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.base import RatesMasks, with_score_floor
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.precision import resolve_precision
from rsprompter_cli.predict.aoi import AreaOfInterest, read_area
from rsprompter_cli.predict.detect import concurrency_of, detect_in_order, outline, read_batches, run_model
from rsprompter_cli.predict.model_source import (
    ModelSource,
    device_of,
    device_type,
    facts_of,
    files_of,
    load_chosen,
    meta_of,
)
from rsprompter_cli.predict.options import PredictOptions, Progress, fits_in_one_window
from rsprompter_cli.predict.output.claims import claim_one
from rsprompter_cli.predict.output.postprocess import OutputOptions, chosen_labels, finish_objects
from rsprompter_cli.predict.output.write import OutputKind, check_georef, check_room, write_found
from rsprompter_cli.predict.plan import ScenePlan, format_elapsed, plan_scene
from rsprompter_cli.predict.report import heard_warnings, report_document, write_report
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.external_sort import ExternalSorter
from rsprompter_cli.predict.store.fingerprint import run_identity
from rsprompter_cli.predict.store.journal import Journal
from rsprompter_cli.predict.store.resumable import discard_parts
from rsprompter_cli.structures import Detections, Tile

_log = logging.getLogger(__name__)

_BESIDE = 2
"""Batches that may wait to be outlined and joined while the model goes on."""


@dataclass(frozen=True)
class ScenePrediction:
    """What `predict_scene` did.

    out: the file written, or None for a dry run.
    plan: windows, resolution and estimates.
    objects: that were written.
    seconds: wall time of reading, detecting, joining and writing.
    """

    out: Path | None
    plan: ScenePlan
    objects: int
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        if self.out is None:
            return self.plan.summary()
        return f"wrote {self.out}: {plural(self.objects, 'object')} in {format_elapsed(self.seconds)}"

    def files(self) -> tuple[Path, ...]:
        """None beside `out`."""
        return ()

    def check(self) -> None:
        """Nothing: what fails raises at once."""

    def as_dict(self) -> dict[str, Any]:
        """Facts for `--json`."""
        found = {"out": str(self.out) if self.out else None, "objects": self.objects}
        return {**found, "seconds": round(self.seconds, 2), "plan": self.plan.as_dict()}


def predict_scene(
    source: str | Path,
    out: str | Path | None,
    options: PredictOptions | None = None,
    *,
    model: ModelSource = None,
    progress: Progress | None = None,
    stats: RunStats | None = None,
    **changes: Any,
) -> ScenePrediction:
    """Find the objects of a scene or picture and write them.

    Args:
        source: a raster or picture file.
        out: the output; its extension chooses GeoJSON, GPKG, ..., COCO json or an overlay PNG.
            None plans, and finds nothing.
        options: how; None takes the defaults.
        model: a checkpoint folder, a loaded model, a SAM to find everything with (`find_everything`), or "bundled" or
            None for the bundled one.
        progress: called after each batch of windows with (windows done, windows in all).
        stats: told what is done and how long it takes.
        changes: of `options`, by the names of `PredictOptions`, `Reading` and `OutputOptions`, as in
            `predict_scene("scene.tif", "out.gpkg", score=0.4, gsd=0.3, min_area=10)`.

    Raises:
        RspError: any of its children, before something is written.
    """
    start = time.perf_counter()
    stats = stats or RunStats()
    options = (options or PredictOptions()).changed(**changes)
    options.check()
    output = options.output
    kind = claim_outputs(source, out, model, options)
    with ExitStack() as stack:
        warnings = stack.enter_context(heard_warnings())
        with stats.stage(Stage.START_UP):
            loaded = None if options.dry_run or out is None else load_chosen(model, options.device)
            meta = meta_of(model) if loaded is None else loaded.meta
            labels = chosen_labels(output.classes, meta.class_names)
            device = device_type(options.device, loaded)
            scene, grid, area, plan = open_planned(source, kind, meta, options, device=device, stack=stack)
        if loaded is None or out is None or kind is None:
            return ScenePrediction(None, plan, 0, time.perf_counter() - start)
        score = meta.score_threshold if options.score is None else options.score
        identity = run_identity(source, scene, grid, loaded, options, score=score, area=area)
        journal = stack.enter_context(Journal(Path(out), identity, overwrite=options.overwrite))
        discard_parts(Path(out), overwrite=options.overwrite)
        sorter = stack.enter_context(ExternalSorter(Path(out).parent))
        collect_objects(
            loaded, scene, grid, options, journal, sorter, score=score, progress=progress, area=area, stats=stats
        )
        stats.joined = len(sorter)
        scene.require_unchanged()
        found = finish_objects(sorter.read(), scene.frame, output, labels=labels, area=area, dropped=stats.dropped)
        with_quality = isinstance(loaded.model, RatesMasks) and loaded.model.gives_quality
        write_found(
            Path(out), kind, found, scene.frame, meta, options, stats, scene=scene, area=area, with_quality=with_quality
        )
        journal.remove()
        if not stats.instances and score > 0:
            _log.warning("%s: no object has a score of %.3g or more; --score sets a lower threshold", source, score)
        report_scene(source, out, model, plan, options, stats, warnings)
    return ScenePrediction(Path(out), plan, stats.written, time.perf_counter() - start)


def open_planned(
    source: str | Path,
    kind: OutputKind | None,
    meta: CheckpointMeta,
    options: PredictOptions,
    *,
    device: str | None,
    stack: ExitStack,
) -> tuple[Scene, WindowGrid, AreaOfInterest | None, ScenePlan]:
    """The scene, which `stack` closes, its windows, the area of interest in it, and the work that it will be.

    Args:
        kind: of the output, which may need a place on the earth.
        device: kind of device that will run the model, None when that is open.

    Raises:
        RspError: see `predict_scene`.
    """
    output = options.output
    announce(f"opening {Path(source).name}")
    scene = stack.enter_context(options.reading.open(source, meta, pixel_coords=output.pixel_coords))
    check_georef(source, scene.georef, kind, output)
    check_room(scene.frame, kind, output)
    grid = options.reading.windows(scene, meta)
    area = area_of(scene, grid, output)
    return scene, grid, area, plan_scene(scene, grid, meta, batch=options.batch, device=device, area=area)


def claim_outputs(
    source: str | Path, out: str | Path | None, model: ModelSource, options: PredictOptions
) -> OutputKind | None:
    """The family of the output, after every file that is to be written was found to be free."""
    aoi = options.output.aoi
    return claim_one(out, [source, *files_of(model), *([aoi] if aoi else [])], options)


def report_scene(
    source: str | Path,
    out: str | Path,
    model: ModelSource,
    plan: ScenePlan,
    options: PredictOptions,
    stats: RunStats,
    warnings: Sequence[str],
) -> None:
    """Write the report, if there is to be one."""
    if options.report is None:
        return
    facts = {
        "input": str(source),
        "output": str(out),
        **facts_of(model, score=options.score, device=options.device, precision=options.precision),
        "scene": plan.as_dict(),
    }
    write_report(options.report, report_document(stats, options, facts=facts, warnings=warnings))


def collect_objects(
    loaded: LoadedModel,
    scene: Scene,
    grid: WindowGrid,
    options: PredictOptions,
    journal: Journal,
    sorter: ExternalSorter,
    *,
    score: float,
    progress: Progress | None = None,
    area: AreaOfInterest | None = None,
    stats: RunStats | None = None,
) -> None:
    """Run the model over the windows that the journal lacks, and join over their borders what all of them hold.

    Outlining, the journal and joining have a thread of their own, beside the model.

    Args:
        journal: is read, then written.
        sorter: gets the objects.
        score: lowest score kept.
        area: only windows that it wants are read.
    """
    joiner, stats = Joiner(grid), stats or RunStats()
    stats.windows, stats.known = len(grid), journal.windows_done

    def join(found: list[Instance], windows_done: int) -> None:
        stats.instances += len(found)
        with stats.stage(Stage.JOINING):
            sorter.add(joiner.feed(found, windows_done=windows_done))

    def take(batch: DetectedBatch) -> None:
        with stats.stage(Stage.OUTLINES):
            found = [one for detected in batch.windows for one in outline(*detected, score=score)]
        with stats.stage(Stage.JOURNAL):
            journal.add(found, windows_done=batch.windows_done)
        join(found, batch.windows_done)

    known = journal.instances(grid, classes=len(loaded.meta.class_names))
    while block := list(islice(known, AT_ONCE)):
        window = block[-1].window_row * grid.cols + block[-1].window_col
        join(block, window)
    join([], journal.windows_done)
    dtype = resolve_precision(options.precision, device_of(loaded))
    _log.debug(
        "model: %s, device: %s, precision: %s", loaded.config.model.kind, device_of(loaded), str(dtype).split(".")[-1]
    )
    if progress is not None:
        progress(journal.windows_done, len(grid))
    batches = detect_windows(
        loaded.model,
        scene,
        grid,
        first=journal.windows_done,
        score=score,
        pad=not fits_in_one_window(scene, loaded.meta, native=options.reading.native),
        batch=options.batch,
        dtype=dtype,
        area=area,
        stats=stats,
    )
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsp-join") as beside, closing(batches):
        for batch in batches:
            pending.append(beside.submit(take, batch))
            while len(pending) > _BESIDE or (pending and pending[0].done()):
                pending.popleft().result()
            if progress is not None:
                progress(batch.windows_done, len(grid))
        while pending:
            pending.popleft().result()
    announce(f"joining {plural(stats.instances, 'detection')} across window borders")
    join([], len(grid))


@dataclass(frozen=True, eq=False, slots=True)
class DetectedBatch:
    """What the model found in a batch of windows.

    windows: each with its pixels and the detections in them.
    windows_done: windows of the row-major order that are done with this batch.
    """

    windows: list[tuple[Window, Tile, Detections]]
    windows_done: int


def detect_windows(
    model: torch.nn.Module,
    scene: Scene,
    grid: WindowGrid,
    *,
    first: int = 0,
    stop: int | None = None,
    score: float,
    pad: bool = True,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    area: AreaOfInterest | None = None,
    stats: RunStats | None = None,
) -> Generator[DetectedBatch, None, None]:
    """The detections of every window of a scene from position `first` on, in row-major order.

    Args:
        stop: the position before which it ends, None for the end of the scene.
        pad: bring windows of a scene smaller than the grid's size to that size, see `run_model`.
        area: only windows that it wants are read.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch}: must be at least 1")
    stats = stats or RunStats()
    windows_left = (grid.window_at(position) for position in range(first, len(grid) if stop is None else stop))
    wanted = _wanted(windows_left, scene, area, stats)

    def detect(tiles: Sequence[Tile]) -> list[Detections]:
        with stats.stage(Stage.MODEL):
            return run_model(model, tiles, pad_to=grid.size if pad else None, dtype=dtype)

    with ExitStack() as stack:
        # However this ends, no thread computes a window or reads the scene afterwards.
        stack.enter_context(with_score_floor(model, score))
        read = stack.enter_context(closing(read_batches(stats.reader(scene), wanted, batch)))
        waited = stats.timed(Stage.WAITING, read)
        detected = stack.enter_context(closing(detect_in_order(waited, detect, concurrency_of(model))))
        for (last, tiles), detections in detected:
            scene.require_unchanged()
            windows = [(window, tile, found) for (window, tile), found in zip(tiles, detections, strict=True)]
            yield DetectedBatch(windows, last.row * grid.cols + last.col + 1)


def _wanted(windows: Iterable[Window], scene: Scene, area: AreaOfInterest | None, stats: RunStats) -> Iterator[Window]:
    """Those in the area of interest under which the file stores something."""
    for window in windows:
        if area is not None and not area.wants(window):
            stats.skip(outside=True)
        elif not scene.may_have_data(window):
            stats.skip(outside=False)
        else:
            yield window


def area_of(scene: Scene, grid: WindowGrid, options: OutputOptions) -> AreaOfInterest | None:
    """The area of interest that the user named."""
    if options.aoi is None:
        return None
    return read_area(
        options.aoi, scene, grid, cut=options.aoi_cut, pixel_coords=options.pixel_coords, layer=options.layer
    )
