"""Leaving out work for detections that the caller would drop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class SkipsWeak(Protocol):
    """A block that leaves out what scores less than `score_floor`, 0..1."""

    score_floor: float


@contextmanager
def only_scores_from(model: nn.Module, score: float) -> Iterator[None]:
    """Within the block, a model may leave out detections whose score is under `score`.

    Their masks are then never decoded, which is most of the time of a window with few objects. The
    other detections are the same to the bit: a weaker detection never changes a better one. Blocks
    that can save the work are `SkipsWeak`; any other model gives all it has.

    Args:
        score: 0..1.
    """
    blocks = [block for block in model.modules() if isinstance(block, SkipsWeak)]
    former = [block.score_floor for block in blocks]
    try:
        for block in blocks:
            block.score_floor = score
        yield
    finally:
        for block, value in zip(blocks, former, strict=True):
            block.score_floor = value
