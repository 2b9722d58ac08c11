"""COCO figures against pycocotools itself, on fabricated truth and detections."""

from __future__ import annotations

import contextlib
import copy
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rsprompter_cli.evaluate.scores import score_results

SIZE = 160
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")


def _encode(box: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, w, h = box
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return rle.encode(mask)


def _random_box(rng: np.random.Generator) -> tuple[int, int, int, int]:
    w, h = (int(v) for v in rng.integers(4, 120, 2))
    return int(rng.integers(0, SIZE - w)), int(rng.integers(0, SIZE - h)), w, h


def make_truth(rng: np.random.Generator, *, images: int = 6, per_image: int = 5, first_id: int = 1) -> dict[str, Any]:
    annotations = []
    for image in range(images):
        for _ in range(per_image):
            box = _random_box(rng)
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image,
                    "category_id": int(rng.choice([3, 7])),
                    "bbox": list(map(float, box)),
                    "area": float(box[2] * box[3]),
                    "segmentation": _encode(box),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": image, "height": SIZE, "width": SIZE} for image in range(images)],
        "categories": [{"id": 3, "name": "house"}, {"id": 7, "name": "shed"}],
        "annotations": annotations,
    }


def make_results(truth: dict[str, Any], rng: np.random.Generator, *, shift: int = 3) -> list[dict[str, Any]]:
    """Truths moved by up to `shift` pixels, some of the wrong class, and as many strays."""
    results = []
    for annotation in truth["annotations"]:
        x, y, w, h = (int(v) for v in annotation["bbox"])
        moved = (
            int(np.clip(x + rng.integers(-shift, shift + 1), 0, SIZE - w)),
            int(np.clip(y + rng.integers(-shift, shift + 1), 0, SIZE - h)),
            w,
            h,
        )
        for box in (moved, _random_box(rng)):
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if rng.random() < 0.9 else 3,
                    "bbox": list(map(float, box)),
                    "score": float(np.float32(rng.random() * 0.9 + (0.1 if box is moved else 0))),
                    "segmentation": _encode(box),
                }
            )
    return results


def _perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: a[key] for key in keys} | {"score": 0.9} for a in truth["annotations"]]


def _reference(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> np.ndarray:
    """pycocotools called as its own demo does, on a file counted from 1."""
    drop = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        detections = coco.loadRes([{k: v for k, v in copy.deepcopy(r).items() if k != drop} for r in results])
        evaluation = COCOeval(coco, detections, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = make_truth(rng)
    results = make_results(truth, rng)
    metrics = score_results(truth, results)
    for kind, ours in (("segm", metrics.mask), ("bbox", metrics.box)):
        reference = _reference(truth, results, kind)
        for value, name in zip(reference, NAMES + RECALLS, strict=True):
            # pycocotools says -1 for a size of which the truth has nothing.
            assert (-1.0 if ours[name] is None else ours[name]) == pytest.approx(value, abs=1e-12), (kind, name)


def test_ids_from_zero_give_perfect_detections_an_ap_of_one() -> None:
    truth = make_truth(np.random.default_rng(0), images=1, per_image=2, first_id=0)
    metrics = score_results(truth, _perfect(truth))
    assert metrics.mask["AP"] == pytest.approx(1.0)
    assert metrics.box["AP"] == pytest.approx(1.0)
    assert metrics.f1 == 1.0
    # The way that trips over id 0 does fall below: the renumbering is not idle.
    assert _reference(truth, _perfect(truth), "segm")[0] < 0.9


def test_nothing_detected_scores_zero_and_absent_sizes_are_none() -> None:
    truth = make_truth(np.random.default_rng(1))
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] > 96**2 and a["category_id"] == 3]
    assert truth["annotations"]
    metrics = score_results(truth, [])
    assert metrics.mask["AP"] == metrics.mask["AP_large"] == metrics.mask["AR100"] == 0.0
    assert metrics.mask["AP_small"] is None
    assert metrics.score_threshold is None
    assert (metrics.f1, metrics.detections) == (0.0, 0)
    house, shed = metrics.per_class
    assert (house.mask["AP"], shed.mask["AP"], shed.objects) == (0.0, None, 0)
    assert "segm_AP_small" not in metrics.flat()


def test_crowds_are_neither_objects_nor_misses() -> None:
    truth = make_truth(np.random.default_rng(2))
    for annotation in truth["annotations"][::3]:
        annotation["iscrowd"] = 1
    results = [r for a, r in zip(truth["annotations"], _perfect(truth), strict=True) if not a["iscrowd"]]
    metrics = score_results(truth, results)
    assert metrics.objects == len(results)
    assert metrics.mask["AP"] == pytest.approx(1.0)


def test_best_threshold_is_the_score_of_the_highest_f1() -> None:
    rng = np.random.default_rng(3)
    truth = make_truth(rng)
    results = make_results(truth, rng)
    metrics = score_results(truth, results)
    assert metrics.score_threshold is not None
    best = max(_f1(truth, results, level) for level in sorted({r["score"] for r in results}))
    assert metrics.f1 == pytest.approx(best)
    assert _f1(truth, results, metrics.score_threshold) == pytest.approx(metrics.f1)


def _f1(truth: dict[str, Any], results: list[dict[str, Any]], level: float) -> float:
    """F1 at IoU .5 by greedy matching in order of score, written anew."""
    kept = sorted((r for r in results if r["score"] >= level), key=lambda r: -r["score"])
    free = set(range(len(truth["annotations"])))
    hits = 0
    for result in kept:
        best, chosen = 0.5 - 1e-10, None
        for index in sorted(free):
            annotation = truth["annotations"][index]
            if (annotation["image_id"], annotation["category_id"]) != (result["image_id"], result["category_id"]):
                continue
            iou = float(rle.iou([result["segmentation"]], [annotation["segmentation"]], [0])[0, 0])
            if iou >= best:
                best, chosen = iou, index
        if chosen is not None:
            free.discard(chosen)
            hits += 1
    return 2 * hits / (len(kept) + len(truth["annotations"]))


def test_tied_scores_are_one_choice() -> None:
    truth = make_truth(np.random.default_rng(4), images=2, per_image=2)
    right = _perfect(truth)
    wrong = [r | {"bbox": [0.0, 0.0, 2.0, 2.0], "segmentation": _encode((0, 0, 2, 2))} for r in right]
    metrics = score_results(truth, right + wrong)
    assert metrics.score_threshold == 0.9
    assert metrics.f1 == pytest.approx(2 * 4 / (8 + 4))


def test_images_are_ranked_by_their_own_f1() -> None:
    truth = make_truth(np.random.default_rng(5), images=3)
    results = [r for r in _perfect(truth) if r["image_id"] != 1]
    truth["images"].append({"id": 9, "height": SIZE, "width": SIZE})
    metrics = score_results(truth, results)
    assert metrics.image_f1 == {0: 1.0, 1: 0.0, 2: 1.0}


def test_curves_fall_from_high_to_low_precision() -> None:
    rng = np.random.default_rng(6)
    truth = make_truth(rng)
    metrics = score_results(truth, make_results(truth, rng))
    for curve in metrics.curves.values():
        assert len(curve) == 101
        assert all(a >= b for a, b in pairwise(curve))


def test_stdout_stays_clean_and_inputs_are_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(7)
    truth = make_truth(rng)
    results = make_results(truth, rng)
    before = copy.deepcopy((truth, results))
    score_results(truth, results)
    assert capsys.readouterr().out == ""
    assert (truth, results) == before
