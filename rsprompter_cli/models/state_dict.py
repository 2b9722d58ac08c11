"""Strict comparison of stored tensors with what a model needs, with errors that list what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rsprompter_cli.errors import SHOWN, CheckpointError, plural, some

_FRACTIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

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
"""By kind of model, the tensor with one row for each class and one for the background."""


class HasShape(Protocol):
    """A tensor, on whatever device."""

    @property
    def shape(self) -> Sequence[int]: ...


def check_keys(
    needed: Mapping[str, Sequence[int]],
    given: Mapping[str, Sequence[int]],
    origin: str,
    *,
    hint: str = "",
    shown: int = SHOWN,
) -> None:
    """Check that the keys are the same and every shape agrees.

    Args:
        needed: shape of every tensor of the model, by key.
        given: shape of every stored tensor, by key.
        origin: the file, named in the error.
        hint: the way out.
        shown: keys named of each list.

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
        f"{plural(len(names), *what)}: {some(names, shown)}"
        for what, names in (
            (("missing key",), missing),
            (("unexpected key",), unexpected),
            (("shape mismatch", "shape mismatches"), differing),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{origin}: the weights do not fit the model; " + "; ".join(problems), hint)


def check_values(needed: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str, *, hint: str = "") -> None:
    """Check that stored tensors can take the model's precision: numbers of its kind, all of them finite.

    Args:
        needed: tensors of the model by key, of which only the dtype counts.
        given: the stored ones, plain arrays that have at least these keys.
        origin: the file, named in the error.
        hint: the way out; by default that of a model that was trained.

    Raises:
        CheckpointError: lists the keys whose numbers are of another kind, or NaN or infinite.
    """
    wrong = [
        f"{key} ({_dtype_word(given[key])} instead of {_dtype_word(value)})"
        for key, value in needed.items()
        if not _same_kind(value, given[key])
    ]
    if wrong:
        raise CheckpointError(
            f"{origin}: {len(wrong)} of {len(needed)} tensors have an unsuitable dtype: {some(wrong)}",
            hint or "import the weights as the training saved them, in floating point",
        )
    broken = [key for key, value in needed.items() if not bool(given[key].to(value.dtype).isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{origin}: {len(broken)} of {len(needed)} tensors contain NaN or infinity: {some(broken)}",
            hint or "such a model detects nothing: import an earlier checkpoint of that training",
        )


def _same_kind(needed: Tensor, given: Tensor) -> bool:
    """Whether numbers can be stored as the model does: fractions at any precision, counts if they are whole."""
    if needed.is_floating_point():
        return given.dtype in _FRACTIONS
    plain = given.dtype in _FRACTIONS or not (given.is_floating_point() or given.is_complex())
    return plain and torch.equal(given.to(needed.dtype).to(given.dtype), given)


def _dtype_word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def shapes_of(tensors: Mapping[str, HasShape]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by key."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
