"""TinyViT on a CPU without gradients: the pass of timm's blocks, with fewer passes over memory.

Source: TinyViT (arXiv 2207.10666) in timm's modules, whose weights are read here. The result is theirs up to rounding.
What differs:

- Batch normalization is folded into the convolution before it, and GELU is computed by the convolution or the linear
  layer as it writes its result.
- Maps lie in memory cell by cell (channels last), so that convolutions, windows and linear layers need no reordering.
- Attention gets its position bias with a batch dimension, with which torch takes its fused kernel; without one it
  makes the logits, looks for rows that are masked throughout and replaces these, a pass each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.models.cpu.linear import convolution, linear_fused

_INNER_BYTES = 32 << 20
"""Of a map inside of a block of the first stage: two of them, of each pass that runs, are most of what a pass needs."""


def run_stem(encoder: Any, pixels: Tensor) -> Tensor:
    """Patch embedding and first stage of a TinyVitEncoder: [B, 3, H, W] to [B, C, H, W], channels last."""
    maps = pixels.contiguous(memory_format=torch.channels_last)
    first, _, second = encoder.patch_embed
    maps = _conv_norm(second, _conv_norm(first, maps, gelu=True))
    for block in encoder.stages[0].blocks:
        maps = _run_inverted_bottleneck(block, maps)
    return maps


def _run_inverted_bottleneck(block: Any, maps: Tensor) -> Tensor:
    """timm's MBConv [B, C, H, W] to the same, some rows at a time: its inner maps have four times the channels."""
    rows, columns = maps.shape[2:]
    row_bytes = maps.shape[0] * block.conv1.conv.out_channels * columns * maps.element_size()
    step = max(1, _INNER_BYTES // row_bytes)
    result = torch.empty_like(maps)
    for top in range(0, rows, step):
        above, below = max(top - 1, 0), min(top + step + 1, rows)  # the 3 x 3 convolution sees a row more
        inner = _conv_norm(block.conv2, _conv_norm(block.conv1, maps[:, :, above:below], gelu=True), gelu=True)
        inner = inner[:, :, top - above : top - above + step]
        torch.add(_conv_norm(block.conv3, inner), maps[:, :, top : top + step], out=result[:, :, top : top + step])
    return _gelu_(result)


def merge(downsample: Any, maps: Tensor) -> Tensor:
    """The PatchMerging that begins a stage: [B, C, H, W] to cells [B, h, w, C']."""
    inner = _conv_norm(downsample.conv2, _conv_norm(downsample.conv1, maps, gelu=True), gelu=True)
    return _conv_norm(downsample.conv3, inner).permute(0, 2, 3, 1).contiguous()


def run_block(block: Any, cells: Tensor) -> Tensor:
    """A TinyVitBlock: cells [B, h, w, C] to the same."""
    rows, columns = cells.shape[1:3]
    side = block.window_size
    below, right = -rows % side, -columns % side
    padded = F.pad(cells, (0, 0, 0, right, 0, below)) if below or right else cells
    windows = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)  # [B, m, n, side, side, C]
    counts = windows.shape[:3]
    mixed = _attend(block.attn, windows.reshape(-1, side * side, cells.shape[-1]))
    mixed = mixed.unflatten(1, (side, side)).unflatten(0, counts).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    cells = cells + mixed[:, :rows, :columns]
    cells = _conv_norm(block.local_conv, cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
    mlp = block.mlp
    hidden = linear_fused(_norm(mlp.norm, cells), mlp.fc1.weight, mlp.fc1.bias, gelu=True)
    return linear_fused(hidden, mlp.fc2.weight, mlp.fc2.bias).add_(cells)


def _attend(attention: Any, windows: Tensor) -> Tensor:
    """timm's attention with position biases, in windows [n, cells, C]."""
    projected = linear_fused(_norm(attention.norm, windows), attention.qkv.weight, attention.qkv.bias)
    split = projected.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)  # [n, heads, cells, d]
    queries, keys, values = split.split([attention.key_dim, attention.key_dim, attention.val_dim], dim=3)
    bias = attention.attention_biases[:, attention.attention_bias_idxs].to(projected.dtype)  # [heads, cells, cells]
    bias = bias.expand(len(windows), -1, -1, -1)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias).transpose(1, 2).flatten(2)
    return linear_fused(mixed, attention.proj.weight, attention.proj.bias)


def _conv_norm(block: Any, maps: Tensor, *, gelu: bool = False) -> Tensor:
    """timm's ConvNorm in evaluation, and GELU of it where asked."""
    plain, norm = block.conv, block.bn
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = (plain.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    bias = norm.bias - norm.running_mean * scale
    return convolution(maps, weight, bias, stride=plain.stride, padding=plain.padding, groups=plain.groups, gelu=gelu)


def _norm(norm: Any, cells: Tensor) -> Tensor:
    return F.layer_norm(cells, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _gelu_(values: Tensor) -> Tensor:
    """GELU in the memory of its argument."""
    result: Tensor = torch.ops.aten.gelu_(values)
    return result
