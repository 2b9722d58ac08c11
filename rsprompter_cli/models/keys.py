"""Strict comparison of stored tensors with what a model needs, with errors that list what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rsprompter_cli.errors import CheckpointError

_SHOWN = 4

CLASS_ROWS: Mapping[str, str] = {
    "rsprompter-anchor": "box_head.classes.weight",
    "rsprompter-query": "query_decoder.classes.2.weight",
    "samseg-maskrcnn": "box_head.classes.weight",
    "samseg-mask2former": "query_decoder.classes.weight",
    "samdet": "box_head.classes.weight",
    "samcls": "resnet.fc.weight",
    "mask2former": "network.class_predictor.weight",
    "maskrcnn": "roi_heads.box_predictor.cls_score.weight",
}
"""By kind of model, the tensor with one row for each class and one for "none of them"."""


class HasShape(Protocol):
    """A tensor, on whatever device."""

    @property
    def shape(self) -> Sequence[int]: ...


def check_keys(needed: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]], origin: str) -> None:
    """Check that the keys are the same and every shape agrees.

    Args:
        needed: shape of every tensor of the model, by key.
        given: shape of every stored tensor, by key.
        origin: the file, named in the error.

    Raises:
        CheckpointError: lists missing, unexpected and mismatched keys.
    """
    missing = [key for key in needed if key not in given]
    unexpected = [key for key in given if key not in needed]
    differing = [
        f"{key} {list(given[key])} instead of {list(needed[key])}"
        for key in needed
        if key in given and list(given[key]) != list(needed[key])
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
        if names
    ]
    if problems:
        raise CheckpointError(f"{origin}: the weights do not fit the model; " + "; ".join(problems))


def shapes_of(tensors: Mapping[str, HasShape]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by key."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
