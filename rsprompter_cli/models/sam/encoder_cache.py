"""Maps of a frozen encoder kept on disk, so that pictures seen again are not encoded again.

On a CPU the frozen encoder is most of a training step. A run that shows each picture in a fixed
number of augmented views encodes each view once.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import reason_of
from rsprompter_cli.io.model_files.tensor_file import save_tensors
from rsprompter_cli.models.layers.image_encoder import EncoderOutput
from rsprompter_cli.models.precision import autocast
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
        digest = hashlib.sha256(f"{device.type} {dtype}".encode())
        add_weights(digest, encoder)
        self._identity = digest.digest()

    def encode(self, encoder: nn.Module, batch: Tensor) -> EncoderOutput:
        """The encoder's output for normalised pictures [B, 3, S, S], computing only those not stored.

        Raises:
            OutputError: the folder cannot be written to.
        """
        paths = [self._path(image) for image in batch]
        outputs = [self._load(path, batch.device) for path in paths]
        missing = [index for index, output in enumerate(outputs) if output is None]
        self.hits += len(paths) - len(missing)
        self.misses += len(missing)
        if missing:
            fresh: EncoderOutput = encoder(batch[missing])
            for place, index in enumerate(missing):
                outputs[index] = self._store(paths[index], fresh, place)
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
        if not self.folder.is_dir():
            return 0
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def _path(self, image: Tensor) -> Path:
        digest = hashlib.sha256(self._identity)
        digest.update(str(tuple(image.shape)).encode())
        digest.update(image.detach().float().cpu().contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def _load(self, path: Path, device: torch.device) -> EncoderOutput | None:
        try:
            maps = load_file(path)
        except (FileNotFoundError, SafetensorError):
            # A damaged file counts as missing: it is rewritten.
            return None
        return _as_output(maps, device)

    def _store(self, path: Path, output: EncoderOutput, index: int) -> EncoderOutput:
        maps = {f"state{i:03d}": _rounded(state[index : index + 1]) for i, state in enumerate(output.states)}
        maps["embedding"] = _rounded(output.embedding[index : index + 1])
        temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_tensors({name: value.cpu() for name, value in maps.items()}, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"{self.folder}: encoder maps cannot be stored: {reason_of(error)}",
                "free disk space, choose another train.cache_folder, or pass --set train.cache_views=0",
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()
        return _as_output(maps, output.embedding.device)


@runtime_checkable
class KeepsEncoderMaps(Protocol):
    """A model that looks for the maps of its encoder in a cache, where it is given one."""

    encoder_cache: EncoderCache | None


def add_weights(digest: hashlib._Hash, module: nn.Module) -> None:
    """Let the names and values of a module's weights enter a hash."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


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
