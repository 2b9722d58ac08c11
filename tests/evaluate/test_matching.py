"""One-to-one matching and average precision, against COCO's own code and against trying everything."""

from __future__ import annotations

import contextlib
import io
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.evaluate.matching import (
    COCO_IOUS,
    Pairs,
    average_precision,
    best_cut,
    match_by_score,
    match_most,
    overlapping_pairs,
)

BOXES = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(2, 12), st.floats(2, 12)), min_size=0, max_size=25
)


def as_polygons(rows: list[tuple[float, ...]]) -> np.ndarray:
    array = np.empty(len(rows), dtype=object)
    array[:] = [shapely.box(x, y, x + w, y + h) for x, y, w, h in rows]
    return array


def coco_precision(truth: list[tuple[float, ...]], found: list[tuple[float, ...]], scores: np.ndarray) -> np.ndarray:
    """AP at each of COCO's IoUs by pycocotools, all detections counted."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(rows: list[tuple[float, ...]], extra: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [
                {
                    "id": n,
                    "image_id": 1,
                    "category_id": 1,
                    "bbox": list(row),
                    "area": row[2] * row[3],
                    "iscrowd": 0,
                    **e,
                }
                for n, (row, e) in enumerate(zip(rows, extra, strict=True), start=1)
            ],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            index(truth, [{} for _ in truth]), index(found, [{"score": float(score)} for score in scores]), "bbox"
        )
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 2].mean(axis=1)


@settings(max_examples=60, deadline=None)
@given(BOXES.filter(bool), BOXES, st.integers(0, 99))
def test_average_precision_is_that_of_coco(
    truth: list[tuple[float, ...]], found: list[tuple[float, ...]], seed: int
) -> None:
    scores = np.random.default_rng(seed).integers(0, 8, len(found)) / 8  # with ties
    pairs = overlapping_pairs(as_polygons(found), as_polygons(truth), lowest_iou=0.5)
    order = np.argsort(-scores, kind="stable")
    ranks = np.empty(len(found), dtype=np.int64)
    ranks[order] = np.arange(len(found))
    if len({round(float(value), 9) for value in pairs.iou}) < len(pairs.iou):
        return  # which of two equally good objects is taken is nobody's law
    if (abs(pairs.iou[:, None] - np.array(COCO_IOUS)) < 1e-9).any():
        return
    expected = coco_precision(truth, found, scores)
    nobody = np.zeros(len(truth), dtype=bool)
    for iou, wanted in zip(COCO_IOUS, expected, strict=True):
        matched, _ = match_by_score(pairs, iou, ranks, truth_ignored=nobody)
        assert average_precision((matched >= 0)[order], len(truth)) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), unique=True, max_size=14))
def test_without_scores_as_many_as_possible_are_matched(edges: list[tuple[int, int]]) -> None:
    pred, truth = (np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1))
    pairs = Pairs(pred, truth, np.linspace(0.5, 0.9, len(edges)))
    matched, agreement = match_most(pairs, 0.5, 5, truth_ignored=np.zeros(5, dtype=bool))
    most = max(sum((p, t) in edges for p, t in enumerate(order)) for order in permutations(range(5)))
    used = matched[matched >= 0]
    assert len(used) == len(set(used.tolist())) == most
    assert all((p, t) in edges for p, t in enumerate(matched.tolist()) if t >= 0)
    assert ((agreement > 0) == (matched >= 0)).all()


def test_an_ignored_object_is_taken_only_where_nothing_else_is_left() -> None:
    pairs = Pairs(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0.9, 0.6, 0.7]))
    ignored = np.array([True, False])
    matched, _ = match_by_score(pairs, 0.5, np.array([0, 1]), truth_ignored=ignored)
    assert matched.tolist() == [1, -1]
    one = Pairs(np.array([0, 0]), np.array([0, 1]), np.array([0.9, 0.6]))
    assert match_most(one, 0.5, 2, truth_ignored=ignored)[0].tolist() == [1, -1]
    assert match_most(pairs, 0.65, 2, truth_ignored=ignored)[0].tolist() == [0, 1]


def test_pairs_have_the_iou_of_their_shapes_and_one_class() -> None:
    pred = as_polygons([(0, 0, 10, 10), (20, 0, 10, 10), (0, 0, 10, 10)])
    truth = as_polygons([(0, 0, 10, 5), (25, 0, 10, 10)])
    pairs = overlapping_pairs(pred, truth, lowest_iou=0.5)
    assert list(zip(pairs.pred, pairs.truth, pairs.iou, strict=True)) == [(0, 0, 0.5), (2, 0, 0.5)]
    lower = overlapping_pairs(pred, truth, lowest_iou=0.3)
    assert lower.iou.tolist() == pytest.approx([0.5, 1 / 3, 0.5])
    classes = {"pred_class": np.array([0, 0, 1]), "truth_class": np.array([0, 0])}
    assert overlapping_pairs(pred, truth, lowest_iou=0.5, **classes).pred.tolist() == [0]
    assert len(overlapping_pairs(pred[:0], truth, lowest_iou=0.5).iou) == 0
    assert len(overlapping_pairs(pred, truth[:0], lowest_iou=0.5).iou) == 0


def test_the_best_cut_keeps_equal_scores_together() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    assert best_cut(scores, np.array([True, True, False, False]), 2) == (0.5, pytest.approx(4 / 5))
    assert best_cut(scores, np.zeros(4, dtype=bool), 2) is None
    assert best_cut(scores[:0], np.zeros(0, dtype=bool), 2) is None
    assert best_cut(scores, np.zeros(4, dtype=bool), 0) is None


def test_average_precision_at_the_ends() -> None:
    assert average_precision(np.zeros(0, dtype=bool), 0) is None
    assert average_precision(np.zeros(0, dtype=bool), 3) == 0.0
    assert average_precision(np.ones(3, dtype=bool), 3) == 1.0
    assert average_precision(np.array([True, False]), 2) == pytest.approx(51 / 101)
