"""Losses that more than one head uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_PIXELS_AT_ONCE = 1 << 22
"""Full-size mask pixels held at a time: 16 MiB of float32 each for logits, targets and loss."""


def smooth_l1_sum(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of the smooth L1 loss with beta 1 over all elements; 0, with a gradient, over none."""
    return F.smooth_l1_loss(predicted, target, beta=1.0, reduction="sum")


def full_frame_mask_loss(logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Binary cross entropy summed over the pixels of the padded frame.

    The logits are stretched bilinearly to the frame and compared with the objects' masks, zero in
    the padding. Worked in chunks whose full-size tensors are made again in the backward pass, so that
    memory holds one chunk only; value and gradient are those of the whole.

    Args:
        logits: [P, h, w] low-resolution mask logits.
        masks: bool [G, H, W] masks of one image, H and W at most `side`.
        chosen: int64 [P], the mask each logit map answers for.
        side: rows and columns of the padded frame, pixels.

    Returns:
        float32 scalar, the sum (divide by P * side * side for the mean).
    """
    total = logits.new_zeros((), dtype=torch.float32)
    step = max(1, _PIXELS_AT_ONCE // side**2)
    for start in range(0, logits.shape[0], step):
        part = logits[start : start + step]
        total = total + checkpoint(
            _mask_loss_sum,
            part,
            masks,
            chosen[start : start + step],
            side,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total


def _mask_loss_sum(logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
    target = masks[chosen].float()
    target = F.pad(target, (0, side - target.shape[-1], 0, side - target.shape[-2]))
    with torch.autocast(logits.device.type, enabled=False):
        full = F.interpolate(logits.float()[:, None], size=(side, side), mode="bilinear", align_corners=False)
        return F.binary_cross_entropy_with_logits(full[:, 0], target, reduction="sum")
