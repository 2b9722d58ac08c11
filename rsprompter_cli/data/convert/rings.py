"""Rings of vertices in pixels of a picture, between COCO's polygons and formats of one outline each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as coco_mask

from rsprompter_cli.data.rle import Rle, bounds, overshoot, parse_segmentation, to_rle
from rsprompter_cli.geo.one_ring import to_one_ring
from rsprompter_cli.geo.polygons import mask_to_polygon, polygon_parts

DECIMALS = 3
"""Of a pixel, in what is written: finer than anyone draws, and a thousandth comes back as it went out."""


def ring_polygon(ring: np.ndarray) -> Any:
    """What a ring, float [K, 2], surrounds by the even-odd rule, as COCO fills it; None without area."""
    polygon = shapely.Polygon(ring)
    return polygon_parts(polygon if polygon.is_valid else shapely.make_valid(polygon))


def rle_polygon(rle: Rle) -> Any:
    """The outline of run lengths along pixel edges; None when they cover no pixel."""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle.as_dict()))
    mask = coco_mask.decode(rle.as_dict())[y : y + height, x : x + width].astype(bool)
    outline = mask_to_polygon(mask) if mask.any() else None
    return None if outline is None else shapely.transform(outline, lambda points: np.add(points, (x, y)))


def lies_inside(ring: np.ndarray, height: int, width: int) -> bool:
    """Whether no vertex leaves the picture."""
    return overshoot(bounds((ring,)), height, width) == 0


def clip(geometry: Any, height: int, width: int) -> Any:
    """What of a polygon or multipolygon lies in the picture; None when nothing with area does."""
    return polygon_parts(shapely.intersection(geometry, shapely.box(0, 0, width, height)))


def clip_ring(ring: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The rings that are left of one when the picture ends; itself when it lies inside, none when outside."""
    if lies_inside(ring, height, width):
        return [ring]
    whole = ring_polygon(ring)
    inside = None if whole is None else clip(whole, height, width)
    return [] if inside is None else [to_one_ring(part) for part in shapely.get_parts(inside)]


def coco_fields(rings: Sequence[np.ndarray], height: int, width: int) -> dict[str, Any]:
    """`bbox`, `area` and `segmentation` of a COCO annotation from rings inside the picture.

    The area is that of the mask, in pixels, as everywhere in COCO.

    Raises:
        EntryError: a ring without area, or one that COCO's readers refuse.
    """
    segmentation = [np.round(ring, DECIMALS).ravel().tolist() for ring in rings]
    parsed = parse_segmentation(segmentation, height, width)
    x0, y0, x1, y1 = bounds(parsed)
    return {
        "bbox": [x0, y0, round(x1 - x0, DECIMALS), round(y1 - y0, DECIMALS)],
        "area": int(coco_mask.area(to_rle(parsed, height, width).as_dict())),
        "segmentation": segmentation,
    }
