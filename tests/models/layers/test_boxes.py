"""Box coder, anchors and region features against torchvision and plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, roi_align

from rsprompter_cli.models.layers.boxes import (
    ROI_SCALE,
    RPN_SCALE,
    box_overlaps,
    decode_boxes,
    encode_boxes,
    grid_anchors,
)
from rsprompter_cli.models.layers.roi import roi_features

_BOX = st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(1, 400), st.floats(1, 400)).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)


@given(prior=_BOX, box=_BOX)
@settings(max_examples=60, deadline=None)
def test_decoding_undoes_encoding(prior: list[float], box: list[float]) -> None:
    priors, boxes = torch.tensor([prior]), torch.tensor([box])
    ratio = max(abs(math.log((box[i + 2] - box[i]) / (prior[i + 2] - prior[i]))) for i in (0, 1))
    for scale in (RPN_SCALE, ROI_SCALE):
        back = decode_boxes(priors, encode_boxes(priors, boxes, scale), scale, None)
        if ratio < 4.1:
            assert torch.allclose(back, boxes, atol=0.05)


def test_coder_equals_torchvision() -> None:
    torch.manual_seed(0)
    priors = torch.rand(50, 4) * 100
    priors[:, 2:] += priors[:, :2] + 1
    offsets = torch.randn(50, 4)
    theirs = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0), bbox_xform_clip=abs(math.log(16 / 1000)))
    ours = decode_boxes(priors, offsets, ROI_SCALE, None)
    assert torch.allclose(ours, theirs.decode_single(offsets, priors), atol=1e-3)
    assert torch.allclose(encode_boxes(priors, ours, ROI_SCALE), theirs.encode_single(ours, priors), atol=1e-3)


def test_side_ratio_is_limited_both_ways() -> None:
    prior = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    large = decode_boxes(prior, torch.tensor([[0.0, 0.0, 100.0, -100.0]]), RPN_SCALE, None)[0]
    assert float(large[2] - large[0]) == pytest.approx(10 * 1000 / 16, rel=1e-5)
    assert float(large[3] - large[1]) == pytest.approx(10 * 16 / 1000, rel=1e-4)


def test_boxes_are_cut_to_rows_and_columns() -> None:
    prior = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    wide = decode_boxes(prior, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), RPN_SCALE, (30, 70))
    assert wide.tolist() == [[0.0, 0.0, 70.0, 30.0]]


@given(first=st.lists(_BOX, min_size=1, max_size=5), second=st.lists(_BOX, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_overlaps_equal_torchvision(first: list[list[float]], second: list[list[float]]) -> None:
    one, other = torch.tensor(first), torch.tensor(second)
    assert torch.allclose(box_overlaps(one, other), box_iou(one, other), atol=1e-6)


def test_boxes_without_area_overlap_nothing() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert box_overlaps(point, point).tolist() == [[0.0]]


def test_anchor_order_is_row_column_ratio_scale() -> None:
    anchors = grid_anchors((2, 3), 8, (4.0, 8.0), torch.device("cpu"))
    assert anchors.shape == (2 * 3 * 6, 4)
    # Second cell of the first row, ratio 1, scale 8.
    assert anchors[6 + 3].tolist() == [8 - 32.0, -32.0, 8 + 32.0, 32.0]
    # First cell of the second row, ratio .5 (wide), scale 4: not rounded.
    width, height = 32 / math.sqrt(0.5), 32 * math.sqrt(0.5)
    expected = torch.tensor([-width / 2, 8 - height / 2, width / 2, 8 + height / 2])
    assert torch.allclose(anchors[18], expected)


def test_region_features_equal_one_aligned_call_per_box() -> None:
    torch.manual_seed(1)
    levels = [torch.randn(2, 3, 256 // stride, 256 // stride) for stride in (4, 8, 16, 32, 64)]
    sides = [20.0, 111.0, 112.5, 223.0, 225.0, 300.0, 600.0]
    boxes = [torch.tensor([[5.0, 7.0, 5 + side, 7 + side] for side in sides]), torch.tensor([[1.0, 2.0, 90.0, 30.0]])]
    ours = roi_features(levels, boxes, 7)
    expected_levels = [0, 0, 1, 1, 2, 2, 3, 0]
    rois = torch.cat([torch.cat([torch.full((len(part), 1), float(i)), part], 1) for i, part in enumerate(boxes)])
    for row, (roi, level) in enumerate(zip(rois, expected_levels, strict=True)):
        theirs = roi_align(levels[level], roi[None], 7, 1 / (4 * 2**level), sampling_ratio=-1, aligned=True)
        assert torch.allclose(ours[row], theirs[0], atol=1e-6), f"box {row}"


def test_no_boxes_give_no_features() -> None:
    levels = [torch.randn(2, 3, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32, 64)]
    assert roi_features(levels, [torch.zeros(0, 4), torch.zeros(0, 4)], 14).shape == (0, 3, 14, 14)
