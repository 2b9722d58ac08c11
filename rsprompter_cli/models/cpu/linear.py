"""The matrix product of a linear layer, by the faster of the two libraries that torch brings for a CPU.

torch multiplies float32 matrices with MKL, which on processors of other makers keeps to AVX2. oneDNN, with which
torch computes convolutions and half precision, uses AVX-512 wherever it is: measured twice as fast on an AMD EPYC
(docs/decisions/0010). torch has no switch for it; the operator taken here is the one that its own compiler writes
for a linear layer. Where it is missing, or would bring nothing, plain torch computes the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_WORTH_IT = 1 << 20
"""Multiplications under which finding oneDNN's kernel takes longer than the product."""


def _operator() -> Any | None:
    """oneDNN's linear layer where it gains something: decided by the machine, so that a run repeats to the bit."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN = _operator()
_FUSES = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise")
)
"""Whether torch has oneDNN's layers that compute an activation as they write, which its own compiler uses."""
_MULTIPLIES_BF16 = _FUSES and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def by_onednn() -> bool:
    """Whether linear layers in float32 are computed by oneDNN on this machine's CPU."""
    return _ONEDNN is not None


class Linear(nn.Linear):
    """nn.Linear that computes by `linear`; no parameter, name or value differs."""

    def forward(self, values: Tensor) -> Tensor:
        """[.., I] to [.., O]."""
        return linear(values, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Let every plain nn.Linear of a model compute by `linear`, in place, whichever library built it."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`values` [.., I] by `weight` [O, I], and `bias` [O] added: [.., O]. As F.linear, gradients too."""
    if not _gains(values, weight):
        return F.linear(values, weight, bias)
    if not _followed(values, weight, bias):
        return _linear(*_cast(values, weight, bias))
    if torch.is_autocast_enabled("cpu") or values.dtype != torch.float32:
        # In half precision torch takes oneDNN itself.
        return F.linear(values, weight, bias)
    result: Tensor = _Linear.apply(values, weight, bias)
    return result


def linear_gelu(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU of `linear`."""
    if not _gains(values, weight) or _followed(values, weight, bias):
        return F.gelu(linear(values, weight, bias))
    values, weight, bias = _cast(values, weight, bias)
    result: Tensor = _ONEDNN(values, weight, bias, "gelu", [], "none")  # type: ignore[misc]  # _gains: it is there
    return result


def linear_plus(values: Tensor, weight: Tensor, more: Tensor) -> Tensor:
    """`linear` without a bias, and `more` [.., O] added."""
    if not _gains(values, weight) or _followed(values, weight, more):
        product = linear(values, weight)
        return product + more.to(product.dtype)
    values, weight, more = _cast(values, weight, more)
    result: Tensor = _ONEDNN.binary(values, more.contiguous(), weight, None, "add")  # type: ignore[union-attr]
    return result


def linear_fused(values: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """`linear` where no gradient is kept, and GELU of it where asked, by oneDNN on every CPU that has it.

    One pass over the result instead of two pays on CPUs too where the product alone is no faster.
    """
    if not _fuses(values):
        product = F.linear(values, weight, bias)
        return F.gelu(product) if gelu else product
    values, weight, bias = _cast(values, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "gelu" if gelu else "none", [], "none")
    return result


def convolution(
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    gelu: bool = False,
) -> Tensor:
    """A convolution [B, I, H, W] to [B, O, h, w] where no gradient is kept, and GELU of it where asked."""
    if not _fuses(values):
        product = F.conv2d(values, weight, bias, stride, padding, groups=groups)
        return F.gelu(product) if gelu else product
    values, weight, bias = _cast(values, weight, bias)
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        values, weight, bias, padding, stride, [1, 1], groups, "gelu" if gelu else "none", [], "none"
    )
    return result


class _Linear(torch.autograd.Function):
    """oneDNN's linear layer with the gradients it comes without."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return _linear(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        values, weight = ctx.saved_tensors
        for_values, for_weight, for_bias = ctx.needs_input_grad
        rows = above.flatten(0, -2)  # [M, O]
        return (
            _linear(rows, weight.T, None).view(values.shape) if for_values else None,
            _weight_gradient(rows, values.flatten(0, -2)) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def _weight_gradient(above: Tensor, values: Tensor) -> Tensor:
    """[M, O] and [M, I] to [O, I]; the narrower one is put in order for the product."""
    if above.shape[1] <= values.shape[1]:
        return _linear(above.T, values.T, None)
    return _linear(values.T, above.T, None).T


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _ONEDNN(values, weight, bias, "none", [], "")  # type: ignore[misc]  # _gains: it is there
    return result


def _gains(values: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and not torch.compiler.is_exporting()
        and values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.bfloat16)
        and values.dim() > 1
        and values.numel() * weight.shape[0] >= _WORTH_IT
    )


def _fuses(values: Tensor) -> bool:
    """Whether oneDNN's layers compute in the arithmetic that these values get."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype
    return (
        _FUSES
        and not torch.compiler.is_exporting()
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and _MULTIPLIES_BF16))
    )


def _followed(*tensors: Tensor | None) -> bool:
    """A gradient is kept for one of them."""
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


def _cast(values: Tensor, weight: Tensor, third: Any) -> tuple[Tensor, Tensor, Any]:
    """All in autocast's arithmetic, which does not know the operator; in that of `values` without it."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype
    return values.to(dtype), weight.to(dtype), None if third is None else third.to(dtype)
