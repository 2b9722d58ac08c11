"""From the decoder's low-resolution maps to masks of the image's size."""

from __future__ import annotations

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
    padded, (rows, columns), image = masks.frame
    result = torch.empty((masks.values.shape[0], *image), dtype=torch.bool, device=masks.values.device)
    step = max(1, _PIXELS_AT_ONCE // (padded[0] * padded[1] + image[0] * image[1]))
    for start in range(0, result.shape[0], step):
        part = masks.values[start : start + step, None].float()
        part = stretch(part, padded)[:, :, :rows, :columns]
        result[start : start + step] = stretch(part, image)[:, 0] >= masks.threshold
    return result


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
