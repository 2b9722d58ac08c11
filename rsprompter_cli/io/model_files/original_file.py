"""Weights files of the original RSPrompter: which of their tensors are the model, and their metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.errors import CheckpointError, shorten, some, why_no_file
from rsprompter_cli.io.model_files.checkpoint import CONFIG_FILE, META_FILE, WEIGHTS_FILE, read_safetensors
from rsprompter_cli.io.model_files.original_config import OriginalConfig, find_original_config, runtime_info
from rsprompter_cli.io.model_files.unpickle import load_pickle

if TYPE_CHECKING:
    from torch import Tensor

AVERAGED, TRAINED = "averaged", "as trained"
"""What the tensors are: the mean over the last steps (EMA), or the weights that the optimizer moved."""

_WRAPPERS = ("module.", "_orig_mod.")
"""What parallel training and compilation put before every name."""
_COUNTERS = ("steps", "n_averaged")
"""Beside the weights of an averaged model: how many steps it has seen."""
_META_FACTS = ("epoch", "iter", "time", "experiment_name", "mmengine_version")
_RUN_STATE = "resume.pt"
"""In the folder `state` of a run of ours, whatever engine trained it."""
_CONVERTER = "zero_to_fp32.py"
"""The script that DeepSpeed puts beside its folders."""
_PART = "_states.pt"
"""End of the name of each file in them: mp_rank_00_model_states.pt, zero_pp_rank_3_mp_rank_00_optim_states.pt."""


@dataclass(frozen=True, eq=False)
class OriginalFile:
    """A weights file, read.

    tensors: of the model by original name, on the CPU.
    weights: AVERAGED or TRAINED; other: which of the two the file holds beside them, if any.
    class_names: as the training recorded them, or None; they need not fit the model.
    facts: epoch and the like.
    config: of the training, as far as it could be read.
    """

    tensors: dict[str, Tensor]
    weights: str
    other: str | None = None
    class_names: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: OriginalConfig = field(default_factory=OriginalConfig)


def read_original_file(path: str | Path, *, ema: bool = True) -> OriginalFile:
    """The model in a file of the original: a bare state dictionary or a whole training checkpoint.

    Args:
        path: `.pth` as torch wrote it, or `.safetensors`.
        ema: take averaged weights where the file has any, else those that were trained.

    Raises:
        CheckpointError: missing, a folder, damaged, it names something outside the allow-list, or holds no
            weights or some that are no plain arrays of numbers.
    """
    path = Path(path)
    require_original_file(path)
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path)
    else:
        content = load_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains no state dict")
    if {"cursor", "identity", "engine"} <= content.keys():
        raise CheckpointError(
            f"{path}: the training state of an rsp run, whose checkpoints need no import", _as_it_is(path.parents[1])
        )
    for wrapper in ("state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            return _from_checkpoint(content, wrapper, path, ema)
    if isinstance(content.get("module"), dict) or "ds_version" in content:
        raise _part_of_deepspeed(path)
    state, averaged = _unwrapped(_tensors(content, path))
    return OriginalFile(state, AVERAGED if averaged else TRAINED)


def require_original_file(path: Path) -> None:
    """Refuse what is no file of weights by its name alone; knows no torch.

    Raises:
        CheckpointError: missing, a folder, or a part of a checkpoint of DeepSpeed.
    """
    _refuse_folder(path)
    if not os.path.isfile(path):  # also false of a name that is too long
        raise CheckpointError(f"{path}: {why_no_file(path)}")
    if path.name.endswith(_PART):
        raise _part_of_deepspeed(path)


def _refuse_folder(path: Path) -> None:
    """Refuse a folder, with what it is and what to give instead."""
    if not os.path.isdir(path):
        return
    inside = {file.name for file in path.iterdir()}
    if {WEIGHTS_FILE, CONFIG_FILE, META_FILE} <= inside:
        raise CheckpointError(
            f"{path}: a checkpoint folder, which needs no import",
            "use it directly: rsp predict --model, rsp eval, rsp train --load-from",
        )
    if (path / "state" / _RUN_STATE).is_file() or _RUN_STATE in inside:
        run = path if (path / "state").is_dir() else path.parent
        raise CheckpointError(f"{path}: a run folder of rsp, whose checkpoints need no import", _as_it_is(run))
    parts = [*path.glob(f"*{_PART}"), *path.glob(f"*/*{_PART}")]
    if parts or _CONVERTER in inside:
        raise CheckpointError(
            f"{path}: a DeepSpeed folder, whose weights are sharded",
            f"convert it with {_CONVERTER}, in it or beside it, and import the resulting file",
        )
    files = sorted(name for name in inside if name.endswith((".pth", ".safetensors")))
    raise CheckpointError(
        f"{path}: a folder, not a weights file", "give the file in it" + (f": {some(files)}" if files else "")
    )


def _part_of_deepspeed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: a DeepSpeed file, whose weights may be rounded or sharded",
        f"convert its folder with {_CONVERTER}, in it or beside it, and import the resulting file",
    )


def _as_it_is(run: Path) -> str:
    return f"use {run / 'last'} or {run / 'best'} directly: rsp predict --model, rsp eval, rsp train --load-from"


def _from_checkpoint(content: Mapping[str, Any], wrapper: str, path: Path, ema: bool) -> OriginalFile:
    state, averaged = _unwrapped(_tensors(content[wrapper], path))
    weights, other = (AVERAGED if averaged else TRAINED), None
    if isinstance(content.get("ema_state_dict"), dict):
        second = _tensors(content["ema_state_dict"], path)
        # mmengine's EMAHook exchanges the two when it saves, so that the averaged weights stand under
        # `state_dict` and the trained ones under `ema_state_dict`. It counts steps; other programs do not
        # exchange them.
        exchanged = "steps" in second
        second, _ = _unwrapped(second)
        averaged_state, trained_state = (state, second) if exchanged else (second, state)
        # What is not averaged stands in one of them only.
        state = {**trained_state, **averaged_state} if ema else {**averaged_state, **trained_state}
        weights, other = (AVERAGED, TRAINED) if ema else (TRAINED, AVERAGED)
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    facts = {key: meta[key] for key in _META_FACTS if type(meta.get(key)) in (str, int, float)}
    names = _class_names(meta) or _class_names(runtime_info(content))
    return OriginalFile(state, weights, other, names, facts, find_original_config(content))


def _tensors(table: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    from torch import Tensor

    wrong = [str(key) for key, value in table.items() if not isinstance(value, Tensor)]
    if wrong or not table:
        named = f": {shorten(wrong[0])} is not a tensor" if wrong else ""
        raise CheckpointError(f"{path}: contains no state dict{named}")
    tensors = {str(key): value for key, value in table.items()}
    _require_plain(tensors, path)
    return tensors


def _require_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not dense numeric arrays."""
    kinds = {key: kind for key, value in tensors.items() if (kind := _unusual_kind(value))}
    if kinds:
        raise CheckpointError(
            f"{path}: {len(kinds)} of {len(tensors)} tensors are not dense numeric arrays: "
            + some(f"{key} ({kind})" for key, kind in kinds.items()),
            "save them with .to_dense() or .dequantize(), or import the file that the training wrote",
        )


def _unusual_kind(value: Tensor) -> str | None:
    """How a tensor stores its numbers, where that is not one by one."""
    import torch

    if value.is_nested:
        return "nested"
    if value.is_quantized:
        return "quantised"
    if value.is_meta:
        return "without data"
    return "sparse" if value.layout != torch.strided else None


def _unwrapped(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The names without wrappers, and whether a counter shows that this is an averaged model."""
    plain = {key: value for key, value in state.items() if key not in _COUNTERS}
    averaged = len(plain) < len(state)
    for prefix in _WRAPPERS * 2:  # in either order
        if plain and all(key.startswith(prefix) for key in plain):
            plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain, averaged


def _class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names under the spellings of mmengine and of mmdetection before it, not looked at."""
    dataset = meta.get("dataset_meta")
    tables = [meta] if not isinstance(dataset, Mapping) else [dataset, meta]
    for table in tables:
        for key in ("classes", "CLASSES"):
            names = table.get(key)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(name.strip() for name in names)
    return None
