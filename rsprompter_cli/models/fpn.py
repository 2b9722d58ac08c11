"""The feature pyramid on a ResNet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


class FeaturePyramid(nn.Module):
    """Five levels from four maps: lateral 1x1, nearest top-down, 3x3, the fifth by max pooling.

    Source: FPN as in MMDetection (convolutions with bias, no norm), which torchvision's is equal to
    but for the random start.

    Args:
        in_channels: of the four maps.
        channels: of every level.
    """

    def __init__(self, *, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(in_channels), channels, extra_blocks=LastLevelMaxPool())
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps [B, C_i, h, w] of strides 4 to 32 to levels [B, channels, h, w] of strides 4 to 64."""
        levels: dict[str, Tensor] = self.fpn({str(index): level for index, level in enumerate(maps)})
        return tuple(levels.values())
