"""Where a run stands: saved beside its checkpoints, restored bit for bit."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsprompter_cli.errors import SHOWN, RspError, TrainingError, shorten, why_unreadable
from rsprompter_cli.io.atomic import atomic_path
from rsprompter_cli.io.unpickle import check_content, save_pickle
from rsprompter_cli.train.folder import STATE_FILE, require_state
from rsprompter_cli.train.state_form import require_fit, require_form

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
