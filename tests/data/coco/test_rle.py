"""Run lengths and polygons: what is refused, and that what is taken means the same as in pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from rsprompter_cli.data.coco.problems import EntryError
from rsprompter_cli.data.coco.rle import Rle, bounds, decode_counts, parse_segmentation, to_rle
from rsprompter_cli.data.patches import decode

SQUARE = [[2, 3, 6, 3, 6, 7, 2, 7]]


def _runs(mask: np.ndarray) -> list[int]:
    """Own run lengths, column order, background first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs


@st.composite
def _masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random((height, width)) < draw(st.floats(0.02, 1))
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


@given(_masks())
@settings(max_examples=150, deadline=None)
def test_compressed_and_plain_runs_mean_the_same_mask(mask: np.ndarray) -> None:
    height, width = mask.shape
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
    assert decode_counts(packed).tolist() == _runs(mask)
    for counts in (packed, _runs(mask)):
        rle = parse_segmentation({"size": [height, width], "counts": counts}, height, width)
        assert isinstance(rle, Rle)
        assert np.array_equal(coco_mask.decode(rle.as_dict()).astype(bool), mask)
        patch = decode(rle, height, width)
        assert patch is not None
        drawn = np.zeros_like(mask)
        x0, y0, x1, y1 = patch.box
        drawn[y0:y1, x0:x1] = patch.mask
        assert np.array_equal(drawn, mask)
        assert bounds(rle) == patch.box


def test_large_runs_survive_the_code() -> None:
    mask = np.zeros((3000, 2000), dtype=np.uint8, order="F")
    mask[5, 7] = mask[2999, 1500] = 1
    packed = coco_mask.encode(mask)["counts"].decode("ascii")
    assert decode_counts(packed).tolist() == _runs(mask)


@pytest.mark.parametrize(
    ("ring", "kind"),
    [
        ([2, 3, float("nan"), 3, 6, 7], "polygon-not-finite"),
        ([2, 3, float("inf"), 3, 6, 7], "polygon-not-finite"),
        ([2, 3, 10**400, 3, 6, 7], "polygon-not-finite"),
        ([2, 3, 6, 3, 6, 7, 2], "polygon-odd"),
        ([2, 3, 6, 3], "polygon-short"),
        ([], "polygon-short"),
        ([2, 3, 4, 5, 6, 7], "polygon-flat"),
        ([2, 3, 2, 3, 2, 3], "polygon-flat"),
        ([2, 3, "6", 3, 6, 7], "polygon-type"),
        ([2, 3, None, 3, 6, 7], "polygon-type"),
        ([[2, 3], [6, 3], [6, 7]], "polygon-type"),
        ([2, 3, 1e9, 3, 6, 7], "polygon-outside"),
        ([2, 3, -40, 3, 6, 7], "polygon-outside"),
    ],
)
def test_bad_polygons_are_named(ring: list[object], kind: str) -> None:
    for value in ([ring], [SQUARE[0], ring]):
        with pytest.raises(EntryError) as caught:
            parse_segmentation(value, 10, 12)
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("size", "counts", "kind"),
    [
        ([12, 10], [20, 100], "rle-size"),
        (None, [20, 100], "rle-size"),
        ([10, 12], [20, 99], "rle-counts"),
        ([10, 12], [20, 2**32 + 100], "rle-counts"),
        ([10, 12], [-20, 140], "rle-counts"),
        ([10, 12], [20.5, 99.5], "rle-counts"),
        ([10, 12], [True, 119], "rle-counts"),
        ([10, 12], [], "rle-counts"),
        ([10, 12], None, "rle-counts"),
        ([10, 12], 120, "rle-counts"),
        ([10, 12], [120], "empty-mask"),
        ([10, 12], "", "rle-counts"),
        ([10, 12], "d0T", "rle-truncated"),
        ([10, 12], "d0 T3", "rle-characters"),
        ([10, 12], "d0é", "rle-characters"),
        ([10, 12], "oooooooo0", "rle-characters"),
        ([10, 12], "d0d0", "rle-counts"),
        ([10, 12], "O0", "rle-counts"),
    ],
)
def test_bad_runs_are_named(size: object, counts: object, kind: str) -> None:
    with pytest.raises(EntryError) as caught:
        parse_segmentation({"size": size, "counts": counts}, 10, 12)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "no-segmentation"), ([], "no-segmentation"), (3, "segmentation-type")]
)
def test_no_segmentation(value: object, kind: str) -> None:
    with pytest.raises(EntryError) as caught:
        parse_segmentation(value, 10, 12)
    assert caught.value.kind == kind


@given(st.text(alphabet=[chr(c) for c in range(40, 120)], max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_text_is_either_refused_or_adds_up(text: str) -> None:
    try:
        rle = parse_segmentation({"size": [10, 12], "counts": text}, 10, 12)
    except EntryError:
        return
    assert isinstance(rle, Rle)
    assert int(decode_counts(rle.counts).sum()) == 120


def test_polygons_are_united_and_cut_at_the_rim() -> None:
    value = [SQUARE[0], [5, 5, 13, 5, 13, 9, 5, 9]]
    polygons = parse_segmentation(value, 10, 12)
    mask = coco_mask.decode(to_rle(polygons, 10, 12).as_dict()).astype(bool)
    expected = np.zeros((10, 12), dtype=bool)
    expected[3:7, 2:6] = expected[5:9, 5:12] = True
    assert np.array_equal(mask, expected)
    assert bounds(polygons) == (2, 3, 13, 9)


def test_a_bow_tie_has_area() -> None:
    assert not isinstance(parse_segmentation([[0, 0, 8, 8, 8, 0, 0, 8]], 10, 12), Rle)


def test_a_polygon_below_a_pixel_is_no_patch() -> None:
    polygons = parse_segmentation([[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]], 10, 12)
    assert decode(polygons, 10, 12) is None
