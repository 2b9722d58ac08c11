"""Run lengths of polygons equal those of the mask they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from rasterio.features import rasterize
from shapely import Polygon, box

from rsprompter_cli.data.coco.encode import polygon_rle

HEIGHT, WIDTH = 23, 17


def _expected(polygon: Polygon) -> str:
    mask = rasterize([polygon], out_shape=(HEIGHT, WIDTH), dtype="uint8")
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode("ascii")


@settings(max_examples=60, deadline=None)
@given(
    left=st.integers(-3, WIDTH), top=st.integers(-3, HEIGHT), wide=st.integers(1, 20), high=st.integers(1, 30),
    hole=st.booleans(),
)  # fmt: skip
def test_equals_the_encoded_mask(left: int, top: int, wide: int, high: int, hole: bool) -> None:
    polygon = box(left, top, left + wide, top + high)
    if hole and wide > 4 and high > 4:
        polygon = polygon.difference(box(left + 1, top + 2, left + wide - 1, top + high - 2))
    visible = polygon.intersects(box(0, 0, WIDTH, HEIGHT).buffer(-0.01))
    rle = polygon_rle(polygon, HEIGHT, WIDTH)
    assert rle["size"] == [HEIGHT, WIDTH]
    if visible:
        assert rle["counts"] == _expected(polygon)
    else:
        assert coco_mask.area({"size": rle["size"], "counts": rle["counts"].encode()}) == 0


def test_slanted_outline() -> None:
    polygon = Polygon([(2, 1), (15, 6), (11, 21), (3, 17)], [[(6, 8), (9, 8), (9, 12), (6, 12)]])
    assert polygon_rle(polygon, HEIGHT, WIDTH)["counts"] == _expected(polygon)
