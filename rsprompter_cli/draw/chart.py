"""Line charts, drawn with Pillow."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_LEFT, _TOP, _BELOW = 70, 40, 60
"""Pixels around the plot, for title and numbers."""

_LINE_HEIGHT = 20
_FONT_SIZE = 14

_ROOM = 0.05
"""Share of the y axis that is left free above the highest point."""

_FEW = 50
"""Points of a line up to which each of them is marked."""


@dataclass(frozen=True)
class Line:
    """Points (x, y), ascending in x; without any, only the name is shown."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines on a plot.

    x, y: what the axes reach from and to; None: as far as the points do, y from 0.
    size: width and height of the plot, pixels.
    """

    title: str
    x_label: str
    lines: Sequence[Line]
    x: tuple[float, float] | None = None
    y: tuple[float, float] | None = None
    size: tuple[int, int] = (500, 500)
    marked: bool = False


def draw_chart(chart: Chart) -> Image.Image:
    """An RGB picture of the lines with axes, and a legend beside them."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    right, bottom = _LEFT + chart.size[0], _TOP + chart.size[1]
    width = right + 50 + max((int(font.getlength(line.name)) for line in chart.lines), default=0)
    height = max(bottom + _BELOW, _TOP + _LINE_HEIGHT * (len(chart.lines) + 1))
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    x_axis = chart.x or _reach([x for line in chart.lines for x, _ in line.points])
    y_axis = chart.y or _reach([0.0, *(y for line in chart.lines for _, y in line.points)], room=_ROOM)
    _draw_axes(pen, font, chart, x_axis, y_axis)
    for number, line in enumerate(chart.lines):
        colour = _colour(number, len(chart.lines))
        points = [(_column(x, x_axis, chart), _row(y, y_axis, chart)) for x, y in line.points]
        if len(points) > 1:
            pen.line(points, fill=colour, width=2, joint="curve")
        if len(points) == 1 or (chart.marked and len(points) <= _FEW):
            for x, y in points:
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        top = _TOP + number * _LINE_HEIGHT
        pen.line([(right + 12, top + 9), (right + 32, top + 9)], fill=colour, width=3)
        pen.text((right + 38, top), line.name, fill="black", font=font)
    return picture


def ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers, evenly apart, from `low` to `high`."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _draw_axes(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    chart: Chart,
    x_axis: tuple[float, float],
    y_axis: tuple[float, float],
) -> None:
    right, bottom = _LEFT + chart.size[0], _TOP + chart.size[1]
    for value, text in _labels(x_axis):
        x = _column(value, x_axis, chart)
        pen.line([(x, _TOP), (x, bottom)], fill="lightgray")
        pen.text((x, bottom + 6), text, fill="black", font=font, anchor="mt")
    for value, text in _labels(y_axis):
        y = _row(value, y_axis, chart)
        pen.line([(_LEFT, y), (right, y)], fill="lightgray")
        pen.text((_LEFT - 8, y), text, fill="black", font=font, anchor="rm")
    pen.rectangle((_LEFT, _TOP, right, bottom), outline="black")
    pen.text(((_LEFT + right) // 2, bottom + 30), chart.x_label, fill="black", font=font, anchor="mt")
    pen.text((_LEFT, _TOP - 8), chart.title, fill="black", font=font, anchor="lb")


def _labels(axis: tuple[float, float]) -> list[tuple[float, str]]:
    values = ticks(*axis)
    decimals = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return [(value, f"{value:.{decimals}f}") for value in values]


def _reach(values: Sequence[float], room: float = 0.0) -> tuple[float, float]:
    """From the lowest to the highest value, with a share of that as room above; never nothing."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high + room * (high - low)) if high > low else (low, low + 1.0)


def _column(x: float, axis: tuple[float, float], chart: Chart) -> float:
    return _LEFT + (x - axis[0]) / (axis[1] - axis[0]) * chart.size[0]


def _row(y: float, axis: tuple[float, float], chart: Chart) -> float:
    return _TOP + (axis[1] - y) / (axis[1] - axis[0]) * chart.size[1]


def _colour(number: int, count: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number / max(count, 1), 0.85, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)
