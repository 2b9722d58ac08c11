"""The model that a prediction is made with: a checkpoint, a loaded model, a SAM, or the bundled one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.model_files.checkpoint import (
    BUNDLED,
    CheckpointMeta,
    find_checkpoint,
    model_name,
    read_checkpoint,
)
from rsprompter_cli.models.load import LoadedModel, load_model
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.models.zero_shot.everything import SamChoice, everything_meta, load_everything

ModelSource = str | Path | LoadedModel | SamChoice | None
"""A checkpoint folder, a loaded model, a SAM to find everything with, or `"bundled"` or None for the bundled model."""


def meta_of(model: ModelSource) -> CheckpointMeta:
    """What a model says of itself, without its weights."""
    if isinstance(model, SamChoice):
        return everything_meta(model)
    if isinstance(model, LoadedModel):
        return model.meta
    return read_checkpoint(model).meta


def load_chosen(model: ModelSource, device: str) -> LoadedModel:
    """The model with its weights; one that is loaded stays where it is."""
    if not isinstance(model, LoadedModel):
        announce("loading the model")
    if isinstance(model, SamChoice):
        return load_everything(model, resolve_device(device))
    return model if isinstance(model, LoadedModel) else load_model(model, device=resolve_device(device))


def files_of(model: ModelSource) -> list[str | Path]:
    """The folder that its weights are read from, as the user named it; none for the bundled and for loaded ones."""
    if isinstance(model, LoadedModel):
        return []
    folder = model.path if isinstance(model, SamChoice) else find_checkpoint(model)
    return [] if model_name(folder) == BUNDLED else [folder]


def name_of(model: ModelSource) -> str:
    """What a report calls a model: the folder of its weights, or `bundled`; a loaded one has no name."""
    if isinstance(model, LoadedModel):
        return "loaded"
    return model_name(model.path if isinstance(model, SamChoice) else model)


def facts_of(model: ModelSource, *, score: float | None, device: str, precision: str) -> dict[str, Any]:
    """The model of a report, and what "auto" or no value came to: `score`, `device` and `precision`.

    Args:
        score, device, precision: of `PredictOptions`.
    """
    where = device_of(model) if isinstance(model, LoadedModel) else resolve_device(device)
    return {
        "model": name_of(model),
        "score": meta_of(model).score_threshold if score is None else score,
        "device": where.type,
        "precision": str(resolve_precision(precision, where)).removeprefix("torch."),
    }


def device_of(loaded: LoadedModel) -> torch.device:
    """Where a model is."""
    return next(loaded.model.parameters(), torch.empty(0)).device


def device_type(device: str, loaded: LoadedModel | None) -> str:
    """cpu, cuda or mps: where the model is, or would be if it were loaded."""
    if loaded is not None:
        return device_of(loaded).type
    return resolve_device(device).type if device == "auto" else device
