"""From a picture of labels to COCO instances, without a full-size mask per instance."""

from __future__ import annotations

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
        first pixels come row by row; and K.
    """
    labels, count = ndimage.label(mask)
    return labels, int(count)


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
    of = flat[starts]
    order = np.argsort(of, kind="stable")
    first = np.searchsorted(of[order], np.arange(1, count + 2))
    starts, ends = starts[order], ends[order]
    areas = np.bincount(flat, minlength=count + 1)
    instances = []
    for number, box in enumerate(ndimage.find_objects(labels, max_label=count), start=1):
        runs = slice(first[number - 1], first[number])
        rows, cols = box
        instances.append(
            {
                "bbox": [
                    float(cols.start),
                    float(rows.start),
                    float(cols.stop - cols.start),
                    float(rows.stop - rows.start),
                ],
                "area": int(areas[number]),
                "segmentation": _compressed_rle(starts[runs], ends[runs], height, width),
            }
        )
    return instances


def _compressed_rle(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """COCO RLE from sorted runs [start, end) in column order, which neither touch nor overlap."""
    size = height * width
    edges = np.empty(2 * len(starts), np.int64)
    edges[0::2], edges[1::2] = starts, ends
    counts = np.diff(edges, prepend=0)
    if edges[-1] < size:
        counts = np.append(counts, size - edges[-1])
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
