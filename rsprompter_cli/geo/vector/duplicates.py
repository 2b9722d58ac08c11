"""The same outline twice in a layer: a row pasted, or a file joined with itself, is no second object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.geo.vector.intersections import shared_areas

COPY_IOU = 0.95
"""From which on two outlines are one, written twice: a square of 10 px that is moved by a quarter of a pixel, as
rounding or a way through another CRS does. Two hands that outline one roof agree less."""


def first_of_each(polygons: Sequence[Any] | np.ndarray, classes: Sequence[str], path: Path) -> list[int]:
    """The positions of the outlines that repeat no earlier one of their class, in their order.

    What lies on one of another class stays: which of the two is right is not known here.

    Args:
        polygons: N polygons or multipolygons in one CRS.
        classes: N names.
        path: of the layer, for messages.

    Raises:
        InputError: so many of them meet that comparing them takes too long.
    """
    outlines = np.array(polygons, dtype=object)
    known: dict[tuple[str, bytes], int] = {}
    keys = shapely.to_wkb(shapely.normalize(outlines)).tolist()
    for place, key in enumerate(zip(classes, keys, strict=True)):
        known.setdefault(key, place)
    unique = np.array(list(known.values()), dtype=int)
    # No overlay of damaged rings: those are compared byte by byte alone.
    sound = unique[shapely.is_valid(outlines[unique]) & (shapely.area(outlines[unique]) > 0)]
    repeated: set[int] = set()
    for first, second in _alike(outlines, sound, classes, path):
        if first not in repeated:
            repeated.add(second)
    return [place for place in unique.tolist() if place not in repeated]


def _alike(outlines: np.ndarray, places: np.ndarray, classes: Sequence[str], path: Path) -> list[tuple[int, int]]:
    """Pairs of positions, earlier before later and in their order, with one class and COPY_IOU."""
    polygons = outlines[places]
    names = np.array(classes, dtype=object)[places]
    sizes = shapely.area(polygons)

    def of_like_size(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        own, other = sizes[first], sizes[second]
        near: np.ndarray = np.minimum(own, other) >= COPY_IOU * np.maximum(own, other)
        return near & (names[first] == names[second])

    first, second, shared = shared_areas(polygons, None, path, alike=of_like_size)
    alike = shared >= COPY_IOU * (sizes[first] + sizes[second] - shared)
    return sorted(zip(places[first[alike]].tolist(), places[second[alike]].tolist(), strict=True))
