"""Regions of interest: features of boxes, and the head that classifies and refines them.

Source: Faster R-CNN as in MMDetection's SingleRoIExtractor and Shared2FCBBoxHead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

from rsprompter_cli.models.layers.boxes import ROI_SCALE, decode_boxes, encode_boxes
from rsprompter_cli.models.layers.losses import smooth_l1_sum
from rsprompter_cli.models.layers.matcher import MatchRule, match, sample
from rsprompter_cli.models.layers.neck import PYRAMID_STRIDES
from rsprompter_cli.models.training_context import rank_mean
from rsprompter_cli.structures import Size

BOX_SIZE = 7
"""Rows and columns of the features the box head reads."""

_LEVELS = 4
_FINEST_SCALE = 56
"""Boxes whose side is below twice this many pixels read the finest level."""

_POSITIVE_SHARE = 0.25


class RoiSamples(NamedTuple):
    """The boxes of one image that a training step looks at, positives first.

    boxes: float32 [P + M, 4] xyxy in input pixels.
    objects: int64 [P], the ground truth each positive answers for.
    """

    boxes: Tensor
    objects: Tensor


class BoxDetections(NamedTuple):
    """Boxes after suppression, best first, in input pixels: [N, 4], int64 [N], [N]."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def roi_features(levels: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    """Features of boxes, each read from the level that suits its size.

    Args:
        levels: pyramid [B, C, h, w], strides 4, 8, 16, 32 first; further levels are not read.
        boxes: per image float32 [N_i, 4] xyxy in input pixels.
        size: rows and columns of the result.

    Returns:
        float32 [sum N_i, C, size, size], in the order of the images.
    """
    counts = torch.tensor([len(part) for part in boxes])
    image_of = torch.repeat_interleave(torch.arange(len(boxes)), counts).to(levels[0].device)
    all_boxes = torch.cat(list(boxes))
    rois = torch.cat([image_of[:, None].to(all_boxes.dtype), all_boxes], dim=1)  # [N, 5]
    level_of = level_of_boxes(all_boxes)
    result = levels[0].new_zeros((rois.shape[0], levels[0].shape[1], size, size), dtype=torch.float32)
    for level, stride in enumerate(PYRAMID_STRIDES[:_LEVELS]):
        here = (level_of == level).nonzero().squeeze(1)
        if here.numel():
            part = roi_align(
                levels[level].float(), rois[here], size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True
            )
            result = result.index_copy(0, here, part)
    return result


def level_of_boxes(boxes: Tensor) -> Tensor:
    """The pyramid level int64 [N] that suits each box [N, 4]."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (side / _FINEST_SCALE + 1e-6).log2().floor().clamp(0, _LEVELS - 1).long()


def sample_rois(proposals: Tensor, objects: Tensor, rule: MatchRule, samples: int, *, image: int) -> RoiSamples:
    """Match proposals with the ground truth, add the ground truth itself, draw for the loss.

    Args:
        proposals: float32 [N, 4] xyxy in input pixels.
        objects: float32 [G, 4], ground truth.
        rule: the overlaps that decide.
        samples: boxes to draw at most, a quarter of them positive at most.
        image: of the batch, whose proposals these are.
    """
    own = torch.arange(1, objects.shape[0] + 1, device=objects.device)
    matched = torch.cat([own, match(proposals, objects, rule)])
    candidates = torch.cat([objects, proposals])
    positive, negative = sample(matched, samples, _POSITIVE_SHARE, image=image)
    return RoiSamples(candidates[torch.cat([positive, negative])], matched[positive] - 1)


class BoxHead(nn.Module):
    """Two shared fully connected layers, a class score and a box per class.

    Args:
        channels: of the region features.
        fc_channels: width of the shared layers.
        num_classes: K, without the background.
        score_threshold: detections at or below it are dropped.
        nms_iou: overlap above which the weaker detection of a class goes.
        max_detections: kept per image.
    """

    def __init__(
        self,
        *,
        channels: int,
        fc_channels: int,
        num_classes: int,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.score_floor = 0.0  # see `SkipsWeak`
        self.fc1 = nn.Linear(channels * BOX_SIZE**2, fc_channels)
        self.fc2 = nn.Linear(fc_channels, fc_channels)
        self.classes = nn.Linear(fc_channels, num_classes + 1)
        self.offsets = nn.Linear(fc_channels, num_classes * 4)
        for shared in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(shared.weight)
            nn.init.zeros_(shared.bias)
        for layer, std in ((self.classes, 0.01), (self.offsets, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, 7, 7] to float32 class logits [N, K + 1], background last, and offsets [N, K, 4]."""
        hidden = F.relu(self.fc2(F.relu(self.fc1(features.flatten(1)))))
        offsets = self.offsets(hidden).float()
        return self.classes(hidden).float(), offsets.reshape(-1, self.num_classes, 4)

    def losses(
        self,
        logits: Tensor,
        offsets: Tensor,
        samples: Sequence[RoiSamples],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Class and box loss, both divided by the number of sampled boxes (`rank_mean`).

        Args:
            logits, offsets: of `forward` for the samples of all images in order.
            samples: per image.
            boxes, labels: per image the ground truth.
        """
        classes, positives, targets, wanted, start = [], [], [], [], 0
        for drawn, truth, names in zip(samples, boxes, labels, strict=True):
            count, positive = drawn.boxes.shape[0], drawn.objects.shape[0]
            background = names.new_full((count - positive,), self.num_classes)
            classes.append(torch.cat([names[drawn.objects], background]))
            positives.append(torch.arange(start, start + positive, device=logits.device))
            wanted.append(names[drawn.objects])
            targets.append(encode_boxes(drawn.boxes[:positive], truth[drawn.objects], ROI_SCALE))
            start += count
        total = rank_mean(start, logits)
        chosen = offsets[torch.cat(positives), torch.cat(wanted)]  # [P, 4]
        return {
            "loss_cls": F.cross_entropy(logits, torch.cat(classes), reduction="sum") / total,
            "loss_bbox": smooth_l1_sum(chosen, torch.cat(targets)) / total,
        }

    def detect(self, logits: Tensor, offsets: Tensor, proposals: Tensor, clip: Size) -> BoxDetections:
        """Detections of one image.

        Args:
            logits, offsets: of `forward` for this image's proposals.
            proposals: float32 [N, 4] xyxy in input pixels.
            clip: (rows, columns) that boxes are cut to.
        """
        scores = logits.softmax(dim=-1)[:, :-1]  # [N, K]
        boxes = decode_boxes(proposals[:, None, :], offsets, ROI_SCALE, clip)  # [N, K, 4]
        rows, labels = ((scores > self.score_threshold) & (scores >= self.score_floor)).nonzero().unbind(1)
        score, box = scores[rows, labels], boxes[rows, labels]
        keep = batched_nms(box, score, labels, self.nms_iou)[: self.max_detections]
        return BoxDetections(box[keep], labels[keep], score[keep])
