"""The pass of TinyViT for CPUs gives what timm's modules give, wherever oneDNN's fused layers exist and where not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.models.cpu import linear, tiny_vit
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.models.sam.tiny_vit import TinyVitEncoder

SMALL: dict[str, Any] = {
    "embed_dims": (8, 8, 12, 16),
    "depths": (2, 1, 2, 1),
    "num_heads": (1, 2, 3, 4),
    "window_sizes": (7, 3, 4, 3),
    "output_channels": 8,
    "image_size": 32,
}


def encoder_of(seed: int) -> TinyVitEncoder:
    """A small encoder in evaluation, whose norms and biases are no ones and zeros."""
    torch.manual_seed(seed)
    encoder = TinyVitEncoder(**SMALL).eval()
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.2 * torch.rand_like(tensor) if "var" in name else 0.2 * torch.randn_like(tensor)
    return encoder


@pytest.fixture(params=["fused", "plain"])
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "fused" and not linear._FUSES:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(linear, "_FUSES", request.param == "fused")
    return str(request.param)


def both(encoder: TinyVitEncoder, pixels: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """States and embedding of timm's modules, and of the pass without gradients."""
    with torch.enable_grad():
        slow = encoder(pixels)
    with torch.no_grad():
        fast = encoder(pixels)
    return [*slow.states, slow.embedding], [*fast.states, fast.embedding]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 14), st.integers(1, 14))
def test_it_equals_timms_modules_at_any_size(seed: int, batch: int, rows: int, columns: int) -> None:
    pixels = torch.randn(batch, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(seed))
    slow, fast = both(encoder_of(seed), pixels)
    for one, other in zip(slow, fast, strict=True):
        torch.testing.assert_close(other, one.detach(), rtol=1e-4, atol=1e-4)


def test_with_and_without_onednn(layers: str) -> None:
    slow, fast = both(encoder_of(1), torch.randn(2, 3, 64, 64))
    for one, other in zip(slow, fast, strict=True):
        torch.testing.assert_close(other, one.detach(), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near(layers: str) -> None:
    encoder, pixels = encoder_of(2), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = encoder(pixels).embedding
        with autocast(torch.device("cpu"), torch.bfloat16):
            rounded = encoder(pixels).embedding.float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_each_picture_is_independent_of_its_batch() -> None:
    encoder, pixels = encoder_of(3), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together = encoder(pixels).embedding
        alone = torch.cat([encoder(one[None]).embedding for one in pixels])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_changed_weights_count_at_once() -> None:
    encoder, pixels = encoder_of(4), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = encoder(pixels).embedding
        for buffer in encoder.buffers():
            if buffer.is_floating_point():
                buffer += 0.5
        after = encoder(pixels).embedding
    assert not torch.allclose(before, after)
    slow, fast = both(encoder, pixels)
    torch.testing.assert_close(fast[-1], slow[-1].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inner_bytes", [1, 2000, 5000, 12_000])
def test_it_is_the_same_in_strips_of_any_height(inner_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    slow, whole = both(encoder_of(1), pixels)
    monkeypatch.setattr(tiny_vit, "_INNER_BYTES", inner_bytes)
    _, strips = both(encoder_of(1), pixels)
    for one, other, third in zip(slow, whole, strips, strict=True):
        torch.testing.assert_close(third, one.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(third, other, rtol=1e-5, atol=1e-5)
