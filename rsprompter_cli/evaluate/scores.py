"""COCO average precision of detections, by pycocotools, with ids renumbered from 1.

pycocotools treats annotation id 0 as "no match", so perfect detections of a file that counts
from 0 would score far below 1: ids are never taken from the file. Everything here works on
plain COCO dictionaries; no model, no pictures.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_ALL, _MATCH_IOU, _MOST_DETECTIONS = 0, 0, 2
"""Indices into pycocotools' areas (all), IoU thresholds (.5) and detection limits (100)."""

_AREAS = ("", "_small", "_medium", "_large")


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class; None where the truth holds no object of the kind.

    objects: in the truth, crowds not counted.
    mask, box: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR100.
    """

    name: str
    objects: int
    detections: int
    mask: Mapping[str, float | None]
    box: Mapping[str, float | None]


@dataclass(frozen=True)
class CocoMetrics:
    """What an evaluation found.

    mask, box: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, AR_small,
        AR_medium, AR_large in 0..1; None where the truth holds no object of the size.
    score_threshold: the score that gives the best F1 at mask IoU .5 over all classes, None without
        any right detection; f1: that F1.
    curves: by class name, precision at mask IoU .5 for recall 0, .01 .. 1.
    image_f1: by image id, F1 at mask IoU .5 and the best threshold; images with neither object nor
        detection are left out.
    """

    images: int
    objects: int
    detections: int
    mask: Mapping[str, float | None]
    box: Mapping[str, float | None]
    per_class: tuple[ClassMetrics, ...]
    score_threshold: float | None
    f1: float
    curves: Mapping[str, tuple[float, ...]] = field(repr=False)
    image_f1: Mapping[int, float] = field(repr=False)

    def flat(self) -> dict[str, float]:
        """Figures by COCO name (`segm_AP50`, `bbox_AP`, `f1`), those that exist."""
        named = {f"segm_{key}": value for key, value in self.mask.items()}
        named |= {f"bbox_{key}": value for key, value in self.box.items()}
        return {key: value for key, value in named.items() if value is not None} | {"f1": self.f1}


def score_results(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> CocoMetrics:
    """Box and mask figures of `results` against `truth`.

    Args:
        truth: a COCO tree: `images` (id, height, width), `categories` (id, name), `annotations`
            (image_id, category_id, bbox XYWH, area, segmentation, iscrowd), already checked.
        results: detections as in a COCO results file: image_id, category_id, bbox XYWH, score and
            segmentation as compressed RLE.
    """
    mask = _evaluate(truth, results, "segm")
    box = _evaluate(truth, results, "bbox")
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    objects = Counter(a["category_id"] for a in truth["annotations"] if not a.get("iscrowd", 0))
    found = Counter(result["category_id"] for result in results)
    threshold, f1 = _best_threshold(mask)
    return CocoMetrics(
        images=len(truth["images"]),
        objects=objects.total(),
        detections=len(results),
        mask=_summary(mask),
        box=_summary(box),
        per_class=tuple(
            ClassMetrics(
                category["name"],
                objects[category["id"]],
                found[category["id"]],
                _class_summary(mask, k),
                _class_summary(box, k),
            )
            for k, category in enumerate(categories)
        ),
        score_threshold=threshold,
        f1=f1,
        curves={category["name"]: _curve(mask, k) for k, category in enumerate(categories)},
        image_f1=_image_f1(mask, threshold),
    )


def _evaluate(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """A pycocotools evaluation, accumulated; what it prints is dropped, since stdout is for data."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_truth_index(truth), _result_index(truth, results, kind), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _truth_index(truth: Mapping[str, Any]) -> Any:
    annotations = []
    for number, annotation in enumerate(truth["annotations"], start=1):
        crowd = {"iscrowd": int(annotation.get("iscrowd", 0))}
        annotations.append({**annotation, **crowd, "id": number})
    return _index(truth, annotations)


def _result_index(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """The detections as pycocotools' `loadRes` would index them, an empty list included."""
    from pycocotools import mask as rle

    annotations = []
    for number, result in enumerate(results, start=1):
        common = {key: result[key] for key in ("image_id", "category_id", "score")} | {"id": number, "iscrowd": 0}
        if kind == "segm":
            # The size classes of masks go by mask area, not by box area.
            area = float(rle.area(result["segmentation"]))
            annotations.append(common | {"segmentation": result["segmentation"], "area": area})
        else:
            _, _, width, height = result["bbox"]
            annotations.append(common | {"bbox": list(result["bbox"]), "area": width * height})
    return _index(truth, annotations)


def _index(truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float | None:
    """Mean over what exists (-1 marks what the truth does not have)."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def _precision_figures(evaluation: Any, classes: slice) -> dict[str, float | None]:
    precision = evaluation.eval["precision"][:, :, classes, :, _MOST_DETECTIONS]  # IoU x recall x class x area
    at = {round(float(iou), 2): t for t, iou in enumerate(evaluation.params.iouThrs)}
    figures = {
        "AP": _mean(precision[..., _ALL]),
        "AP50": _mean(precision[at[0.5], ..., _ALL]),
        "AP75": _mean(precision[at[0.75], ..., _ALL]),
    }
    return figures | {f"AP{name}": _mean(precision[..., a]) for a, name in enumerate(_AREAS) if a}


def _summary(evaluation: Any) -> dict[str, float | None]:
    recall = evaluation.eval["recall"]  # IoU x class x area x limit
    figures = _precision_figures(evaluation, slice(None))
    figures |= {f"AR{limit}": _mean(recall[:, :, _ALL, m]) for m, limit in enumerate(evaluation.params.maxDets)}
    return figures | {f"AR{name}": _mean(recall[:, :, a, _MOST_DETECTIONS]) for a, name in enumerate(_AREAS) if a}


def _class_summary(evaluation: Any, k: int) -> dict[str, float | None]:
    recall = evaluation.eval["recall"][:, k, _ALL, _MOST_DETECTIONS]
    return _precision_figures(evaluation, slice(k, k + 1)) | {"AR100": _mean(recall)}


def _curve(evaluation: Any, k: int) -> tuple[float, ...]:
    """Precision at the recalls 0, .01 .. 1; empty when the truth has no object of the class."""
    curve = evaluation.eval["precision"][_MATCH_IOU, :, k, _ALL, _MOST_DETECTIONS]
    return tuple(float(value) for value in curve) if curve.size and curve[0] > -1 else ()


def _matches(evaluation: Any) -> list[dict[str, Any]]:
    """pycocotools' matches per image and class, sizes taken together."""
    areas, images = len(evaluation.params.areaRng), len(evaluation.params.imgIds)
    per_class = [evaluation.evalImgs[k : k + images] for k in range(0, len(evaluation.evalImgs), areas * images)]
    return [match for group in per_class for match in group if match is not None]


def _hits(match: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and right-or-wrong of the detections of one image and class that count."""
    counted = ~np.asarray(match["dtIgnore"][_MATCH_IOU], dtype=bool)
    scores = np.asarray(match["dtScores"], dtype=float)
    return scores[counted], np.asarray(match["dtMatches"][_MATCH_IOU])[counted] > 0


def _objects(match: Mapping[str, Any]) -> int:
    return int(np.count_nonzero(np.asarray(match["gtIgnore"]) == 0))


def _best_threshold(evaluation: Any) -> tuple[float | None, float]:
    """The score from which on detections are kept for the best F1 at IoU .5, and that F1."""
    matches = _matches(evaluation)
    pairs = [_hits(match) for match in matches]
    scores = np.concatenate([scores for scores, _ in pairs] or [np.zeros(0)])
    right = np.concatenate([right for _, right in pairs] or [np.zeros(0, dtype=bool)])
    if not right.any():
        return None, 0.0
    order = np.argsort(-scores, kind="mergesort")
    scores = scores[order]
    kept = np.arange(1, len(scores) + 1)
    f1 = 2 * np.cumsum(right[order]) / (kept + sum(_objects(match) for match in matches))
    # Equal scores are kept or dropped together: only the last of a run of ties is a choice.
    last_of_run = np.append(scores[1:] != scores[:-1], True)
    best = int(np.argmax(np.where(last_of_run, f1, -1.0)))
    return float(scores[best]), float(f1[best])


def _image_f1(evaluation: Any, threshold: float | None) -> dict[int, float]:
    counts: dict[int, list[int]] = {}
    for match in _matches(evaluation):
        scores, right = _hits(match)
        kept = scores >= threshold if threshold is not None else np.zeros(len(scores), dtype=bool)
        sums = counts.setdefault(int(match["image_id"]), [0, 0, 0])
        sums[0] += int(right[kept].sum())
        sums[1] += int(kept.sum())
        sums[2] += _objects(match)
    return {
        image: 2 * hits / (found + objects)
        for image, (hits, found, objects) in sorted(counts.items())
        if found + objects
    }
