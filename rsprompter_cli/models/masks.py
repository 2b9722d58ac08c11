"""From the decoder's low-resolution maps to masks of the image's size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.structures import LowResMasks, MaskPatches

_PIXELS_AT_ONCE = 1 << 24
"""Full-size pixels held at a time: 64 MiB of float32."""


def inflate(masks: LowResMasks) -> Tensor:
    """Masks in image pixels, worked in chunks.

    The maps are stretched bilinearly to the padded square, cut to the image's part of it, stretched
    to the image and compared with the threshold: the original's order, which one stretch is not equal to.

    Returns:
        bool [N, H, W], H and W of the image.
    """
    result = torch.empty((masks.values.shape[0], *masks.frame.image), dtype=torch.bool, device=masks.values.device)
    for start, part in _stretched(masks):
        result[start : start + len(part)] = part >= masks.threshold
    return result


def measure_logits(masks: LowResMasks) -> tuple[Tensor, Tensor]:
    """Bounds and certainty of masks whose values are logits, without keeping them at full size.

    Returns:
        boxes: float32 [N, 4] xyxy in image pixels, one past the last pixel; zeros for an empty mask.
        certainty: float32 [N], the mean probability over the mask's own pixels; 0 for an empty mask.
    """
    boxes = masks.values.new_zeros((masks.values.shape[0], 4), dtype=torch.float32)
    certainty = boxes.new_zeros(masks.values.shape[0])
    for start, part in _stretched(masks):
        inside = part >= masks.threshold
        total = (part.sigmoid() * inside).flatten(1).sum(1)
        # A small number instead of a branch for empty masks, as in the original.
        certainty[start : start + len(part)] = total / (inside.flatten(1).sum(1) + 1e-6)
        boxes[start : start + len(part)] = _bounds(inside)
    return boxes, certainty


def _bounds(masks: Tensor) -> Tensor:
    """float32 [N, 4] xyxy of masks bool [N, H, W]."""
    sides = []
    for axis in (1, 2):  # columns that hold a pixel, then rows
        held = masks.any(dim=axis)
        last = held.shape[1]
        first = held.int().argmax(dim=1)
        beyond = last - held.flip(1).int().argmax(dim=1)
        sides.append((first, beyond))
    (left, right), (top, bottom) = sides
    boxes = torch.stack([left, top, right, bottom], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]


def _stretched(masks: LowResMasks) -> Iterator[tuple[int, Tensor]]:
    """The maps at image size, some at a time: the index of the first, and float32 [n, H, W]."""
    padded, (rows, columns), image = masks.frame
    step = max(1, _PIXELS_AT_ONCE // (padded[0] * padded[1] + image[0] * image[1]))
    for start in range(0, masks.values.shape[0], step):
        part = masks.values[start : start + step, None].float()
        yield start, stretch(stretch(part, padded)[:, :, :rows, :columns], image)[:, 0]


def paste(masks: MaskPatches) -> Tensor:
    """Masks in image pixels, bool [N, H, W], H and W of the image."""
    device = masks.values[0].device if masks.values else None
    result = torch.zeros((len(masks.values), *masks.image), dtype=torch.bool, device=device)
    for whole, patch, (left, top) in zip(result, masks.values, masks.corners, strict=True):
        rows, columns = patch.shape
        whole[top : top + rows, left : left + columns] = patch >= 0
    return result


def stretch(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of [N, 1, h, w] to a size, pixel areas aligned; itself when it has that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
