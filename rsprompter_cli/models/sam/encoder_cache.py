"""Maps of a frozen encoder kept on disk, so that pictures seen again are not encoded again.

On a CPU the frozen encoder is most of a training step. A run that shows each picture in a fixed
number of augmented views encodes each view once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rsprompter_cli.models.layers.image_encoder import EncoderOutput
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.models.sam.array_store import ArrayStore
from rsprompter_cli.models.trainable import is_frozen

_HALF_LIMIT = 6e4
"""Below float16's largest number, 65504."""


class EncoderCache:
    """A folder of encoder outputs by the hash of encoder and picture.

    Maps are stored in float16 (float32 where they would not fit), and a map is rounded before its
    first use too, so that it does not matter whether it was stored before.

    Args:
        folder: made when needed; several runs with the same encoder may share it.
        encoder: its weights enter the hash, and must not change while the cache is used.
        device, dtype: where and in which arithmetic the encoder runs; they enter the hash too, so that
            runs of several kinds never read each other's maps.
    """

    def __init__(self, folder: str | Path, encoder: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
        self.folder = Path(folder)
        self.hits = self.misses = 0
        self._device, self._dtype = device, dtype
        way_out = "free disk space, choose another train.cache_folder, or pass --set train.cache_views=0"
        self._store = ArrayStore(folder, f"{device.type} {dtype}", [encoder], content="encoder maps", way_out=way_out)

    def encode(self, encoder: nn.Module, batch: Tensor) -> EncoderOutput:
        """The encoder's output for normalised pictures [B, 3, S, S], computing only those not stored.

        Raises:
            OutputError: the folder cannot be written to.
        """
        paths = [self._store.path_of(str(tuple(image.shape)), image.float()) for image in batch]
        stored = [self._store.read(path) for path in paths]
        outputs = [None if maps is None else _as_output(maps, batch.device) for maps in stored]
        missing = [index for index, output in enumerate(outputs) if output is None]
        self.hits += len(paths) - len(missing)
        self.misses += len(missing)
        if missing:
            fresh: EncoderOutput = encoder(batch[missing])
            for place, index in enumerate(missing):
                maps = _maps_of(fresh, place)
                self._store.write(paths[index], maps)
                outputs[index] = _as_output(maps, batch.device)
        found = [output for output in outputs if output is not None]
        states = tuple(torch.cat(maps) for maps in zip(*(output.states for output in found), strict=True))
        return EncoderOutput(states, torch.cat([output.embedding for output in found]))

    @torch.no_grad()
    def measure(self, encoder: nn.Module, image_size: int) -> int:
        """Bytes that the maps of one picture take on disk, found by encoding a grey one."""
        mode = encoder.training
        encoder.eval()
        try:
            with autocast(self._device, self._dtype):
                output: EncoderOutput = encoder(torch.zeros(1, 3, image_size, image_size, device=self._device))
        finally:
            encoder.train(mode)
        return sum(value.nbytes for value in map(_rounded, (*output.states, output.embedding)))

    def stored_bytes(self) -> int:
        """Bytes of all maps that lie in the folder, whoever stored them."""
        return self._store.stored_bytes()


@runtime_checkable
class KeepsEncoderMaps(Protocol):
    """A model that looks for the maps of its encoder in a cache, where it is given one."""

    encoder_cache: EncoderCache | None


def _maps_of(output: EncoderOutput, index: int) -> dict[str, Tensor]:
    """What is stored of one picture of a batch, by name."""
    maps = {f"state{i:03d}": _rounded(state[index : index + 1]) for i, state in enumerate(output.states)}
    return {**maps, "embedding": _rounded(output.embedding[index : index + 1])}


def _as_output(maps: dict[str, Tensor], device: torch.device) -> EncoderOutput:
    states = tuple(maps[name].to(device).float() for name in sorted(maps) if name.startswith("state"))
    return EncoderOutput(states, maps["embedding"].to(device).float())


def _rounded(value: Tensor) -> Tensor:
    value = value.detach().float().contiguous()
    return value.half() if float(value.abs().max()) < _HALF_LIMIT else value


def encode(encoder: nn.Module, batch: Tensor, cache: EncoderCache | None) -> EncoderOutput:
    """Encode a batch; an encoder that is frozen keeps no graph.

    Args:
        encoder: obeying `EncoderOutput`.
        batch: float32 [B, 3, S, S], normalised.
        cache: maps of this encoder kept on disk, or None.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(encoder)):
        encoded: EncoderOutput = cache.encode(encoder, batch) if cache else encoder(batch)
    return encoded
