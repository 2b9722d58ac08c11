"""Sine position embeddings of the cells of a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(rows: int, columns: int, channels: int, device: torch.device) -> Tensor:
    """Sine position encoding of a map, float32 [1, channels, rows, columns], rows' half first.

    Source: DETR's encoding as in MMDetection's SinePositionalEncoding, normalised, temperature 10000.
    """
    half = channels // 2
    index = torch.arange(half, device=device, dtype=torch.float32)
    period = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(count: int) -> Tensor:
        cells = torch.arange(1, count + 1, device=device, dtype=torch.float32)
        angles = (cells / (count + 1e-6) * (2 * math.pi))[:, None] / period  # [count, half]
        return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1)

    by_row = encode(rows).T[:, :, None].expand(half, rows, columns)
    by_column = encode(columns).T[:, None, :].expand(half, rows, columns)
    return torch.cat([by_row, by_column])[None]
