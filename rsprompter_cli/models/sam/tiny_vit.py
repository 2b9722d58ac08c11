"""The TinyViT image encoder of the MobileSAM family, in LiteMedSAM's layout: a light SAM backbone for CPUs.

Source: TinyViT (arXiv 2207.10666) as LiteMedSAM uses it: the stem is two 1x1 convolutions at full
resolution, the first two merges halve the map and the last one keeps it, so the embedding has a
quarter of the image's side. The blocks are timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d, trunc_normal_
from timm.models.tiny_vit import ConvLayer, ConvNorm, PatchMerging, TinyVitStage
from torch import Tensor, nn

from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.cpu.tiny_vit import merge, run_block, run_stem
from rsprompter_cli.models.layers.image_encoder import EncoderOutput
from rsprompter_cli.models.sam.recompute import recompute

EMBEDDING_STRIDE = 4
"""Two merges halve the map; the stem and the last merge do not."""


class TinyVitEncoder(nn.Module):
    """Image in, SAM embedding and the maps of the last eight blocks out.

    Args:
        embed_dims: channels of the four stages.
        depths: blocks of the four stages.
        num_heads: attention heads of the four stages; the first has none and ignores its number.
        window_sizes: side of the attention windows of the four stages, in cells of the stage's map.
        output_channels: channels of the embedding.
        image_size: side of the square input the weights were made for, pixels.
        checkpoint_layers: in training keep each block's output only and run the block again in the backward pass.

    Attributes:
        state_channels: channels of each map in `EncoderOutput.states`.
        embedding_stride: pixels of the image per cell of the embedding.
        pixel_mean, pixel_std: what the caller subtracts and divides by, per channel on the 0..255 scale.
        concurrency: passes that gain from running at the same time on a CPU: its operations are too small to keep
            several threads busy.

    Raises:
        UsageError: sizes that no such network has.
    """

    embedding_stride = EMBEDDING_STRIDE
    concurrency = 2
    pixel_mean = (0.0, 0.0, 0.0)
    pixel_std = (255.0, 255.0, 255.0)

    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        output_channels: int,
        image_size: int,
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_layers = checkpoint_layers
        _check_sizes(embed_dims, depths, num_heads, window_sizes)
        _check_image(image_size, image_size)
        self.image_size = image_size
        self.state_channels = (embed_dims[2],) * depths[2] + (embed_dims[3],) * depths[3]
        stem = embed_dims[0]
        self.patch_embed = nn.Sequential(ConvNorm(3, stem // 2), nn.GELU(), ConvNorm(stem // 2, stem))
        self.stages = nn.ModuleList([ConvLayer(stem, depths[0], nn.GELU)])
        for index in (1, 2, 3):
            self.stages.append(
                TinyVitStage(
                    dim=embed_dims[index - 1],
                    out_dim=embed_dims[index],
                    depth=depths[index],
                    num_heads=num_heads[index],
                    window_size=window_sizes[index],
                    downsample=PatchMerging,
                )
            )
        last: Any = self.stages[3]
        last.downsample.conv2.conv.stride = (1, 1)  # the last merge keeps the map
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[3], output_channels, 1, bias=False),
            LayerNorm2d(output_channels),
            nn.Conv2d(output_channels, output_channels, 3, padding=1, bias=False),
            LayerNorm2d(output_channels),
        )
        self.apply(_init_linear)

    def forward(self, pixels: Tensor) -> EncoderOutput:
        """Encode a batch.

        Args:
            pixels: float [B, 3, H, W], already normalised; H and W multiples of 4.

        Returns:
            states: one map [B, C_i, H/4, W/4] per block of the last two stages, in order.
            embedding: [B, output_channels, H/4, W/4].

        Raises:
            UsageError: a height or width that is not a multiple of 4.
        """
        _check_image(*pixels.shape[-2:])
        if pixels.device.type == "cpu" and not self.training and not torch.is_grad_enabled():
            found, maps = self._infer(pixels)
            return EncoderOutput(found, self.neck(maps))
        self._forget_biases()
        maps = pixels
        for block in (self.patch_embed, self.stages[0], self.stages[1]):
            maps = self._run(block, maps)  # at last [B, C, H/2, W/2]
        states: list[Tensor] = []
        stage: Any
        for stage in self.stages[2:]:
            cells = stage.downsample(maps).permute(0, 2, 3, 1)  # [B, H/4, W/4, C]
            for block in stage.blocks:
                cells = self._run(block, cells)
                states.append(cells.permute(0, 3, 1, 2))
            maps = states[-1]  # [B, C, H/4, W/4]
        embedding = self.neck(maps)
        self._forget_biases()
        return EncoderOutput(tuple(states), embedding)

    def _infer(self, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """States and last map by the pass for CPUs."""
        maps = run_stem(self, pixels)
        states: list[Tensor] = []
        stage: Any
        for index, stage in enumerate(self.stages[1:]):
            cells = merge(stage.downsample, maps)
            for block in stage.blocks:
                cells = run_block(block, cells)
                if index:
                    states.append(cells.permute(0, 3, 1, 2))
            maps = cells.permute(0, 3, 1, 2)
        return tuple(states), maps

    def _run(self, block: nn.Module, maps: Tensor) -> Tensor:
        if self.checkpoint_layers and self.training and torch.is_grad_enabled():
            return recompute(block, maps)
        result: Tensor = block(maps)
        return result

    def _forget_biases(self) -> None:
        """Drop the gathered position biases that timm's attention keeps between calls in evaluation.

        Kept, they would outlive weights loaded later, and a gathered tensor with a graph cannot be copied.
        """
        stage: Any
        for stage in self.stages[1:]:
            for block in stage.blocks:
                block.attn.attention_bias_cache = {}


def _init_linear(module: nn.Module) -> None:
    # TinyViT's own start; convolutions and norms keep torch's.
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_sizes(
    embed_dims: Sequence[int], depths: Sequence[int], num_heads: Sequence[int], window_sizes: Sequence[int]
) -> None:
    lists = {"embed_dims": embed_dims, "depths": depths, "num_heads": num_heads, "window_sizes": window_sizes}
    for name, values in lists.items():
        if len(values) != 4 or min(values) < 1:
            raise UsageError(f"tiny-vit {name} = {list(values)}: four positive numbers are needed, one per stage")
    for dim, heads in list(zip(embed_dims, num_heads, strict=True))[1:]:
        if dim % heads:
            raise UsageError(f"tiny-vit embed_dims {dim} is not divisible by its num_heads {heads}")
    if embed_dims[0] % 2:
        raise UsageError(f"tiny-vit embed_dims {embed_dims[0]}: the first must be even, the stem halves it")


def _check_image(height: int, width: int) -> None:
    if height % EMBEDDING_STRIDE or width % EMBEDDING_STRIDE or min(height, width) < EMBEDDING_STRIDE:
        raise UsageError(
            f"tiny-vit cannot take images of {height} x {width} pixels",
            f"set model.image_size to a multiple of {EMBEDDING_STRIDE}, for instance 256",
        )
