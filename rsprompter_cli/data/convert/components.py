"""From a picture of labels to COCO instances, without a full-size mask per instance."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 4-connected components of a mask.

    Args:
        mask: bool [H, W].

    Returns:
        int32 [H, W] with 0 for background and 1..K for the components, in the order in which their
        first pixels come column by column, as COCO counts pixels; and K.
    """
    # Turned, so that the columns of the result lie in memory one after the other.
    labels, count = ndimage.label(np.ascontiguousarray(mask.T))
    return labels.T, int(count)


def label_image_to_instances(labels: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The COCO fields of every object of a label image, found in one pass over its pixels.

    The image is walked once in column order, the order of COCO's run lengths: each place where the
    label changes starts a run, and the runs of one label, with the gaps between them, are its RLE.

    Args:
        labels: integers [H, W], 0 for background, objects 1..count; each number must occur.
        count: number of objects.

    Returns:
        One dictionary per object in the order of the numbers: `bbox` XYWH in pixels, `area` in pixels,
        `segmentation` as compressed RLE, equal to what pycocotools encodes from the object's mask.
    """
    if count == 0:
        return []
    height, width = labels.shape
    flat = labels.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    runs = np.flatnonzero(flat[starts])
    runs = runs[np.argsort(flat[starts[runs]], kind="stable")]  # by object, then in column order
    starts, ends, owner = starts[runs], ends[runs], flat[starts[runs]]
    first = np.searchsorted(owner, np.arange(1, count + 2))
    counts = _run_lengths(starts, ends, first[:-1])
    rles = []
    for begin, end in pairwise(first.tolist()):
        rest = flat.size - int(ends[end - 1])
        rles.append({"size": [height, width], "counts": counts[2 * begin : 2 * end] + ([rest] if rest else [])})
    boxes = _boxes(starts, ends, first, height)
    areas = np.add.reduceat(ends - starts, first[:-1])
    return [
        {
            "bbox": box,
            "area": area,
            "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
        }
        for box, area, rle in zip(
            boxes.tolist(), areas.tolist(), coco_mask.frPyObjects(rles, height, width), strict=True
        )
    ]


def _run_lengths(starts: np.ndarray, ends: np.ndarray, first: np.ndarray) -> list[int]:
    """For each run the gap since the previous run of its object (or the image's start), and its length."""
    counts = np.empty(2 * len(starts), np.int64)
    counts[2::2] = starts[1:] - ends[:-1]
    counts[2 * first] = starts[first]
    counts[1::2] = ends - starts
    return counts.tolist()


def _boxes(starts: np.ndarray, ends: np.ndarray, first: np.ndarray, height: int) -> np.ndarray:
    """float64 [K, 4] XYWH of the objects whose runs begin at `first` (K + 1 positions)."""
    last = ends - 1
    left, right = starts[first[:-1]] // height, last[first[1:] - 1] // height
    # A run that goes on from the bottom of one column to the top of the next touches both edges.
    wraps = starts // height != last // height
    top = np.minimum.reduceat(np.where(wraps, 0, starts % height), first[:-1])
    bottom = np.maximum.reduceat(np.where(wraps, height - 1, last % height), first[:-1])
    return np.stack([left, top, right - left + 1, bottom - top + 1], axis=1).astype(np.float64)
