"""A comparison of polygons as a sentence and tables for people and as a tree for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rsprompter_cli.errors import plural
from rsprompter_cli.evaluate.outlines import BOUNDARY_METRES, RIGHT_ANGLE_TOLERANCE, Corners
from rsprompter_cli.evaluate.polygon_scores import Counts, Group
from rsprompter_cli.evaluate.polygons import LayerFacts, PolygonEvaluation
from rsprompter_cli.evaluate.report import Table

_COUNT_COLUMNS = ["F1", "precision", "recall", "wrong", "missed"]

_FEW_IOUS = (0.25, 0.5, 0.75)
"""IoUs of the short table."""


def as_tree(evaluation: PolygonEvaluation) -> dict[str, Any]:
    """All figures as plain values; null where there is nothing to divide by, or no score."""
    scores = evaluation.scores
    limits = [0.0, *evaluation.sizes, math.inf]
    by_size = [
        {"size": group.name, "from_m2": low, "to_m2": None if high == math.inf else high, **_group(group)}
        for group, low, high in zip(scores.by_size, limits[:-1], limits[1:], strict=True)
    ]
    return {
        "predictions": asdict(evaluation.predictions),
        "truth": {key: value for key, value in asdict(evaluation.truths).items() if key != "below_score"},
        "scene": evaluation.scene,
        "crs": evaluation.crs,
        "matching": "by score" if evaluation.scored else "most pairs",
        "iou": evaluation.iou,
        "score": evaluation.score,
        **_counts(evaluation.counts),
        "AP": None if scores.ap is None else dict(scores.ap),
        "outlines": _outlines(evaluation),
        "best": None if scores.best is None else dict(zip(("score", "f1"), scores.best, strict=True)),
        "by_iou": [{"iou": iou, **_counts(counts)} for iou, counts in scores.by_iou],
        "by_size": by_size,
        "class_column": evaluation.class_column,
        "by_class": [{"class": group.name, **_group(group)} for group in scores.by_class],
    }


def headline(evaluation: PolygonEvaluation) -> str:
    """The result in one sentence."""
    counts = evaluation.counts
    objects, predictions = counts.true_positives + counts.missed, counts.true_positives + counts.false_positives
    if not objects and not predictions:
        where = "" if evaluation.aoi is None else " inside the area of comparison"
        return f"Nothing to compare: there are no objects and no predictions{where}."
    found = (
        f"{counts.true_positives:,} of {plural(objects, 'object')} found (recall {_figure(counts.recall)})"
        if objects
        else "no objects to find"
    )
    wrong = (
        f"{counts.false_positives:,} of {plural(predictions, 'prediction')} wrong "
        f"(precision {_figure(counts.precision)})"
        if predictions
        else "no predictions"
    )
    return f"F1 {_figure(counts.f1)}: {found}, {wrong}, at IoU {evaluation.iou:g}."


def area_line(evaluation: PolygonEvaluation) -> str | None:
    """Where both layers were compared, and what of them was cut or left out; None where they were compared whole."""
    if evaluation.aoi is None:
        return None
    inside = "the area of interest" if evaluation.scene is None else f"the valid pixels of {evaluation.scene}"
    if evaluation.scene is not None and evaluation.with_aoi:
        inside = f"the area of interest and {inside}"
    cut = [_count_of(side.cut, side, word) for side, word in _sides(evaluation)]
    parts = [f"{' and '.join(cut)} are clipped at its edge"] if any(side.cut for side, _ in _sides(evaluation)) else []
    if any(side.outside for side, _ in _sides(evaluation)):
        outside = [plural(side.outside, word) for side, word in _sides(evaluation)]
        parts.append(f"{' and '.join(outside)} are outside")
    where = f"Compared inside {inside}" + (f": {', '.join(parts)}" if parts else "")
    return f"{where}. Pieces of less than half an object count as neither missed nor wrong{_not_counted(evaluation)}."


def _not_counted(evaluation: PolygonEvaluation) -> str:
    """As in ": 1 of the objects, 3 of the predictions"; empty where all are counted."""
    counts = evaluation.counts
    counted = {"objects": counts.true_positives + counts.missed}
    counted["predictions"] = counts.true_positives + counts.false_positives
    found = evaluation.predictions
    given = {"objects": evaluation.truths.objects, "predictions": found.objects - found.below_score}
    left = [f"{given[name] - counted[name]:,} of the {name}" for name in given if given[name] > counted[name]]
    return f": {' and '.join(left)}" if left else ""


def short_tables(evaluation: PolygonEvaluation) -> list[Table]:
    """The counts at a few IoUs."""
    return [_iou_rows(evaluation, {*_FEW_IOUS, evaluation.iou})]


def full_tables(evaluation: PolygonEvaluation) -> list[Table]:
    """All figures for people, the most wanted first."""
    classes = class_rows(evaluation)
    always = [summary_rows(evaluation), outline_rows(evaluation), iou_rows(evaluation), size_rows(evaluation)]
    return always if classes is None else [*always, classes]


def summary_rows(evaluation: PolygonEvaluation) -> Table:
    """What was compared and the figures at the IoU asked for, one a row."""
    counts, scores = evaluation.counts, evaluation.scores
    found, true = evaluation.predictions, evaluation.truths
    kept = f"{found.objects - found.below_score:,} of {found.objects:,}" if found.below_score else f"{found.objects:,}"
    rows = [
        ["predictions", kept],
        ["objects", f"{true.objects:,}"],
        ["IoU", f"{evaluation.iou:g}"],
        ["correct", f"{counts.true_positives:,}"],
        ["wrong", f"{counts.false_positives:,}"],
        ["missed", f"{counts.missed:,}"],
        ["mean IoU of pairs", _figure(counts.mean_iou)],
    ]
    if scores.ap is not None:
        rows += [[name, _figure(value)] for name, value in scores.ap.items()]
    if scores.best is not None:
        rows.append(["best F1", f"{scores.best[1]:.3f} at score {scores.best[0]:.3f}"])
    return ["figure", "value"], rows


def outline_rows(evaluation: PolygonEvaluation) -> Table:
    """How well the outlines of matched pairs agree."""
    found = evaluation.outlines
    polis = "-" if found.polis is None else f"{found.polis:.3f} m"
    rows = [["PoLiS distance", polis], [f"Boundary IoU, {BOUNDARY_METRES:g} m", _figure(found.boundary_iou)]]
    for name, corners in (("predicted", found.pred_corners), ("true", found.truth_corners)):
        rows.append([f"right angles, {name}", _corner_words(corners)])
    return ["outlines", "value"], rows


def iou_rows(evaluation: PolygonEvaluation) -> Table:
    """One IoU a row."""
    return _iou_rows(evaluation, {iou for iou, _ in evaluation.scores.by_iou})


def _iou_rows(evaluation: PolygonEvaluation, chosen: set[float]) -> Table:
    rows = [[f"{iou:g}", *_count_cells(counts)] for iou, counts in evaluation.scores.by_iou if iou in chosen]
    return ["IoU", *_COUNT_COLUMNS], rows


def size_rows(evaluation: PolygonEvaluation) -> Table:
    """One size class a row."""
    medium, large = (f"{size:g}" for size in evaluation.sizes)
    spans = [f"below {medium} m2", f"{medium} to {large} m2", f"from {large} m2"]
    rows = [
        [f"{group.name}: {span}", *_group_cells(group, evaluation)]
        for group, span in zip(evaluation.scores.by_size, spans, strict=True)
    ]
    return ["size", *_COUNT_COLUMNS, *(["AP50"] if evaluation.scored else [])], rows


def class_rows(evaluation: PolygonEvaluation) -> Table | None:
    """One class a row, None where classes were left aside or there is only one."""
    groups = evaluation.scores.by_class
    if len(groups) < 2:
        return None
    rows = [[group.name, *_group_cells(group, evaluation)] for group in groups]
    return ["class", *_COUNT_COLUMNS, *(["AP50"] if evaluation.scored else [])], rows


def _counts(counts: Counts) -> dict[str, Any]:
    figures = {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    return figures | asdict(counts)


def _group(group: Group) -> dict[str, Any]:
    return _counts(group.counts) | ({} if group.ap is None else dict(group.ap))


def _count_cells(counts: Counts) -> list[str]:
    figures = [_figure(value) for value in (counts.f1, counts.precision, counts.recall)]
    return [*figures, f"{counts.false_positives:,}", f"{counts.missed:,}"]


def _group_cells(group: Group, evaluation: PolygonEvaluation) -> list[str]:
    cells = _count_cells(group.counts)
    return [*cells, _figure((group.ap or {}).get("AP50"))] if evaluation.scored else cells


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _outlines(evaluation: PolygonEvaluation) -> dict[str, Any]:
    found = evaluation.outlines
    return {
        "pairs": found.pairs,
        "polis_m": found.polis,
        "boundary_iou": found.boundary_iou,
        "boundary_width_m": BOUNDARY_METRES,
        "corners": {
            name: {
                "count": corners.corners,
                "right_share": corners.right_share,
                "mean_deviation_degrees": corners.mean_deviation,
            }
            for name, corners in (("predictions", found.pred_corners), ("truth", found.truth_corners))
        },
    }


def _corner_words(corners: Corners) -> str:
    if corners.right_share is None:
        return "no corners"
    return (
        f"{corners.right_share:.3f} of {plural(corners.corners, 'corner')} within {RIGHT_ANGLE_TOLERANCE:g} degrees, "
        f"mean deviation {corners.mean_deviation:.1f} degrees"
    )


def _sides(evaluation: PolygonEvaluation) -> list[tuple[LayerFacts, str]]:
    return [(evaluation.truths, "object"), (evaluation.predictions, "prediction")]


def _count_of(number: int, side: LayerFacts, word: str) -> str:
    """ "3 of 97 objects", of all polygons of a layer."""
    return f"{number:,} of {plural(side.objects + side.outside, word)}"
