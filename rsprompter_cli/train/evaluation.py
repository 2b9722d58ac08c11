"""The evaluation of a run: each rank detects in its share of the images, rank 0 scores, draws and keeps the figures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rsprompter_cli.config import TrainConfig
from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.draw.chart import Chart, Line, draw_chart
from rsprompter_cli.draw.overlays import one_below_the_other
from rsprompter_cli.evaluate.coco import Evaluation, Part, detect_part, evaluate_results
from rsprompter_cli.evaluate.gallery import draw_beside_truth
from rsprompter_cli.evaluate.scores import CocoMetrics
from rsprompter_cli.io.atomic import atomic_path
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.sam.encoder_cache import EncoderCache
from rsprompter_cli.models.sam.mask_cache import AutomaskCache
from rsprompter_cli.train.feature_caches import cache_of
from rsprompter_cli.train.interrupts import STOP_EVALUATION
from rsprompter_cli.train.loggers import read_log
from rsprompter_cli.train.run import Run, main_losses, write_named
from rsprompter_cli.train.run_folder import BEST, CURVES_FILE, PICTURES
from rsprompter_cli.train.state import Cursor

if TYPE_CHECKING:
    from PIL import Image

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


_SHOWN = 4
_LONGEST = 400
"""Pixels of a shown picture: all of them, truth and found, fit a screen."""

_PLOT = (700, 260)
_POINTS = 300
"""Of a curve of losses; each is the mean of what lies between it and the one before."""

_FIGURES = {"segm_AP": "mask AP", "segm_AP50": "mask AP50", "bbox_AP": "box AP", "bbox_AP50": "box AP50", "f1": "F1"}


def pictures_due(options: TrainConfig, epoch: int) -> bool:
    """Whether the evaluation at the end of `epoch` (from 0) shows pictures: the last, and one in so many epochs."""
    if not options.pictures_every:
        return False
    done, former = epoch + 1, epoch // options.eval_every * options.eval_every
    return done == options.epochs or done // options.pictures_every > former // options.pictures_every


def save_pictures(run: Run, evaluation: Evaluation, cursor: Cursor) -> None:
    """Draw what was found in a few pictures beside the truth, in `pictures/` and for the boards."""
    f1 = evaluation.metrics.image_f1
    images = evaluation.dataset.coco.images
    pairs = [
        draw_beside_truth(evaluation, index, words=_words(f1.get(images[index].id)), longest=_LONGEST)
        for index in shown_pictures(evaluation.dataset)
    ]
    if not pairs:
        return
    sheet = one_below_the_other(pairs)
    _save(run.out / PICTURES / f"epoch-{cursor.epoch + 1:04d}.png", sheet)
    run.log.show("val/pictures", sheet, step=cursor.step)


def _words(f1: float | None) -> str:
    return "" if f1 is None else f"F1 {f1:.3f}"


def shown_pictures(dataset: CocoDataset) -> list[int]:
    """Up to four places in a data set, evenly among the pictures with objects: the same in every evaluation."""
    annotated = {annotation.image_id for annotation in dataset.coco.annotations}
    every = range(len(dataset))
    places = [place for place in every if dataset.coco.images[place].id in annotated] or list(every)
    count = min(_SHOWN, len(places))
    return [places[number * len(places) // count] for number in range(count)]


def save_curves(folder: Path) -> None:
    """Draw `curves.png` from the log of a run: losses by step, figures by evaluation, as far as there are any."""
    records = read_log(folder)
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    axis = (0.0, float(max((record["step"] for record in records), default=0) or 1))
    figures = [
        Line(name, [(record["step"], record["metrics"][key]) for record in evaluations if _has(record, key)])
        for key, name in _FIGURES.items()
    ]
    charts = [
        Chart("loss", "step", _loss_lines(steps), x=axis, size=_PLOT),
        Chart("validation", "step", [line for line in figures if line.points], x=axis, size=_PLOT, marked=True),
    ]
    if drawn := [draw_chart(chart) for chart in charts if chart.lines]:
        _save(folder / CURVES_FILE, one_below_the_other(drawn))
    else:
        (folder / CURVES_FILE).unlink(missing_ok=True)


def _has(record: Mapping[str, Any], key: str) -> bool:
    return record["metrics"].get(key) is not None


def _loss_lines(records: Sequence[Mapping[str, Any]]) -> list[Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in ({"total": record["loss"]} | main_losses(record["losses"])).items():
            points.setdefault(name, []).append((record["step"], value))
    return [Line(name, _thinned(one)) for name, one in points.items()]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    group = -(-len(points) // _POINTS)
    return [
        (some[-1][0], sum(value for _, value in some) / len(some))
        for some in (points[first : first + group] for first in range(0, len(points), group or 1))
    ]


def _save(path: Path, picture: Image.Image) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


_LIKE_A_WINDOW = (2 / 3, 3 / 2)
"""Longest side of a picture over that of the model's input, between which it costs as much as a window."""


def with_metrics(
    meta: CheckpointMeta, metrics: CocoMetrics, *, seconds_per_window: float | None, device: str
) -> CheckpointMeta:
    """The facts after an evaluation on a device (cpu, cuda, mps); what it could not find out stays as it was."""
    threshold = metrics.score_threshold
    speed: dict[str, Any] = {}
    if seconds_per_window is not None:
        speed = {"seconds_per_window": round(seconds_per_window, 4), "seconds_per_window_on": device}
    return replace(
        meta,
        metrics=metrics.flat(),
        score_threshold=meta.score_threshold if threshold is None else threshold,
        provenance={**meta.provenance, **speed},
    )


def go_on_from(meta: CheckpointMeta, former: CheckpointMeta) -> CheckpointMeta:
    """The facts of a resumed run: how it began and what its last evaluation found, from before the stop.

    Only the data sets are those of now, since the validation set may be another.
    """
    now = {name: meta.provenance[name] for name in ("run", "train", "val")}
    return replace(
        meta,
        metrics=former.metrics,
        score_threshold=former.score_threshold,
        provenance={**former.provenance, **now},
    )


class WindowClock:
    """Measures during an evaluation how long one window of a scene will take.

    Args:
        images: the pictures of the evaluation.
        image_size: side of the model's input, pixels.
        cache: of the model's encoder maps or automatic masks, whose hits would make it look faster than it is.
    """

    def __init__(
        self, images: Sequence[CocoImage], image_size: int, cache: EncoderCache | AutomaskCache | None
    ) -> None:
        low, high = _LIKE_A_WINDOW
        side = median(max(image.height, image.width) for image in images) if images else 0
        self._comparable = low * image_size <= side <= high * image_size
        self._cache = cache
        self._hits = self._hits_now()
        self._began = self._ended = time.monotonic()
        self._done = 0

    def count(self, done: int) -> None:
        """So many pictures are done by now."""
        self._done = done
        self._ended = time.monotonic()

    def seconds_per_window(self) -> float | None:
        """Mean time per image; None where it is no estimate for a window."""
        if not self._comparable or not self._done or self._hits_now() != self._hits:
            return None
        return (self._ended - self._began) / self._done

    def _hits_now(self) -> int:
        return 0 if self._cache is None else self._cache.hits
