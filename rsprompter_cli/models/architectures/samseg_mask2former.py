"""SAM-seg with Mask2Former: learned queries with masks of their own, on SAM's image encoder.

Source: RSPrompter (arXiv 2306.16269), its baseline that uses SAM's encoder only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import ImageMeta
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.layers.neck import Neck
from rsprompter_cli.models.layers.pixel_decoder import PixelDecoder
from rsprompter_cli.models.layers.query_decoder import QueryDecoder, QueryOutputs, find_instances, mask_logits
from rsprompter_cli.models.layers.query_losses import QueryCriterion, named_by_layer
from rsprompter_cli.models.sam.encoder_cache import EncoderCache, encode
from rsprompter_cli.models.training_context import Draw, uniform
from rsprompter_cli.structures import Detections, Size, Target


class SamsegMask2Former(ImageModel):
    """The whole model.

    Args:
        encoder: image encoder obeying `EncoderOutput`, with pixel_mean and pixel_std.
        neck: encoder maps to a pyramid.
        pixel_decoder, query_decoder: of the pyramid.
        criterion: the losses.
        image_size: side of the square input, pixels.
        max_detections: pairs of query and class kept per image.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        neck: Neck,
        pixel_decoder: PixelDecoder,
        query_decoder: QueryDecoder,
        criterion: QueryCriterion,
        image_size: int,
        max_detections: int,
    ) -> None:
        mean, std = pixel_statistics(encoder)
        super().__init__(image_size=image_size, pixel_mean=mean, pixel_std=std)
        self.encoder = encoder
        self.neck = neck
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder
        self.criterion = criterion
        self.max_detections = max_detections
        self.encoder_cache: EncoderCache | None = None

    def features(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of a normalised, padded batch [B, 3, S, S]: [B, C, S/4, S/4] .. [B, C, S/64, S/64]."""
        encoded = encode(self.encoder, batch, self.encoder_cache)
        levels: tuple[Tensor, ...] = self.neck(encoded)
        return levels

    def decode(self, levels: Sequence[Tensor]) -> QueryOutputs:
        """Predictions of the queries from a pyramid."""
        maps = self.pixel_decoder(levels)
        return QueryOutputs(self.query_decoder(maps), maps.mask_features)

    def losses(
        self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target], draw: Draw = uniform
    ) -> dict[str, Tensor]:
        """The losses of a normalised, padded batch.

        Args:
            batch: float32 [B, 3, S, S].
            sizes: (rows, columns) of each image before padding; the padding is background like any other.
            targets: B ground truths on the batch's device.
            draw: source of the points at which masks are compared.

        Returns:
            float32 scalars loss_cls, loss_mask, loss_dice of the last output, and of every earlier one.
        """
        outputs, features = self.decode(self.features(batch))
        return named_by_layer([self.criterion.losses(output, features, targets, draw=draw) for output in outputs])

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square.
        """
        outputs, features = self.decode(self.features(batch))
        masks = mask_logits(outputs[-1].mask_embed, features)
        return [
            find_instances(classes, logits, meta, self.max_detections)
            for classes, logits, meta in zip(outputs[-1].class_logits, masks, metas, strict=True)
        ]
