"""From a scene or a picture to polygons: read, detect, join, write.

`path -> Georef + windows -> float32 tile -> Detections (tile px) -> polygons (scene px) ->
joined over window borders -> CRS -> features`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import plural
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.stitch.instances import Instance
from rsprompter_cli.geo.stitch.joiner import Joiner
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.precision import resolve_precision
from rsprompter_cli.predict.aoi import AreaOfInterest
from rsprompter_cli.predict.backends.base import RANGES_PER_WORKER, Backend, Job, ProgressAggregator, job_for_workers
from rsprompter_cli.predict.model_source import (
    ModelSource,
    device_of,
    device_type,
    facts_of,
    files_of,
    load_chosen,
    meta_of,
)
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.output.claims import claim_one
from rsprompter_cli.predict.output.postprocess import chosen_labels, finish_objects
from rsprompter_cli.predict.output.write import OutputKind, check_georef, check_room, write_found
from rsprompter_cli.predict.plan import ScenePlan, format_elapsed, plan_scene
from rsprompter_cli.predict.report import heard_warnings, report_document, write_report
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.shards import SceneRun, area_of
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.predict.store.external_sort import ExternalSorter
from rsprompter_cli.predict.store.fingerprint import model_identity, scene_identity
from rsprompter_cli.predict.store.journal import Journal
from rsprompter_cli.predict.store.parts import Parts, model_of, open_parts, parts_of, rates_masks, split_ranges
from rsprompter_cli.structures import Progress

_log = logging.getLogger(__name__)


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
    backend: Backend | None = None,
    progress: Progress | None = None,
    stats: RunStats | None = None,
    **changes: Any,
) -> ScenePrediction:
    """Find the objects of a scene or picture and write them.

    What is done of a run that was stopped lies in a hidden folder beside the output, and the same call goes on with
    it, with any backend.

    Args:
        source: a raster or picture file.
        out: the output; its extension chooses GeoJSON, GPKG, ..., COCO json or an overlay PNG.
            None plans, and finds nothing.
        options: how; None takes the defaults.
        model: a checkpoint folder, a loaded model, a SAM to find everything with (`find_everything`), or "bundled" or
            None for the bundled one.
        backend: workers that run the model, None for this process. The bytes of the output are the same.
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
    kind = claim_outputs(source, out, model, options)
    with ExitStack() as stack:
        warnings = stack.enter_context(heard_warnings())
        with stats.stage(Stage.START_UP):
            loaded = load_chosen(model, options.device) if backend is None and not options.dry_run and out else None
            meta = meta_of(model) if loaded is None else loaded.meta
            labels = chosen_labels(options.output.classes, meta.class_names)
            device = device_type(options.device, loaded)
            scene, grid, area, plan = open_planned(source, kind, meta, options, device=device, stack=stack)
        if options.dry_run or out is None or kind is None:
            if backend is not None:
                _log.info("the time is estimated for one process; several workers take less")
            return ScenePrediction(None, plan, 0, time.perf_counter() - start)
        out, score = Path(out), meta.score_threshold if options.score is None else options.score
        identity = scene_identity(source, scene, grid, options, score=score, area=area)
        if loaded is not None or parts_of(out).stored():
            identity |= model_identity(loaded or load_chosen(model, "cpu"))
        address = "address" in identity["input"]
        parts = stack.enter_context(open_parts(out, identity, overwrite=options.overwrite, address=address))
        sorter = stack.enter_context(ExternalSorter(out.parent))
        stitcher = Stitcher(parts, grid, sorter, stats, classes=len(meta.class_names))
        if loaded is not None:
            run = SceneRun(source, options, model, loaded, scene, grid, area, score)
            with_quality = run.with_quality
            run_inline(run, parts, stitcher, stats, progress)
        else:
            assert backend is not None
            job = job_for_workers(source, options, model, parts)
            with_quality = run_backend(backend, job, stitcher, stats, progress, warnings)
        stitcher.finish()
        scene.require_unchanged()
        found = finish_objects(
            sorter.read(), scene.frame, options.output, labels=labels, area=area, dropped=stats.dropped
        )
        write_found(
            out, kind, found, scene.frame, meta, options, stats, scene=scene, area=area, with_quality=with_quality
        )
        if not stats.instances and score > 0:
            _log.warning("%s: no object has a score of %.3g or more; --score sets a lower threshold", source, score)
        report_scene(source, out, model, plan, options, stats, warnings)
    return ScenePrediction(out, plan, stats.written, time.perf_counter() - start)


class Stitcher:
    """Joins the instances of windows to objects, in the order of the windows."""

    def __init__(
        self, parts: Parts, grid: WindowGrid, sorter: ExternalSorter, stats: RunStats, *, classes: int
    ) -> None:
        """Nothing is joined yet.

        Args:
            parts: hold what is done.
            sorter: gets the objects.
            classes: of the model.
        """
        self.parts, self.grid, self.stats = parts, grid, stats
        self._joiner, self._sorter, self._classes, self._place = Joiner(grid), sorter, classes, 0

    def feed(self, found: Sequence[Instance], windows_done: int) -> None:
        """Take the instances of the next windows, up to a position."""
        with self.stats.stage(Stage.JOINING):
            self._sorter.add(self._joiner.feed(found, windows_done=windows_done))
        self._place = windows_done

    def feed_stored(self, stop: int) -> None:
        """Take what the parts hold of the windows before a position.

        Raises:
            OutputError: a part is damaged.
        """
        if self._place >= stop:
            return
        for found, windows_done in self.parts.read(range(self._place, stop), self.grid, classes=self._classes):
            self.stats.instances += len(found)
            self.feed(found, windows_done)

    def finish(self) -> None:
        """All windows are done: take what the parts hold of those that are left, and the last objects."""
        self.feed_stored(len(self.grid))
        announce(f"joining {plural(self.stats.instances, 'detection')} across window borders")
        self.feed([], len(self.grid))
        self.stats.joined = len(self._sorter)


def run_inline(
    run: SceneRun, parts: Parts, stitcher: Stitcher, stats: RunStats, progress: Progress | None = None
) -> None:
    """Run the model in this process over the windows that no part holds; their instances are joined beside it."""
    total, device = len(run.grid), device_of(run.loaded)
    words = (run.loaded.config.model.kind, device, str(resolve_precision(run.options.precision, device)).split(".")[-1])
    _log.debug("model: %s, device: %s, precision: %s", *words)
    missing = parts.missing(total)
    done = total - sum(map(len, missing))
    stats.windows, stats.known = total, done
    if progress is not None:
        progress(done, total)
    for windows in missing:
        stitcher.feed_stored(windows.start)
        name = WindowRange(windows.start, windows.stop)

        def count(of_these: int, _all: int, before: int = done) -> None:
            if progress is not None:
                progress(before + of_these, total)

        with Journal(parts.path(name), run.part_head(name), overwrite=True) as journal:
            run.detect(windows, journal, stats, progress=count, on_found=stitcher.feed)
        done += len(windows)


def run_backend(
    backend: Backend,
    job: Job,
    stitcher: Stitcher,
    stats: RunStats,
    progress: Progress | None,
    warnings: Sequence[str],
) -> bool:
    """Have workers make the parts of the windows that no part holds.

    Returns:
        Whether the model rates its masks.
    """
    parts, total = stitcher.parts, len(stitcher.grid)
    missing = parts.missing(total)
    known = total - sum(map(len, missing))
    stats.windows, stats.known = total, known
    if missing:
        ranges = split_ranges(missing, RANGES_PER_WORKER * backend.count())
        announce("starting the workers")
        backend.run(job, ranges, ProgressAggregator(total, stats, progress, warnings, known=known))
    announce("joining the parts")
    made_by = model_of(parts)
    assert made_by is not None, "a scene has at least one window"
    # All detections are counted again as they are read.
    stats.instances = 0
    return rates_masks(parts)


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
