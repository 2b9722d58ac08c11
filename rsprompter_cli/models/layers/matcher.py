"""Which prior answers for which object, and which of them a loss sees.

Source: MMDetection's MaxIoUAssigner and RandomSampler.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rsprompter_cli.models.layers.boxes import box_overlaps
from rsprompter_cli.models.training_context import draw

IGNORED = -1
BACKGROUND = 0

_PAIRS_AT_ONCE = 1 << 23
"""Overlaps held at a time: 32 MiB of float32 (a 1024 px image has half a million anchors)."""


class MatchRule(NamedTuple):
    """Overlaps that decide.

    positive: a prior with at least this overlap takes its best object.
    negative: a prior below it is background; between the two it is ignored.
    low_quality: an object whose best overlap is at least this one gets every prior tied at that
        best, whatever the prior had before; None switches that off.
    """

    positive: float
    negative: float
    low_quality: float | None


RPN_RULE = MatchRule(0.7, 0.3, 0.3)
ROI_RULE = MatchRule(0.5, 0.5, 0.5)
ROI_RULE_STRICT = MatchRule(0.5, 0.5, None)


def match(priors: Tensor, objects: Tensor, rule: MatchRule) -> Tensor:
    """Assign an object to each prior.

    Args:
        priors: float32 [N, 4] xyxy.
        objects: float32 [G, 4] xyxy ground truth.
        rule: the overlaps that decide.

    Returns:
        int64 [N]: k + 1 for object k, BACKGROUND or IGNORED.
    """
    count = priors.shape[0]
    if objects.shape[0] == 0 or count == 0:
        return torch.full((count,), BACKGROUND, dtype=torch.int64, device=priors.device)
    best = torch.full((count,), -1.0, device=priors.device)
    best_object = torch.zeros(count, dtype=torch.int64, device=priors.device)
    forced = torch.zeros(count, dtype=torch.int64, device=priors.device)
    step = max(1, _PAIRS_AT_ONCE // count)
    for start in range(0, objects.shape[0], step):
        overlaps = box_overlaps(objects[start : start + step], priors)  # [g, N]
        value, index = overlaps.max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        best_object = torch.where(better, index + start, best_object)
        if rule.low_quality is not None:
            forced = torch.maximum(forced, _forced(overlaps, rule.low_quality, start))
    matched = torch.full((count,), IGNORED, dtype=torch.int64, device=priors.device)
    matched[(best >= 0) & (best < rule.negative)] = BACKGROUND
    positive = best >= rule.positive
    matched[positive] = best_object[positive] + 1
    return torch.where(forced > 0, forced, matched)


def _forced(overlaps: Tensor, minimum: float, start: int) -> Tensor:
    """Object numbers from 1 that low-quality matching forces on priors, 0 elsewhere; a later object wins."""
    object_best = overlaps.max(dim=1, keepdim=True).values  # [g, 1]
    # Tied means equal as float32: the original compares with ==.
    tied = (overlaps == object_best) & (object_best >= minimum)
    numbers = torch.arange(start + 1, start + 1 + overlaps.shape[0], device=overlaps.device)
    return (tied * numbers[:, None]).amax(dim=0)


def sample(matched: Tensor, count: int, positive_share: float, *, image: int) -> tuple[Tensor, Tensor]:
    """Draw priors for a loss: at most a share of positives, filled up with background.

    Args:
        matched: int64 [N] from `match`.
        count: priors to draw at most.
        positive_share: share of `count` that positives may take.
        image: of the batch, whose priors these are.

    Returns:
        indices of positives and of background, int64, each ascending where all are taken.
    """
    positive = torch.nonzero(matched > 0).squeeze(1)
    positive = positive[draw(positive.numel(), int(count * positive_share), matched.device, image=image)]
    negative = torch.nonzero(matched == BACKGROUND).squeeze(1)
    return positive, negative[draw(negative.numel(), count - positive.numel(), matched.device, image=image)]
