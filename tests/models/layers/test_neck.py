"""The neck on fabricated encoder maps: norms, shapes, the running sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rsprompter_cli.models.layers.image_encoder import EncoderOutput
from rsprompter_cli.models.layers.neck import LastAggregator, LayerNorm2d, LayersAggregator, Splitter


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_layer_norm_over_channels_adds_eps_to_the_variance(eps: float) -> None:
    norm = LayerNorm2d(8, eps=eps)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(8))
        norm.bias.copy_(torch.rand(8))
    # A variance as small as eps, so that the wrong eps is far off.
    maps = torch.randn(2, 8, 5, 6) * eps**0.5
    mean = maps.mean(1, keepdim=True)
    variance = maps.var(1, keepdim=True, unbiased=False)
    expected = (maps - mean) / (variance + eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert torch.allclose(norm(maps), expected, atol=1e-5)


def test_norms_of_the_splitter_and_the_last_aggregator_differ_in_eps() -> None:
    splitter = Splitter(channels=16, stride=16)
    assert {one.eps for one in splitter.modules() if isinstance(one, LayerNorm2d)} == {1e-5}
    last = LastAggregator(in_channels=8, hidden_channels=12, out_channels=16)
    assert {one.eps for one in last.modules() if isinstance(one, LayerNorm2d)} == {1e-6}


def test_running_sum_of_the_aggregator() -> None:
    torch.manual_seed(0)
    aggregator = LayersAggregator(state_channels=(4, 5, 6), layers=(2, 0), hidden_channels=3, out_channels=8).eval()
    encoded = EncoderOutput(tuple(torch.randn(1, width, 4, 4) for width in (4, 5, 6)), torch.randn(1, 9, 4, 4))
    first = aggregator.reduce[0](encoded.states[2])
    first = first + aggregator.residual[0](first)
    second = first + aggregator.reduce[1](encoded.states[0])
    second = second + aggregator.residual[1](second)
    assert torch.allclose(aggregator(encoded), aggregator.fuse(second))


def test_last_aggregator_has_no_activation() -> None:
    last = LastAggregator(in_channels=8, hidden_channels=12, out_channels=16)
    encoded = EncoderOutput((), torch.randn(1, 8, 4, 4))
    maps = encoded.embedding
    for conv, norm in ((0, 1), (2, 3), (4, 5)):
        maps = last.fuse[norm](last.fuse[conv](maps))
    assert torch.equal(last(encoded), maps)


@pytest.mark.parametrize("stride", [4, 16])
def test_levels_halve_from_stride_4_on(stride: int) -> None:
    levels = Splitter(channels=16, stride=stride)(torch.randn(2, 16, 256 // stride, 256 // stride))
    assert [tuple(level.shape) for level in levels] == [(2, 16, side, side) for side in (64, 32, 16, 8, 4)]
    assert torch.equal(levels[4], F.max_pool2d(levels[3], 1, stride=2))


def test_a_map_of_stride_4_is_its_own_first_level_and_is_pooled() -> None:
    splitter = Splitter(channels=16, stride=4)
    maps = torch.randn(1, 16, 64, 64)
    levels = splitter(maps)
    pooled = maps
    for index in range(4):
        assert torch.allclose(levels[index], splitter.output[index](splitter.lateral[index](pooled)))
        pooled = F.max_pool2d(pooled, 2)


def test_other_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="stride 4 or 16, not 8"):
        Splitter(channels=16, stride=8)
