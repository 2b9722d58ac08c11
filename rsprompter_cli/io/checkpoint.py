"""The checkpoint folder: `model.safetensors`, `config.toml`, `meta.json`, written last to first.

`eval` and `predict` need nothing else. The folder appears in one rename, so an incomplete one
is never seen under its name.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.config import Config, dump_config, parse_config
from rsprompter_cli.errors import CheckpointError, OutputError
from rsprompter_cli.io.atomic import atomic_folder, complete_folder, refuse_existing

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.toml"
META_FILE = "meta.json"
FORMAT_VERSION = 1

BUNDLED_MODEL = Path(__file__).parents[1] / "weights"
"""The checkpoint folder that is used when none is named."""


@dataclass(frozen=True)
class CheckpointMeta:
    """What a model must know of itself to be used without its training set.

    class_names: label i is class_names[i].
    category_ids: id of each class in the COCO file it was trained on.
    gsd_range: metres per pixel on the ground seen in training (low, high), or None when unknown.
    bands: 1-based bands that were read as red, green, blue, or None for the file's own order.
    scaling: how samples became 0..255: a value of --scale ("none", "percentile" or "LO,HI"), or
        "uint8" when none was chosen: 8-bit samples were taken as they are, others by percentiles.
    score_threshold: the score below which `predict` drops an object, when the user names none.
    sam: identity of the SAM weights: name, file hash, commit.
    metrics: last evaluation, by COCO name ("segm_AP50"); NaN where it says nothing, null in the file.
    versions: of the packages that wrote it; git_commit: of the code, when known.
    provenance: free facts: data sets, credits, epochs.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: int
    gsd_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    scaling: str = "uint8"
    score_threshold: float = 0.5
    sam: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A folder read and checked, tensors not yet loaded.

    folder: where its files lie; see `complete_folder`.
    """

    folder: Path
    config: Config
    meta: CheckpointMeta

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by key, on the CPU, in their stored precision."""
        return read_safetensors(self.folder / WEIGHTS_FILE)


def refuse_other_folder(folder: str | Path, *, overwrite: bool, inputs: Sequence[str | Path] = ()) -> None:
    """Refuse to write a checkpoint where something else would be lost, before the work for it is done.

    Args:
        folder: to be written.
        overwrite: it may be a checkpoint.
        inputs: files and folders that are read for it.

    Raises:
        OutputError: as `refuse_existing` says, or the folder holds more than a checkpoint.
    """
    refuse_existing(folder, overwrite=overwrite, folder=True, inputs=inputs)
    own = (WEIGHTS_FILE, CONFIG_FILE, META_FILE)
    foreign = sorted(path.name for path in Path(folder).glob("*") if path.name not in own)
    if foreign:
        raise OutputError(f"{folder} holds {foreign[0]!r}, which is no part of a checkpoint", "name another folder")


def write_checkpoint(folder: str | Path, tensors: Mapping[str, Tensor], config: Config, meta: CheckpointMeta) -> None:
    """Write a complete checkpoint folder; it replaces an older one of the name only when whole.

    Raises:
        OutputError: the disk is full or the folder cannot be written; an older one is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_folder(folder) as temporary:
        contiguous = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        try:
            save_file(contiguous, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk comes as this, not as an OSError
            raise OutputError(f"{folder}: weights cannot be written: {error}") from error
        (temporary / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
        fields = asdict(meta)
        fields |= {name: _nan_to_null(fields[name]) for name in ("metrics", "provenance")}
        text = json.dumps(fields, indent=2, sort_keys=True, allow_nan=False)
        (temporary / META_FILE).write_text(text + "\n", encoding="utf-8")


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read config and meta of a checkpoint folder.

    Raises:
        CheckpointError: not a checkpoint folder, or a file of it is missing or damaged.
    """
    folder = complete_folder(folder)
    if os.path.isfile(folder):
        inside = folder.name in (WEIGHTS_FILE, CONFIG_FILE, META_FILE)
        raise CheckpointError(
            f"{folder}: a file, not a checkpoint folder",
            f"give {folder.parent}" if inside else "rsp checkpoint import makes a folder of the original's weights",
        )
    if not os.path.isdir(folder):
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE, META_FILE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: not a checkpoint folder, it lacks {', '.join(missing)}")
    try:
        tree = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        fields = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        meta = _parse_meta(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder}: damaged {CONFIG_FILE} or {META_FILE}: {error}") from error
    return Checkpoint(folder, parse_config(tree, origin=str(folder / CONFIG_FILE)), meta)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {error}") from error


def _nan_to_null(value: Any) -> Any:
    """JSON has no word for not-a-number and infinity: they are stored as null."""
    if isinstance(value, Mapping):
        return {key: _nan_to_null(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse_meta(fields: dict[str, Any]) -> CheckpointMeta:
    if fields.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version {fields.get('format_version')!r}, this version reads {FORMAT_VERSION}")
    for name in ("class_names", "category_ids", "gsd_range", "bands"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    metrics = fields.get("metrics") or {}
    fields["metrics"] = {name: math.nan if value is None else value for name, value in metrics.items()}
    meta = CheckpointMeta(**fields)
    if not meta.class_names or len(meta.class_names) != len(meta.category_ids):
        raise ValueError("class_names and category_ids must be as many")
    return meta
