"""Outlines of straight walls that meet at right angles, where such an outline fits.

An outline, seen in its main direction, becomes a ring of lines that lie alternately along and
across it. The wall that matters least goes, again and again, and its two neighbours become one,
down to a rectangle; each stage is moved to where the outline runs and given its area. The answer is
the stage that covers the same ground with few corners. What none fits, a hut or a silo, stays as it
was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from shapely.affinity import scale

from rsprompter_cli.geo.geometry import iou_of

MIN_IOU = 0.875
"""An outline and what replaces it agree at least this much (docs/decisions/0011 has the figures)."""

CORNER_PRICE = 0.01
"""IoU that a corner must bring: below a hundredth, corners are the noise of a mask (docs/decisions/0011)."""

ROUND_MARGIN = 0.05
"""An ellipse that agrees better than the best right-angled outline by more than this tells a round building."""

MOST_LINES = 100
"""No building has as many walls; the search takes time with the square of this."""

_STRAIGHT = 1e-6
"""Cosine of an angle that counts as a right one, and share by which lengths may differ and count as equal."""


def regularize(geometry: Any, shortest: float) -> Any:
    """A polygon with right-angled corners, or the polygon as it is where none fits.

    Each part is squared or stays by itself, all in the direction of the largest one. A part keeps
    its holes, each squared or as it is.

    Args:
        geometry: valid polygon or multipolygon, in a plane that keeps right angles.
        shortest: length in the plane below which a wall is noise.

    Returns:
        Valid and not empty, of the same area; the geometry itself where nothing changes. An outline that has right
        angles only and no wall under `shortest` is not changed, so doing it twice is doing it once.
    """
    parts = list(shapely.get_parts(geometry))
    angle = main_direction(max(parts, key=lambda part: part.area), shortest)
    squared = [_square_part(part, angle, shortest) for part in parts]
    whole = squared[0] if len(squared) == 1 else shapely.MultiPolygon(squared)
    return geometry if whole.equals_exact(geometry) or not whole.is_valid else whole


def main_direction(part: Any, shortest: float) -> float:
    """The direction of the walls of a polygon, modulo a right angle, in radians.

    The mean direction of the chords that span a tenth of the outline, at most six of the shortest walls.
    A chord along a wall is straight whatever wavers between its ends, those over a corner are
    shorter and cancel in pairs; the eighth power of their length leaves the long ones to decide.
    """
    corners = shapely.get_coordinates(part.exterior) @ (1, 1j)
    along = np.concatenate([[0.0], np.abs(np.diff(corners)).cumsum()])
    count = max(16, math.ceil(4 * along[-1] / shortest))
    places = np.interp(np.arange(count) * (along[-1] / count), along, corners)
    chords = np.roll(places, -max(1, round(count * min(0.1, 6 * shortest / along[-1])))) - places
    chords /= np.abs(chords).max()
    return float(np.angle((chords**4 * np.abs(chords) ** 4).sum()) / 4)


def _square_part(part: Any, angle: float, shortest: float) -> Any:
    shell = _square_ring(shapely.Polygon(part.exterior), angle, shortest)
    if shell is None:
        return part
    holes = [shapely.Polygon(hole) for hole in part.interiors]
    squared = [_square_ring(hole, angle, shortest) or hole for hole in holes]
    for inside in (squared, holes):  # a hole that was squared may reach the walls
        whole = shapely.Polygon(shell.exterior, [hole.exterior for hole in inside])
        if whole.is_valid and iou_of(whole, part) >= MIN_IOU:
            return whole
    return part


def _square_ring(ring: Any, angle: float, shortest: float) -> Any:
    """A polygon without holes squared along a direction, itself where nothing need be done; None when nothing fits."""
    if _is_square(shapely.get_coordinates(ring), shortest):
        return ring
    centre = shapely.get_coordinates(ring.centroid)
    frame = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    best = _best_fit(shapely.transform(ring, lambda xy: (xy - centre) @ frame), shortest)
    return None if best is None else shapely.transform(best, lambda xy: xy @ frame.T + centre)


def _is_square(xy: np.ndarray, shortest: float) -> bool:
    """Whether a closed ring [N, 2] has right angles only and no wall that is noise."""
    walls = np.diff(xy, axis=0)
    length = np.hypot(*walls.T)
    if len(walls) > 4 and length.min() < shortest:
        return False
    crooked = np.abs((walls * np.roll(walls, 1, axis=0)).sum(axis=1))
    return bool((crooked <= _STRAIGHT * length * np.roll(length, 1)).all())


def _best_fit(ring: Any, shortest: float) -> Any:
    """The right-angled polygon along the axes that fits a polygon around the origin best, or None."""
    lines = _lines(shapely.get_coordinates(shapely.simplify(ring, shortest / 2)))
    if lines is None or len(lines) > MOST_LINES:
        return None
    pieces = shapely.get_coordinates(shapely.segmentize(ring.exterior, shortest / 2))
    best, worth = None, -math.inf
    for stage in reversed(list(_fewer_and_fewer(lines))):
        price = CORNER_PRICE * (len(stage) - 4)
        if worth >= 1 - price:  # more corners cannot be worth it
            break
        moved = _moved_to(stage, pieces)
        polygon = shapely.Polygon(_corners(moved))
        if not polygon.is_valid:
            continue
        grow = math.sqrt(ring.area / polygon.area)
        if len(moved) > 4 and min(map(abs, _walls(moved))) * grow < shortest * (1 + _STRAIGHT):
            continue
        polygon = scale(polygon, grow, grow, origin="centroid")
        iou = iou_of(polygon, ring)
        if iou >= MIN_IOU and iou - price > worth:
            best, worth = polygon, iou - price
    is_round = iou_of(_ellipse(ring), ring) > worth + ROUND_MARGIN
    return None if is_round else best


def _lines(xy: np.ndarray) -> list[float] | None:
    """The lines a closed ring [N, 2] runs on: y of those along x at even places, x of the others at odd ones.

    Edges in a row with one heading are one line, at their mean place by length. None when the ring
    does not go round.
    """
    steps = np.diff(xy, axis=0)
    moves = np.flatnonzero(steps.any(axis=1))
    axis = (np.abs(steps[:, 1]) > np.abs(steps[:, 0])).astype(int)
    forward = np.take_along_axis(steps, axis[:, None], 1)[:, 0]
    middle = np.take_along_axis((xy[:-1] + xy[1:]) / 2, 1 - axis[:, None], 1)[:, 0]
    heading = axis[moves] + 2 * (forward[moves] > 0)
    turns = np.flatnonzero(heading != np.roll(heading, 1))
    if len(turns) < 2:
        return None
    order, turns = np.roll(moves, -turns[0]), turns - turns[0]
    length = np.abs(forward[order])
    places = np.add.reduceat(length * middle[order], turns) / np.add.reduceat(length, turns)
    axes, starts = axis[order][turns], xy[order][turns]
    lines: list[float] = []
    for run, place in enumerate(places.tolist()):
        if axes[run] == axes[run - 1]:  # straight back: a wall without length between the two
            lines.append(float(starts[run, axes[run]]))
        lines.append(place)
    along_x = (axes[0] == 0) == (axes[0] != axes[-1])
    return None if len(lines) < 4 else lines if along_x else [*lines[1:], lines[0]]


def _walls(lines: list[float]) -> list[float]:
    """The length of the wall on each line, with the sign of its heading."""
    return [lines[(place + 1) % len(lines)] - lines[place - 1] for place in range(len(lines))]


def _corners(lines: list[float]) -> np.ndarray:
    """float64 [N, 2]: where each line meets the next."""
    ring = np.asarray(lines)
    after = np.roll(ring, -1)
    along_x = np.arange(len(ring)) % 2 == 0
    return np.column_stack([np.where(along_x, after, ring), np.where(along_x, ring, after)])


def _fewer_and_fewer(lines: list[float]) -> Iterator[list[float]]:
    """A ring of lines, then with two fewer each time, to the last four: the wall goes that moves the least ground."""
    yield lines
    while len(lines) > 4:
        walls = _walls(lines)
        lines = _without(lines, walls, min(range(len(lines)), key=lambda place: _ground(walls, place)))
        yield lines


def _ground(walls: list[float], place: int) -> float:
    """The area that changes sides when the wall at a place goes."""
    before, after = walls[place - 1], walls[(place + 1) % len(walls)]
    a, b = abs(before), abs(after)
    if before * after > 0:  # a step: the two beside it meet at their mean
        return abs(walls[place]) * a * b / (a + b)
    return abs(walls[place]) * min(a, b)  # a bay: the shorter one goes, too


def _without(lines: list[float], walls: list[float], place: int) -> list[float]:
    """The lines without the one at a place, those beside it being one."""
    count = len(lines)
    before, after = (place - 1) % count, (place + 1) % count
    a, b = abs(walls[before]), abs(walls[after])
    if walls[before] * walls[after] > 0:
        merged = (a * lines[before] + b * lines[after]) / (a + b)
    else:
        merged = lines[before] if a >= b else lines[after]
    rest = [lines[(after + step) % count] for step in range(1, count - 2)]
    return [merged, *rest] if before % 2 == 0 else [*rest, merged]


def _moved_to(lines: list[float], pieces: np.ndarray) -> list[float]:
    """Each line at the median, by length, of the pieces of an outline that are nearest to its wall.

    The median leaves out the rounded corners of a mask, a mean would cut every wall short.

    Args:
        pieces: float64 [M + 1, 2], a closed ring of M short edges.
    """
    middles = (pieces[1:] + pieces[:-1]) / 2
    spans = np.abs(np.diff(pieces, axis=0))
    ends = _corners(lines)
    starts = np.roll(ends, 1, axis=0)
    gaps = middles[:, None] - middles[:, None].clip(np.minimum(starts, ends), np.maximum(starts, ends))  # [M, N, 2]
    away = np.hypot(gaps[..., 0], gaps[..., 1])
    nearest = away <= away.min(axis=1, keepdims=True) * (1 + _STRAIGHT)  # beyond a corner two walls are equally near
    moved = list(lines)
    for place in range(len(lines)):
        mine, axis = nearest[:, place], place % 2
        weight, offset = spans[mine, axis], middles[mine, 1 - axis]
        if weight.sum() > 0:
            order = offset.argsort(kind="stable")
            offset, weight = offset[order], weight[order]
            moved[place] = float(np.interp(weight.sum() / 2, weight.cumsum() - weight / 2, offset))
    return moved


def _ellipse(ring: Any) -> Any:
    """The ellipse around the origin with the area of a polygon and the proportions of its second moments."""
    corners = shapely.get_coordinates(ring.exterior).T
    (x, y), (x1, y1) = corners[:, :-1], corners[:, 1:]
    cross = x * y1 - x1 * y
    xx, yy, xy = (
        float(v @ cross) / 12 * math.copysign(1, cross.sum())
        for v in (x * x + x * x1 + x1 * x1, y * y + y * y1 + y1 * y1, x * y + x1 * y1 + (x * y1 + x1 * y) / 2)
    )
    spread, axes = np.linalg.eigh([[xx, xy], [xy, yy]])
    radii = np.sqrt(np.maximum(spread, np.finfo(float).tiny))
    radii *= math.sqrt(ring.area / math.pi / radii.prod())
    turn = np.arange(64) * (math.tau / 64)
    return shapely.Polygon(np.column_stack([np.cos(turn), np.sin(turn)]) * radii @ axes.T)
