"""Tensors kept on disk by the hash of what they are computed from, so that they are not computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import atomic_path, reason_of
from rsprompter_cli.io.model_files.tensor_file import save_tensors


class ArrayStore:
    """A folder of safetensors files, one for each picture.

    Args:
        folder: made when needed; several runs may share it.
        settings: whatever else decides the content, as text; it enters the hash.
        modules: what computes the content; their weights enter the hash, and must not change while the store is used.
        content: what the files hold, for messages.
        way_out: when the folder cannot be written to.
    """

    def __init__(
        self, folder: str | Path, settings: str, modules: Iterable[nn.Module], *, content: str, way_out: str
    ) -> None:
        self._folder = Path(folder)
        self._content, self._way_out = content, way_out
        digest = hashlib.sha256(settings.encode())
        for module in modules:
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(_bytes_of(tensor))
        self._identity = digest.digest()

    def path_of(self, kind: str, picture: Tensor) -> Path:
        """The file of a picture.

        Args:
            kind: what its bytes do not tell, as its shape.
        """
        digest = hashlib.sha256(self._identity)
        digest.update(kind.encode())
        digest.update(_bytes_of(picture))
        return self._folder / f"{digest.hexdigest()}.safetensors"

    def read(self, path: Path) -> dict[str, Tensor] | None:
        """The tensors of a file, on the CPU; None when there is none, or a damaged one, which is to be written anew."""
        try:
            return load_file(path)
        except (FileNotFoundError, SafetensorError):
            return None

    def write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a file of contiguous tensors, atomically.

        Raises:
            OutputError: the folder cannot be written to.
        """
        try:
            # Not flushed: what a power cut takes is computed again.
            with atomic_path(path, flush=False) as temporary:
                save_tensors({name: value.cpu() for name, value in tensors.items()}, temporary)
        except (OutputError, SafetensorError) as error:
            fault = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise OutputError(
                f"{self._folder}: {self._content} cannot be stored: {reason_of(fault)}", self._way_out
            ) from error

    def stored_bytes(self) -> int:
        """Bytes of all files in the folder, whoever stored them."""
        return sum(path.stat().st_size for path in self._folder.glob("[!.]*.safetensors"))


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
