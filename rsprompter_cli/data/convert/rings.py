"""Rings of vertices in pixels of a picture, between COCO's polygons and formats of one outline each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as coco_mask

from rsprompter_cli.data.problems import EntryError
from rsprompter_cli.data.rle import Rle, bounds, decode_crop, overshoot, parse_segmentation, to_rle
from rsprompter_cli.geo.one_ring import to_one_ring
from rsprompter_cli.geo.polygons import mask_to_polygon, polygon_parts

WITHOUT_AREA = ("no-segmentation", "polygon-flat", "polygon-short")
"""Kinds of EntryError of an object that has nothing to show, and nothing wrong otherwise."""

MAX_CROSSINGS = 200_000
"""Of the edges of an object: hand-drawn outlines cross themselves a few times."""

_EDGES_AT_ONCE = 64

DECIMALS = 3
"""Of a pixel, in what is written: finer than anyone draws, and a thousandth comes back as it went out."""


def ring_polygon(ring: np.ndarray) -> Any:
    """What a ring, float [K, 2], surrounds by the even-odd rule, as COCO fills it; None without area.

    Raises:
        EntryError: it crosses itself more than MAX_CROSSINGS times.
    """
    polygon = shapely.Polygon(ring)
    if polygon.is_valid:
        return polygon_parts(polygon)
    check_crossings(ring)
    return polygon_parts(shapely.make_valid(polygon))


def rings_polygon(rings: Sequence[np.ndarray]) -> Any:
    """The union of what rings surround, as COCO unites the polygons of an object; None without area.

    Raises:
        EntryError: they cross themselves or each other more than MAX_CROSSINGS times.
    """
    parts = [part for ring in rings if (part := ring_polygon(ring)) is not None]
    if len(parts) > 1:
        check_crossings(*rings)
    return polygon_parts(shapely.union_all(parts)) if parts else None


def check_crossings(*rings: np.ndarray) -> None:
    """Refuse rings of which too many edges meet: mending and uniting take time and memory for each pair.

    Edges are compared by their boxes, some at a time, so that counting them stays cheap.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    # Fewer edges than this cannot meet more often.
    if len(starts) ** 2 <= 2 * MAX_CROSSINGS:
        return
    edges = shapely.linestrings(np.stack([starts, ends], axis=1))
    tree, pairs = shapely.STRtree(edges), 0
    for first in range(0, len(edges), _EDGES_AT_ONCE):
        some = edges[first : first + _EDGES_AT_ONCE]
        near, _ = tree.query(some, predicate="intersects")
        pairs += len(near) - 3 * len(some)  # each edge meets itself and its neighbours
        if pairs > 2 * MAX_CROSSINGS:
            raise EntryError("polygon-crossings", f"polygon crosses itself more than {MAX_CROSSINGS:,} times")


def rle_polygon(rle: Rle) -> Any:
    """The outline of run lengths along pixel edges; None when they cover no pixel.

    Raises:
        EntryError: they are too many, or cover too large an area: see `decode_crop`.
    """
    mask, x, y = decode_crop(rle)
    outline = mask_to_polygon(mask) if mask.any() else None
    return None if outline is None else shapely.transform(outline, lambda points: np.add(points, (x, y)))


def lies_inside(ring: np.ndarray, height: int, width: int) -> bool:
    """Whether no vertex leaves the picture."""
    return overshoot(bounds((ring,)), height, width) == 0


def clip(geometry: Any, height: int, width: int) -> Any:
    """What of a polygon or multipolygon lies in the picture; None when nothing with area does."""
    return polygon_parts(shapely.intersection(geometry, shapely.box(0, 0, width, height)))


def clip_ring(ring: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The rings that are left of one when the picture ends; itself when it lies inside, none when outside.

    Raises:
        EntryError: it crosses itself more than MAX_CROSSINGS times.
    """
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
