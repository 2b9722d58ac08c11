"""Scenes of polygons and stub detectors that see them window by window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.stitch.joiner import Instance
from rsprompter_cli.geo.windows import Window, WindowGrid


@dataclass(frozen=True)
class SceneObject:
    """A true object in pixels of the scene."""

    polygon: Any
    label: int = 0
    score: float = 0.9


def detect(objects: Sequence[SceneObject], grid: WindowGrid) -> list[Instance]:
    """A perfect detector: every window sees exactly the part of every object that lies in it."""
    found = []
    tree = shapely.STRtree([thing.polygon for thing in objects])
    for window in grid.windows():
        frame = shapely.box(*window.box)
        seen = []
        for place in sorted(tree.query(frame).tolist()):
            part = polygon_parts(shapely.intersection(objects[place].polygon, frame))
            if part is not None:
                seen.append((objects[place], part))
        for index, (thing, part) in enumerate(seen):
            found.append(Instance(window.row, window.col, index, thing.label, thing.score, part))
    return found


@dataclass(frozen=True)
class Noise:
    """How a detector errs, independently in every window.

    shift, swell: standard deviations in px of the mask's place and of its outline.
    merge: chance that an object swallows a neighbour that is nearer than `gap` px.
    miss: chance that an object is not seen.
    smallest: visible square pixels below which nothing is seen.
    """

    shift: float = 0.7
    swell: float = 0.7
    merge: float = 0.05
    miss: float = 0.02
    gap: float = 3.0
    smallest: float = 12.0


def detect_noisily(
    objects: Sequence[SceneObject], grid: WindowGrid, noise: Noise, *, seed: int = 0
) -> Iterator[Instance]:
    """A detector that errs, but always in the same way for a seed and a window."""
    polygons = np.array([thing.polygon for thing in objects], dtype=object)
    tree = shapely.STRtree(polygons)
    for window in grid.windows():
        rng = np.random.default_rng([seed, window.row, window.col])
        yield from _see(objects, polygons, tree, window, noise, rng)


def _see(
    objects: Sequence[SceneObject],
    polygons: np.ndarray,
    tree: shapely.STRtree,
    window: Window,
    noise: Noise,
    rng: np.random.Generator,
) -> Iterator[Instance]:
    frame = shapely.box(*window.box)
    near = sorted(tree.query(frame).tolist())
    swallowed: set[int] = set()
    index = 0
    for place in near:
        miss, merge, pick, score = rng.random(4)
        dx, dy, swell = rng.normal(size=3)
        if place in swallowed or miss < noise.miss:
            continue
        shape = shapely.intersection(polygons[place], frame)
        if shape.area < noise.smallest:
            continue
        if merge < noise.merge:
            around = tree.query(polygons[place], predicate="dwithin", distance=noise.gap).tolist()
            others = [
                other
                for other in sorted(around)
                if other != place and other not in swallowed and objects[other].label == objects[place].label
            ]
            if others:
                other = others[int(pick * len(others))]
                swallowed.add(other)
                both = shapely.union(shape, shapely.intersection(polygons[other], frame))
                shape = both.buffer(noise.gap).buffer(-noise.gap)
        moved = shapely.transform(shape, lambda xy, dx=dx, dy=dy: xy + np.array([dx, dy]) * noise.shift).buffer(
            swell * noise.swell, join_style="mitre"
        )
        # A mask ends at the edge of the window: noise moves outlines, not where the picture ends.
        seen = polygon_parts(shapely.intersection(_reach_edges(moved, shape, window), frame))
        if seen is not None and seen.area >= noise.smallest:
            yield Instance(window.row, window.col, index, objects[place].label, 0.5 + score / 2, seen)
            index += 1


def _reach_edges(moved: Any, shape: Any, window: Window) -> Any:
    """`moved`, drawn out to the window edges that the undisturbed shape touched."""
    x0, y0, x1, y1 = window.box
    a0, b0, a1, b1 = shape.bounds
    pull = [((a0 <= x0), (-1, 0)), ((b0 <= y0), (0, -1)), ((a1 >= x1), (1, 0)), ((b1 >= y1), (0, 1))]
    copies = [moved]
    for touched, (dx, dy) in pull:
        if touched:
            copies += [shapely.transform(moved, lambda xy, d=(dx * k, dy * k): xy + np.array(d)) for k in (1, 2, 3)]
    return shapely.union_all(copies)


def matched_f1(found: Sequence[Any], truth: Sequence[Any], *, iou: float = 0.5) -> float:
    """F1 of polygons matched one to one, best agreement first."""
    if not found or not truth:
        return float(len(found) == len(truth))
    a, b = shapely.STRtree(truth).query(found, predicate="intersects")
    first, second = np.array(found, dtype=object)[a], np.array(truth, dtype=object)[b]
    shared = shapely.area(shapely.intersection(first, second))
    agreement = shared / (shapely.area(first) + shapely.area(second) - shared)
    used_a: set[int] = set()
    used_b: set[int] = set()
    for pair in np.argsort(-agreement, kind="stable").tolist():
        if agreement[pair] >= iou and int(a[pair]) not in used_a and int(b[pair]) not in used_b:
            used_a.add(int(a[pair]))
            used_b.add(int(b[pair]))
    return 2 * len(used_a) / (len(found) + len(truth))


def total_area(polygons: Iterable[Any]) -> float:
    """Sum of areas."""
    return float(sum(polygon.area for polygon in polygons))
