"""Losses that more than one head uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_PIXELS_AT_ONCE = 1 << 20
"""Full-size mask pixels held at a time: 4 MiB of float32 each for logits, targets and gradient."""


def smooth_l1_sum(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of the smooth L1 loss with beta 1 over all elements; 0, with a gradient, over none."""
    return F.smooth_l1_loss(predicted, target, beta=1.0, reduction="sum")


def full_frame_mask_loss(logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Binary cross entropy summed over the pixels of the padded frame.

    The logits are stretched bilinearly to the frame and compared with the objects' masks, zero in
    the padding. Worked in chunks, each with its gradient, so that memory holds one chunk at full size and
    nothing of it until the backward pass; value and gradient are those of the whole.

    Args:
        logits: [P, h, w] low-resolution mask logits.
        masks: bool [G, H, W] masks of one image, H and W at most `side`.
        chosen: int64 [P], the mask each logit map answers for.
        side: rows and columns of the padded frame, pixels.

    Returns:
        float32 scalar, the sum (divide by P * side * side for the mean).
    """
    if logits.requires_grad and torch.is_grad_enabled():
        total: Tensor = _FullFrameMaskLoss.apply(logits, masks, chosen, side)
        return total
    return torch.stack(
        [_mask_loss_sum(part, masks, owners, side) for part, owners in _parts(logits, chosen, side)]
    ).sum()


class _FullFrameMaskLoss(torch.autograd.Function):
    """The loss whose gradient, as small as the logits, is found along with it; no full-size tensor is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
        total = logits.new_zeros((), dtype=torch.float32)
        gradients: list[Tensor] = []
        for part, owners in _parts(logits, chosen, side):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                loss = _mask_loss_sum(leaf, masks, owners, side)
                gradients += torch.autograd.grad(loss, leaf)
            total += loss.detach()
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * above, None, None, None


def _parts(logits: Tensor, chosen: Tensor, side: int) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, _PIXELS_AT_ONCE // side**2)
    return zip(logits.split(step), chosen.split(step), strict=True)


def _mask_loss_sum(logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
    target = masks[chosen].float()
    target = F.pad(target, (0, side - target.shape[-1], 0, side - target.shape[-2]))
    with torch.autocast(logits.device.type, enabled=False):
        full = F.interpolate(logits.float()[:, None], size=(side, side), mode="bilinear", align_corners=False)
        return F.binary_cross_entropy_with_logits(full[:, 0], target, reduction="sum")
