"""Fine-tune a checkpoint on a few polygons: tile, hold back, train, compare, write the better model.

Beside the checkpoint folder OUT lies OUT-run with the run's own files: `fit.json` (what was asked and found so
far), `tiles/` (a COCO set), `train/` (a run folder of `rsp train`) and, while it works, `encoder-maps/`. Each
stage leaves its result there, so that a stopped run continues with the next one.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rsprompter_cli.config import Config
from rsprompter_cli.data.coco.write import thin_annotations
from rsprompter_cli.data.images import find_annotations
from rsprompter_cli.data.tiles.areas import tile_areas
from rsprompter_cli.errors import UsageError, duration_words, plural
from rsprompter_cli.evaluate.coco import evaluate_coco
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.interrupt import continue_with
from rsprompter_cli.io.model_files.checkpoint import (
    META_FILE,
    Checkpoint,
    find_checkpoint,
    read_checkpoint,
    refuse_other_folder,
    write_checkpoint,
)
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.structures import Progress
from rsprompter_cli.train.evaluation import with_metrics
from rsprompter_cli.train.feature_caches import remove_maps
from rsprompter_cli.train.finetune.dry_run import SHARE_TO_MEASURE, expect, most_held_back
from rsprompter_cli.train.finetune.record import (
    MAPS,
    RECORD_FILE,
    TILES,
    TRAINING,
    FitResult,
    Record,
    check_run_folder,
    clear_run_folder,
    leaving_nothing,
    read_record,
    result_of,
    run_folder,
    wishes_of,
)
from rsprompter_cli.train.finetune.scenes import FitPlan, plan_scenes
from rsprompter_cli.train.finetune.schedule import (
    Figures,
    check_split,
    choose_schedule,
    choose_threshold,
    fit_config,
    scheduled,
)
from rsprompter_cli.train.finetune.timing import (
    enable_feature_cache,
    evaluate_start,
    figures_of,
    limit_held_back,
    measure,
)
from rsprompter_cli.train.finetune.verdict import Verdict, is_complete, judge
from rsprompter_cli.train.loop import train
from rsprompter_cli.train.run import StepReport, TrainResult
from rsprompter_cli.train.run_folder import STATE_FILE, only_run
from rsprompter_cli.train.setup import prepare

_log = logging.getLogger(__name__)

_MOST_MAPS = 4e9
"""Bytes of encoder maps on disk, and at most half of what is free."""

_FEW_EPOCHS = 20
"""With fewer, or with a part of the tiles, which means still fewer, more time would have trained longer."""

_NODATA = "the other labels lie on nodata; outline more objects on valid pixels"


@dataclass(frozen=True)
class FitCallbacks:
    """Progress callbacks of a fit: (windows done, in all), a training step, (images evaluated, in all)."""

    tiles: Progress = lambda _done, _all: None
    step: Callable[[StepReport], None] = lambda _report: None
    evaluation: Progress = lambda _done, _all: None


_SILENT = FitCallbacks()


class _Clock:
    """The time budget of one call."""

    def __init__(self, minutes: float) -> None:
        self._began = time.monotonic()
        self._seconds = 60 * minutes

    def left(self) -> float:
        return self._seconds - self.spent()

    def spent(self) -> float:
        return time.monotonic() - self._began


def fit(
    pairs: Sequence[tuple[str | Path, str | Path]],
    out: str | Path,
    *,
    model: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: FitCallbacks = _SILENT,
    plan: FitPlan | None = None,
    **asked: Any,
) -> FitResult:
    """Fine-tune a checkpoint on outlined polygons, and write it unless it is clearly worse.

    Args:
        pairs: scenes with their labels (any CRS); may be empty with `resume`.
        out: checkpoint folder to write. The run's own files lie in the folder `OUT-run` beside it.
        model: checkpoint folder to start from; "bundled" or None takes the bundled model.
        resume: continue the run in `OUT-run`.
        plan: what `check_fit` returned for the same arguments; None reads scenes and labels here.
        asked: `minutes`, `class_column`, `class_name`, `complete`, `gsd`, `bands`, `scale`, `page`, `scene_crs`,
            `nodata`, `layer`, see `FitOptions`.

    Raises:
        KeyboardInterrupt: a signal ended the training; its state is saved.
        InputError: scenes or labels cannot be used, or the labels are too few or lie elsewhere.
        RspError: bad checkpoint, options or output folder.
    """
    out = Path(out)
    wishes = wishes_of(pairs, model=model, **asked)
    run = run_folder(out)
    record = read_record(run) if resume else Record(wishes, overwrite=overwrite)
    wishes.require_fitting(record.wishes)
    if record.result is not None and record.result["finished"]:
        if (out / META_FILE).is_file():
            return replace(result_of(record.result), out=out, run=run, already_finished=True)
        _log.info("%s: the run is already finished, writing %s again from it", run, out)
    clock = _Clock((record.wishes if wishes.minutes is None else wishes).budget)
    start = read_checkpoint(record.wishes.start)
    inputs: list[str | Path] = [
        find_checkpoint(record.wishes.start),
        *(path for pair in record.wishes.pairs for path in pair),
    ]
    refuse_other_folder(out, overwrite=record.overwrite or record.result is not None, inputs=inputs)
    if not record.wishes.pairs:
        raise UsageError("no scene given", "give one or more pairs of SCENE LABELS")
    with only_run(run):
        if resume:
            _log.info("time limit: %s from now", duration_words(clock.left()))
        else:
            check_run_folder(run, overwrite=overwrite)
        try:
            return _run(record, start, out, clock, plan=plan, fresh=not resume, device=device, watch=watch)
        except KeyboardInterrupt:
            if (run / RECORD_FILE).is_file():
                continue_with(f"rsp fit --resume --out {shlex.quote(str(out))}")
            raise


def _run(
    record: Record,
    start: Checkpoint,
    out: Path,
    clock: _Clock,
    *,
    plan: FitPlan | None,
    fresh: bool,
    device: str,
    watch: FitCallbacks,
) -> FitResult:
    """Run the stages in order, skipping those that already have their result."""
    run = run_folder(out)
    if record.plan is None or not (run / TILES).is_dir():
        with nullcontext() if fresh or record.plan is not None else leaving_nothing(run):
            _tile(record, start, run, plan, fresh=fresh, watch=watch)
    classes = tuple(record.plan["classes"]) if record.plan else ()
    config = fit_config(start.config, new_classes=classes != start.meta.class_names)
    if record.schedule is None:
        with leaving_nothing(run) if fresh else nullcontext():
            _measure(record, config, run, clock, device=device, watch=watch)
    trained = _train(record, config, run, clock, device=device, watch=watch)
    if trained.interrupted:
        raise KeyboardInterrupt
    if not trained.finished:
        _log.info("writing the best checkpoint so far")
    result = _write(record, start, trained, out, clock, device=device)
    if record.result is not None and record.result["finished"]:
        result = replace(result, minutes=record.result["minutes"])
    record.result = result.as_dict()
    record.save(run)
    return result


def _tile(
    record: Record, start: Checkpoint, run: Path, plan: FitPlan | None, *, fresh: bool, watch: FitCallbacks
) -> None:
    """Plan, where that is not done, and tile; the record then describes the tiles."""
    fit_config(start.config, new_classes=False)
    if plan is None:
        announce("reading scenes and labels")
        plan = plan_scenes(record.wishes, start.meta)
    _log_plan(plan)
    _warn_of_short_limit(record, expect(start, plan, record.wishes.budget).minutes)
    if fresh:
        # Only now: a run that is refused leaves a former one as it was.
        clear_run_folder(run)
        record.save(run)
    with leaving_nothing(run) if fresh else nullcontext():
        counts = tile_areas(
            list(plan.areas()),
            run / TILES,
            tile=plan.tile,
            colours=plan.colours,
            overwrite=True,
            on_progress=watch.tiles,
        )
        names = ", ".join(labels for _, labels in record.wishes.pairs)
        check_split(counts["train"].labels, counts["val"].labels, names=names, way_out=_NODATA)
        left = thin_annotations(find_annotations(run / TILES, "val"), most_held_back(start, record.wishes.budget))
    if left < counts["val"].images:
        _log.info(
            "the time limit allows %d of %s, half of them with labels",
            left,
            plural(counts["val"].images, "held-back tile"),
        )
    record.plan = plan.as_dict()
    record.tiles = {split: [count.images, count.instances] for split, count in counts.items()}
    record.tiles["val"][0] = left
    record.save(run)


def _log_plan(plan: FitPlan) -> None:
    for one in plan.scenes:
        gsd = " and ".join(f"{value:.3g}" for value in one.gsd)
        _log.info(
            "%s: %s (%d held back), tiled at %s m per pixel",
            one.scene,
            plural(sum(one.labels.values()), "label"),
            one.labels.get("val", 0),
            gsd,
        )


def _measure(record: Record, config: Config, run: Path, clock: _Clock, *, device: str, watch: FitCallbacks) -> None:
    """Evaluate the model that the run starts from, time a few steps, and choose the schedule."""
    where = resolve_device(device)
    dtype = resolve_precision(config.train.precision, where)
    announce("loading the model")
    setup = prepare(config, run / TILES, load_from=record.wishes.start, random_sam=False)
    setup.model.to(where)
    # Maps that a stopped run left would make the encoder look fast.
    remove_maps(run / MAPS)
    cache = enable_feature_cache(setup, run / MAPS, where, dtype)
    same_classes = setup.meta.class_names == read_checkpoint(record.wishes.start).meta.class_names
    if same_classes and record.start is None:
        setup = evaluate_start(record, setup, cache, run, device=where, dtype=dtype, on_evaluation=watch.evaluation)
    timing = measure(setup, cache, device=where, dtype=dtype, seconds=SHARE_TO_MEASURE * clock.left())
    if record.start is None:
        limit_held_back(record, run, timing.encode + timing.evaluate)
    schedule = choose_schedule(
        timing,
        train_tiles=len(setup.train_data),
        val_tiles=record.tiles["val"][0],
        seconds=clock.left(),
        disk_bytes=min(_MOST_MAPS, shutil.disk_usage(run).free / 2),
    )
    left = clock.left()
    if schedule.seconds > left:
        _log.warning(
            "the shortest training takes about %s on this computer, more than the %s that are left of the time limit",
            duration_words(schedule.seconds),
            duration_words(max(left, 0)),
        )
    elif schedule.tiles < len(setup.train_data):
        _log.warning(
            "the time limit allows %d of %s; raise --minutes to use more",
            schedule.tiles,
            plural(len(setup.train_data), "training tile"),
        )
    _log.info(
        "training for %s on %s, about %s",
        plural(schedule.epochs, "epoch"),
        plural(schedule.tiles, "tile"),
        duration_words(schedule.seconds),
    )
    _log.debug("seconds per tile: %.3f for a training step, %.3f in the encoder", timing.step, timing.encode)
    thin_annotations(find_annotations(run / TILES, "train"), schedule.tiles)
    record.tiles["train"][0] = schedule.tiles
    record.schedule = schedule
    record.save(run)


def _warn_of_short_limit(record: Record, minutes: float) -> None:
    if minutes > record.wishes.budget:
        _log.warning(
            "the shortest training with its evaluations takes about %s, more than the time limit of %s",
            duration_words(60 * minutes),
            duration_words(60 * record.wishes.budget),
        )


def _train(
    record: Record, config: Config, run: Path, clock: _Clock, *, device: str, watch: FitCallbacks
) -> TrainResult:
    schedule = record.schedule
    assert schedule is not None
    left = clock.left()
    # A schedule that was made to fit may slip a little; the shortest one that there is takes what it takes.
    seconds = 1.05 * left + 5 if schedule.seconds <= left else 1.5 * schedule.seconds + 60
    return train(
        scheduled(config, schedule, maps=str((run / MAPS).absolute())),
        data=run / TILES,
        out=run / TRAINING,
        resume=(run / TRAINING / STATE_FILE).is_file(),
        overwrite=not (run / TRAINING / STATE_FILE).is_file(),
        load_from=None if (run / TRAINING / STATE_FILE).is_file() else record.wishes.start,
        device=device,
        minutes=seconds / 60,
        expected_seconds=schedule.seconds,
        on_step=watch.step,
        on_evaluation=watch.evaluation,
    )


def _write(
    record: Record, start: Checkpoint, trained: TrainResult, out: Path, clock: _Clock, *, device: str
) -> FitResult:
    """Write the fitted model to `out`, or the one that it began with where that is clearly better."""
    run = run_folder(out)
    announce(f"writing {out.name}")
    best, fitted = _best(trained, run, device=device)
    labels = {split: record.plan[split]["labels"] for split in ("train", "val")} if record.plan else {}
    held_back = labels.get("val", 0)
    verdict = _judge(record, fitted, trained, labels)
    better = record.start is None or fitted.holds_against(record.start, labels=held_back)
    chosen = best if better else start
    figures = fitted if better or record.start is None else record.start
    meta = chosen.meta
    if not better:
        meta = replace(meta, metrics=record.start_metrics)
    own = None if record.start is None else start.meta.score_threshold
    threshold = choose_threshold(figures.score_threshold, own, labels=held_back)
    if threshold is None:
        threshold = meta.score_threshold
    facts = {
        "from": record.wishes.start,
        "written": "fitted" if better else "start",
        "before": None if record.start is None else asdict(record.start),
        "after": asdict(fitted),
        "labels": labels,
        "verdict": verdict.as_dict(),
        "chosen_on": "the held-back labels, which therefore also influenced checkpoint and score threshold",
    }
    kept = {key: start.meta.provenance[key] for key in ("credits", "licence") if key in start.meta.provenance}
    speeds = ("seconds_per_window", "seconds_per_window_on")
    speed = {key: start.meta.provenance[key] for key in speeds if key in start.meta.provenance} | record.speed
    meta = replace(meta, score_threshold=threshold, provenance={**kept, **speed, **meta.provenance, "fit": facts})
    train_options = chosen.config.train.model_copy(update={"cache_folder": None})
    write_checkpoint(out, chosen.tensors(), chosen.config.model_copy(update={"train": train_options}), meta)
    remove_maps(run / MAPS)
    return FitResult(
        out=out,
        run=run,
        written="fitted" if better else "start",
        classes=meta.class_names,
        labels=labels,
        tiles={split: count[0] for split, count in record.tiles.items()},
        gsd_range=meta.gsd_range,
        start=record.start,
        fitted=fitted,
        score_threshold=threshold,
        epochs=trained.epochs_done,
        steps=trained.steps,
        finished=trained.finished,
        minutes=round(clock.spent() / 60, 2),
        scene=record.wishes.pairs[0][0],
        verdict=verdict,
    )


def _judge(record: Record, fitted: Figures, trained: TrainResult, labels: Mapping[str, int]) -> Verdict:
    """The verdict on a fitted model, from how the fit went."""
    plan, schedule = record.plan, record.schedule
    assert plan is not None
    assert schedule is not None
    return judge(
        record.start,
        fitted,
        labels=labels,
        short_of_time=not trained.finished or schedule.epochs < _FEW_EPOCHS,
        complete=is_complete(plan, complete=record.wishes.complete),
        scenes=len(record.wishes.pairs),
    )


def _best(trained: TrainResult, run: Path, *, device: str) -> tuple[Checkpoint, Figures]:
    """The best checkpoint of a training with its figures; the last one if there was no evaluation in time."""
    if trained.best is not None:
        best = read_checkpoint(trained.best)
        metrics = best.meta.metrics
        right = metrics["f1"] > 0
        threshold = best.meta.score_threshold if right else None
        return best, Figures(metrics["f1"], metrics.get("segm_AP50", 0.0), metrics.get("segm_AP", 0.0), threshold)
    last = read_checkpoint(trained.last)
    found = evaluate_coco(trained.last, run / TILES, "val", batch=last.config.train.batch_size, device=device).metrics
    meta = with_metrics(last.meta, found, seconds_per_window=None, device=device)
    return replace(last, meta=meta), figures_of(found)
