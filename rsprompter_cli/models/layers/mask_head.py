"""Masks from region features: a small convolutional head, its targets, and pasting its answers into the image.

Source: Mask R-CNN as in MMDetection's FCNMaskHead and its mask targets.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from rsprompter_cli.models.training_context import rank_mean
from rsprompter_cli.structures import MaskPatches, Size

REGION_SIZE = 14
"""Rows and columns of the region features the head reads."""

MASK_SIZE = 28
"""Rows and columns of its answer."""

_CONVS = 4
_THRESHOLD = 0.5

_PIXELS_AT_ONCE = 1 << 24
"""Full-size mask pixels held as float at a time: 64 MiB."""


class FcnMaskHead(nn.Module):
    """Four convolutions, an enlargement by two, and a mask per class.

    Args:
        channels: of the region features and of every layer.
        num_classes: K.
    """

    def __init__(self, *, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(_CONVS))
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (*self.convs, self.enlarge, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, 14, 14] to mask logits of every class, float32 [N, K, 28, 28]."""
        for conv in self.convs:
            features = F.relu(conv(features))
        logits: Tensor = self.logits(F.relu(self.enlarge(features)))
        return logits.float()


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of the true classes' masks, mean over pixels and positives (`rank_mean`).

    It is 0, with a gradient, over none.

    Args:
        logits: float32 [P, K, 28, 28] of the positives of all images.
        labels: int64 [P], the class of the object that each positive answers for.
        targets: float32 [P, 28, 28] of `mask_targets`.
    """
    normaliser = rank_mean(logits.shape[0], logits)
    if logits.shape[0] == 0:
        return logits.sum()
    # Mean over each mask first: a sum over all pixels would lose digits in float32.
    each = F.binary_cross_entropy_with_logits(class_masks(logits, labels), targets, reduction="none").mean((1, 2))
    return each.sum() / normaliser


def class_masks(logits: Tensor, labels: Tensor) -> Tensor:
    """Of logits [N, K, 28, 28] those of one class each, [N, 28, 28]."""
    return logits[torch.arange(labels.shape[0], device=labels.device), labels]


@torch.no_grad()
def mask_targets(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """What the head should answer for the positives of one image: their object's mask inside their box.

    Args:
        masks: bool [G, H, W] ground truth, H and W at most `side`.
        boxes: float32 [P, 4] xyxy in input pixels, inside the image.
        objects: int64 [P], the ground truth each positive answers for.
        side: of the padded square input, pixels.

    Returns:
        float32 [P, 28, 28] of 0 and 1.
    """
    targets = boxes.new_zeros((boxes.shape[0], MASK_SIZE, MASK_SIZE), dtype=torch.float32)
    rows, columns = masks.shape[-2:]
    # What lies beyond the image is padding, not a repetition of its last row; one pixel of it is all that counts.
    margin = (0, min(1, side - columns), 0, min(1, side - rows))
    step = max(1, _PIXELS_AT_ONCE // (rows * columns))
    for start in range(0, masks.shape[0], step):
        here = ((objects >= start) & (objects < start + step)).nonzero().squeeze(1)
        if here.numel() == 0:
            continue
        some = F.pad(masks[start : start + step].float(), margin)[:, None]
        regions = torch.cat([(objects[here] - start)[:, None].to(boxes.dtype), boxes[here]], dim=1).float()  # [n, 5]
        share = roi_align(some, regions, MASK_SIZE, spatial_scale=1.0, sampling_ratio=0, aligned=True)[:, 0]
        targets[here] = (share >= _THRESHOLD).float()
    return targets


def paste_masks(probabilities: Tensor, boxes: Tensor, image: Size) -> MaskPatches:
    """Masks in their boxes, each as a patch of the image.

    A box that lies outside the image, or has no area, gives a patch of one pixel that is not of the object.

    Args:
        probabilities: float32 [N, 28, 28], the mask over each box, 0..1.
        boxes: float32 [N, 4] xyxy in pixels of the image, may reach beyond it.
        image: (rows, columns).

    Returns:
        patches whose values are the probability less one half.
    """
    rows, columns = image
    values, corners = [], []
    for mask, box, (x0, y0, x1, y1) in zip(probabilities, boxes, boxes.tolist(), strict=True):
        # A pixel more on each side: there the values are below one half, which closes the outline.
        left, right = max(math.floor(x0) - 1, 0), min(math.ceil(x1) + 1, columns)
        top, bottom = max(math.floor(y0) - 1, 0), min(math.ceil(y1) + 1, rows)
        if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
            values.append(mask.new_full((1, 1), -_THRESHOLD))
            corners.append((0, 0))
            continue
        x = (torch.arange(left, right, device=box.device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(top, bottom, device=box.device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [h, w, 2]
        values.append(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] - _THRESHOLD)
        corners.append((left, top))
    return MaskPatches(tuple(values), tuple(corners), image)
