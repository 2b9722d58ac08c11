"""A trained model from its checkpoint folder, checked before anything large is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rsprompter_cli.config import Config
from rsprompter_cli.errors import CheckpointError, plural, shorten, some
from rsprompter_cli.io.interrupt import deferred_interrupt
from rsprompter_cli.io.model_files.checkpoint import (
    WEIGHTS_FILE,
    Checkpoint,
    CheckpointMeta,
    check_header,
    read_checkpoint,
)
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.state_dict import CLASS_ROWS, check_keys, shapes_of


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to predict, with the metadata of its folder."""

    model: nn.Module
    config: Config
    meta: CheckpointMeta


def load_model(folder: str | Path | None = None, device: str | torch.device = "cpu") -> LoadedModel:
    """Read a checkpoint folder into a model in evaluation mode.

    Args:
        folder: written by training or import; `"bundled"` or None is the bundled model, see `find_checkpoint`.
        device: where the model goes.

    Raises:
        CheckpointError: no such folder, damaged, or weights that do not fit; all differences are listed.
    """
    checkpoint = read_checkpoint(folder)
    outline_of(checkpoint)
    model = build_model(checkpoint.config.model, num_classes=len(checkpoint.meta.class_names))
    tensors = {
        # Half precision is for storage only.
        key: value.float() if value.is_floating_point() else value
        for key, value in checkpoint.tensors().items()
    }
    _check_finite(checkpoint, tensors)
    model.load_state_dict(tensors)
    return LoadedModel(model.to(device).eval(), checkpoint.config, checkpoint.meta)


def _check_finite(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    # With such weights a model finds nothing and raises no error.
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{checkpoint.folder / WEIGHTS_FILE}: numbers that are not finite in {some(broken)}",
            "its training has diverged or the file is damaged; take another checkpoint",
        )


def outline_of(checkpoint: Checkpoint) -> nn.Module:
    """A checkpoint's model without its weights, after a look at whether they fit.

    Raises:
        CheckpointError: damaged weights, or such that do not fit; all differences are listed.
    """
    num_classes = len(checkpoint.meta.class_names)
    # On the meta device a model has shapes and no memory.
    with torch.device("meta"):
        outline = build_model(checkpoint.config.model, num_classes=num_classes)
    _check(checkpoint, outline, num_classes)
    return outline


def _check(checkpoint: Checkpoint, outline: nn.Module, num_classes: int) -> None:
    path = checkpoint.folder / WEIGHTS_FILE
    stored = _stored_shapes(path)
    rows = stored.get(CLASS_ROWS.get(checkpoint.config.model.kind, ""))
    if rows is not None and rows[0] != num_classes + 1:
        raise CheckpointError(
            f"{checkpoint.name}: {WEIGHTS_FILE} contains a model of {plural(rows[0] - 1, 'class', 'classes')}, "
            f"meta.json lists {num_classes}",
            "class_names in meta.json must be those the model was trained with",
        )
    check_keys(shapes_of(outline.state_dict()), stored, str(path))


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes from the header of a safetensors file; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    check_header(path)
    try:
        with deferred_interrupt(), safe_open(path, framework="pt") as stored:
            return {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {shorten(str(error), 300)}") from error
