"""A plain baseline: torchvision's Mask R-CNN behind the contract of the other models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.ops.poolers import initLevelMapper

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import ImageMeta, boxes_to_image
from rsprompter_cli.models.layers.mask_head import paste_masks
from rsprompter_cli.models.layers.matcher import sample
from rsprompter_cli.models.layers.resnet import keep_norms_in_eval
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD
from rsprompter_cli.models.trainable import keep_frozen_in_eval
from rsprompter_cli.models.training_context import rank_mean
from rsprompter_cli.structures import Detections, Size, Target

_STRIDES = (4, 8, 16, 32)
"""Of the levels that regions are read from."""

_LOSS_NAMES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_bbox",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_mask": "loss_mask",
}
"""torchvision's names, and those of the other two-stage models."""


class MaskRcnn(ImageModel):
    """The whole model.

    Of torchvision's model all parts serve but its transform: normalising, padding and resizing are those of
    the other models, so that baselines see the same pictures. The names of the weights are torchvision's.

    Args:
        detector: with a ResNet and its pyramid as backbone, one class more than the data has.
        image_size: side of the square input, pixels.
        frozen_norms: the ResNet's BatchNorm keeps its running statistics in training.
    """

    def __init__(self, *, detector: MaskRCNN, image_size: int, frozen_norms: bool) -> None:
        super().__init__(image_size=image_size, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD)
        self.backbone = detector.backbone
        self.rpn = detector.rpn
        self.roi_heads = detector.roi_heads
        self.frozen_norms = frozen_norms
        for pool in (self.roi_heads.box_roi_pool, self.roi_heads.mask_roi_pool):
            # torchvision guesses the strides from the first images it sees, and guesses wrong where they are padded.
            pool.scales = [1 / stride for stride in _STRIDES]
            pool.map_levels = initLevelMapper(2, 5)
        for part in (self.rpn, self.roi_heads):
            part.fg_bg_sampler = _Sampler(part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction)
        for head in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            # In bfloat16 boxes would be off by pixels: it has 8 bits of mantissa.
            head.register_forward_hook(_in_float32)

    @property
    def resnet(self) -> nn.Module:
        """The ResNet below the pyramid, with torchvision's names."""
        body: nn.Module = self.backbone.body
        return body

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but frozen parts and frozen norms stay in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self)
        if self.frozen_norms:
            keep_norms_in_eval(self.resnet)
        return self

    def features(self, batch: Tensor) -> dict[str, Tensor]:
        """The pyramid of a normalised, padded batch [B, 3, S, S]: [B, 256, S/4, S/4] .. [B, 256, S/64, S/64]."""
        levels: dict[str, Tensor] = self.backbone(batch)
        return levels

    def losses(self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The five losses of a normalised, padded batch.

        Args:
            batch: float32 [B, 3, S, S].
            sizes: (rows, columns) of each image before padding; proposals are cut to them.
            targets: B ground truths on the batch's device.

        Returns:
            float32 scalars loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox, loss_mask.
        """
        # torchvision's class 0 is the background.
        wanted = [
            {"boxes": target.boxes.float(), "labels": target.labels + 1, "masks": target.masks} for target in targets
        ]
        # Without an object the mask head gets no region, of which BatchNorm would learn statistics that are no numbers.
        has_objects = any(target.labels.numel() for target in targets)
        self.roi_heads.mask_head.train(self.training and has_objects)
        features = self.features(batch)
        proposals, losses = self.rpn(ImageList(batch, list(sizes)), features, wanted)
        _, head_losses = self.roi_heads(features, proposals, list(sizes), wanted)
        anchors, regions = self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler
        counts = dict.fromkeys(losses, anchors.taken) | dict.fromkeys(head_losses, regions.taken)
        counts["loss_mask"] = regions.positive
        # torchvision divides by what this batch counts.
        shares = {name: count / rank_mean(count, batch) for name, count in counts.items()}
        return {_LOSS_NAMES[name]: value * shares[name] for name, value in (losses | head_losses).items()}

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square; boxes are cut to the part that shows the image.
        """
        sizes = [meta.frame.content for meta in metas]
        features = self.features(batch)
        proposals, _ = self.rpn(ImageList(batch, sizes), features)
        found, _ = self.roi_heads(features, proposals, sizes)
        results = []
        for part, meta in zip(found, metas, strict=True):
            boxes = boxes_to_image(part["boxes"], meta)
            masks = paste_masks(part["masks"][:, 0], boxes, meta.frame.image)
            results.append(Detections(boxes, part["labels"] - 1, part["scores"], masks))
        return results


class _Sampler:
    """torchvision's sampler of anchors and regions, but for its chance; it knows how many it took last.

    Args:
        batch_size_per_image: boxes to take of an image at most.
        positive_fraction: share of them that may be positive.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.taken = self.positive = 0

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per image of positives (from 1) and background (0), [N] each, masks of 0 and 1 of those that are taken."""
        self.taken = self.positive = 0
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for image, labels in enumerate(matched):
            drawn = sample(labels.long(), self.batch_size_per_image, self.positive_fraction, image=image)
            for masks, indices in zip(chosen, drawn, strict=True):
                masks.append(torch.zeros_like(labels, dtype=torch.uint8).index_fill_(0, indices, 1))
            self.positive += drawn[0].numel()
            self.taken += drawn[0].numel() + drawn[1].numel()
        return chosen


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """The output of a head, a tensor or a nest of them, in float32."""
    if isinstance(output, Tensor):
        return output.float()
    return type(output)(_in_float32(module, inputs, part) for part in output)
