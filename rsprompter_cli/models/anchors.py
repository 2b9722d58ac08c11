"""Anchor boxes of the region proposal network.

Source: MMDetection's AnchorGenerator with center offset 0: ratio is the slow index, scale the fast
one, nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rsprompter_cli.structures import Size

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
