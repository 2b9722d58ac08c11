"""The pixel decoder against a plain loop over cells, heads, levels and points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.models.layers.pixel_decoder import LEVELS, DeformableAttention, PixelDecoder
from rsprompter_cli.structures import Size

SIZES: list[Size] = [(2, 3), (4, 5), (7, 9)]


def _bilinear(maps: Tensor, x: float, y: float) -> Tensor:
    """Value [C] of maps [C, h, w] at pixels with centres at whole numbers, zero outside."""
    total = torch.zeros(maps.shape[0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]:
                total = total + (1 - abs(y - row)) * (1 - abs(x - column)) * maps[:, row, column]
    return total


def _naive(attention: DeformableAttention, cells: Tensor, positions: Tensor, centres: Tensor) -> Tensor:
    """Deformable attention of one image, cells [T, C], written as the paper's sum."""
    heads, points, width = attention.heads, attention.points, cells.shape[1] // attention.heads
    values = attention.value_proj(cells).split([rows * columns for rows, columns in SIZES])
    queries = cells + positions
    result = []
    for cell, centre in zip(queries, centres, strict=True):
        offsets = attention.sampling_offsets(cell).reshape(heads, LEVELS, points, 2)
        weights = attention.attention_weights(cell).reshape(heads, -1).softmax(-1).reshape(heads, LEVELS, points)
        parts = []
        for head in range(heads):
            total = torch.zeros(width)
            for level, (rows, columns) in enumerate(SIZES):
                own = values[level][:, head * width : (head + 1) * width].T.reshape(width, rows, columns)
                for point in range(points):
                    x = float(centre[0]) * columns + float(offsets[head, level, point, 0]) - 0.5
                    y = float(centre[1]) * rows + float(offsets[head, level, point, 1]) - 0.5
                    total = total + weights[head, level, point] * _bilinear(own, x, y)
            parts.append(total)
        result.append(torch.cat(parts))
    return attention.output_proj(torch.stack(result))


def _centres() -> Tensor:
    return torch.tensor(
        [
            ((j + 0.5) / columns, (i + 0.5) / rows)
            for rows, columns in SIZES
            for i in range(rows)
            for j in range(columns)
        ]
    )


@pytest.mark.parametrize(("heads", "points"), [(2, 3), (4, 1)])
def test_deformable_attention_is_the_sum_of_the_paper(heads: int, points: int) -> None:
    torch.manual_seed(3)
    attention = DeformableAttention(channels=8, heads=heads, points=points)
    for linear in (attention.sampling_offsets, attention.attention_weights):
        # Trained-like: offsets of a cell or two that differ from place to place, some beyond the border.
        nn.init.normal_(linear.weight, std=0.5)
    total = sum(rows * columns for rows, columns in SIZES)
    cells, positions = torch.randn(2, total, 8), torch.randn(1, total, 8)
    with torch.no_grad():
        ours = attention(cells, positions, _centres(), SIZES)
        for index in range(2):
            expected = _naive(attention, cells[index], positions[0], _centres())
            torch.testing.assert_close(ours[index], expected, rtol=1e-4, atol=1e-5)


def test_heads_start_in_directions_of_their_own() -> None:
    attention = DeformableAttention(channels=8, heads=4, points=2)
    bias = attention.sampling_offsets.bias.detach().reshape(4, LEVELS, 2, 2)
    compass = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(bias[:, 0, 0], compass, atol=1e-6, rtol=0)
    torch.testing.assert_close(bias[:, 2, 1], 2 * compass, atol=1e-6, rtol=0)
    assert float(attention.sampling_offsets.weight.detach().abs().max()) == 0
    assert float(attention.attention_weights.weight.detach().abs().max()) == 0


def _decoder() -> PixelDecoder:
    torch.manual_seed(1)
    return PixelDecoder(
        in_channels=8, channels=16, out_channels=12, layers=2, heads=4, points=2, feedforward=24, norm_groups=4
    )


def _pyramid(rows: int, columns: int) -> list[Tensor]:
    return [torch.randn(2, 8, -(-rows // 2**i), -(-columns // 2**i)) for i in range(5)]


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (32, 48), (8, 8)])
def test_shapes_follow_the_pyramid(rows: int, columns: int) -> None:
    pyramid = _pyramid(rows, columns)
    maps = _decoder()(pyramid)
    assert maps.mask_features.shape == (2, 12, rows, columns)
    assert [level.shape[1:] for level in maps.levels] == [(16, *pyramid[i].shape[-2:]) for i in (4, 3, 2)]


def test_every_parameter_gets_a_gradient() -> None:
    decoder = _decoder()
    maps = decoder(_pyramid(16, 16))
    total = maps.mask_features.square().sum() + sum(level.square().sum() for level in maps.levels[:2])
    total.backward()
    without = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert without == []


def test_bfloat16_chooses_the_same_places() -> None:
    decoder = _decoder().eval()
    pyramid = _pyramid(32, 32)
    with torch.no_grad():
        exact = decoder(pyramid).mask_features
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = decoder(pyramid).mask_features.float()
    assert float((exact - rounded).abs().mean()) < 0.05 * float(exact.abs().mean())
