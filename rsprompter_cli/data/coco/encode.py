"""A polygon with holes as COCO run lengths, without a mask of the whole image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from rasterio.features import rasterize
from shapely import Geometry
from shapely.affinity import translate


def polygon_rle(polygon: Geometry, height: int, width: int) -> dict[str, Any]:
    """The pixels whose centre a polygon holds, as compressed RLE of an image of height x width.

    Args:
        polygon: polygon or multipolygon in pixels, origin at the outer corner of the first pixel.

    Returns:
        {"size": [height, width], "counts": str}.
    """
    x0, y0, x1, y1 = polygon.bounds
    left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
    right, bottom = min(width, math.ceil(x1)), min(height, math.ceil(y1))
    if right <= left or bottom <= top:
        return _rle(np.zeros(0, np.int64), height, width)
    crop = rasterize([translate(polygon, -left, -top)], out_shape=(bottom - top, right - left), dtype="uint8")
    # Column order, with a zero under each column so that no run goes on into the next.
    columns = np.vstack([crop, np.zeros((1, crop.shape[1]), np.uint8)]).T
    flat = columns.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0))  # starts and ends take turns
    column, row = np.divmod(edges, columns.shape[1])
    positions = (column + left) * height + row + top
    # A run that ends at the image's foot and the next that starts at the head of the next column are one.
    starts, ends = positions[0::2], positions[1::2]
    joined = np.flatnonzero(starts[1:] == ends[:-1])
    kept = np.ones(len(positions), bool)
    kept[2 * joined + 1] = kept[2 * joined + 2] = False
    return _rle(positions[kept], height, width)


def _rle(edges: np.ndarray, height: int, width: int) -> dict[str, Any]:
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(edges) and edges[-1] == height * width:
        counts = counts[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
