"""Region proposals: one small convolutional head over all pyramid levels.

Source: Faster R-CNN as in MMDetection's RPNHead, with its normalisers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from rsprompter_cli.models.layers.boxes import RPN_SCALE, anchors_per_cell, decode_boxes, encode_boxes, grid_anchors
from rsprompter_cli.models.layers.losses import smooth_l1_sum
from rsprompter_cli.models.layers.matcher import IGNORED, RPN_RULE, match, sample
from rsprompter_cli.models.layers.neck import PYRAMID_STRIDES
from rsprompter_cli.models.training_context import rank_mean
from rsprompter_cli.structures import Size


class RpnOutput(NamedTuple):
    """Raw answers of the head.

    logits: per level float32 [B, A, h, w], objectness.
    offsets: per level float32 [B, 4A, h, w], box offsets from the anchors.
    """

    logits: list[Tensor]
    offsets: list[Tensor]


class Proposals(NamedTuple):
    """Candidate boxes of one image, best first: boxes float32 [N, 4] xyxy in input pixels, scores [N]."""

    boxes: Tensor
    scores: Tensor


class RegionProposals(nn.Module):
    """The proposal head.

    Args:
        channels: of the pyramid levels.
        anchor_scales: anchor sides as multiples of the stride.
        nms_pre_train, nms_pre_test: boxes per level that reach the suppression.
        max_proposals: boxes kept per image.
        nms_iou: overlap above which the weaker box of a level goes.
        samples: anchors per image that the loss sees, half of them positive at most.
        anchor_area: which anchors the loss may see: "square" all of the padded input, "original" those that
            `anchor_areas` tells.
    """

    def __init__(
        self,
        *,
        channels: int,
        anchor_scales: Sequence[float],
        nms_pre_train: int,
        nms_pre_test: int,
        max_proposals: int,
        nms_iou: float,
        samples: int,
        anchor_area: Literal["square", "original"] = "square",
    ) -> None:
        super().__init__()
        self.anchor_scales = tuple(anchor_scales)
        self.nms_pre_train = nms_pre_train
        self.nms_pre_test = nms_pre_test
        self.max_proposals = max_proposals
        self.nms_iou = nms_iou
        self.samples = samples
        self.anchor_area = anchor_area
        anchors = anchors_per_cell(self.anchor_scales)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.offsets = nn.Conv2d(channels, anchors * 4, 1)
        for layer in (self.conv, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # built with a bias above

    def forward(self, levels: Sequence[Tensor]) -> RpnOutput:
        """Levels [B, C, h, w] to objectness and offsets, in float32."""
        hidden = [F.relu(self.conv(level)) for level in levels]
        return RpnOutput(
            [self.objectness(level).float() for level in hidden], [self.offsets(level).float() for level in hidden]
        )

    @torch.no_grad()
    def propose(self, output: RpnOutput, clip: Sequence[Size]) -> list[Proposals]:
        """Turn the answers into boxes, without gradient.

        Args:
            output: of `forward`.
            clip: per image the (rows, columns) that boxes are cut to.

        Returns:
            per image at most `max_proposals` boxes.
        """
        anchors = self._anchors(output)
        return [self._propose_one(output, anchors, index, size) for index, size in enumerate(clip)]

    def _propose_one(self, output: RpnOutput, anchors: list[Tensor], index: int, clip: Size) -> Proposals:
        limit = self.nms_pre_train if self.training else self.nms_pre_test
        boxes, scores, levels = [], [], []
        for level, (logits, offsets, priors) in enumerate(zip(output.logits, output.offsets, anchors, strict=True)):
            score = per_anchor(logits[index], 1).squeeze(1).sigmoid()
            score, order = score.sort(descending=True, stable=True)
            order = order[:limit]
            chosen = per_anchor(offsets[index], 4)[order]
            boxes.append(decode_boxes(priors[order], chosen, RPN_SCALE, clip))
            scores.append(score[:limit])
            levels.append(torch.full_like(order, level))
        box, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        whole = ((box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])).nonzero().squeeze(1)
        box, score, level_of = box[whole], score[whole], level_of[whole]
        keep = batched_nms(box, score, level_of, self.nms_iou)[: self.max_proposals]
        return Proposals(box[keep], score[keep])

    def losses(
        self, output: RpnOutput, boxes: Sequence[Tensor], areas: Sequence[Size] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss by pyramid level.

        Args:
            output: of `forward`.
            boxes: per image the ground truth float32 [G, 4] xyxy in input pixels; G may be 0.
            areas: per image the (rows, columns) of the input whose cells have anchors, see `anchor_areas`;
                None: the whole input.

        Returns:
            two float32 tensors [levels]; both are divided by the number of sampled anchors of the batch.
        """
        per_level = self._anchors(output)
        counts = [anchors.shape[0] for anchors in per_level]
        anchors = torch.cat(per_level)
        logits = _all_levels(output.logits, 1).squeeze(2)  # [B, anchors]
        offsets = _all_levels(output.offsets, 4)  # [B, anchors, 4]
        object_loss = logits.new_zeros(len(counts))
        box_loss = logits.new_zeros(len(counts))
        sampled = 0
        level_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(anchors.device)
        for index, objects in enumerate(boxes):
            matched = self._match(anchors, objects, output, None if areas is None else areas[index])
            positive, negative = sample(matched, self.samples, 0.5, image=index)
            sampled += max(positive.numel(), 1) + max(negative.numel(), 1)
            chosen = torch.cat([positive, negative])
            truth = torch.zeros_like(chosen, dtype=torch.float32)
            truth[: positive.numel()] = 1
            each = F.binary_cross_entropy_with_logits(logits[index, chosen], truth, reduction="none")
            # Summed level by level, not by index_add: that adds one by one, which loses digits in float32.
            object_loss = object_loss + torch.stack(
                [each[level_of[chosen] == level].sum() for level in range(len(counts))]
            )
            target = encode_boxes(anchors[positive], objects[matched[positive] - 1], RPN_SCALE)
            box_loss = box_loss + torch.stack(
                [
                    smooth_l1_sum(offsets[index, positive[here]], target[here])
                    for here in (level_of[positive] == level for level in range(len(counts)))
                ]
            )
        normaliser = rank_mean(sampled, logits)
        return object_loss / normaliser, box_loss / normaliser

    def _match(self, anchors: Tensor, objects: Tensor, output: RpnOutput, area: Size | None) -> Tensor:
        """See `match`; anchors of cells beyond (rows, columns) of the input are ignored, None: there are none."""
        if area is None:
            return match(anchors, objects, RPN_RULE)
        inside = []
        for logits, stride in zip(output.logits, PYRAMID_STRIDES, strict=True):
            per_cell, rows, columns = logits.shape[1:]
            cells = torch.zeros((rows, columns, per_cell), dtype=torch.bool)
            cells[: math.ceil(area[0] / stride), : math.ceil(area[1] / stride)] = True
            inside.append(cells.flatten())
        here = torch.cat(inside).nonzero().squeeze(1).to(anchors.device)
        matched = torch.full((anchors.shape[0],), IGNORED, dtype=torch.int64, device=anchors.device)
        # An object's best anchors, too, are sought within the area only.
        matched[here] = match(anchors[here], objects, RPN_RULE)
        return matched

    def _anchors(self, output: RpnOutput) -> list[Tensor]:
        return [
            grid_anchors((logits.shape[2], logits.shape[3]), stride, self.anchor_scales, logits.device)
            for logits, stride in zip(output.logits, PYRAMID_STRIDES, strict=True)
        ]


def per_anchor(maps: Tensor, values: int) -> Tensor:
    """[A * values, h, w] to [h * w * A, values], the order of the anchors."""
    return maps.permute(1, 2, 0).reshape(-1, values)


def _all_levels(levels: Sequence[Tensor], values: int) -> Tensor:
    """Per level [B, A * values, h, w] to [B, anchors of all levels, values]."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, values) for level in levels], dim=1)
