"""Masked attention: what a query must not see, and what it sees when it must see nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.models.layers.pixel_decoder import PixelMaps
from rsprompter_cli.models.layers.query_decoder import QueryDecoder, QueryLayer, hidden_cells, mask_logits


def _layer() -> QueryLayer:
    torch.manual_seed(0)
    return QueryLayer(channels=8, heads=2, feedforward=16).eval()


def _call(layer: QueryLayer, cells: Tensor, hidden: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    queries, places = torch.randn(2, 3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    with torch.no_grad():
        return layer(queries, places, cells, torch.zeros(1, cells.shape[1], 8), hidden)


def test_hidden_cells_are_not_read() -> None:
    layer, cells = _layer(), torch.randn(2, 5, 8)
    hidden = torch.zeros(2, 3, 5, dtype=torch.bool)
    hidden[0, :, 4] = True
    changed = cells.clone()
    changed[:, 4] += 10
    before, after = _call(layer, cells, hidden), _call(layer, changed, hidden)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_a_mask_is_the_same_for_every_head_and_its_own_for_every_query() -> None:
    layer = _layer()
    cells = torch.randn(1, 4, 8).expand(2, 4, 8)
    hidden = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(5)) < 0.5
    together = _call(layer, cells, hidden)
    attention = layer.cross_attention
    for head in range(2):
        # Silencing all other heads shows one head's answer: it must obey the same mask.
        kept = slice(head * 4, head * 4 + 4)
        with torch.no_grad():
            weight = attention.out_proj.weight.clone()
            attention.out_proj.weight.zero_()
            attention.out_proj.weight[:, kept] = weight[:, kept]
        loud = cells.clone()
        loud[:, 2] += 100
        quiet = hidden | (torch.arange(4) == 2)
        quiet[..., 0] = False  # never all hidden
        assert torch.equal(_call(layer, cells, quiet), _call(layer, loud, quiet))
        with torch.no_grad():
            attention.out_proj.weight.copy_(weight)
    assert torch.equal(together, _call(layer, cells, hidden))


def test_a_query_whose_cells_are_all_hidden_sees_all() -> None:
    layer, cells = _layer(), torch.randn(2, 5, 8)
    none = torch.zeros(2, 3, 5, dtype=torch.bool)
    every = none.clone()
    every[1, 2] = True
    seen = _call(layer, cells, every)
    assert bool(torch.isfinite(seen).all())
    torch.testing.assert_close(seen, _call(layer, cells, none))


def test_cells_outside_the_claimed_mask_are_hidden() -> None:
    embed = torch.tensor([[[1.0], [-1.0], [0.0]]])  # 3 queries, 1 feature
    features = torch.tensor([[[[4.0, 4.0], [-4.0, -4.0]]]])  # upper half inside
    hidden = hidden_cells(embed, features, (4, 2))
    inside = hidden.reshape(3, 4, 2)
    assert not inside[0, :2].any()
    assert inside[0, 2:].all()
    assert inside[1, :2].all()
    assert not inside[1, 2:].any()
    # A logit of 0 is probability .5, which is not hidden.
    assert not inside[2].any()
    assert torch.equal(mask_logits(embed, features)[0, 1], -features[0, 0])


def _decoder(layers: int) -> QueryDecoder:
    torch.manual_seed(4)
    return QueryDecoder(
        queries=6, channels=8, heads=2, feedforward=16, layers=layers, mask_channels=5, class_head=nn.Linear(8, 4)
    ).eval()


def _maps() -> PixelMaps:
    generator = torch.Generator().manual_seed(6)
    levels = tuple(torch.randn(2, 8, side, side, generator=generator) for side in (1, 2, 4))
    return PixelMaps(levels, torch.randn(2, 5, 16, 16, generator=generator))


def test_one_output_before_the_first_round_and_one_after_each() -> None:
    outputs = _decoder(4)(_maps())
    assert len(outputs) == 5
    for output in outputs:
        assert output.states.shape == (2, 6, 8)
        assert output.class_logits.shape == (2, 6, 4)
        assert output.mask_embed.shape == (2, 6, 5)
    # The first knows nothing of the picture yet.
    assert torch.equal(outputs[0].states[0], outputs[0].states[1])
    assert not torch.allclose(outputs[1].states[0], outputs[1].states[1])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_round_i_looks_at_level_i_modulo_3(level: int) -> None:
    decoder, maps = _decoder(5), _maps()
    changed = list(maps.levels)
    changed[level] = changed[level] + 3 * torch.randn(changed[level].shape, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        before, after = decoder(maps), decoder(PixelMaps(tuple(changed), maps.mask_features))
    same = [torch.equal(a.states, b.states) for a, b in zip(before, after, strict=True)]
    assert same == [index <= level for index in range(6)]
