"""Precision over recall, drawn with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsprompter_cli.io.atomic import atomic_path

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_PLOT = (70, 40, 570, 540)
"""Left, top, right, bottom of the unit square, pixels."""
_LINE_HEIGHT = 20
_FONT_SIZE = 14


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
    from PIL import Image, ImageDraw, ImageFont

    left, top, right, bottom = _PLOT
    font = ImageFont.load_default(_FONT_SIZE)
    legend = [f"{name}: {_average(curve)}" for name, curve in curves.items()]
    width = right + 50 + max((int(font.getlength(text)) for text in legend), default=0)
    height = max(bottom + 60, top + _LINE_HEIGHT * (len(legend) + 1))
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    _draw_axes(pen, font)
    for number, (curve, text) in enumerate(zip(curves.values(), legend, strict=True)):
        colour = _colour(number, len(curves))
        if len(curve) > 1:
            step = (right - left) / (len(curve) - 1)
            points = [(left + k * step, bottom - value * (bottom - top)) for k, value in enumerate(curve)]
            pen.line(points, fill=colour, width=2, joint="curve")
        y = top + number * _LINE_HEIGHT
        pen.line([(right + 12, y + 9), (right + 32, y + 9)], fill=colour, width=3)
        pen.text((right + 38, y), text, fill="black", font=font)
    return picture


def _draw_axes(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    left, top, right, bottom = _PLOT
    for tenth in range(0, 11, 2):
        x, y = left + (right - left) * tenth // 10, bottom - (bottom - top) * tenth // 10
        pen.line([(x, top), (x, bottom)], fill="lightgray")
        pen.line([(left, y), (right, y)], fill="lightgray")
        pen.text((x, bottom + 6), f"{tenth / 10:.1f}", fill="black", font=font, anchor="mt")
        pen.text((left - 8, y), f"{tenth / 10:.1f}", fill="black", font=font, anchor="rm")
    pen.rectangle(_PLOT, outline="black")
    pen.text(((left + right) // 2, bottom + 30), "recall", fill="black", font=font, anchor="mt")
    pen.text((left, top - 8), "precision at mask IoU 0.5", fill="black", font=font, anchor="lb")


def _average(curve: Sequence[float]) -> str:
    return f"AP50 {100 * sum(curve) / len(curve):.1f}" if curve else "no objects"


def _colour(number: int, count: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / max(count, 1), 0.85, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)
