"""Pictures of noise, ground truths whose masks are boxes, and a network that proposes none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsprompter_cli.models.layers.rpn import Proposals, RpnOutput
from rsprompter_cli.structures import Size, Target


def boxed_target(height: int, width: int, boxes: Sequence[tuple[int, int, int, int]], label: int = 0) -> Target:
    """Objects that fill their boxes, xyxy, all of one class."""
    masks = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    for index, (left, top, right, bottom) in enumerate(boxes):
        masks[index, top:bottom, left:right] = True
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.full((len(boxes),), label), masks)


def noise_images(*sizes: Size) -> list[Tensor]:
    """Pictures uint8 [3, H, W], the same at every call."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def no_proposals(output: RpnOutput, clip: Sequence[Size]) -> list[Proposals]:
    """In place of a region proposal network's `propose`: nothing in any picture."""
    return [Proposals(torch.zeros(0, 4), torch.zeros(0)) for _ in clip]
