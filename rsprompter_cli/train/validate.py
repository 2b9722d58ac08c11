"""The evaluation of a run: each rank detects in a part of the pictures, rank 0 scores what all of them found."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from rsprompter_cli.evaluate.coco import Part, detect_part, evaluate_results
from rsprompter_cli.train.facts import WindowClock, with_metrics
from rsprompter_cli.train.folder import BEST
from rsprompter_cli.train.guard import STOP_EVALUATION
from rsprompter_cli.train.maps import cache_of
from rsprompter_cli.train.run import Run, write_named
from rsprompter_cli.train.show import pictures_due, save_pictures
from rsprompter_cli.train.state import Cursor

_log = logging.getLogger(__name__)

BEST_BY = "segm_AP"
"""The figure by which the best checkpoint is kept."""


class StoppedError(Exception):
    """The run should end before the evaluation is done."""


def validate(run: Run, cursor: Cursor, *, to_the_end: bool) -> Cursor:
    """Evaluate, write what came out, and keep the model when it is the best so far.

    Args:
        to_the_end: the time limit does not stop the evaluation, only a signal does.

    Raises:
        StoppedError: in all ranks, when any of them was asked to stop.
    """
    with run.stop.answering(STOP_EVALUATION):
        return _validate(run, cursor, to_the_end=to_the_end)


def _validate(run: Run, cursor: Cursor, *, to_the_end: bool) -> Cursor:
    began = time.monotonic()
    clock = WindowClock(run.val_data.coco.images, run.meta.image_size, cache_of(run.engine.model))
    parts = run.ranks.gather(_detect(run, clock, to_the_end=to_the_end))
    evaluation = evaluate_results(run.val_data, parts) if run.ranks.first else None
    metrics = run.ranks.share(None if evaluation is None else evaluation.metrics)
    figures = metrics.flat()
    run.speed.restart()
    speed = clock.seconds_per_window()
    run.meta = with_metrics(run.meta, metrics, seconds_per_window=speed, device=run.engine.device.type)
    seconds = round(time.monotonic() - began, 1)
    run.log.write("evaluation", step=cursor.step, epoch=cursor.epoch, seconds=seconds, metrics=figures)
    run.log.plot({f"val/{name}": value for name, value in figures.items()}, step=cursor.step)
    if evaluation is not None and pictures_due(run.config.train, cursor.epoch):
        save_pictures(run, evaluation, cursor)
    score = figures.get(BEST_BY, 0.0)
    better = cursor.best is None or score >= cursor.best
    _log.info(
        "epoch %d: mask AP %.3f, AP50 %.3f, box AP %.3f, F1 %.3f%s",
        cursor.epoch + 1,
        score,
        figures.get("segm_AP50", 0.0),
        figures.get("bbox_AP", 0.0),
        metrics.f1,
        ", the best epoch" if better else "",
    )
    if not better:
        return cursor
    cursor = replace(cursor, best=score, best_step=cursor.step)
    write_named(run, BEST, cursor, epochs_done=cursor.epoch + 1)
    return cursor


def _detect(run: Run, clock: WindowClock, *, to_the_end: bool) -> Part:
    """What this rank finds in its part of the pictures."""
    found: Part = {}
    stopped = False
    with run.engine.whole():
        try:
            found = detect_part(
                run.engine.model,
                run.val_data,
                batch=run.config.train.batch_size,
                device=run.engine.device,
                dtype=run.engine.dtype,
                part=run.ranks.rank,
                parts=run.ranks.count,
                on_progress=_watch(run, clock, to_the_end=to_the_end),
            )
        except StoppedError:
            stopped = True
    if run.ranks.any(stopped):
        run.stopping = True
        raise StoppedError
    return found


def _watch(run: Run, clock: WindowClock, *, to_the_end: bool) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        clock.count(done)
        run.on_evaluation(done, total)
        if run.stop.interrupted if to_the_end else run.stop.wanted:
            raise StoppedError

    return progress
