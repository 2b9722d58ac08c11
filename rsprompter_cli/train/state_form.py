"""The types, ranges and shapes that a saved state must have; they are checked before a run goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsprompter_cli.errors import some
from rsprompter_cli.models.trainable import moved_parameters
from rsprompter_cli.train.engine import changing_tensors
from rsprompter_cli.train.track import MOST_COUNTED

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
