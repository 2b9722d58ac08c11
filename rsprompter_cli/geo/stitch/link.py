"""Which instances of overlapping windows are one object, and which come near each other at all."""

from __future__ import annotations

import numpy as np
import shapely

from rsprompter_cli.errors import ResourceError
from rsprompter_cli.geo.geometry import boxes_of, common, expand, meet, object_array, within
from rsprompter_cli.geo.stitch.instances import Views
from rsprompter_cli.geo.stitch.overlap import common_areas
from rsprompter_cli.geo.windows import WindowGrid

MIN_LINK_IOU = 0.5
"""In the strip that two windows share, two views of one object agree at least this much."""

IOU_DECIMALS = 9

_ASKED_AT_ONCE = 1024
"""Instances whose neighbours are sought at a time: those of one window may all lie on top of one another."""

_MOST_PAIRS, _PAIRS_EACH = 2_000_000, 500
"""Pairs that are compared, in all or for each instance. Where every mask of a window touches every one of its eight
neighbours', of 60 masks each, an instance has 480."""


def near_pairs(views: Views, new_from: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of instances of one class from different windows whose bounding boxes have area in common.

    Args:
        views: those seen earlier and, from position `new_from` on, the new ones.
        new_from: pairs of two earlier ones are left out.

    Returns:
        Positions (first, second) of P pairs, first < second, in order.

    Raises:
        ResourceError: far more than the objects of any scene have.
    """
    tree, count, found = shapely.STRtree(views.polygon), 0, [np.zeros((2, 0), np.int64)]
    most = max(_MOST_PAIRS, _PAIRS_EACH * len(views))
    for start in range(new_from, len(views), _ASKED_AT_ONCE):
        second, first = tree.query(views.polygon[start : start + _ASKED_AT_ONCE])
        second = second + start
        keep = (first < second) & (views.window[first] != views.window[second])
        keep &= views.label[first] == views.label[second]
        first, second = first[keep], second[keep]
        keep = meet(views.bounds[first], views.bounds[second])
        found.append(np.stack([first[keep], second[keep]]))
        if (count := count + int(keep.sum())) > most:
            raise ResourceError(
                f"objects of neighbouring windows lie on top of one another over {most:,} times",
                "keep fewer with a higher --score",
            )
    first, second = np.concatenate(found, axis=1)
    order = np.lexsort((second, first))
    return first[order], second[order]


def link(views: Views, first: np.ndarray, second: np.ndarray, grid: WindowGrid) -> tuple[np.ndarray, np.ndarray]:
    """Of near pairs those that show one object.

    Inside the strip that two windows share, the connected pieces of the instances are compared class
    by class. Two instances are linked when pieces of theirs are each other's best partner and agree
    with an IoU of at least MIN_LINK_IOU; among equals the first in key order is best. Containment is
    no reason: a hut beside a hall is inside every mask that swallowed both.

    Args:
        views: instances.
        first, second: positions of all near pairs between each two windows that are asked about.
        grid: the windows they come from.

    Returns:
        Positions (first, second) of linked instances.
    """
    strip = common(grid.boxes(views.window[first]), grid.boxes(views.window[second])).astype(np.float64)
    shared = common(common(views.bounds[first], views.bounds[second]), strip)
    keep = (shared[:, 0] < shared[:, 2]) & (shared[:, 1] < shared[:, 3])
    first, second, strip = first[keep], second[keep], strip[keep]
    if len(first) == 0:
        return first, second
    sides = np.concatenate([first, second])
    others = np.concatenate([views.window[second], views.window[first]])
    pieces = _Pieces(views, sides, others, np.concatenate([strip, strip]), len(grid))
    of_first, of_second = pieces.inside[: len(first)], pieces.inside[len(first) :]
    pair, a, b = expand(pieces.counts[of_first], pieces.counts[of_second])
    a, b = a + pieces.starts[of_first[pair]], b + pieces.starts[of_second[pair]]
    keep = _could_agree(pieces, a, b)
    pair, a, b = pair[keep], a[keep], b[keep]
    area = common_areas(pieces.polygon, a, b)
    # Rounded, so that what is equal by construction is equal in numbers.
    iou = np.round(area / (pieces.area[a] + pieces.area[b] - area), IOU_DECIMALS)
    linked = (iou >= MIN_LINK_IOU) & _is_best(a, b, iou) & _is_best(b, a, iou)
    pair = np.unique(pair[linked])
    return first[pair], second[pair]


class _Pieces:
    """Connected pieces with area of instances inside strips.

    inside: int [M], of each question (an instance in a strip) its number among the different ones.
    counts, starts: int, by that number: its pieces among all.
    polygon, area, bounds: of all pieces.
    """

    def __init__(self, views: Views, asked: np.ndarray, others: np.ndarray, strips: np.ndarray, windows: int) -> None:
        _, chosen, self.inside = np.unique(asked * windows + others, return_index=True, return_inverse=True)
        asked, strips = asked[chosen], strips[chosen]
        polygons = views.polygon[asked]
        cut = ~within(views.bounds[asked], strips)
        polygons[cut] = shapely.intersection(polygons[cut], boxes_of(strips[cut]))
        pieces, owner = shapely.get_parts(polygons, return_index=True)
        # A geometry collection (an edge along the border of the strip) has one more level.
        pieces, inner = shapely.get_parts(pieces, return_index=True)
        area = shapely.area(pieces)
        self.polygon, self.area = object_array(pieces)[area > 0], area[area > 0]
        self.bounds = shapely.bounds(self.polygon).reshape(-1, 4)
        self.counts = np.bincount(owner[inner][area > 0], minlength=len(asked))
        self.starts = np.cumsum(self.counts) - self.counts


def _could_agree(pieces: _Pieces, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool: pairs of pieces whose boxes allow an IoU of MIN_LINK_IOU; only those can be linked or be a best partner."""
    boxes = common(pieces.bounds[a], pieces.bounds[b])
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    most = np.minimum(sides.prod(1), np.minimum(pieces.area[a], pieces.area[b]))
    return most * (1 + MIN_LINK_IOU) >= MIN_LINK_IOU * (pieces.area[a] + pieces.area[b]) * (1 - 1e-9)


def _is_best(of: np.ndarray, partners: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """bool [P]: whether the partner is the one with the highest IoU, the first among equals."""
    order = np.lexsort((partners, -iou, of))
    best = np.zeros(len(of), bool)
    best[order[np.flatnonzero(np.diff(of[order], prepend=-1))]] = True
    return best
