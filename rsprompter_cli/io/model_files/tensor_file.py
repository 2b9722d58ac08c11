"""Writing tensors to a file as safetensors does, but with the permissions of any other new file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    safetensors makes a file that its owner alone can read. Here the process's mask decides, as for every other file.

    Args:
        tensors: contiguous, on the CPU.
        path: of the file; an older one is replaced.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)
