"""The neck: encoder states are gathered into one map, which is split into a pyramid.

Source: RSPrompter (arXiv 2306.16269), section on the feature aggregator, with the sizes of its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.models.layers.image_encoder import EncoderOutput

PYRAMID_STRIDES = (4, 8, 16, 32, 64)


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of [B, C, H, W]."""

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise [B, C, H, W], same shape out."""
        last = F.layer_norm(maps.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2).contiguous()


class LayersAggregator(nn.Module):
    """Sums reduced encoder states one after the other, each time with a residual convolution.

    Args:
        state_channels: channels of every state the encoder gives.
        layers: which of them are read.
        hidden_channels: width of the running sum.
        out_channels: width of the result.
    """

    def __init__(
        self, *, state_channels: Sequence[int], layers: Sequence[int], hidden_channels: int, out_channels: int
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        hidden = hidden_channels
        self.reduce = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(state_channels[layer], hidden, 1),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
            )
            for layer in self.layers
        )
        self.residual = nn.ModuleList(
            nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1), nn.BatchNorm2d(hidden), nn.ReLU())
            for _ in self.layers
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(hidden, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """States [B, C_i, h, w] to one map [B, out_channels, h, w]."""
        total: Tensor | None = None
        for layer, reduce, residual in zip(self.layers, self.reduce, self.residual, strict=True):
            state = reduce(encoded.states[layer])
            total = state if total is None else total + state
            total = total + residual(total)
        result: Tensor = self.fuse(total)
        return result


class LastAggregator(nn.Module):
    """Three convolutions over the encoder's embedding, for encoders whose own weights adapt.

    Args:
        in_channels: channels of the embedding.
        hidden_channels: width between.
        out_channels: width of the result.
    """

    def __init__(self, *, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 1, bias=False),
            LayerNorm2d(hidden_channels, eps=1e-6),
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, bias=False),
            LayerNorm2d(hidden_channels, eps=1e-6),
            nn.Conv2d(hidden_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels, eps=1e-6),
        )

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Embedding [B, C, h, w] to one map [B, out_channels, h, w]."""
        result: Tensor = self.fuse(encoded.embedding)
        return result


class Splitter(nn.Module):
    """A simple feature pyramid: levels of strides 4, 8, 16, 32 and 64 from one map.

    A map of stride 16 is enlarged twice by transposed convolutions; a map of stride 4 is the first
    level itself and is only pooled, so strides, anchors and the RoI level rule stay.

    Args:
        channels: of the map and of every level.
        stride: of the map, 16 or 4.
    """

    def __init__(self, *, channels: int, stride: int) -> None:
        super().__init__()
        if stride not in (4, 16):
            raise ValueError(f"the splitter takes maps of stride 4 or 16, not {stride}")
        self.enlarges = stride == 16
        level_channels = [channels] * 4
        if self.enlarges:
            level_channels = [channels // 4, channels // 2, channels, channels]
            self.up4 = nn.Sequential(
                nn.ConvTranspose2d(channels, channels // 2, 2, stride=2),
                LayerNorm2d(channels // 2, eps=1e-5),
                nn.GELU(),
                nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2),
            )
            self.up2 = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.lateral = nn.ModuleList(_ConvNorm(width, channels, kernel=1) for width in level_channels)
        self.output = nn.ModuleList(_ConvNorm(channels, channels, kernel=3) for _ in level_channels)

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """[B, C, h, w] to five levels [B, C, S/4, S/4] .. [B, C, S/64, S/64]."""
        if self.enlarges:
            inputs = [self.up4(maps), self.up2(maps), maps, F.max_pool2d(maps, 2)]
        else:
            inputs = [maps]
            for _ in range(3):
                inputs.append(F.max_pool2d(inputs[-1], 2))
        levels = [
            output(lateral(level)) for level, lateral, output in zip(inputs, self.lateral, self.output, strict=True)
        ]
        levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return tuple(levels)


class Neck(nn.Module):
    """Aggregator and splitter in a row."""

    def __init__(self, aggregator: nn.Module, splitter: Splitter) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.splitter = splitter

    def forward(self, encoded: EncoderOutput) -> tuple[Tensor, ...]:
        """Encoder maps to the five levels of the pyramid."""
        levels: tuple[Tensor, ...] = self.splitter(self.aggregator(encoded))
        return levels


class _ConvNorm(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, *, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = LayerNorm2d(out_channels, eps=1e-5)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(maps))
        return result
