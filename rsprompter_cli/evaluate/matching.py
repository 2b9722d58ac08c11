"""One-to-one matching of two sets of polygons by IoU, and average precision over it.

COCO's rules (a prediction, best score first, takes the unmatched true object of highest IoU; precision
at 101 recalls; what is ignored counts neither as right nor as wrong) on geometries instead of masks.
Everything here works on arrays in one plane, whatever its units.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from rsprompter_cli.geo.vector.intersections import shared_areas

COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55 .. 0.95: AP is the mean over these."""

_RECALLS = np.linspace(0, 1, 101)
_ROUNDING = 1e-9
"""An IoU counts as reached that a computed one misses by less: equal polygons have IoU 1."""


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """Overlapping polygons of two sets.

    pred, truth: int64 [P], positions in the sets; iou: float64 [P].
    """

    pred: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def overlapping_pairs(
    pred: np.ndarray,
    truth: np.ndarray,
    *,
    lowest_iou: float,
    pred_class: np.ndarray | None = None,
    truth_class: np.ndarray | None = None,
    what: str | Path = "the polygons",
) -> Pairs:
    """The pairs with at least `lowest_iou`, of equal class where classes are given.

    Args:
        pred, truth: object [N] and [M], valid polygons or multipolygons in one plane, none of them empty.
        lowest_iou: above 0.
        pred_class, truth_class: int [N] and [M].
        what: the files they come from, for messages.

    Raises:
        InputError: so many of them cross that it takes too long to intersect them.
    """
    areas = shapely.area(pred), shapely.area(truth)

    def possible(p: np.ndarray, t: np.ndarray) -> np.ndarray:
        own, other = areas[0][p], areas[1][t]
        # No two shapes have a higher IoU than the ratio of their areas.
        kept: np.ndarray = np.minimum(own, other) >= (lowest_iou - _ROUNDING) * np.maximum(own, other)
        if pred_class is not None and truth_class is not None:
            kept &= pred_class[p] == truth_class[t]
        return kept

    p, t, shared = shared_areas(pred, truth, what, alike=possible)
    iou = np.minimum(shared / (areas[0][p] + areas[1][t] - shared), 1.0)
    reached = iou >= lowest_iou - _ROUNDING
    return Pairs(p[reached], t[reached], iou[reached])


def match_by_score(
    pairs: Pairs, iou: float, ranks: np.ndarray, *, truth_ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's greedy matching: in order of rank, each prediction takes the best true object left.

    Because it is greedy, the matches of the predictions above a score are the same whether or not
    the others are there.

    Args:
        ranks: int [N], 0 for the highest score; all different.
        truth_ignored: bool [M], taken only where nothing else is left.

    Returns:
        int64 [N], the true object of each prediction or -1, and float64 [N], their IoU or 0.
    """
    matched = np.full(len(ranks), -1, dtype=np.int64)
    agreement = np.zeros(len(ranks))
    taken = np.zeros(len(truth_ignored), dtype=bool).tolist()
    good = np.flatnonzero(pairs.iou >= iou - _ROUNDING)
    order = good[np.lexsort((-pairs.iou[good], truth_ignored[pairs.truth[good]], ranks[pairs.pred[good]]))]
    served = [False] * len(ranks)
    columns = (pairs.pred[order].tolist(), pairs.truth[order].tolist(), pairs.iou[order].tolist())
    for p, t, value in zip(*columns, strict=True):
        if not served[p] and not taken[t]:
            served[p] = taken[t] = True
            matched[p], agreement[p] = t, value
    return matched, agreement


def match_most(pairs: Pairs, iou: float, count: int, *, truth_ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many pairs as possible, for predictions without a score; arguments and result as of `match_by_score`.

    First as many as possible with objects that are not ignored, then, of the predictions left, with the others.

    Args:
        count: N, the number of predictions.
    """
    matched = np.full(count, -1, dtype=np.int64)
    agreement = np.zeros(count)
    reached = pairs.iou >= iou - _ROUNDING
    for ignored in (False, True):
        use = reached & (truth_ignored[pairs.truth] == ignored) & (matched[pairs.pred] < 0)
        if not use.any():
            continue
        p, t, values = pairs.pred[use], pairs.truth[use], pairs.iou[use]
        graph = csr_array((values, (p, t)), shape=(count, len(truth_ignored)))
        found = maximum_bipartite_matching(graph, perm_type="column")  # [N], -1 where none
        chosen = found[p] == t
        matched[p[chosen]], agreement[p[chosen]] = t[chosen], values[chosen]
    return matched, agreement


def average_precision(hits: np.ndarray, objects: int) -> float | None:
    """Precision at the recalls 0, .01 .. 1, averaged; None where the truth holds no object.

    Args:
        hits: bool [K], whether each prediction that counts is right, best score first.
        objects: in the truth.
    """
    if objects == 0:
        return None
    if len(hits) == 0:
        return 0.0
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, _RECALLS, side="left")
    return float(np.where(places < len(hits), envelope[places.clip(max=len(hits) - 1)], 0.0).mean())


def best_cut(scores: np.ndarray, hits: np.ndarray, objects: int) -> tuple[float, float] | None:
    """The score from which on predictions are kept for the best F1, and that F1; None without a right one.

    Args:
        scores: float [K], falling.
        hits: bool [K], as of `average_precision`.
    """
    if objects == 0 or not hits.any():
        return None
    f1 = 2 * np.cumsum(hits) / (np.arange(1, len(hits) + 1) + objects)
    # Equal scores are kept or dropped together: only the last of a run of ties is a choice.
    last_of_run = np.append(scores[1:] != scores[:-1], True)
    best = int(np.argmax(np.where(last_of_run, f1, -1.0)))
    return float(scores[best]), float(f1[best])
