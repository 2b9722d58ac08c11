"""The encoder's layers without gradients, and run again for gradients, against the plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.config import TinyVitArch, VitArch
from rsprompter_cli.models.builders.sam import build_encoder
from rsprompter_cli.models.cpu import attention
from rsprompter_cli.models.sam.lora import add_lora
from tests.make.tiny_models import TINY_DECODER, TINY_VIT

TINY_TINY_VIT = TinyVitArch(
    embed_dims=(8, 8, 8, 8), depths=(1, 1, 2, 1), num_heads=(1, 1, 1, 1), window_sizes=(4, 4, 4, 4),
    output_channels=16, pretrained_image_size=64, decoder=TINY_DECODER,
)  # fmt: skip


def _encoder(arch: VitArch | TinyVitArch, *, lora: bool = False, checkpoint_layers: bool = False) -> nn.Module:
    torch.manual_seed(4)
    encoder = build_encoder(arch, 64, checkpoint_layers=checkpoint_layers)
    if lora:
        add_lora(encoder, r=2, alpha=4, dropout=0.3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return encoder


@pytest.mark.parametrize("at_once", [1, 40, 300, 1 << 20])
@pytest.mark.parametrize("lora", [False, True])
def test_layers_without_gradients_equal_transformers(at_once: int, lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr(attention, "_CELLS_AT_ONCE", 5)
    encoder = _encoder(TINY_VIT, lora=lora).eval()
    pixels = torch.randn(2, 3, 64, 64)
    plain = encoder(pixels)
    with torch.no_grad():
        ours = encoder(pixels)
    for state, expected in zip(ours.states, plain.states, strict=True):
        torch.testing.assert_close(state, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.embedding, plain.embedding.detach(), rtol=1e-4, atol=1e-5)


def test_half_the_precision_is_no_worse_than_transformers() -> None:
    layer = _encoder(TINY_VIT).vit.layers[0].eval()  # type: ignore[union-attr, index]
    cells = torch.randn(1, 4, 4, 16)
    with torch.no_grad():
        exact = layer(cells)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = attention.vit_layer(layer, cells), layer(cells)
    assert 0 < (ours - exact).abs().max() < 2 * (theirs - exact).abs().max()


def _step(encoder: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(9)
    output = encoder.train()(pixels)
    (output.embedding.sin().sum() + sum(state.sin().sum() for state in output.states)).backward()
    found = {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}
    return found | dict(encoder.named_buffers()) | {"embedding": output.embedding.detach()}


@pytest.mark.parametrize(
    "make",
    [
        lambda again: _encoder(TINY_VIT, checkpoint_layers=again),
        lambda again: _encoder(TINY_VIT, lora=True, checkpoint_layers=again),
        lambda again: _encoder(TINY_TINY_VIT, checkpoint_layers=again),
    ],
)
def test_running_layers_again_changes_nothing(make: Callable[[bool], nn.Module]) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    plain, again = (_step(make(flag), pixels) for flag in (False, True))
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_running_layers_again_keeps_less() -> None:
    def kept(again: bool) -> int:
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        encoder = _encoder(TINY_VIT, checkpoint_layers=again).train()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            encoder(torch.randn(2, 3, 64, 64))
        return total

    assert kept(True) < kept(False) / 2
