"""Figures as tables for people and as a tree for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rsprompter_cli.errors import plural
from rsprompter_cli.evaluate.scores import CocoMetrics

Table = tuple[list[str], list[list[str]]]
"""Column names and rows."""

_CLASS_COLUMNS = ("AP", "AP50", "AP75")


def as_tree(metrics: CocoMetrics) -> dict[str, Any]:
    """All figures as plain values; null where the ground truth has no such objects."""
    return {
        "images": metrics.images,
        "objects": metrics.objects,
        "detections": metrics.detections,
        "segm": dict(metrics.mask),
        "bbox": dict(metrics.box),
        "f1": metrics.f1,
        "score_threshold": metrics.score_threshold,
        "per_class": [_renamed(asdict(one)) for one in metrics.per_class],
    }


def summary_rows(metrics: CocoMetrics) -> Table:
    """Figures of masks and of boxes, one per row."""
    rows = [[name, _figure(metrics.mask[name]), _figure(metrics.box[name])] for name in metrics.mask]
    threshold = "-" if metrics.score_threshold is None else f"{metrics.score_threshold:.3f}"
    rows.append(["best F1 (IoU .5)", _figure(metrics.f1), "-"])
    rows.append(["at score", threshold, "-"])
    return [f"{plural(metrics.images, 'image')}, {plural(metrics.objects, 'object')}", "mask", "box"], rows


def class_rows(metrics: CocoMetrics, *, boxes: bool = False) -> Table:
    """One class per row, with the figures of its masks, or of its boxes."""
    rows = [
        [one.name, f"{one.objects:,}", f"{one.detections:,}"]
        + [_figure((one.box if boxes else one.mask)[name]) for name in _CLASS_COLUMNS]
        for one in metrics.per_class
    ]
    return ["class: boxes" if boxes else "class: masks", "objects", "detections", *_CLASS_COLUMNS], rows


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    names = {"mask": "segm", "box": "bbox"}
    return {names.get(key, key): value for key, value in fields.items()}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
