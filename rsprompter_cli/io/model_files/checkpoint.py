"""The checkpoint folder: `model.safetensors`, `config.toml`, `meta.json`, written last to first.

`eval` and `predict` need nothing else. The folder appears in one rename, so an incomplete one
is never seen under its name.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.config import KNOWN_SAM, Config, dump_config, list_presets, parse_config
from rsprompter_cli.documents import nan_to_null, read_json, read_toml
from rsprompter_cli.errors import CheckpointError, OutputError, shorten, some
from rsprompter_cli.io.atomic import atomic_folder, complete_folder, not_written, refuse_existing
from rsprompter_cli.io.interrupt import deferred_interrupt
from rsprompter_cli.io.model_files.checkpoint_meta import check_meta
from rsprompter_cli.io.model_files.tensor_file import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.toml"
META_FILE = "meta.json"
FORMAT_VERSION = 1

_FIT_RECORD = "fit.json"
"""What `rsp fit` keeps in FOLDER-run, while FOLDER is not written yet."""

_DAMAGED = "the checkpoint is damaged: copy or fetch it again"
_MAX_META_BYTES = 4 << 20
_MAX_HEADER_BYTES = 16 << 20
"""Of a weights file: a model of a thousand tensors has 0.15 MB."""

BUNDLED = "bundled"
"""The name of the model that is installed with the package; a folder of that name is given as `./bundled`."""

BUNDLED_MODEL = Path(__file__).parents[2] / "weights"
"""Its checkpoint folder."""


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
    metrics: last evaluation, by COCO name ("segm_AP50"); NaN where undefined, null in the file.
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

    @property
    def name(self) -> str:
        """The folder for messages and records, or `bundled`."""
        return model_name(self.folder)

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
        OutputError: as `refuse_existing`, or the folder contains more than a checkpoint.
    """
    refuse_existing(folder, overwrite=overwrite, folder=True, inputs=inputs)
    own = (WEIGHTS_FILE, CONFIG_FILE, META_FILE)
    foreign = sorted(path.name for path in Path(folder).glob("*") if path.name not in own)
    if foreign:
        raise OutputError(
            f"{folder} contains {foreign[0]!r}, which is not part of a checkpoint", "choose another folder"
        )


def write_checkpoint(folder: str | Path, tensors: Mapping[str, Tensor], config: Config, meta: CheckpointMeta) -> None:
    """Write a complete checkpoint folder; it replaces an older one of the name only when whole.

    Raises:
        OutputError: the disk is full or the folder cannot be written; an older one is untouched.
    """
    from safetensors import SafetensorError

    with atomic_folder(folder) as temporary:
        contiguous = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        try:
            with deferred_interrupt():
                save_tensors(contiguous, temporary / WEIGHTS_FILE)
        except SafetensorError as error:  # a full disk comes as this, not as an OSError
            raise not_written(folder, error) from error
        (temporary / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
        fields = asdict(meta)
        fields |= {name: nan_to_null(fields[name]) for name in ("metrics", "provenance")}
        text = json.dumps(fields, indent=2, sort_keys=True, allow_nan=False)
        (temporary / META_FILE).write_text(text + "\n", encoding="utf-8")


def find_checkpoint(model: str | Path | None) -> Path:
    """The checkpoint folder that a model is named by.

    Args:
        model: a folder; the word `bundled`, or None, is the bundled model. A `Path` is always a folder, so a folder
            called `bundled` is `Path("bundled")` or `"./bundled"`.
    """
    if model is None:
        return BUNDLED_MODEL
    if isinstance(model, str) and model == BUNDLED:
        if os.path.isdir(BUNDLED):
            _warn_of_namesake(os.getcwd())
        return BUNDLED_MODEL
    return Path(model)


def model_name(model: str | Path | None) -> str:
    """What a model is called in messages and records: its folder as given, or `bundled`; see `model_argument`."""
    folder = find_checkpoint(model)
    return BUNDLED if folder.absolute() == BUNDLED_MODEL.absolute() else model_argument(folder)


def model_argument(folder: str | Path) -> str:
    """A checkpoint folder as it is typed after `--model`, where the bare word `bundled` names another model."""
    return f"./{folder}" if str(folder) == BUNDLED else str(folder)


@cache
def _warn_of_namesake(working_folder: str) -> None:
    """Warn, once, that the working folder holds a folder of the bundled model's name."""
    namesake = Path(working_folder) / BUNDLED
    _log.warning("%s is the bundled model; for the folder %s give ./%s", BUNDLED, namesake, BUNDLED)


def read_checkpoint(folder: str | Path | None) -> Checkpoint:
    """Read config and meta of a checkpoint folder.

    Args:
        folder: also the name `bundled`, see `find_checkpoint`.

    Raises:
        CheckpointError: not a checkpoint folder, or a file of it is missing or damaged.
    """
    named = find_checkpoint(folder)
    folder = complete_folder(named)
    if os.path.isfile(folder):
        inside = folder.name in (WEIGHTS_FILE, CONFIG_FILE, META_FILE)
        raise CheckpointError(
            f"{folder}: a file, not a checkpoint folder",
            f"give {folder.parent}" if inside else "convert weights of the original with rsp checkpoint import",
        )
    if not os.path.isdir(folder):
        raise CheckpointError(f"{model_argument(named)}: no such checkpoint folder", _nearest(named))
    missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE, META_FILE) if not (folder / name).is_file()]
    if missing:
        within = _checkpoints_within(folder)
        hint = f"give {some(map(str, within))}" if within else ""
        raise CheckpointError(f"{model_argument(folder)}: not a checkpoint folder, it lacks {', '.join(missing)}", hint)
    config_file, meta_file = folder / CONFIG_FILE, folder / META_FILE
    tree = read_toml(config_file, error=CheckpointError, hint=_DAMAGED)
    fields = read_json(meta_file, max_bytes=_MAX_META_BYTES, error=CheckpointError, hint=_DAMAGED, strict=True)
    try:
        meta = _parse_meta(fields)
    except ValueError as error:
        raise CheckpointError(f"{meta_file}: damaged: {error}") from error
    return Checkpoint(folder, parse_config(tree, origin=str(config_file)), meta)


def _nearest(folder: Path) -> str:
    """A hint for the name of a model that does not exist: what it resembles, or which models there are."""
    word = str(folder)
    if word == BUNDLED:
        return f"give {BUNDLED} without ./ for the bundled model"
    if word in list_presets():
        return f"{word} is a preset, which has no weights: use rsp train {word} or rsp checkpoint import to get some"
    if word in KNOWN_SAM:
        return f"{word} is a SAM, which detects no classes: use it as --sam, with --everything or --prompts"
    run = folder.with_name(f"{folder.name}-run") if folder.name else folder
    if os.path.isfile(run / _FIT_RECORD):
        return f"{run} contains an unfinished fit; continue it with rsp fit --resume --out {folder}"
    around = folder.parent
    nearby = [str(path) for path in _checkpoints_within(around) if not path.name.startswith(".")]
    # A short name is looked for among the runs, too.
    runs = [str(path) for path in _checkpoints_within(Path("runs"))] if around == Path() else []
    known = [BUNDLED, *dict.fromkeys(nearby + runs)]
    folded = {name.casefold(): name for name in reversed(known)}
    near = get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"models here: {some(known)}; rsp models lists them"


def _checkpoints_within(folder: Path) -> list[Path]:
    """Checkpoint folders one and two levels below a folder, sorted."""
    try:
        found = {path.parent for depth in ("*/", "*/*/") for path in folder.glob(depth + META_FILE)}
    except OSError:
        return []
    return sorted(path for path in found if path.absolute() != BUNDLED_MODEL)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_header(path)
    try:
        with deferred_interrupt():  # in its midst Ctrl-C would look like a damaged file
            return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    # A kind of numbers that torch has not comes as the last three.
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {shorten(str(error), 300)}") from error


def check_header(path: str | Path) -> None:
    """Refuse a safetensors file whose header is larger than the file or any model needs, before it is parsed.

    Raises:
        CheckpointError: it is; a file that cannot be read is left to its reader.
    """
    try:
        with open(path, "rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(8)
    except OSError:
        return
    stated = int.from_bytes(head, "little")
    if stated > min(size, _MAX_HEADER_BYTES):
        reason = (
            f"its header has {stated:,} bytes, more than {'the file' if stated > size else f'{_MAX_HEADER_BYTES:,}'}"
        )
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {reason}")


def _parse_meta(fields: Any) -> CheckpointMeta:
    """Metadata from the value in its file.

    Raises:
        ValueError: it is not as `write_checkpoint` writes it.
    """
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version {shorten(repr(version), 40)}, this version reads {FORMAT_VERSION}")
    fields = check_meta(fields)
    for name in ("class_names", "category_ids", "gsd_range", "bands"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    metrics = fields.get("metrics") or {}
    fields["metrics"] = {name: math.nan if value is None else value for name, value in metrics.items()}
    return CheckpointMeta(**fields)
