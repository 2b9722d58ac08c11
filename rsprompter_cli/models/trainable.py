"""What trains: set once from two settings, and shown as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

ADAPTER_MARK = ".lora_"
"""In the name of every adapter parameter."""

_NEVER = "position."
"""SAM's random Fourier frequencies are constants, not weights."""

_UNREACHED = re.compile(r"mask_decoder\.decoder\.(iou_prediction_head|output_hypernetworks_mlps\.[123])\.")
"""Of a decoder that trains no loss asks for the quality of a mask, nor for the three masks of an ambiguous prompt."""


@dataclass(frozen=True, slots=True)
class BlockParameters:
    """Parameter counts of one block of a model."""

    block: str
    trainable: int
    frozen: int


def set_trainable(model: nn.Module, *, encoder: str, decoder: str) -> None:
    """Set `requires_grad` of every parameter.

    Args:
        model: with blocks `encoder` and `mask_decoder`; every other block trains.
        encoder: "frozen", "lora" (its adapters train) or "full".
        decoder: "train" or "frozen".
    """
    for name, parameter in model.named_parameters():
        block, _, rest = name.partition(".")
        if block == "encoder":
            trains = encoder == "full" or (encoder == "lora" and ADAPTER_MARK in name)
        elif block == "mask_decoder":
            trains = decoder == "train" and not rest.startswith(_NEVER)
        else:
            trains = True
        parameter.requires_grad_(trains)
    keep_frozen_in_eval(model)


def moved_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that an optimizer moves: those that train and that a loss may reach.

    The others would get no gradient but shrink by weight decay, where zeros take the place of a gradient.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not _UNREACHED.match(name):
            yield parameter


def is_frozen(module: nn.Module) -> bool:
    """True when no parameter of the module trains."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put every part whose parameters are all frozen in evaluation mode: running statistics and dropout stay still."""
    if next(model.parameters(), None) is None:
        return
    if is_frozen(model):
        # Not model.eval(), which a model that calls this overrides.
        for module in model.modules():
            module.training = False
        return
    for child in model.children():
        keep_frozen_in_eval(child)


def trainable_table(model: nn.Module) -> list[BlockParameters]:
    """Parameter counts by block, in the model's order."""
    return [
        BlockParameters(
            name,
            sum(parameter.numel() for parameter in block.parameters() if parameter.requires_grad),
            sum(parameter.numel() for parameter in block.parameters() if not parameter.requires_grad),
        )
        for name, block in model.named_children()
        if next(block.parameters(), None) is not None
    ]
