"""Fabricated `.pth` files of the original: weights among what mmengine leaves beside them."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsprompter_cli.models.original.rename import our_tensors
from rsprompter_cli.models.state_dict import check_keys, shapes_of


class _HistoryBuffer:
    """As mmengine's: numpy arrays and bound statistics."""

    def __init__(self) -> None:
        self._log_history = np.arange(3.0)
        self._count_history = np.ones(3, dtype=np.int64)
        self._statistics_methods = {"min": _HistoryBuffer.min}

    def min(self) -> float:
        return float(self._log_history.min())


class _ConfigDict(dict):  # type: ignore[type-arg]
    """As mmengine's: a dictionary of a kind of its own."""


class _OldConfigDict(dict):  # type: ignore[type-arg]
    """As mmengine's, which pickles itself in one call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (dict(self),)


_PRETENDED = {
    "mmengine.logging.history_buffer": ("HistoryBuffer", _HistoryBuffer),
    "mmengine.config.config": ("ConfigDict", _ConfigDict),
    "mmcv.utils.config": ("ConfigDict", _OldConfigDict),
}


@contextmanager
def _pretended_modules() -> Iterator[None]:
    """The classes above under mmengine's names, as long as a file is written."""
    before = dict(sys.modules)
    for path, (name, kind) in _PRETENDED.items():
        kind.__module__, kind.__qualname__, kind.__name__ = path, name, name
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        setattr(sys.modules[path], name, kind)
    _HistoryBuffer.min.__module__ = "mmengine.logging.history_buffer"
    _HistoryBuffer.min.__qualname__ = "HistoryBuffer.min"
    try:
        yield
    finally:
        for path in set(sys.modules) - set(before):
            if path.partition(".")[0] in ("mmengine", "mmcv"):
                del sys.modules[path]


def save_like_mmengine(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    classes: Sequence[str] | None = None,
    cfg: str | Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A whole training checkpoint; `cfg` is its configuration, keyword arguments are further entries of it."""
    with _pretended_modules():
        dataset: Any = _ConfigDict(palette=[(0, 255, 0)])
        if classes is not None:
            dataset["classes"] = list(classes)
        content = {
            "meta": {
                "epoch": 12,
                "iter": 3400,
                "cfg": "max_epochs = 12\n" if cfg is None else cfg,
                "seed": 7,
                "experiment_name": "epoch_12",
                "time": "20240110_200348",
                "mmengine_version": "0.10.3",
                "hook_msgs": {"best_score": np.float64(0.61), "best_ckpt": "best_coco_bbox_mAP_epoch_9.pth"},
                "dataset_meta": dataset,
                "env": _OldConfigDict(cuda=_ConfigDict(available=True)),
            },
            "state_dict": dict(tensors),
            "message_hub": {
                "log_scalars": {"train/loss": _HistoryBuffer()},
                "runtime_info": {"steps": np.int64(3), "table": np.zeros((2, 2), np.float32)},
                "resumed_keys": {"train/loss": True},
            },
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
            "param_schedulers": [{"last_step": 3, "base_values": [1e-4]}],
            **more,
        }
        torch.save(content, path)
    return path


def load_original(model: nn.Module, tensors: Mapping[str, Tensor], *, kind: str, lora: bool, origin: str) -> None:
    """Put an original state dictionary into a model, in place; strict both ways.

    Args:
        model: built with the sizes of the dictionary.
        tensors: under original names.
        kind, lora: of the model.
        origin: the file, named in errors.

    Raises:
        CheckpointError: lists unknown, missing, left-over and mismatched keys.
    """
    ours = our_tensors(tensors, kind=kind, lora=lora, origin=origin)
    check_keys(shapes_of(model.state_dict()), shapes_of(ours), origin)
    model.load_state_dict(ours)
