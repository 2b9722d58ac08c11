"""The pixel decoder: a pyramid's levels look at each other, then grow into one map of mask features.

Source: Mask2Former (arXiv 2112.01527) with the deformable attention of Deformable DETR
(arXiv 2010.04159), sizes and starts as in MMDetection's MSDeformAttnPixelDecoder.

Letters: B images, C width, L levels, T cells of all levels together, M heads, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.models.layers.positions import sine_positions
from rsprompter_cli.structures import Size

LEVELS = 3
"""Coarsest levels of the pyramid that attend to each other, and that the queries look at."""


class PixelMaps(NamedTuple):
    """What the queries read.

    levels: [B, C, h, w] of strides 64, 32 and 16, coarsest first.
    mask_features: [B, D, S/4, S/4]; a query's mask is its product with them.
    """

    levels: tuple[Tensor, ...]
    mask_features: Tensor


class DeformableAttention(nn.Module):
    """Each cell reads a few points of every level, at offsets it chooses itself.

    Args:
        channels: width, a multiple of `heads`.
        heads: each with points of its own.
        points: that each head reads in each level.
    """

    def __init__(self, *, channels: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads = heads
        self.points = points
        self.sampling_offsets = nn.Linear(channels, heads * LEVELS * points * 2)
        self.attention_weights = nn.Linear(channels, heads * LEVELS * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with even weights and the heads looking in directions of their own, point i at distance i + 1."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        compass = torch.stack([angles.cos(), angles.sin()], dim=1)
        compass = compass / compass.abs().amax(dim=1, keepdim=True)  # [M, 2] on the unit square
        steps = torch.arange(1, self.points + 1)[:, None]
        offsets = (compass[:, None, None] * steps).expand(self.heads, LEVELS, self.points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, cells: Tensor, positions: Tensor, centres: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Attend.

        Args:
            cells: [B, T, C], the levels behind each other, each row by row.
            positions: [1, T, C], added to the cells where they choose points and weights.
            centres: float32 [T, 2] xy of the cells, 0..1 over the map.
            sizes: (rows, columns) of each level.

        Returns:
            [B, T, C].
        """
        batch, total, _ = cells.shape
        queries = cells + positions
        grouped = (batch, total, self.heads, LEVELS, self.points)
        # Places in float32: half precision cannot distinguish neighbouring cells.
        offsets = self.sampling_offsets(queries).float().reshape(*grouped, 2)
        weights = self.attention_weights(queries).float().reshape(*grouped[:3], -1).softmax(-1).reshape(grouped)
        values = self.value_proj(cells).reshape(batch, total, self.heads, -1)  # [B, T, M, C/M]
        with torch.autocast(cells.device.type, enabled=False):
            read = self._read(values.float(), offsets, weights, centres, sizes)
        result: Tensor = self.output_proj(read)
        return result

    def _read(self, values: Tensor, offsets: Tensor, weights: Tensor, centres: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Weighted values at the chosen points, [B, T, C]; one bilinear reading per level."""
        batch, total, heads, width = values.shape
        read = values.new_zeros(batch * heads, width, total)
        parts = values.split([rows * columns for rows, columns in sizes], dim=1)
        for level, ((rows, columns), part) in enumerate(zip(sizes, parts, strict=True)):
            maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, rows, columns)
            # An offset counts cells of the level it points into.
            places = centres[None, :, None, None] + offsets[:, :, :, level] / offsets.new_tensor([columns, rows])
            grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # [B M, T, P, 2]
            points = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B M, T, P]
            read = read + (points * share[:, None]).sum(-1)
        return read.reshape(batch, heads * width, total).transpose(1, 2)


class DeformableLayer(nn.Module):
    """Deformable attention and a feed-forward network, each with a residual and a norm after it.

    Args:
        channels, heads, points: of the attention.
        feedforward: width between.
    """

    def __init__(self, *, channels: int, heads: int, points: int, feedforward: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, feedforward)
        self.fc2 = nn.Linear(feedforward, channels)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_normal_(linear.weight)
        self.attention = DeformableAttention(channels=channels, heads=heads, points=points)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, cells: Tensor, positions: Tensor, centres: Tensor, sizes: Sequence[Size]) -> Tensor:
        """As `DeformableAttention`: [B, T, C] to [B, T, C]."""
        cells = self.norm1(cells + self.attention(cells, positions, centres, sizes))
        result: Tensor = self.norm2(cells + self.fc2(F.relu(self.fc1(cells))))
        return result


class PixelDecoder(nn.Module):
    """Five levels of a pyramid to what the queries read.

    Args:
        in_channels: width of every level.
        channels: width inside, a multiple of `norm_groups`.
        out_channels: of the mask features.
        layers: deformable layers over the three coarsest levels.
        heads, points, feedforward: of each.
        norm_groups: of the group norms.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        out_channels: int,
        layers: int,
        heads: int,
        points: int,
        feedforward: int,
        norm_groups: int,
    ) -> None:
        super().__init__()
        # Coarsest level first: strides 64, 32, 16.
        self.inputs = nn.ModuleList(
            _ConvNorm(in_channels, channels, kernel=1, groups=norm_groups, bias=True) for _ in range(LEVELS)
        )
        self.level_embed = nn.Embedding(LEVELS, channels)
        self.layers = nn.ModuleList(
            DeformableLayer(channels=channels, heads=heads, points=points, feedforward=feedforward)
            for _ in range(layers)
        )
        # Finest level first: strides 4, 8.
        self.lateral = nn.ModuleList(
            _ConvNorm(in_channels, channels, kernel=1, groups=norm_groups, bias=False) for _ in range(2)
        )
        self.output = nn.ModuleList(
            _ConvNorm(channels, channels, kernel=3, groups=norm_groups, bias=False) for _ in range(2)
        )
        self.mask_feature = nn.Conv2d(channels, out_channels, 1)
        _start_evenly(self.mask_feature)

    def forward(self, pyramid: Sequence[Tensor]) -> PixelMaps:
        """Levels [B, C, S/4, S/4] .. [B, C, S/64, S/64], finest first, to levels and mask features."""
        coarse = [project(level) for project, level in zip(self.inputs, reversed(pyramid[-LEVELS:]), strict=True)]
        levels = self._attend(coarse)
        finest = levels[-1]
        for index in (1, 0):
            lateral = self.lateral[index](pyramid[index])
            grown = F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            finest = F.relu(self.output[index](lateral + grown))
        return PixelMaps(levels, self.mask_feature(finest))

    def _attend(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The deformable layers over the maps [B, C, h, w] of all three levels."""
        device = maps[0].device
        batch, channels = maps[0].shape[:2]
        sizes: list[Size] = [(one.shape[-2], one.shape[-1]) for one in maps]
        cells = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)  # [B, T, C]
        positions = torch.cat(
            [
                sine_positions(*size, channels, device).flatten(2).transpose(1, 2) + self.level_embed.weight[level]
                for level, size in enumerate(sizes)
            ],
            dim=1,
        )
        centres = torch.cat([_centres(*size, device) for size in sizes])
        for layer in self.layers:
            cells = layer(cells, positions, centres, sizes)
        parts = cells.transpose(1, 2).split([rows * columns for rows, columns in sizes], dim=2)
        return tuple(part.reshape(batch, channels, *size) for part, size in zip(parts, sizes, strict=True))


class _ConvNorm(nn.Module):
    def __init__(self, in_channels: int, channels: int, *, kernel: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(groups, channels)
        if bias:
            nn.init.xavier_uniform_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one
        else:
            _start_evenly(self.conv)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(maps))
        return result


def _start_evenly(conv: nn.Conv2d) -> None:
    """Uniform weights of variance 1 / inputs, Caffe2's Xavier start."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _centres(rows: int, columns: int, device: torch.device) -> Tensor:
    """Centres of a map's cells, float32 [rows * columns, 2] xy, 0..1 over the map."""
    y = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) / columns
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2)
