"""SAMDet: a Faster R-CNN finds the boxes, a frozen SAM makes a mask of each.

Source: RSPrompter (arXiv 2306.16269), its baseline of a detector that prompts SAM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import (
    ImageMeta,
    boxes_to_image,
    boxes_to_square,
    normalise,
    resize_batch,
    restore_pixels,
)
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.layers.matcher import ROI_RULE_STRICT
from rsprompter_cli.models.layers.resnet import FeaturePyramid, ResNet
from rsprompter_cli.models.layers.roi import BoxDetections, BoxHead
from rsprompter_cli.models.layers.rpn import RegionProposals
from rsprompter_cli.models.layers.two_stage import box_losses, find_boxes
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD, PromptedDecoder
from rsprompter_cli.structures import Detections, LowResMasks, Size, Target

MASK_THRESHOLD = 0.0


class SamDet(ImageModel):
    """The whole model.

    SAM is never run in training: it does not train, and the losses are those of the boxes.

    Args:
        resnet: pictures to maps of strides 4 to 32.
        neck: those maps to a pyramid.
        rpn, box_head: the blocks of the two stages.
        encoder: SAM's image encoder obeying `EncoderOutput`, with pixel_mean, pixel_std and embedding_stride.
        mask_decoder: with SAM's prompts for boxes.
        image_size: side of the square input, pixels.
        roi_samples: boxes per image that the region losses see.
    """

    def __init__(
        self,
        *,
        resnet: ResNet,
        neck: FeaturePyramid,
        rpn: RegionProposals,
        box_head: BoxHead,
        encoder: nn.Module,
        mask_decoder: PromptedDecoder,
        image_size: int,
        roi_samples: int,
    ) -> None:
        super().__init__(image_size=image_size, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD, eight_bit=True)
        self.resnet = resnet
        self.neck = neck
        self.rpn = rpn
        self.box_head = box_head
        self.encoder = encoder
        self.mask_decoder = mask_decoder
        self.roi_samples = roi_samples

    def features(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The detector's pyramid of a normalised, padded batch [B, 3, S, S]."""
        levels: tuple[Tensor, ...] = self.neck(self.resnet(batch))
        return levels

    def losses(self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The four losses of a normalised, padded batch.

        Args:
            batch: float32 [B, 3, S, S].
            sizes: (rows, columns) of each image before padding; proposals are cut to them.
            targets: B ground truths, boxes and labels on the batch's device.

        Returns:
            float32 scalars loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox.
        """
        levels = self.features(batch)
        losses, _ = box_losses(
            self.rpn,
            self.box_head,
            levels=levels,
            region_levels=levels,
            sizes=sizes,
            targets=targets,
            rule=ROI_RULE_STRICT,
            samples=self.roi_samples,
        )
        return losses

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square. Boxes are cut to the padded square, as in the original.
        """
        return self._segment(batch, metas, self.find_boxes(self.features(batch)))

    @torch.no_grad()
    def oracle(self, images: list[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Detections]:
        """What SAM makes of the true boxes: the detections of a detector without fault, all of score 1.

        Args:
            images: as in `forward`.
            boxes: per image [N_i, 4] xyxy in its pixels.
            labels: per image int64 [N_i].

        Raises:
            InputError: a tensor that is no picture.
        """
        device = next(self.parameters()).device
        batch, metas = resize_batch(images, self.image_size, self.pixel_mean, self.pixel_std, device, eight_bit=True)
        found = []
        for true, named, meta in zip(boxes, labels, metas, strict=True):
            placed = boxes_to_square(true.float().to(batch.device), meta)
            scores = torch.ones_like(named, dtype=torch.float32, device=batch.device)
            found.append(BoxDetections(placed, named.to(batch.device), scores))
        return self._segment(batch, metas, found)

    def find_boxes(self, levels: Sequence[Tensor]) -> list[BoxDetections]:
        """Detections of each image as boxes in input pixels, without masks."""
        return find_boxes(self.rpn, self.box_head, levels=levels, region_levels=levels, side=self.image_size)

    def segment(self, batch: Tensor, boxes: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """SAM's masks for boxes of each image; an image without a box is not encoded.

        Args:
            batch: float32 [B, 3, S, S], normalised and padded for the detector.
            boxes: per image [N_i, 4] xyxy in input pixels.

        Returns:
            per image mask logits float32 [N_i, h, w] and the IoU SAM thinks they reach, float32 [N_i].
        """
        pixels = self.for_sam(batch)
        stride: int = self.encoder.embedding_stride  # type: ignore[assignment]  # of the encoder's protocol
        side = 4 * self.image_size // stride
        results = []
        # One by one, because the maps of a large encoder are large.
        for index, part in enumerate(boxes):
            if part.shape[0] == 0:
                results.append((part.new_zeros((0, side, side)), part.new_zeros(0)))
                continue
            embedding = self.encoder(pixels[index : index + 1]).embedding
            # The original hands SAM the outer edge of a box where SAM expects the last pixel.
            prompts = self.mask_decoder.corner_prompts(part, self.image_size, last_pixel=True)
            logits, quality = self.mask_decoder.with_quality(embedding, prompts, multimask=False)
            results.append((logits[:, 0], quality[:, 0].clamp(0, 1)))
        return results

    def _segment(self, batch: Tensor, metas: Sequence[ImageMeta], found: Sequence[BoxDetections]) -> list[Detections]:
        masks = self.segment(batch, [one.boxes for one in found])
        return [
            Detections(
                boxes_to_image(boxes.boxes, meta),
                boxes.labels,
                boxes.scores,
                LowResMasks(logits, MASK_THRESHOLD, meta.frame),
                quality,
            )
            for boxes, meta, (logits, quality) in zip(found, metas, masks, strict=True)
        ]

    def for_sam(self, batch: Tensor) -> Tensor:
        """The batch as SAM's encoder wants it: as it is, but for an encoder of another normalisation."""
        mean, std = pixel_statistics(self.encoder)
        if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
            return batch
        return normalise(restore_pixels(batch, IMAGENET_MEAN, IMAGENET_STD), mean, std)
