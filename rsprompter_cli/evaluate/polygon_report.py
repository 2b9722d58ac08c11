"""A comparison of polygons as tables for people and as a tree for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rsprompter_cli.evaluate.polygon_scores import Counts, Group
from rsprompter_cli.evaluate.polygons import PolygonEvaluation
from rsprompter_cli.evaluate.report import Table

_COUNT_COLUMNS = ["precision", "recall", "F1", "true positives", "false positives", "missed"]


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
        "crs": evaluation.crs,
        "matching": "by score" if evaluation.scored else "most pairs",
        "iou": evaluation.iou,
        "score": evaluation.score,
        **_counts(evaluation.counts),
        "AP": None if scores.ap is None else dict(scores.ap),
        "best": None if scores.best is None else dict(zip(("score", "f1"), scores.best, strict=True)),
        "by_iou": [{"iou": iou, **_counts(counts)} for iou, counts in scores.by_iou],
        "by_size": by_size,
        "class_column": evaluation.class_column,
        "by_class": [{"class": group.name, **_group(group)} for group in scores.by_class],
    }


def tables(evaluation: PolygonEvaluation) -> list[Table]:
    """All figures for people, the most wanted first."""
    classes = class_rows(evaluation)
    always = [summary_rows(evaluation), iou_rows(evaluation), size_rows(evaluation)]
    return always if classes is None else [*always, classes]


def summary_rows(evaluation: PolygonEvaluation) -> Table:
    """What was compared and the figures at the IoU asked for, one a row."""
    counts, scores = evaluation.counts, evaluation.scores
    found, true = evaluation.predictions, evaluation.truths
    kept = f"{found.objects - found.below_score} of {found.objects}" if found.below_score else str(found.objects)
    rows = [
        ["predictions", kept],
        ["true objects", str(true.objects)],
        ["IoU", f"{evaluation.iou:g}"],
        ["true positives", str(counts.true_positives)],
        ["false positives", str(counts.false_positives)],
        ["missed", str(counts.missed)],
        ["precision", _figure(counts.precision)],
        ["recall", _figure(counts.recall)],
        ["F1", _figure(counts.f1)],
        ["mean IoU of pairs", _figure(counts.mean_iou)],
    ]
    if scores.ap is not None:
        rows += [[name, _figure(value)] for name, value in scores.ap.items()]
    if scores.best is not None:
        rows.append(["best F1", f"{scores.best[1]:.3f} at score {scores.best[0]:.4g}"])
    return ["what", "value"], rows


def iou_rows(evaluation: PolygonEvaluation) -> Table:
    """One IoU a row."""
    rows = [[f"{iou:g}", *_count_cells(counts)] for iou, counts in evaluation.scores.by_iou]
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
    figures = [_figure(value) for value in (counts.precision, counts.recall, counts.f1)]
    return [*figures, str(counts.true_positives), str(counts.false_positives), str(counts.missed)]


def _group_cells(group: Group, evaluation: PolygonEvaluation) -> list[str]:
    cells = _count_cells(group.counts)
    return [*cells, _figure((group.ap or {}).get("AP50"))] if evaluation.scored else cells


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
