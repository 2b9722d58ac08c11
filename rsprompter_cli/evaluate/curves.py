"""Precision over recall, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsprompter_cli.draw.chart import Chart, Line, draw_chart
from rsprompter_cli.io.atomic import atomic_path

if TYPE_CHECKING:
    from PIL import Image


def save_curves(path: str | Path, curves: Mapping[str, Sequence[float]]) -> None:
    """Write the curves as a PNG, atomically.

    Args:
        curves: by class name, precision at recalls evenly from 0 to 1; an empty one (no object of
            the class) is named in the legend only.
    """
    picture = draw_curves(curves)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def draw_curves(curves: Mapping[str, Sequence[float]]) -> Image.Image:
    """An RGB picture of the curves with axes and a legend of class names and AP50."""
    lines = [
        Line(f"{name}: {_average(curve)}", [(k / max(1, len(curve) - 1), value) for k, value in enumerate(curve)])
        for name, curve in curves.items()
    ]
    return draw_chart(Chart("precision at mask IoU 0.5", "recall", lines, x=(0.0, 1.0), y=(0.0, 1.0)))


def _average(curve: Sequence[float]) -> str:
    return f"AP50 {sum(curve) / len(curve):.3f}" if curve else "no objects"
