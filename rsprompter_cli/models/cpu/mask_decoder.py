"""SAM's mask decoder, computed with far fewer operations than transformers' modules do, over their weights.

Source: SAM's two-way transformer and mask upscaling (arXiv 2304.02643), in transformers' SamMaskDecoder.
The result is the same up to rounding, in float32 and for gradients. What is rearranged:

- All prompts of an image share the first layer's image side, where the dense prompt is the same.
- A prompt has few tokens, the map thousands of cells: a projection of the cells that meets a projection
  of the tokens is moved over to the tokens, q.(Wk) = (qW).k, and values are mixed before they are projected.
- Terms that a softmax ignores (the key's bias) are left out; others that pass through its weights, which
  sum to one (the value's and the output's bias), are added where that costs nothing.
- The last attention and the heads are computed for the tokens that are asked for.
- Transposed convolutions of stride = kernel are linear maps of a cell; cells are put in order at the very end.
- On a CPU, and without gradients, the cells go through a layer in blocks that stay in the cache, in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.models.cpu.linear import linear, linear_gelu, linear_plus

_BYTES_AT_ONCE = 1 << 20
"""Of one prompt's cells, what is worked on at a time: with what is made of it the caches of two cores hold it."""


class SharedImage:
    """The image side of the first layer, for all prompts of an image that have the same dense prompt.

    Args:
        layer: the first SamTwoWayAttentionBlock.
        cells: [hw, C] embedding plus dense prompt.
        positions: [hw, C].
    """

    def __init__(self, layer: Any, cells: Tensor, positions: Tensor) -> None:
        placed = cells + positions
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        self.cells = cells
        self.keys = to_image.k_proj(placed)
        self.values = to_image.v_proj(cells)
        self.queries = to_tokens.q_proj(placed)


def decode(
    decoder: Any,
    cells: Tensor | SharedImage,
    positions: Tensor,
    prompts: Tensor,
    masks: slice,
    *,
    size: tuple[int, int],
    room: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Masks and their quality for a few prompts.

    Args:
        decoder: transformers' SamMaskDecoder.
        cells: [n, hw, C] embedding plus dense prompt of each, or what all n share.
        positions: [hw, C].
        prompts: [n, Kp, C].
        masks: which of the decoder's mask tokens are asked for.
        size: h and w.
        room: [n, hw, C] memory to hold the cells, the same from call to call, where no gradient is kept;
            overwritten, and it may be `cells` itself. New memory costs more than what is computed in it.

    Returns:
        logits [n, M, 4h, 4w], quality [n, M].
    """
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # [1 + masks, C]
    start = torch.cat([outputs.expand(prompts.shape[0], -1, -1), prompts.to(outputs.dtype)], dim=1)  # [n, T, C]
    tokens, image = start, cells
    for layer in decoder.transformer.layers:
        tokens, image = _two_way_layer(layer, tokens, start, image, positions, room)
    assert isinstance(image, Tensor)
    wanted = torch.cat([tokens[:, :1], tokens[:, 1:][:, masks]], dim=1)  # [n, 1 + M, C]
    first = torch.cat([start[:, :1], start[:, 1:][:, masks]], dim=1)
    transformer = decoder.transformer
    wanted = wanted + _read(transformer.final_attn_token_to_image, wanted + first, image, positions, room)
    wanted = transformer.layer_norm_final_attn(wanted)
    heads = decoder.output_hypernetworks_mlps[masks]
    filters = torch.stack([head(wanted[:, 1 + index]) for index, head in enumerate(heads)], dim=1)  # [n, M, C / 8]
    quality = decoder.iou_prediction_head(wanted[:, 0])[:, masks]
    return _draw(decoder, image, filters, size), quality


def _two_way_layer(
    layer: Any, tokens: Tensor, start: Tensor, image: Tensor | SharedImage, positions: Tensor, room: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One SamTwoWayAttentionBlock: tokens [n, T, C] and cells [n, hw, C] after it."""
    if layer.skip_first_layer_pe:
        tokens = _attend(layer.self_attn, tokens, tokens)
    else:
        tokens = tokens + _attend(layer.self_attn, tokens + start, tokens)
    tokens = layer.layer_norm1(tokens)
    to_image = layer.cross_attn_token_to_image
    if isinstance(image, SharedImage):
        tokens = tokens + _read_shared(to_image, tokens + start, image)
    else:
        tokens = tokens + _read(to_image, tokens + start, image, positions, room)
    tokens = layer.layer_norm2(tokens)
    tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
    return tokens, _write(layer, tokens, tokens + start, image, positions, room)


def _write(
    layer: Any, tokens: Tensor, keys: Tensor, image: Tensor | SharedImage, positions: Tensor, room: Tensor | None
) -> Tensor:
    """The cells [n, hw, C] after a SamTwoWayAttentionBlock: each has read the tokens [n, T, C]."""
    attention, norm = layer.cross_attn_image_to_token, layer.layer_norm4
    heads = attention.num_attention_heads
    answers = _answers(attention, tokens)  # [n, HT, C]
    if room is None:
        if isinstance(image, SharedImage):
            cells, logits = image.cells.expand(tokens.shape[0], -1, -1), _shared_logits(attention, keys, image)
        else:
            cells, asked = image, _asked(attention, keys)
            logits = asked.bias + asked.map @ positions.T
            logits = torch.baddbmm(logits, asked.map, cells.transpose(1, 2))  # [n, HT, hw]
        return norm(torch.baddbmm(cells, _over_tokens(logits, heads).transpose(1, 2), answers))
    if isinstance(image, SharedImage):
        map_, bias = _apart(attention, keys), None  # [n, HT, Hd]
    else:
        map_, bias = _asked(attention, keys)
    for index, result in enumerate(room[: tokens.shape[0]]):
        own = image.cells if isinstance(image, SharedImage) else image[index]
        answer = answers[index].T
        for part in _blocks(own):
            read = image.queries[part] if isinstance(image, SharedImage) else own[part] + positions[part]
            logits = linear(map_[index], read)  # [HT, hw']
            if bias is not None:
                logits += bias[index]
            weights = _over_tokens(logits[None], heads)[0]
            result[part] = norm(linear_plus(weights.T, answer, own[part]))
    return room[: tokens.shape[0]]


class _Asked(NamedTuple):
    """Logits of a cell c that reads a prompt's tokens: map c + bias."""

    map: Tensor
    """[n, HT, C]."""
    bias: Tensor
    """[n, HT, 1]."""


def _asked(attention: Any, keys: Tensor) -> _Asked:
    """The logits with which cells read the tokens `keys` [n, T, C]."""
    heads = attention.num_attention_heads
    known = _split(attention.k_proj(keys), heads) * attention.scaling  # [n, H, T, d]
    bias = known @ attention.q_proj.bias.unflatten(0, (heads, -1))[:, :, None]  # [n, H, T, 1]
    return _Asked(_folded(known, attention.q_proj), bias.flatten(1, 2))


def _blocks(cells: Tensor) -> list[slice]:
    """Slices of the cells [hw, C], a block each."""
    step = _cells_at_once(cells)
    return [slice(first, first + step) for first in range(0, cells.shape[0], step)]


def _cells_at_once(cells: Tensor) -> int:
    """How many cells [.., C] make a block."""
    return max(1, _BYTES_AT_ONCE // (cells.shape[-1] * cells.element_size()))


def _attend(attention: Any, queries: Tensor, values: Tensor) -> Tensor:
    """A SamAttention among tokens: queries, which are the keys too, and values [n, T, C] -> [n, T, C]."""
    heads = attention.num_attention_heads
    mixed = F.scaled_dot_product_attention(
        _split(attention.q_proj(queries), heads),
        _split(attention.k_proj(queries), heads),
        _split(attention.v_proj(values), heads),
        scale=attention.scaling,
    )
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _read(attention: Any, queries: Tensor, image: Tensor, positions: Tensor, room: Tensor | None) -> Tensor:
    """A SamAttention of tokens that read cells, projections of the cells moved over to the tokens.

    Args:
        queries: [n, T, C] tokens.
        image: [n, hw, C] what the values are made of, and with `positions` [hw, C] the keys.
        room: given where no gradient is kept.

    Returns:
        [n, T, C].
    """
    heads, count = attention.num_attention_heads, queries.shape[1]
    asked = _folded(_split(attention.q_proj(queries), heads) * attention.scaling, attention.k_proj)  # [n, HT, C]
    if room is None:
        logits = torch.baddbmm(asked @ positions.T, asked, image.transpose(1, 2))  # [n, HT, hw]
        mixed = logits.softmax(-1) @ image  # [n, HT, C]
    else:
        mixed = torch.stack([_mixed(one, own, positions) for one, own in zip(asked, image, strict=True)])
    mixed = mixed.unflatten(1, (heads, count))  # [n, H, T, C]
    by_head = attention.v_proj.weight.unflatten(0, (heads, -1))  # [H, d, C]
    values = (mixed @ by_head.transpose(1, 2)).transpose(1, 2).flatten(2)  # [n, T, Hd]
    return attention.out_proj(values + attention.v_proj.bias)


def _mixed(asked: Tensor, cells: Tensor, positions: Tensor) -> Tensor:
    """The mean of the cells [hw, C] by the weights that [HT, C] give them: [HT, C]."""
    logits = [linear(asked, cells[part] + positions[part]) for part in _blocks(cells)]
    return linear(torch.cat(logits, dim=1).softmax(-1), cells.T)


def _read_shared(attention: Any, queries: Tensor, image: SharedImage) -> Tensor:
    """The same where the cells' projections are shared by all n prompts."""
    heads = attention.num_attention_heads
    # The tokens of all prompts are one long list of queries.
    mixed = F.scaled_dot_product_attention(
        _split(attention.q_proj(queries).flatten(0, 1)[None], heads),  # [1, H, nT, d]
        _split(image.keys[None], heads),
        _split(image.values[None], heads),
        scale=attention.scaling,
    )
    return attention.out_proj(mixed.transpose(1, 2).flatten(2).unflatten(1, queries.shape[:2])[0])


def _shared_logits(attention: Any, keys: Tensor, image: SharedImage) -> Tensor:
    """Logits [n, HT, hw] of shared cells that read the tokens `keys` [n, T, C]."""
    heads = attention.num_attention_heads
    known = _split(attention.k_proj(keys).flatten(0, 1)[None], heads)[0] * attention.scaling  # [H, nT, d]
    logits = known @ _split(image.queries[None], heads)[0].transpose(1, 2)  # [H, nT, hw]
    count, tokens = keys.shape[:2]
    return logits.unflatten(1, (count, tokens)).transpose(0, 1).reshape(count, heads * tokens, -1)


def _apart(attention: Any, keys: Tensor) -> Tensor:
    """The tokens `keys` [n, T, C] as cells' queries meet them, each head's in its own columns: [n, HT, Hd]."""
    heads = attention.num_attention_heads
    known = _split(attention.k_proj(keys), heads) * attention.scaling  # [n, H, T, d]
    apart = known.new_zeros((*known.shape[:3], heads, known.shape[-1]))  # [n, H, T, H, d]
    apart.diagonal(dim1=1, dim2=3).copy_(known.permute(0, 2, 3, 1))
    return apart.flatten(3).flatten(1, 2)


def _folded(tokens: Tensor, projection: Any) -> Tensor:
    """Projected tokens [n, H, T, d] taken back through the projection of the cells they meet: [n, HT, C]."""
    weight = projection.weight.unflatten(0, (tokens.shape[1], -1))  # [H, d, C]
    return (tokens @ weight).flatten(1, 2)


def _answers(attention: Any, tokens: Tensor) -> Tensor:
    """What a cell takes over from each head and token: values after the output's projection, [n, HT, C]."""
    heads = attention.num_attention_heads
    values = _split(attention.v_proj(tokens), heads)  # [n, H, T, d]
    back = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # [H, d, C]
    # The weights of each head sum to one: its share of the bias arrives whole.
    return (values @ back + attention.out_proj.bias / heads).flatten(1, 2)


def _over_tokens(logits: Tensor, heads: int) -> Tensor:
    """Softmax of [n, HT, hw] over each head's tokens."""
    return logits.unflatten(1, (heads, -1)).softmax(2).flatten(1, 2)


def _split(values: Tensor, heads: int) -> Tensor:
    """[n, T, Hd] to [n, H, T, d]."""
    return values.unflatten(2, (heads, -1)).transpose(1, 2)


def _draw(decoder: Any, cells: Tensor, filters: Tensor, size: tuple[int, int]) -> Tensor:
    """Upscale cells [n, hw, C] four times and apply each prompt's filters [n, M, C / 8]: [n, M, 4h, 4w]."""
    first, second = _as_linear(decoder.upscale_conv1), _as_linear(decoder.upscale_conv2)
    norm = decoder.upscale_layer_norm

    def upscaled(some: Tensor) -> Tensor:
        """Cells [.., hw', C] to values [.., hw' x 2 x 2 x 2 x 2, C / 8]."""
        halves = linear(some, *first).unflatten(-1, (4, -1))  # [.., hw', 2 x 2, C / 4]
        halves = F.gelu(F.layer_norm(halves, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        quarters = linear_gelu(halves.flatten(-3, -2), *second)  # [.., hw' x 4, 2 x 2 x C / 8]
        return quarters.unflatten(-1, (4, -1)).flatten(-3, -2)

    if torch.compiler.is_exporting():  # a graph has no loop over prompts
        drawn = filters @ upscaled(cells).transpose(1, 2)
    else:
        drawn = torch.stack(
            [
                torch.cat([own @ upscaled(part).T for part in some.split(_cells_at_once(some))], dim=1)
                for some, own in zip(cells, filters, strict=True)
            ]
        )  # [n, M, hw x 2 x 2 x 2 x 2]
    rows, columns = size
    maps = drawn.unflatten(2, (*size, 2, 2, 2, 2))  # rows and columns of cells, halves, quarters
    return maps.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*maps.shape[:2], 4 * rows, 4 * columns)


def _as_linear(convolution: Any) -> tuple[Tensor, Tensor]:
    """Weight [4 O, I] and bias [4 O] that map a cell as a transposed 2 x 2 convolution of stride 2 does."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [I, O, 2, 2] -> [2 x 2 x O, I]
    return weight, convolution.bias.repeat(4)
