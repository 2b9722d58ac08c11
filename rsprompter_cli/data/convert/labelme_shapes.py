"""Shapes of labelme files as rings of vertices in pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rsprompter_cli.data.problems import EntryError
from rsprompter_cli.errors import plural

TAKEN = ("polygon", "rectangle", "circle")
"""Types of shapes that have an area; labelme's lines, points and bitmaps are none of these."""

_SAGITTA = 0.05
"""Pixels that the corners of a circle's polygon leave its curve at most: far below what a hand draws."""


_LARGEST_RADIUS = 1e7
"""Pixels: ten times the longest side of a picture, and 23,000 corners."""


def ring_of(shape_type: str, points: object) -> np.ndarray:
    """The outline of a shape, float64 [K, 2], x and y in pixels.

    Args:
        shape_type: one of TAKEN.
        points: the JSON value: the vertices of a polygon; two opposite corners of a rectangle, or all four; the
            centre of a circle and a point on it.

    Raises:
        EntryError: no finite points, or too few or many of them.
    """
    ring = _parse_points(points)
    if shape_type == "polygon" and len(ring) >= 3:
        return ring
    if shape_type == "rectangle" and len(ring) == 4:
        return ring
    if shape_type == "rectangle" and len(ring) == 2:
        (x0, y0), (x1, y1) = ring.min(axis=0), ring.max(axis=0)
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if shape_type == "circle" and len(ring) == 2:
        return _circle(ring[0], float(np.hypot(*(ring[1] - ring[0]))))
    raise EntryError("points", f"a {shape_type} cannot have {plural(len(ring), 'point')}")


def _circle(centre: np.ndarray, radius: float) -> np.ndarray:
    """A polygon of the circle's area around its centre."""
    if not 2 * _SAGITTA < radius <= _LARGEST_RADIUS:
        raise EntryError("points", f"a circle cannot have a radius of {radius:.3g} px")
    corners = max(12, math.ceil(math.pi / math.acos(1 - _SAGITTA / radius)))
    # A regular polygon of n corners and radius r has the area n/2 r^2 sin(2 pi / n).
    turn = 2 * math.pi / corners
    reach = radius * math.sqrt(turn / math.sin(turn))
    angles = turn * np.arange(corners)
    return centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _parse_points(points: Any) -> np.ndarray:
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(_is_number(value) for value in point) for point in points
    ):
        raise EntryError("points", "its points are not pairs of finite numbers")
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _is_number(value: object) -> bool:
    # bool is an int to Python, NaN compares false, and a whole number may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
