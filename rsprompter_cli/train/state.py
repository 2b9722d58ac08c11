"""The state of a run: saved beside its checkpoints, checked as a whole and restored bit for bit."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsprompter_cli.errors import SHOWN, RspError, TrainingError, shorten, some, why_unreadable
from rsprompter_cli.io.atomic import atomic_path
from rsprompter_cli.io.model_files.unpickle import check_content, save_pickle
from rsprompter_cli.models.trainable import moved_parameters
from rsprompter_cli.train.distributed.ddp import changing_tensors
from rsprompter_cli.train.loggers import MOST_COUNTED
from rsprompter_cli.train.run_folder import STATE_FILE, require_state

_FORMAT_VERSION = 2

_BEFORE = {"train.boxes": "'masks'", "train.augment.eight_bit": "True", "model.rpn.anchor_area": "'square'"}
"""How runs were trained whose state was saved before these settings existed."""


@dataclass(frozen=True)
class Cursor:
    """What is done: so much of epoch `epoch`; the same for any number of ranks.

    done: training pictures of the epoch. When it is all of them, the epoch's evaluation is what is left.
    step: optimizer steps done; images: training pictures seen, all epochs together.
    best: best score of an evaluation so far; best_step: where it was reached.
    """

    epoch: int = 0
    done: int = 0
    step: int = 0
    images: int = 0
    best: float | None = None
    best_step: int | None = None


@dataclass(frozen=True)
class RunState:
    """Everything a run needs to resume.

    identity: facts that must be the same in the resumed run (configuration, data), by name.
    engine: `TrainEngine.state()`.
    random: `random_state()` of each rank.
    """

    cursor: Cursor
    identity: dict[str, str]
    engine: dict[str, Any]
    random: list[dict[str, Any]]


def save_state(run_folder: Path, state: RunState) -> None:
    """Write the state atomically.

    Raises:
        OutputError: it cannot be written, for instance because the disk is full.
    """
    content = {
        "format_version": _FORMAT_VERSION,
        "cursor": asdict(state.cursor),
        "identity": state.identity,
        "engine": state.engine,
        "random": state.random,
    }
    path = run_folder / STATE_FILE
    with atomic_path(path) as temporary:
        save_pickle(content, temporary, target=path)


def load_state(run_folder: Path) -> RunState:
    """Read the state of a run.

    Raises:
        TrainingError: no state, or a damaged one.
    """
    path = require_state(run_folder)
    with restoring(run_folder):
        try:
            path.open("rb").close()
        except OSError as error:
            raise TrainingError(f"{path}: {why_unreadable(error)}") from error
        check_content(path)
        with warnings.catch_warnings():
            # Of kinds of tensors that no state of ours has.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or type(content.get("format_version")) is not int:
            raise ValueError("it is not the state of a run")
        if content["format_version"] != _FORMAT_VERSION:
            raise TrainingError(f"{path}: written by another version of rsp", "resume it with that version")
        require_form(content)
        return RunState(Cursor(**content["cursor"]), content["identity"], content["engine"], content["random"])


@contextmanager
def restoring(run_folder: Path) -> Iterator[None]:
    """Raise TrainingError, which names the file and the way out, for whatever a damaged state raises."""
    path = run_folder / STATE_FILE
    try:
        yield
    except (TrainingError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        told = error.message if isinstance(error, RspError) else str(error)
        reason = shorten(" ".join(told.removeprefix(f"{path}: ").split()), 200)
        raise TrainingError(
            f"{path}: the saved state cannot be restored: {reason}",
            f"start over from its weights with --load-from {run_folder / 'last'}",
        ) from error


def require_fitting(run_folder: Path, state: RunState, model: nn.Module, *, epochs: int, pictures: int) -> None:
    """Refuse a state that no run of this model could have come to.

    Args:
        epochs: of the whole run.
        pictures: of an epoch.

    Raises:
        TrainingError: names what is wrong.
    """
    cursor = state.cursor
    with restoring(run_folder):
        if cursor.epoch > epochs or cursor.done > (pictures if cursor.epoch < epochs else 0):
            raise ValueError(f"cursor is beyond the end of {epochs} epochs of {pictures} images")
        seen = cursor.epoch * pictures + cursor.done
        if cursor.images != seen or not min(seen, 1) <= cursor.step <= seen:  # a step takes a picture at least
            raise ValueError("cursor has a number of steps or images that does not belong to its epoch")
        require_fit(state.engine, model, steps=cursor.step)


def require_same_run(run_folder: Path, state: RunState, identity: dict[str, str]) -> None:
    """Refuse to resume with other settings or data than the run began with.

    Raises:
        TrainingError: names what differs.
    """
    given = identity
    saved = {key: value for key, value in _BEFORE.items() if key in given} | state.identity
    changed = sorted(key for key in saved.keys() | given.keys() if saved.get(key) != given.get(key))
    if changed:
        shown = "; ".join(f"{key} was {saved.get(key)}, is {given.get(key)}" for key in changed[:SHOWN])
        if more := changed[SHOWN:]:
            shown += f"; {', '.join(more)} differ too"
        raise TrainingError(
            f"{run_folder}: --resume needs the settings that the run began with: {shown}",
            f"restore them, or start over with --load-from {run_folder / 'last'} and another --out",
        )


def random_state() -> dict[str, Any]:
    """The generators of torch, its GPU, numpy and random, as values that load without code."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.random.get_rng_state(),
        # Of this process's own GPU; to ask the others would take memory on each.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to what `random_state` gave."""
    torch.random.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


_LONGEST_TEXT = 1 << 20
"""Characters of a setting in words; a whole configuration file has fewer."""

_MOST_RANKS = 1 << 16
_TWISTER_WORDS = 624
"""Words of the Mersenne Twister, by which both numpy and Python draw."""

_ENGINE_PARTS = {"optimizer", "scaler", "changing"}
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
_SCALER_FACTORS = ("scale", "growth_factor", "backoff_factor")
_SCALER_COUNTS = ("growth_interval", "_growth_tracker")
"""Whole numbers, which the scaler keeps in 32 bits."""


def require_form(content: Mapping[str, Any]) -> None:
    """Check the parts of a state as far as they can be without its model.

    Raises:
        ValueError: one line that names the first part that has another form.
    """
    if missing := [part for part in ("cursor", "identity", "engine", "random") if part not in content]:
        raise ValueError(f"{missing[0]} is missing")
    _require_cursor(content["cursor"])
    identity = content["identity"]
    if not isinstance(identity, dict) or not all(_is_text(word) for pair in identity.items() for word in pair):
        raise ValueError("identity is not a table of texts")
    engine = content["engine"]
    if not isinstance(engine, dict) or engine.keys() != _ENGINE_PARTS:
        raise ValueError(f"engine is not a table of {some(sorted(_ENGINE_PARTS))}")
    if odd := [part for part in sorted(_ENGINE_PARTS) if not isinstance(engine[part], dict)]:
        raise ValueError(f"engine.{odd[0]} is not a table")
    # Only float16 has one.
    if engine["scaler"] and not _is_scaler(engine["scaler"]):
        raise ValueError("engine.scaler is not the state of a loss scaler")
    states = content["random"]
    if not isinstance(states, list) or not 0 < len(states) <= _MOST_RANKS:
        raise ValueError("random is not a list with the generators of each process")
    for state in states:
        _require_generators(state)


def require_fit(engine: Mapping[str, Any], model: nn.Module, *, steps: int) -> None:
    """Check that the tensors of a state are those of a model: its weights and what its optimizer keeps of each.

    Args:
        engine: `TrainEngine.state()`, in the form that `require_form` accepts.
        steps: optimizer steps done.

    Raises:
        ValueError: one line that names the first tensor that is not.
    """
    own = changing_tensors(model)
    _require_keys("engine.changing", engine["changing"], own)
    for key, value in own.items():
        _require_tensor(f"engine.changing[{key}]", engine["changing"][key], value.shape, value.dtype)
    # The loss scaler may have skipped every step so far, and an optimizer that never moved keeps nothing.
    if not engine["optimizer"] and (engine["scaler"] or not steps):
        return
    moved = set(map(id, moved_parameters(model)))
    trained = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in moved}
    _require_keys("engine.optimizer", engine["optimizer"], trained)
    for name, parameter in trained.items():
        moments, where = engine["optimizer"][name], f"engine.optimizer[{name}]"
        if not isinstance(moments, dict) or moments.keys() != _MOMENTS:
            raise ValueError(f"{where} is not a table of {some(sorted(_MOMENTS))}")
        for part in _MOMENTS:
            shape = torch.Size() if part == "step" else parameter.shape
            _require_tensor(f"{where}.{part}", moments[part], shape, torch.float32)
        if not 0 <= float(moments["step"]) <= steps:
            raise ValueError(f"{where}.step is not between 0 and {steps}")


def _require_cursor(cursor: object) -> None:
    counts = ("epoch", "done", "step", "images")
    if not isinstance(cursor, dict) or cursor.keys() != {*counts, "best", "best_step"}:
        raise ValueError("cursor is not a table of what is done")
    for name in counts:
        if not _is_count(cursor[name]):
            raise ValueError(f"cursor.{name} is not a whole number from 0")
    best, best_step = cursor["best"], cursor["best_step"]
    if (best is None) != (best_step is None) or not (best is None or _is_number(best)):
        raise ValueError("cursor.best is not a score")
    if best_step is not None and not (_is_count(best_step) and best_step <= cursor["step"]):
        raise ValueError("cursor.best_step is not a step of the run")


def _is_count(value: object) -> bool:
    """Whether a value is a whole number from 0 to MOST_COUNTED."""
    return type(value) is int and 0 <= value <= MOST_COUNTED


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MOST_COUNTED  # false of NaN


def _is_scaler(state: Mapping[str, Any]) -> bool:
    return (
        state.keys() == {*_SCALER_FACTORS, *_SCALER_COUNTS}
        and all(type(state[part]) is float and 0 < state[part] < math.inf for part in _SCALER_FACTORS)
        and all(type(state[part]) is int and 0 <= state[part] < 1 << 31 for part in _SCALER_COUNTS)
    )


def _is_text(value: object) -> bool:
    return type(value) is str and len(value) <= _LONGEST_TEXT


def _require_keys(where: str, table: Mapping[Any, Any], own: Mapping[str, Any]) -> None:
    if not all(_is_text(key) for key in table):
        raise ValueError(f"{where} has keys that are no names")
    if odd := sorted(own.keys() ^ table.keys()):
        raise ValueError(f"{where} belongs to another model; keys that differ: {some(odd)}")


def _require_tensor(where: str, value: object, shape: torch.Size, dtype: torch.dtype) -> None:
    plain = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    if not plain or value.shape != shape or value.dtype != dtype:  # type: ignore[attr-defined]
        raise ValueError(f"{where} is not a tensor of the shape {list(shape)} and the type {dtype}")


def _require_generators(state: object) -> None:
    """The values are tried on generators that nothing else uses."""
    if not isinstance(state, dict) or state.keys() != {"torch", "cuda", "numpy", "python"}:
        raise ValueError("random is not a table of generators for each process")
    devices = state["cuda"]
    if not isinstance(devices, list) or len(devices) > 1 or not all(map(_is_bytes, [state["torch"], *devices])):
        raise ValueError("random.torch or random.cuda is not the state of a generator")
    torch.Generator().set_state(state["torch"])
    if not _is_numpy_state(state["numpy"]):
        raise ValueError("random.numpy is not the state of a generator")
    if not _is_python_state(state["python"]):
        raise ValueError("random.python is not the state of a generator")


def _is_bytes(value: object) -> bool:
    return type(value) is Tensor and value.dtype == torch.uint8 and value.ndim == 1 and value.device.type == "cpu"


def _is_numpy_state(state: object) -> bool:
    """Of `numpy.random.get_state`; numpy itself takes any position and reads beyond its words."""
    if not isinstance(state, list) or len(state) != 5:
        return False
    name, words, position, has_gauss, cached = state
    return (
        type(name) is str
        and name == "MT19937"
        and _are_words(words)
        and type(position) is int
        and 0 <= position <= _TWISTER_WORDS
        and type(has_gauss) is int
        and has_gauss in (0, 1)
        and type(cached) is float
        and math.isfinite(cached)
    )


def _is_python_state(state: object) -> bool:
    """Of `random.getstate`: the version, the words and the position after them, a number kept back or None."""
    if not isinstance(state, tuple) or len(state) != 3:
        return False
    version, words, gauss = state
    return (
        type(version) is int
        and version == 3
        and isinstance(words, tuple)
        and _are_words(words[:-1])
        and type(words[-1]) is int
        and 0 <= words[-1] <= _TWISTER_WORDS
        and (gauss is None or (type(gauss) is float and math.isfinite(gauss)))
    )


def _are_words(words: object) -> bool:
    limit = np.iinfo(np.uint32).max
    return (
        isinstance(words, list | tuple)
        and len(words) == _TWISTER_WORDS
        and all(type(word) is int and 0 <= word <= limit for word in words)
    )
