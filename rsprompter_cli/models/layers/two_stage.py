"""What every two-stage model does between its pyramid and its masks: propose boxes, classify and refine them.

Source: Faster R-CNN as in MMDetection's TwoStageDetector and StandardRoIHead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rsprompter_cli.models.image_transform import anchor_areas
from rsprompter_cli.models.layers.matcher import MatchRule
from rsprompter_cli.models.layers.neck import PYRAMID_STRIDES
from rsprompter_cli.models.layers.roi import BOX_SIZE, BoxDetections, BoxHead, RoiSamples, roi_features, sample_rois
from rsprompter_cli.models.layers.rpn import RegionProposals
from rsprompter_cli.structures import Size, Target


def box_losses(
    rpn: RegionProposals,
    box_head: BoxHead,
    *,
    levels: Sequence[Tensor],
    region_levels: Sequence[Tensor],
    sizes: Sequence[Size],
    targets: Sequence[Target],
    rule: MatchRule,
    samples: int,
) -> tuple[dict[str, Tensor], list[RoiSamples]]:
    """The four losses of boxes, and the boxes that a mask loss may look at.

    Args:
        rpn, box_head: the two stages.
        levels: pyramid that the proposals read, five levels [B, C, h, w].
        region_levels: pyramid that the box head reads.
        sizes: (rows, columns) of each image before padding; proposals are cut to them, and they decide which
            anchors the proposals' losses see.
        targets: B ground truths.
        rule: overlaps that decide which proposal answers for which object.
        samples: proposals per image that the box head's losses see.

    Returns:
        float32 scalars loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox; the samples of each image.
    """
    boxes = [target.boxes.float() for target in targets]
    output = rpn(levels)
    areas = None
    if rpn.anchor_area == "original":
        areas = anchor_areas(sizes, levels[0].shape[2] * PYRAMID_STRIDES[0])
    object_loss, offset_loss = rpn.losses(output, boxes, areas)
    drawn = [
        sample_rois(proposal.boxes, truth, rule, samples, image=index)
        for index, (proposal, truth) in enumerate(zip(rpn.propose(output, sizes), boxes, strict=True))
    ]
    logits, offsets = box_head(roi_features(region_levels, [part.boxes for part in drawn], BOX_SIZE))
    losses = box_head.losses(logits, offsets, drawn, boxes, [target.labels for target in targets])
    return {"loss_rpn_cls": object_loss.sum(), "loss_rpn_bbox": offset_loss.sum(), **losses}, drawn


def find_boxes(
    rpn: RegionProposals, box_head: BoxHead, *, levels: Sequence[Tensor], region_levels: Sequence[Tensor], side: int
) -> list[BoxDetections]:
    """Detections of each image as boxes in input pixels.

    Args:
        rpn, box_head, levels, region_levels: as in `box_losses`.
        side: of the padded square, pixels, to which boxes are cut.
    """
    square = (side, side)
    proposals = rpn.propose(rpn(levels), [square] * levels[0].shape[0])
    boxes = [proposal.boxes for proposal in proposals]
    logits, offsets = box_head(roi_features(region_levels, boxes, BOX_SIZE))
    counts = [part.shape[0] for part in boxes]
    return [
        box_head.detect(part_logits, part_offsets, part_boxes, square)
        for part_logits, part_offsets, part_boxes in zip(
            logits.split(counts), offsets.split(counts), boxes, strict=True
        )
    ]
