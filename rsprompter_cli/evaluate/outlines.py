"""How well the outlines of matched polygons agree, beyond their IoU: distance, boundaries and corners.

Everything here works on polygons in one plane with metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

BOUNDARY_METRES = 1.0
"""Width of the band along an outline in which Boundary IoU compares it. The paper takes 2 % of the diagonal of the
picture; a scene has no such size, so the width is fixed on the ground."""

RIGHT_ANGLE_TOLERANCE = 10.0
"""Degrees: a corner that deviates less from 90 degrees counts as a right angle."""

_CORNER_TURN = 10.0
"""Degrees: where an outline turns by less, it has a vertex but no corner."""

_CORNER_METRES = 0.5
"""Tolerance of the simplification (Douglas and Peucker) before corners are looked for: it removes the steps of pixels
and of sub-pixel contours."""

_ON_BORDER = 0.05
"""Metres: corners as near to the border of the compared area were made by cutting."""


@dataclass(frozen=True, slots=True)
class Corners:
    """Right angles among the corners of outlines.

    corners: how many there are; right_share: share of them within RIGHT_ANGLE_TOLERANCE of 90 degrees;
    mean_deviation: from 90 degrees, in degrees. Both are None without corners.
    """

    corners: int
    right_share: float | None
    mean_deviation: float | None


@dataclass(frozen=True, slots=True)
class Outlines:
    """Agreement of the outlines of matched pairs; None without pairs.

    pairs: how many there are.
    polis: mean PoLiS distance, metres.
    boundary_iou: mean Boundary IoU with a band of BOUNDARY_METRES.
    pred_corners: of the matched predictions; truth_corners: of all true objects.
    """

    pairs: int
    polis: float | None
    boundary_iou: float | None
    pred_corners: Corners
    truth_corners: Corners


def compare_outlines(pred: np.ndarray, matched: np.ndarray, truth: np.ndarray, border: Any = None) -> Outlines:
    """Compare the outlines of matched pairs.

    Args:
        pred: object [P], matched predictions.
        matched: object [P], their true objects.
        truth: object [M], all true objects.
        border: of the area that both were cut to; corners on it are left out.
    """
    some = len(pred) > 0
    return Outlines(
        pairs=len(pred),
        polis=float(polis_distances(pred, matched).mean()) if some else None,
        boundary_iou=float(boundary_ious(pred, matched).mean()) if some else None,
        pred_corners=right_angles(pred, border),
        truth_corners=right_angles(truth, border),
    )


def polis_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """PoLiS distance of pairs of polygons, float64 [N], in their unit.

    The mean distance of the vertices of each polygon from the boundary of the other, averaged over both (Avbelj,
    Mueller and Bamler, "A Metric for Polygon Comparison and Building Extraction Evaluation", IEEE GRSL 12(1), 2015,
    equation 1). The vertices of holes and of all parts count, the boundary is that of all rings.

    Args:
        one, other: object [N], valid polygons or multipolygons.
    """
    return (_mean_distances(one, other) + _mean_distances(other, one)) / 2


def boundary_ious(one: np.ndarray, other: np.ndarray, width: float = BOUNDARY_METRES) -> np.ndarray:
    """Boundary IoU of pairs of polygons, float64 [N].

    The IoU of the parts of both that lie within `width` of their own boundary (Cheng, Girshick, Dollar, Berg and
    Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, section 4). Where an
    object is nowhere wider than twice the width, it is its mask IoU.

    Args:
        one, other: object [N], valid polygons or multipolygons.
        width: of the band, in their unit.
    """
    bands = [shapely.difference(shapes, shapely.buffer(shapes, -width)) for shapes in (one, other)]
    shared = shapely.area(shapely.intersection(*bands))
    either = shapely.area(bands[0]) + shapely.area(bands[1]) - shared
    return np.minimum(shared / either, 1.0)


def right_angles(polygons: np.ndarray, border: Any = None) -> Corners:
    """How right-angled the corners of polygons are, after a simplification by half a metre.

    A corner is a vertex at which the outline turns by more than 10 degrees; its deviation is that of the turn, to the
    left or to the right, from 90 degrees.

    Args:
        polygons: object [N], valid polygons or multipolygons.
        border: of the area they were cut to; corners on it are left out.
    """
    deviations = _corner_deviations(polygons, border)
    if not len(deviations):
        return Corners(0, None, None)
    return Corners(len(deviations), float((deviations < RIGHT_ANGLE_TOLERANCE).mean()), float(deviations.mean()))


def _mean_distances(shapes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean distance [N] of the vertices of `shapes` from the boundaries of `others`; the closing vertex counts once."""
    rings, owner = _rings(shapes)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    first = np.append(True, ring[1:] != ring[:-1])
    xy, owners = xy[~first], owner[ring[~first]]  # the last vertex of a ring is its first
    distances = shapely.distance(shapely.points(xy), shapely.boundary(others)[owners])
    return np.bincount(owners, distances, minlength=len(shapes)) / np.bincount(owners, minlength=len(shapes))


def _corner_deviations(polygons: np.ndarray, border: Any) -> np.ndarray:
    """Deviation from 90 degrees, float64 [C], of all corners."""
    if not len(polygons):
        return np.zeros(0)
    rings, _ = _rings(shapely.simplify(polygons, _CORNER_METRES, preserve_topology=True))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    start = np.flatnonzero(np.append(True, ring[1:] != ring[:-1]))
    end = np.append(start[1:], len(xy)) - 1  # the closing vertices
    edges = np.zeros_like(xy)
    edges[:-1] = xy[1:] - xy[:-1]
    # Edge i leaves vertex i; the one that arrives at the first vertex of a ring is the last of the ring.
    arriving = np.roll(edges, 1, axis=0)
    arriving[start] = edges[end - 1]
    keep = np.ones(len(xy), dtype=bool)
    keep[end] = False
    before, after, places = arriving[keep], edges[keep], xy[keep]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    turn = np.degrees(np.abs(np.arctan2(cross, (before * after).sum(axis=1))))
    corner = turn > _CORNER_TURN
    if border is not None:
        corner &= ~shapely.dwithin(shapely.points(places), shapely.boundary(border), _ON_BORDER)
    return np.abs(turn[corner] - 90)


def _rings(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rings of polygons and multipolygons, and the place of the geometry that each belongs to, int64."""
    parts, part_owner = shapely.get_parts(polygons, return_index=True)
    rings, owner = shapely.get_rings(parts, return_index=True)
    return rings, part_owner[owner]
