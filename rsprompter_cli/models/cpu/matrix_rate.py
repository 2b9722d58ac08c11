"""How fast this machine multiplies matrices: what the time of a model is judged against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.models.cpu.linear import linear_fused

_PROBE = 256


def matrix_rate(dtype: torch.dtype, *, side: int = 1024, seconds: float = 0.2) -> float:
    """The highest rate of a product [side, side] x [side, side] on the CPU, by torch's or oneDNN's routine.

    Args:
        dtype: float32 or bfloat16.
        side: of the matrices; where a small product says that this one takes longer than `seconds`, a small one is
            measured instead.
        seconds: how long each routine is measured; it runs at least twice.

    Returns:
        FLOP/s; a multiplication and an addition count as two.
    """
    return max(_rate(product, dtype, side, seconds) for product in (_plain, _fused))


def _plain(values: Tensor, weight: Tensor) -> Tensor:
    return F.linear(values, weight)


def _fused(values: Tensor, weight: Tensor) -> Tensor:
    return linear_fused(values, weight, weight[0])


def _rate(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, side: int, seconds: float) -> float:
    rate = _measured(product, dtype, _PROBE, seconds / 10)
    return rate if 2 * side**3 / rate > seconds else _measured(product, dtype, side, seconds)


def _measured(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, side: int, seconds: float) -> float:
    values, weight = torch.ones(side, side).to(dtype), torch.ones(side, side).to(dtype)
    taken: list[float] = []
    with torch.no_grad():
        product(values, weight)  # the first call chooses and prepares a kernel
        while len(taken) < 2 or sum(taken) < seconds:
            taken.append(_seconds(product, values, weight))
    return 2 * side**3 / min(taken)


def _seconds(product: Callable[[Tensor, Tensor], Tensor], values: Tensor, weight: Tensor) -> float:
    began = time.perf_counter()
    product(values, weight)
    return time.perf_counter() - began
