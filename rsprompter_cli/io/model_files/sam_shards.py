"""Weights of a SAM in a folder as Hugging Face's libraries save them: one file or several, safetensors or pickled."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsprompter_cli.errors import CheckpointError, some
from rsprompter_cli.io.model_files.checkpoint import read_safetensors
from rsprompter_cli.io.model_files.sam_folder import SAM_CONFIG_FILE, SAM_WEIGHTS_FILE, file_sha256, read_json
from rsprompter_cli.io.model_files.unpickle import load_state_dict

if TYPE_CHECKING:
    from torch import Tensor

PICKLE_FILE = "pytorch_model.bin"
_INDEX = ".index.json"
WEIGHTS_FILES = (SAM_WEIGHTS_FILE, SAM_WEIGHTS_FILE + _INDEX, PICKLE_FILE, PICKLE_FILE + _INDEX)
"""Where the weights are looked for; an index names the files that hold parts of them. The first is taken."""
_LOOSE = (".pth", ".pt", ".bin")


@dataclass(frozen=True, eq=False)
class SavedWeights:
    """Weights in a folder, not yet read.

    path: the file, or the index of several. parts: the files, with the keys that an index gives each, else None.
    sha256: of the file, or of the hashes of all parts.
    """

    path: Path
    parts: dict[Path, frozenset[str] | None]
    sha256: str

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by key.

        Raises:
            CheckpointError: a part is damaged or refused, or contains other keys than the index lists.
        """
        tensors: dict[str, Tensor] = {}
        for part, keys in self.parts.items():
            read = read_safetensors(part) if part.suffix == ".safetensors" else load_state_dict(part)
            if keys is not None and read.keys() != keys:
                differing = sorted(keys ^ read.keys())
                raise CheckpointError(
                    f"{part}: its tensors differ from those listed in {self.path.name}: {some(differing)}",
                    "copy the whole folder again",
                )
            tensors |= read
        return tensors


def find_saved_weights(folder: Path) -> SavedWeights:
    """The weights in a folder that is to be made a SAM folder.

    Raises:
        CheckpointError: no configuration or no weights, an index that is damaged or names files that are not there.
    """
    present = [name for name in WEIGHTS_FILES if os.path.isfile(folder / name)]
    if not present or not os.path.isfile(folder / SAM_CONFIG_FILE):
        lacking = [SAM_CONFIG_FILE] * (not os.path.isfile(folder / SAM_CONFIG_FILE))
        lacking += [f"{SAM_WEIGHTS_FILE} or {PICKLE_FILE}"] * (not present)
        raise CheckpointError(
            f"{folder}: not a SAM in Hugging Face's layout, it lacks {' and '.join(lacking)}", _what_else(folder)
        )
    path = folder / present[0]
    if not path.name.endswith(_INDEX):
        return SavedWeights(path, {path: None}, file_sha256(path))
    parts = _indexed(path)
    hashes = "".join(file_sha256(part) for part in sorted(parts))
    return SavedWeights(path, parts, hashlib.sha256(hashes.encode()).hexdigest())


def _indexed(path: Path) -> dict[Path, frozenset[str] | None]:
    """The files that an index names, and the keys in each."""
    placed = read_json(path).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(f"{path}: damaged, it lists no weight files", "copy the whole folder again")
    suffix = Path(path.name.removesuffix(_INDEX)).suffix
    parts: dict[Path, frozenset[str] | None] = {}
    for name in sorted(set(placed.values())):
        # The parts lie beside the index; a name that leads elsewhere is not followed.
        if Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise CheckpointError(f"{path}: lists {name[:60]!a}, which is not a {suffix} file beside it")
        if not os.path.isfile(path.parent / name):
            raise CheckpointError(
                f"{path.parent}: lacks {name}, which {path.name} lists", "copy the whole folder again"
            )
        parts[path.parent / name] = frozenset(key for key, place in placed.items() if place == name)
    return parts


def _what_else(folder: Path) -> str:
    """What to give instead of a folder that is no saved SAM."""
    inside = sorted(entry.name for entry in folder.iterdir())
    if "config.toml" in inside:
        return f"it looks like a checkpoint folder, which rsp predict accepts as --model {folder}"
    saved = sorted(folder.glob(f"snapshots/*/{SAM_CONFIG_FILE}"))
    if saved:
        return f"rsp download-sam {saved[-1].parent}"
    loose = [name for name in inside if name.endswith(_LOOSE) and name != PICKLE_FILE]
    if loose:
        return f"rsp download-sam {folder / loose[0]}"
    return "copy all files of the saved model into it"
