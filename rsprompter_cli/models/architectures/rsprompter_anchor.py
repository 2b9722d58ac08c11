"""RSPrompter-anchor: a two-stage detector whose region features become prompts of SAM's mask decoder.

Source: RSPrompter (arXiv 2306.16269), the anchor-based prompter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import ImageMeta, boxes_to_image
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.layers.losses import full_frame_mask_loss
from rsprompter_cli.models.layers.matcher import ROI_RULE
from rsprompter_cli.models.layers.neck import Neck
from rsprompter_cli.models.layers.positions import sine_positions
from rsprompter_cli.models.layers.roi import BoxDetections, BoxHead, RoiSamples, roi_features
from rsprompter_cli.models.layers.rpn import RegionProposals
from rsprompter_cli.models.layers.two_stage import box_losses, find_boxes
from rsprompter_cli.models.masks import stretch
from rsprompter_cli.models.sam.encoder_cache import EncoderCache, encode
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.models.training_context import draw, rank_mean
from rsprompter_cli.structures import Detections, LowResMasks, Size, Target

PROMPT_SIZE = 14
"""Rows and columns of the region features the prompt head reads."""

MASK_THRESHOLD = 0.5


class Features(NamedTuple):
    """What the heads read.

    levels: pyramid [B, C, S/4, S/4] .. [B, C, S/64, S/64].
    located: the same with sine positions added; the region heads read these, the proposals the plain ones.
    embedding: SAM's [B, D, h, w].
    """

    levels: tuple[Tensor, ...]
    located: tuple[Tensor, ...]
    embedding: Tensor


class PromptHead(nn.Module):
    """Region features to prompt embeddings of SAM's mask decoder.

    Args:
        channels: of the region features.
        prompts: embeddings per object, Kp.
        embed_channels: width of SAM's prompts, D.
        silent: start with prompts of zero, so that the decoder first answers to other prompts alone.
    """

    def __init__(self, *, channels: int, prompts: int, embed_channels: int, silent: bool = False) -> None:
        super().__init__()
        self.prompts = prompts
        self.embed_channels = embed_channels
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.fc1 = nn.Linear(channels * (PROMPT_SIZE // 2) ** 2, channels)
        self.fc2 = nn.Linear(channels, channels)
        self.fc3 = nn.Linear(channels, 2 * prompts * embed_channels)
        if silent:
            nn.init.zeros_(self.fc3.weight)
            nn.init.zeros_(self.fc3.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, 14, 14] to prompts [N, Kp, D]."""
        hidden = F.relu(self.norm(self.conv(features))).flatten(1)
        hidden = self.fc3(F.relu(self.fc2(F.relu(self.fc1(hidden)))))
        pairs = hidden.reshape(-1, self.prompts, self.embed_channels, 2)  # [N, Kp, D, 2]
        return torch.sin(pairs[..., 0]) + pairs[..., 1]


class RSPrompterAnchor(ImageModel):
    """The whole model.

    Args:
        encoder: image encoder obeying `EncoderOutput`, with pixel_mean and pixel_std.
        neck: encoder maps to a pyramid.
        rpn, box_head, prompt_head, mask_decoder: the blocks of the two stages.
        image_size: side of the square input, pixels.
        roi_samples: boxes per image that the region losses see.
        mask_samples: of the positives among them, at most so many per image are decoded for the mask
            loss, drawn at random; None: all.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        neck: Neck,
        rpn: RegionProposals,
        box_head: BoxHead,
        prompt_head: PromptHead,
        mask_decoder: PromptedDecoder,
        image_size: int,
        roi_samples: int,
        mask_samples: int | None = None,
    ) -> None:
        mean, std = pixel_statistics(encoder)
        super().__init__(image_size=image_size, pixel_mean=mean, pixel_std=std)
        self.encoder = encoder
        self.neck = neck
        self.rpn = rpn
        self.box_head = box_head
        self.prompt_head = prompt_head
        self.mask_decoder = mask_decoder
        self.roi_samples = roi_samples
        self.mask_samples = mask_samples
        self.encoder_cache: EncoderCache | None = None
        self.concurrency = getattr(encoder, "concurrency", 1)

    def features(self, batch: Tensor) -> Features:
        """Encode a normalised, padded batch [B, 3, S, S]."""
        encoded = encode(self.encoder, batch, self.encoder_cache)
        levels = self.neck(encoded)
        rows, columns = levels[0].shape[-2:]
        sine = sine_positions(rows, columns, levels[0].shape[1], batch.device)
        located = tuple(level + stretch(sine, (level.shape[-2], level.shape[-1])) for level in levels)
        return Features(levels, located, encoded.embedding)

    def losses(self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The five losses of a normalised, padded batch.

        Args:
            batch: float32 [B, 3, S, S].
            sizes: (rows, columns) of each image before padding; proposals are cut to them.
            targets: B ground truths on the batch's device.

        Returns:
            float32 scalars loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox, loss_mask.
        """
        features = self.features(batch)
        losses, samples = box_losses(
            self.rpn,
            self.box_head,
            levels=features.levels,
            region_levels=features.located,
            sizes=sizes,
            targets=targets,
            rule=ROI_RULE,
            samples=self.roi_samples,
        )
        return {**losses, "loss_mask": self._mask_loss(features, samples, targets)}

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square. Boxes are cut to the padded square, as in the original.
        """
        features = self.features(batch)
        found = self.find_boxes(features)
        prompts = self.prompts(features, [boxes.boxes for boxes in found])
        results = []
        for index, (boxes, part, meta) in enumerate(zip(found, prompts, metas, strict=True)):
            logits = self.mask_decoder(features.embedding[index : index + 1], part)
            masks = LowResMasks(logits.sigmoid(), MASK_THRESHOLD, meta.frame)
            results.append(Detections(boxes_to_image(boxes.boxes, meta), boxes.labels, boxes.scores, masks))
        return results

    def find_boxes(self, features: Features) -> list[BoxDetections]:
        """Detections of each image as boxes in input pixels, without masks."""
        return find_boxes(
            self.rpn,
            self.box_head,
            levels=features.levels,
            region_levels=features.located,
            side=self.image_size,
        )

    def prompts(self, features: Features, boxes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Prompt embeddings [N_i, Kp, D] for the boxes of each image; two more where boxes prompt as well."""
        regions = roi_features(features.located, boxes, PROMPT_SIZE)
        prompts: Tensor = self.prompt_head(regions)
        if self.mask_decoder.corner_embed is not None:
            corners = self.mask_decoder.corner_prompts(torch.cat(list(boxes)), self.image_size)
            prompts = torch.cat([prompts, corners.to(prompts.dtype)], dim=1)
        return prompts.split([part.shape[0] for part in boxes])

    def _mask_loss(self, features: Features, samples: Sequence[RoiSamples], targets: Sequence[Target]) -> Tensor:
        """Mean binary cross entropy over positives and pixels of the padded frame."""
        chosen = [
            draw(drawn.objects.shape[0], self.mask_samples, drawn.boxes.device, image=index)
            for index, drawn in enumerate(samples)
        ]
        positives = [drawn.boxes[picked] for drawn, picked in zip(samples, chosen, strict=True)]
        objects = [drawn.objects[picked] for drawn, picked in zip(samples, chosen, strict=True)]
        count = sum(part.shape[0] for part in positives)
        normaliser = rank_mean(count, features.embedding)
        # Zero with a gradient: a batch without positives must still go through the backward pass.
        total = features.located[0].float().sum() * 0
        if count == 0:
            return total
        prompts = self.prompts(features, positives)
        for index, (part, owners, target) in enumerate(zip(prompts, objects, targets, strict=True)):
            logits = self.mask_decoder(features.embedding[index : index + 1], part)
            total = total + full_frame_mask_loss(logits, target.masks, owners, self.image_size)
        return total / (normaliser * self.image_size**2)
