"""SAM-seg with Mask R-CNN: a two-stage detector with a mask head, on SAM's image encoder.

Source: RSPrompter (arXiv 2306.16269), its baseline that uses SAM's encoder only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import ImageMeta, boxes_to_image
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.layers.mask_head import (
    REGION_SIZE,
    FcnMaskHead,
    class_masks,
    mask_loss,
    mask_targets,
    paste_masks,
)
from rsprompter_cli.models.layers.matcher import ROI_RULE
from rsprompter_cli.models.layers.neck import Neck
from rsprompter_cli.models.layers.roi import BoxDetections, BoxHead, RoiSamples, roi_features
from rsprompter_cli.models.layers.rpn import RegionProposals
from rsprompter_cli.models.layers.two_stage import box_losses, find_boxes
from rsprompter_cli.models.sam.encoder_cache import EncoderCache, encode
from rsprompter_cli.structures import Detections, Size, Target


class SamsegMaskRcnn(ImageModel):
    """The whole model.

    Args:
        encoder: image encoder obeying `EncoderOutput`, with pixel_mean and pixel_std.
        neck: encoder maps to a pyramid.
        rpn, box_head, mask_head: the blocks of the two stages.
        image_size: side of the square input, pixels.
        roi_samples: boxes per image that the region losses see.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        neck: Neck,
        rpn: RegionProposals,
        box_head: BoxHead,
        mask_head: FcnMaskHead,
        image_size: int,
        roi_samples: int,
    ) -> None:
        mean, std = pixel_statistics(encoder)
        super().__init__(image_size=image_size, pixel_mean=mean, pixel_std=std)
        self.encoder = encoder
        self.neck = neck
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.roi_samples = roi_samples
        self.encoder_cache: EncoderCache | None = None

    def features(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of a normalised, padded batch [B, 3, S, S]: [B, C, S/4, S/4] .. [B, C, S/64, S/64]."""
        encoded = encode(self.encoder, batch, self.encoder_cache)
        levels: tuple[Tensor, ...] = self.neck(encoded)
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
        levels = self.features(batch)
        losses, samples = box_losses(
            self.rpn,
            self.box_head,
            levels=levels,
            region_levels=levels,
            sizes=sizes,
            targets=targets,
            rule=ROI_RULE,
            samples=self.roi_samples,
        )
        return {**losses, "loss_mask": self._mask_loss(levels, samples, targets)}

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square. Boxes are cut to the padded square, as in the
                original; one that lies in the padding alone has an empty mask.
        """
        levels = self.features(batch)
        found = self.find_boxes(levels)
        logits = self.mask_head(roi_features(levels, [part.boxes for part in found], REGION_SIZE))
        counts = [part.boxes.shape[0] for part in found]
        results = []
        for part, part_logits, meta in zip(found, logits.split(counts), metas, strict=True):
            boxes = boxes_to_image(part.boxes, meta)
            masks = paste_masks(class_masks(part_logits, part.labels).sigmoid(), boxes, meta.frame.image)
            results.append(Detections(boxes, part.labels, part.scores, masks))
        return results

    def find_boxes(self, levels: Sequence[Tensor]) -> list[BoxDetections]:
        """Detections of each image as boxes in input pixels, without masks."""
        return find_boxes(self.rpn, self.box_head, levels=levels, region_levels=levels, side=self.image_size)

    def _mask_loss(self, levels: Sequence[Tensor], samples: Sequence[RoiSamples], targets: Sequence[Target]) -> Tensor:
        positives = [drawn.boxes[: drawn.objects.shape[0]] for drawn in samples]
        logits = self.mask_head(roi_features(levels, positives, REGION_SIZE))
        labels = torch.cat([target.labels[drawn.objects] for drawn, target in zip(samples, targets, strict=True)])
        wanted = [
            mask_targets(target.masks, boxes, drawn.objects, self.image_size)
            for drawn, boxes, target in zip(samples, positives, targets, strict=True)
        ]
        return mask_loss(logits, labels, torch.cat(wanted))
