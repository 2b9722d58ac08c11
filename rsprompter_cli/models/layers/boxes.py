"""Box arithmetic of the two-stage models: anchors, overlap, offsets, clipping. All in float32, xyxy pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rsprompter_cli.structures import Size

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Largest |log(new side / old side)| a head may ask for, as in MMDetection's DeltaXYWHBBoxCoder."""


class Scale(NamedTuple):
    """Standard deviations the offsets (dx, dy, dw, dh) are divided by."""

    x: float
    y: float
    w: float
    h: float


RPN_SCALE = Scale(1.0, 1.0, 1.0, 1.0)
ROI_SCALE = Scale(0.1, 0.1, 0.2, 0.2)


def box_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair, 0 for pairs without area.

    Args:
        first: float32 [G, 4] xyxy.
        second: float32 [N, 4] xyxy.

    Returns:
        float32 [G, N]. The order of operations is MMDetection's bbox_overlaps, because the matcher
        compares these numbers for equality.
    """
    area_first = (first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])
    area_second = (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    overlap = width * height
    union = area_first[:, None] + area_second[None, :] - overlap
    return overlap / union.clamp(min=1e-6)


def encode_boxes(priors: Tensor, boxes: Tensor, scale: Scale) -> Tensor:
    """Offsets that turn priors into boxes.

    Args:
        priors: float32 [N, 4] xyxy, of positive width and height.
        boxes: float32 [N, 4] xyxy, of positive width and height.
        scale: standard deviations of the offsets.

    Returns:
        float32 [N, 4]: (dx, dy, dw, dh), divided by `scale`.
    """
    prior_center, prior_size = _center_size(priors)
    center, size = _center_size(boxes)
    offsets = torch.cat([(center - prior_center) / prior_size, torch.log(size / prior_size)], dim=-1)
    return offsets / offsets.new_tensor(scale)


def decode_boxes(priors: Tensor, offsets: Tensor, scale: Scale, clip: Size | None) -> Tensor:
    """Boxes that offsets make of priors; the inverse of `encode_boxes`.

    Args:
        priors: float32 [..., 4] xyxy, broadcast against offsets.
        offsets: float32 [..., 4].
        scale: standard deviations of the offsets.
        clip: (rows, columns) the boxes are cut to, or None.

    Returns:
        float32 [..., 4] xyxy.
    """
    offsets = offsets * offsets.new_tensor(scale)
    prior_center, prior_size = _center_size(priors)
    center = prior_center + prior_size * offsets[..., :2]
    size = prior_size * offsets[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    boxes = torch.cat([center - size * 0.5, center + size * 0.5], dim=-1)
    return boxes if clip is None else clip_boxes(boxes, clip)


def clip_boxes(boxes: Tensor, size: Size) -> Tensor:
    """Boxes [..., 4] cut to an image of (rows, columns)."""
    rows, columns = size
    upper = boxes.new_tensor([columns, rows, columns, rows])
    return torch.minimum(boxes.clamp(min=0), upper)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) * 0.5, high - low


RATIOS = (0.5, 1.0, 2.0)
"""Height over width."""


def anchors_per_cell(scales: Sequence[float]) -> int:
    """How many anchors stand on each cell of a map."""
    return len(RATIOS) * len(scales)


def grid_anchors(map_size: Size, stride: int, scales: Sequence[float], device: torch.device) -> Tensor:
    """Anchors of one pyramid level.

    Args:
        map_size: (rows, columns) of the level's map.
        stride: pixels per cell; also the side of the anchor of scale 1 and ratio 1.
        scales: multiples of that side.
        device: where the result lives.

    Returns:
        float32 [rows * columns * A, 4] xyxy pixels, in the order row, column, ratio, scale.
    """
    base = _base_anchors(stride, scales, device)  # [A, 4]
    rows, columns = map_size
    y = torch.arange(rows, device=device, dtype=torch.float32) * stride
    x = torch.arange(columns, device=device, dtype=torch.float32) * stride
    shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1)  # [rows, columns, 4]
    return (shifts[:, :, None, :] + base).reshape(-1, 4)


def _base_anchors(stride: int, scales: Sequence[float], device: torch.device) -> Tensor:
    boxes = []
    for ratio in RATIOS:
        for scale in scales:
            half_width = 0.5 * stride * scale / math.sqrt(ratio)
            half_height = 0.5 * stride * scale * math.sqrt(ratio)
            boxes.append([-half_width, -half_height, half_width, half_height])
    return torch.tensor(boxes, device=device, dtype=torch.float32)
