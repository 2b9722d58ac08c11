"""Pictures of a run, for people to look at: what it finds in some validation pictures, its losses and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.config import TrainConfig
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.draw.chart import Chart, Line, draw_chart
from rsprompter_cli.draw.overlays import one_below_the_other
from rsprompter_cli.evaluate.coco import Evaluation
from rsprompter_cli.evaluate.gallery import draw_beside_truth
from rsprompter_cli.io.atomic import atomic_path
from rsprompter_cli.train.folder import CURVES_FILE, PICTURES
from rsprompter_cli.train.progress import main_losses
from rsprompter_cli.train.run import Run
from rsprompter_cli.train.state import Cursor
from rsprompter_cli.train.track import read_log

if TYPE_CHECKING:
    from PIL import Image

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
