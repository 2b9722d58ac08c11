"""The optimizer and the schedule of its rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from rsprompter_cli.errors import TrainingError
from rsprompter_cli.models.trainable import moved_parameters

_BETAS = (0.9, 0.999)
_WARMUP_START = 1e-3
_COSINE_FLOOR = 1e-3


def build_optimizer(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the parameters that train and that a loss may reach; the others get no optimizer state.

    Weight decay applies to all of them, norms and biases included, as in the original.

    Raises:
        TrainingError: nothing trains.
    """
    parameters = list(moved_parameters(model))
    if not parameters:
        raise TrainingError("no parameter of the model trains", "set model.encoder or model.decoder to train")
    return torch.optim.AdamW(parameters, lr=lr, betas=_BETAS, weight_decay=weight_decay)


def rate_factor(step: int, epoch: int, *, epochs: int, warmup_steps: int) -> float:
    """What the base rate is multiplied by: linear warm-up per step times cosine per epoch.

    Args:
        step: optimizer steps done so far; the warm-up goes from a thousandth at step 0 to one at
            step `warmup_steps - 1`, as MMEngine's LinearLR counts.
        epoch: from 0; the first two epochs run at the full rate (CosineAnnealingLR, begin=1).
        epochs: length of the whole run.
    """
    warmup = 1.0
    if step < warmup_steps - 1:
        warmup = _WARMUP_START + (1 - _WARMUP_START) * step / (warmup_steps - 1)
    cosine = (1 + math.cos(math.pi * max(epoch - 1, 0) / epochs)) / 2
    return warmup * (_COSINE_FLOOR + (1 - _COSINE_FLOOR) * cosine)
