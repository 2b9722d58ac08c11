"""Correct, wrong and missed polygons, in all and by IoU, size and class; average precision of scored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from rsprompter_cli.evaluate.matching import (
    COCO_IOUS,
    average_precision,
    best_cut,
    match_by_score,
    match_most,
    overlapping_pairs,
)

TABLE_IOUS = (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
"""IoUs of the table: 0.5 is the field's, 0.25 asks for the place, 0.9 for the outline."""

SIZE_NAMES = ("small", "medium", "large")


@dataclass(frozen=True, eq=False, slots=True)
class PolygonSet:
    """Objects of one layer, in a plane with metres.

    polygons: object [N], valid, with area; areas: float64 [N], square metres before any cutting.
    classes: int64 [N], index into the class names, 0 where there are none.
    optional: bool [N], objects that are neither wrong nor missed when they match nothing.
    """

    polygons: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    optional: np.ndarray

    def __len__(self) -> int:
        return len(self.polygons)


@dataclass(frozen=True, slots=True)
class Counts:
    """Right and wrong predictions and missed objects at one IoU; figures that are 0/0 are None.

    mean_iou: of the pairs.
    """

    true_positives: int
    false_positives: int
    missed: int
    mean_iou: float | None

    @property
    def precision(self) -> float | None:
        """Share of the predictions that are right; None without predictions."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the true objects that are found; None without true objects."""
        return _ratio(self.true_positives, self.true_positives + self.missed)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two, 0 where one side is empty and None where both are."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.missed)


@dataclass(frozen=True, slots=True)
class Group:
    """Figures of one size or class.

    true objects belong to the group by their own size or class; so do wrong predictions.
    ap: AP and AP50, None where the predictions have no score.
    """

    name: str
    counts: Counts
    ap: Mapping[str, float | None] | None


@dataclass(frozen=True, eq=False, slots=True)
class PolygonScores:
    """All figures of a comparison.

    counts: at the IoU asked for; by_iou: at that and at TABLE_IOUS, rising.
    ap: AP (mean over IoU .5 to .95), AP50, AP75; with classes the mean over those that the truth has.
    best: the score of the best F1 at the IoU asked for, and that F1.
    pred_match: int64 [N], the true object of each prediction at that IoU, or -1; -1 also under the score.
    kept: bool [N], predictions that reach the score.
    """

    counts: Counts
    by_iou: tuple[tuple[float, Counts], ...]
    by_size: tuple[Group, ...]
    by_class: tuple[Group, ...]
    ap: Mapping[str, float | None] | None
    best: tuple[float, float] | None
    pred_match: np.ndarray
    kept: np.ndarray


def score_polygons(
    pred: PolygonSet,
    truth: PolygonSet,
    *,
    scores: np.ndarray | None,
    class_names: Sequence[str],
    iou: float,
    score: float | None,
    sizes: Sequence[float],
    what: str = "the polygons",
) -> PolygonScores:
    """Match predictions and truth one to one, within classes, and count.

    Args:
        scores: float64 [N] of the predictions, None when they have none.
        class_names: of the classes, none when classes are left aside.
        iou: from which on two polygons are the same object.
        score: predictions below are left out, except of AP and of the best score.
        sizes: square metres where medium and large begin.
        what: the files they come from, for messages.

    Raises:
        InputError: so many of them cross that it takes too long to intersect them.
    """
    work = _Matcher(pred, truth, scores, iou, what)
    kept = np.ones(len(pred), dtype=bool) if score is None or scores is None else scores >= score
    everything = (np.ones(len(pred), dtype=bool), np.ones(len(truth), dtype=bool))
    limits = [0.0, *sizes, np.inf]
    size_groups = [
        (name, _between(pred.areas, low, high), _between(truth.areas, low, high))
        for name, low, high in zip(SIZE_NAMES, limits[:-1], limits[1:], strict=True)
    ]
    class_groups = [(name, pred.classes == code, truth.classes == code) for code, name in enumerate(class_names)]
    has_scores = scores is not None
    pred_match = np.where(kept, work.matches(iou)[0], -1)
    return PolygonScores(
        counts=work.count(iou, kept, *everything),
        by_iou=tuple((one, work.count(one, kept, *everything)) for one in sorted({*TABLE_IOUS, iou})),
        by_size=tuple(
            Group(name, work.count(iou, kept, p, t), work.average(p, t, ("AP", "AP50")) if has_scores else None)
            for name, p, t in size_groups
        ),
        by_class=tuple(
            Group(name, work.count(iou, kept, p, t), work.average(p, t, ("AP", "AP50")) if has_scores else None)
            for name, p, t in class_groups
        ),
        ap=work.average(*everything, ("AP", "AP50", "AP75")) if has_scores else None,
        best=work.best(iou) if has_scores else None,
        pred_match=pred_match,
        kept=kept,
    )


class _Matcher:
    """The matches of two sets at any IoU, each found once."""

    def __init__(self, pred: PolygonSet, truth: PolygonSet, scores: np.ndarray | None, iou: float, what: str) -> None:
        self.pred, self.truth, self.scores = pred, truth, scores
        self.pairs = overlapping_pairs(
            pred.polygons,
            truth.polygons,
            lowest_iou=min(iou, *TABLE_IOUS),
            pred_class=pred.classes,
            truth_class=truth.classes,
            what=what,
        )
        # Equal scores stand in the order of the file, as in COCO's own evaluation.
        self.order = np.arange(len(pred)) if scores is None else np.argsort(-scores, kind="stable")
        self.ranks = np.empty(len(pred), dtype=np.int64)
        self.ranks[self.order] = np.arange(len(pred))
        self._found: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def matches(self, iou: float) -> tuple[np.ndarray, np.ndarray]:
        """True object and IoU by prediction, as of `match_by_score`."""
        if iou not in self._found:
            ignored = self.truth.optional
            self._found[iou] = (
                match_most(self.pairs, iou, len(self.pred), truth_ignored=ignored)
                if self.scores is None
                else match_by_score(self.pairs, iou, self.ranks, truth_ignored=ignored)
            )
        return self._found[iou]

    def count(self, iou: float, kept: np.ndarray, in_pred: np.ndarray, in_truth: np.ndarray) -> Counts:
        """Counts of a group, given by the predictions and true objects in it."""
        right, wrong = self._right_and_wrong(iou, in_pred, in_truth)
        right, wrong = right & kept, wrong & kept
        hits = int(right.sum())
        agreement = float(self.matches(iou)[1][right].mean()) if hits else None
        return Counts(hits, int(wrong.sum()), int((in_truth & ~self.truth.optional).sum()) - hits, agreement)

    def average(self, in_pred: np.ndarray, in_truth: np.ndarray, names: Sequence[str]) -> dict[str, float | None]:
        """Average precision of a group, the mean over the classes that the truth has there."""
        ious = {"AP": COCO_IOUS, "AP50": (0.5,), "AP75": (0.75,)}
        present = np.unique(self.truth.classes[in_truth & ~self.truth.optional])
        figures: dict[str, float | None] = {}
        for name in names:
            parts = [
                self._average_of(one, in_pred & (self.pred.classes == code), in_truth & (self.truth.classes == code))
                for code in present
                for one in ious[name]
            ]
            figures[name] = fmean(parts) if parts else None
        return figures

    def best(self, iou: float) -> tuple[float, float] | None:
        """The score of the best F1 over all classes, and that F1."""
        assert self.scores is not None
        right, wrong = self._right_and_wrong(iou, np.ones(len(self.pred), bool), np.ones(len(self.truth), bool))
        counted = self.order[(right | wrong)[self.order]]
        return best_cut(self.scores[counted], right[counted], int((~self.truth.optional).sum()))

    def _average_of(self, iou: float, in_pred: np.ndarray, in_truth: np.ndarray) -> float:
        right, wrong = self._right_and_wrong(iou, in_pred, in_truth)
        counted = self.order[(right | wrong)[self.order]]
        return average_precision(right[counted], int((in_truth & ~self.truth.optional).sum())) or 0.0

    def _right_and_wrong(self, iou: float, in_pred: np.ndarray, in_truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """bool [N] each. A prediction matched to an object outside the group, or an optional one, is neither."""
        matched, _ = self.matches(iou)
        found = matched >= 0
        right = found.copy()
        right[found] = (in_truth & ~self.truth.optional)[matched[found]]
        return right, ~found & in_pred & ~self.pred.optional


def _between(areas: np.ndarray, low: float, high: float) -> np.ndarray:
    return (areas >= low) & (areas < high)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
