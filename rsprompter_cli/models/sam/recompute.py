"""Trading time for memory: a block of a network whose inner maps are made again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, maps: Tensor) -> Tensor:
    """The output of `block`, of which only `maps` is kept for the backward pass; same value and gradients.

    Chance (dropout) falls the same way in both runs, and the running statistics of batch norms move once.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    result: Tensor = checkpoint(block, maps, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    # With a momentum of 0 the batch adds nothing to the averages; the counter is put back.
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
