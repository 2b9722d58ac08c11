"""Encoder maps kept on disk are the encoder's, rounded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.errors import OutputError
from rsprompter_cli.models.layers.image_encoder import EncoderOutput
from rsprompter_cli.models.sam.encoder_cache import EncoderCache


class _Encoder(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.scale = scale
        self.images = 0

    def forward(self, batch: Tensor) -> EncoderOutput:
        self.images += len(batch)
        first = self.conv(batch) * self.scale
        return EncoderOutput((first, first + 1), first * 2)


def _cache(folder: Path, encoder: nn.Module, device: str = "cpu", dtype: torch.dtype = torch.float32) -> EncoderCache:
    return EncoderCache(folder, encoder, device=torch.device(device), dtype=dtype)


def _equal(a: EncoderOutput, b: EncoderOutput) -> bool:
    pairs = [*zip(a.states, b.states, strict=True), (a.embedding, b.embedding)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_picture_is_encoded_once_and_gives_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, batch = _Encoder(), torch.randn(3, 3, 16, 16)
    cache = _cache(tmp_path, encoder)
    first = cache.encode(encoder, batch)
    again = _cache(tmp_path, encoder).encode(encoder, batch)
    mixed = cache.encode(encoder, torch.cat([torch.randn(1, 3, 16, 16), batch[:1]]))
    assert encoder.images == 4
    assert (cache.hits, cache.misses) == (1, 4)
    assert _equal(first, again)
    assert torch.equal(mixed.embedding[1:], first.embedding[:1])
    plain = encoder(batch)
    for kept, exact in zip((*first.states, first.embedding), (*plain.states, plain.embedding), strict=True):
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept, exact, rtol=1e-3, atol=1e-3)


def test_other_weights_give_other_maps(tmp_path: Path) -> None:
    batch = torch.randn(1, 3, 16, 16)
    torch.manual_seed(0)
    one = _Encoder()
    other = _Encoder()
    _cache(tmp_path, one).encode(one, batch)
    _cache(tmp_path, other).encode(other, batch)
    assert other.images == 1


def test_other_arithmetic_or_devices_share_no_map(tmp_path: Path) -> None:
    encoder, batch = _Encoder(), torch.randn(1, 3, 16, 16)
    for number, (device, dtype) in enumerate(
        (("cpu", torch.float32), ("cpu", torch.bfloat16), ("meta", torch.float32))
    ):
        _cache(tmp_path, encoder, device, dtype).encode(encoder, batch)
        assert encoder.images == number + 1
        _cache(tmp_path, encoder, device, dtype).encode(encoder, batch)
        assert encoder.images == number + 1


def test_the_measured_size_is_that_of_the_file(tmp_path: Path) -> None:
    encoder = _Encoder()
    cache = _cache(tmp_path, encoder)
    assert cache.stored_bytes() == 0
    each = cache.measure(encoder, 16)
    # Three maps of 4 channels on 4 x 4 places in float16.
    assert each == 3 * 4 * 16 * 2
    assert encoder.training
    cache.encode(encoder, torch.randn(2, 3, 16, 16))
    header = 1000
    assert 2 * each < cache.stored_bytes() < 2 * (each + header)


def test_large_values_stay_finite(tmp_path: Path) -> None:
    encoder = _Encoder(scale=1e6)
    output = _cache(tmp_path, encoder).encode(encoder, torch.randn(1, 3, 16, 16) + 3)
    assert torch.isfinite(output.embedding).all()


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    encoder, batch = _Encoder(), torch.randn(1, 3, 16, 16)
    cache = _cache(tmp_path, encoder)
    first = cache.encode(encoder, batch)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert _equal(cache.encode(encoder, batch), first)
    assert encoder.images == 2
    assert _equal(cache.encode(encoder, batch), first)
    assert encoder.images == 2


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rsprompter_cli.io.atomic.os.replace", full)
    encoder = _Encoder()
    with pytest.raises(OutputError, match="No space left") as caught:
        _cache(tmp_path, encoder).encode(encoder, torch.randn(1, 3, 16, 16))
    assert "cache_views=0" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
