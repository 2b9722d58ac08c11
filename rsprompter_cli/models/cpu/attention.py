"""A layer of SAM's ViT on a CPU without gradients: transformers' SamVisionLayer, with fewer passes over memory.

Source: SAM's image encoder (arXiv 2304.02643), attention with decomposed relative positions (arXiv 2112.01526).
The result is that of transformers' layer up to rounding. What differs:

- Logits are made, weighted and used in blocks that stay in the cache; the position bias is written into
  the block first and the matrix product adds to it. transformers writes a bias of 800 MB per layer at 1024 px.
- Windows are cut from the projected map one by one. Where a window reaches over the map's edge, the
  projection of the padding is the projection's bias and need not be computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from rsprompter_cli.models.cpu.linear import linear, linear_gelu, linear_plus

_LOGITS_AT_ONCE = 1 << 19
"""2 MiB of float32: some rows of one head over the whole map, or all heads of one window."""
_CELLS_AT_ONCE = 1024
"""Rows of the MLP's hidden layer held at a time: 12 MiB in SAM-base."""


def vit_layer(layer: Any, cells: Tensor) -> Tensor:
    """The layer's output.

    Args:
        layer: transformers' SamVisionLayer; adapters on its projections are welcome.
        cells: [B, h, w, C] on a CPU; no gradient is kept.
    """
    attention = layer.attn
    projected = attention.qkv(layer.layer_norm1(cells))  # [B, h, w, 3C]
    mixed = torch.empty(cells.shape, dtype=projected.dtype, device=cells.device)
    if layer.window_size:
        for image, result in zip(projected, mixed, strict=True):
            _mix_windows(attention, image, result, layer.window_size)
    else:
        for image, result in zip(projected, mixed, strict=True):
            result.copy_(_mix(attention, image))
    cells = cells + attention.proj(mixed)
    return cells + _mlp(layer.mlp, layer.layer_norm2(cells))


def _mlp(mlp: Any, cells: Tensor) -> Tensor:
    """A SamMLPBlock, some cells at a time."""
    parts = []
    for part in cells.flatten(0, 2).split(_CELLS_AT_ONCE):
        if isinstance(mlp.lin1, nn.Linear) and type(mlp.act) is GELUActivation:
            hidden = linear_gelu(part, mlp.lin1.weight, mlp.lin1.bias)
        else:
            hidden = mlp.act(mlp.lin1(part))
        parts.append(mlp.lin2(hidden))
    return torch.cat(parts).view(cells.shape)


def _mix_windows(attention: Any, projected: Tensor, result: Tensor, side: int) -> None:
    """Attention within windows of a projected map [h, w, 3C], written into `result` [h, w, C]."""
    rows, columns, channels = projected.shape
    bias = attention.qkv.bias
    padding = projected.new_zeros(channels) if bias is None else bias.detach().to(projected.dtype)
    tables = _tables(attention, side, side, projected.dtype)
    window = torch.empty((side, side, channels), dtype=projected.dtype, device=projected.device)
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            inside = projected[top : top + side, left : left + side]
            height, width = inside.shape[:2]
            if (height, width) != (side, side):
                window.copy_(padding.expand_as(window))
            window[:height, :width] = inside
            result[top : top + side, left : left + side] = _mix(attention, window, tables)[:height, :width]


def _tables(attention: Any, rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Relative positions of rows [h, h, d] and columns [w, w, d], or None where the model has none."""
    if not attention.use_rel_pos:
        return None
    by_row = attention.get_rel_pos(rows, rows, attention.rel_pos_h)
    by_column = attention.get_rel_pos(columns, columns, attention.rel_pos_w)
    return by_row.detach().to(dtype), by_column.detach().to(dtype)


def _mix(attention: Any, projected: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Attention over a projected map [h, w, 3C]: [h, w, C]."""
    rows, columns, _ = projected.shape
    heads = attention.num_attention_heads
    queries, keys, values = projected.unflatten(2, (3, heads, -1)).permute(2, 3, 0, 1, 4)  # [H, h, w, d] each
    tables = tables or _tables(attention, rows, columns, projected.dtype)
    if tables is None:
        bias_h = bias_w = torch.zeros((), device=projected.device).expand(heads, rows, columns, 1)
    else:
        bias_h = torch.einsum("nhwc,hkc->nhwk", queries, tables[0]).float()  # [H, h, w, h]
        bias_w = torch.einsum("nhwc,wkc->nhwk", queries, tables[1]).float()  # [H, h, w, w]
    # In order once, where half-precision products would put them in order for each block.
    keys, values = keys.flatten(1, 2).mT.contiguous(), values.flatten(1, 2).contiguous()  # [H, d, hw], [H, hw, d]
    result = torch.empty((heads, rows, columns, values.shape[-1]), dtype=projected.dtype, device=projected.device)
    cells = rows * columns
    step = min(rows, max(1, _LOGITS_AT_ONCE // (columns * cells)))
    group = max(1, _LOGITS_AT_ONCE // (rows * columns * cells)) if step == rows else 1
    for head in range(0, heads, group):
        some = slice(head, head + group)
        for row in range(0, rows, step):
            here = slice(row, row + step)
            asking = queries[some, here].flatten(1, 2)
            bias = bias_h[some, here, :, :, None] + bias_w[some, here, :, None, :]  # [H', h', w, h, w]
            bias = bias.expand(*bias.shape[:3], rows, columns).reshape(*asking.shape[:2], cells)
            result[some, here].flatten(1, 2).copy_(_weigh(asking, keys[some], values[some], bias, attention.scale))
    return result.permute(1, 2, 0, 3).flatten(2)


def _weigh(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale queries keys + bias) values, for [H, n, d], [H, d, m], [H, m, d] and float32 [H, n, m].

    Sums and the softmax are float32 in any arithmetic; `bias` is used up.
    """
    if queries.shape[0] == 1 and queries.dtype == torch.float32:
        logits = linear_plus(queries[0] * scale, keys[0].T, bias[0])
        torch.softmax(logits, -1, out=logits)
        return linear(logits, values[0].T)[None]
    if queries.dtype == torch.float32:
        bias.baddbmm_(queries, keys, alpha=scale)
    else:
        bias += (queries * scale) @ keys
    torch.softmax(bias, -1, out=bias)
    return bias.to(values.dtype) @ values
