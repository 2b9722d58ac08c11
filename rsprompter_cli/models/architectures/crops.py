"""The pictures a classifier reads of masks: each box with some of its surroundings, these out of focus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.structures import MaskPatches


def mask_crops(
    picture: Tensor, masks: MaskPatches, boxes: Tensor, *, size: int, scale: float, blur: int, chosen: Sequence[int]
) -> Tensor:
    """The crops of some masks.

    Source: SAM-cls of RSPrompter (arXiv 2306.16269, section III-C): a mask's box enlarged, everything
    outside the mask blurred.

    Args:
        picture: float32 [3, H, W].
        masks: N masks of it.
        boxes: [N, 4] xyxy, their bounds.
        size: rows and columns of the crops.
        scale: sides of the crop over those of the box; it ends where the picture does.
        blur: side of the window that a pixel outside the mask is the mean of, odd.
        chosen: the masks wanted, n of the N.

    Returns:
        float32 [n, 3, size, size].
    """
    crops = picture.new_zeros((len(chosen), 3, size, size))
    blurred = F.avg_pool2d(picture[None], blur, stride=1, padding=blur // 2, count_include_pad=False)[0]
    for place, index in enumerate(chosen):
        x0, y0, x1, y1 = _enlarged(boxes[index].tolist(), scale, masks.image)
        inside = _within(masks, index, (x0, y0, x1, y1)).to(picture.device)
        crop = torch.where(inside, picture[:, y0:y1, x0:x1], blurred[:, y0:y1, x0:x1])
        crops[place] = F.interpolate(crop[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    return crops


def _enlarged(box: Sequence[float], scale: float, image: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box enlarged about its centre, on whole pixels of the image."""
    x0, y0, x1, y1 = box
    more_x, more_y = (x1 - x0) * (scale - 1) / 2, (y1 - y0) * (scale - 1) / 2
    left, top = max(math.floor(x0 - more_x), 0), max(math.floor(y0 - more_y), 0)
    return left, top, min(math.ceil(x1 + more_x), image[1]), min(math.ceil(y1 + more_y), image[0])


def _within(masks: MaskPatches, index: int, window: tuple[int, int, int, int]) -> Tensor:
    """A mask in a window that holds all of it, bool [h, w]."""
    x0, y0, x1, y1 = window
    values, (left, top) = masks.values[index], masks.corners[index]
    # The patch is a pixel wider than the mask, and so maybe than the window.
    skip_x, skip_y = max(x0 - left, 0), max(y0 - top, 0)
    mask = torch.zeros((y1 - y0, x1 - x0), dtype=torch.bool, device=values.device)
    part = mask[top + skip_y - y0 :, left + skip_x - x0 :]
    patch = values[skip_y : skip_y + part.shape[0], skip_x : skip_x + part.shape[1]]
    part[: patch.shape[0], : patch.shape[1]] = patch >= 0
    return mask
