"""Short runs of the tiny model on a fabricated set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.train.loop import train
from rsprompter_cli.train.run import TrainResult
from tests.make.coco_sets import make_set
from tests.make.tiny_models import tiny_config


def make_data(root: Path, *, train: int = 6, val: int = 2) -> Path:
    """A data folder with both splits."""
    make_set(root, split="train", count=train)
    make_set(root, split="val", count=val, seed=1)
    return root


def run(data: Path, out: Path, options: dict[str, Any] | None = None, **keywords: Any) -> TrainResult:
    """Train the tiny model; `options` are keys of the training configuration."""
    config = tiny_config(train=options)
    return train(config, data=data, out=out, device="cpu", **({"random_sam": True} | keywords))


def tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint."""
    return read_checkpoint(folder).tensors()


def equal(a: Any, b: Any) -> bool:
    """Bit-equal trees of dicts, sequences, tensors and plain values."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
