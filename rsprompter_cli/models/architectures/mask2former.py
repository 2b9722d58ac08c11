"""A plain baseline: transformers' Mask2Former behind the contract of the other models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import ImageMeta
from rsprompter_cli.models.layers.query_decoder import find_instances
from rsprompter_cli.models.layers.resnet import keep_norms_in_eval
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD
from rsprompter_cli.models.trainable import keep_frozen_in_eval
from rsprompter_cli.structures import Detections, Size, Target

_LOSS = re.compile(r"(loss_[a-z_]*[a-z])(?:_(\d+))?")


class QueryLogits(NamedTuple):
    """Predictions of the queries for a batch, before the first layer of their decoder and after each.

    classes: float32 [B, Q, K + 1] each, the last class for "no object".
    masks: float32 logits [B, Q, S/4, S/4] each.
    """

    classes: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


class Mask2Former(ImageModel):
    """The whole model.

    Args:
        network: transformers' Mask2FormerForUniversalSegmentation on a ResNet; its parts and its losses serve.
        image_size: side of the square input, pixels.
        max_detections: pairs of query and class kept per image.
        frozen_norms: the ResNet's BatchNorm keeps its running statistics in training.
    """

    def __init__(self, *, network: nn.Module, image_size: int, max_detections: int, frozen_norms: bool) -> None:
        super().__init__(image_size=image_size, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD)
        self.network = network
        self.max_detections = max_detections
        self.frozen_norms = frozen_norms

    @property
    def resnet(self) -> nn.Module:
        """The ResNet, with transformers' names."""
        return self.network.get_submodule("model.pixel_level_module.encoder")

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but frozen parts and frozen norms stay in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self)
        if self.frozen_norms:
            keep_norms_in_eval(self.resnet)
        return self

    def features(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The ResNet's maps of a normalised, padded batch [B, 3, S, S], of strides 4, 8, 16 and 32."""
        maps: tuple[Tensor, ...] = tuple(self.resnet(batch).feature_maps)
        return maps

    def decode(self, maps: Sequence[Tensor]) -> QueryLogits:
        """Predictions of the queries from the ResNet's maps."""
        pixel_decoder = self.network.get_submodule("model.pixel_level_module.decoder")
        with torch.autocast(maps[0].device.type, enabled=False):
            # Half precision cannot distinguish neighbouring cells of the deformable attention.
            decoded = pixel_decoder([part.float() for part in maps])
        query_decoder = self.network.get_submodule("model.transformer_module")
        asked = query_decoder(multi_scale_features=decoded.multi_scale_features, mask_features=decoded.mask_features)
        class_head = self.network.get_submodule("class_predictor")
        classes = tuple(class_head(states.transpose(0, 1)).float() for states in asked.intermediate_hidden_states)
        return QueryLogits(classes, tuple(part.float() for part in asked.masks_queries_logits))

    def losses(self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The library's own losses of a normalised, padded batch, weighted.

        Args:
            batch: float32 [B, 3, S, S].
            sizes: (rows, columns) of each image before padding; the padding is background like any other.
            targets: B ground truths on the batch's device.

        Returns:
            float32 scalars loss_cls, loss_mask, loss_dice of the last output, and of every earlier one.
        """
        classes, masks = self.decode(self.features(batch))
        with torch.autocast(batch.device.type, enabled=False):
            losses = self.network.get_loss_dict(  # type: ignore[operator]  # of the library's model
                masks_queries_logits=masks[-1],
                class_queries_logits=classes[-1],
                mask_labels=[_padded(target.masks, batch) for target in targets],
                class_labels=[target.labels for target in targets],
                auxiliary_predictions=[
                    {"masks_queries_logits": mask, "class_queries_logits": logits}
                    for mask, logits in zip(masks[:-1], classes[:-1], strict=True)
                ],
            )
        return {_loss_name(name): value for name, value in losses.items()}

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square.
        """
        logits = self.decode(self.features(batch))
        return [
            find_instances(classes, masks, meta, self.max_detections)
            for classes, masks, meta in zip(logits.classes[-1], logits.masks[-1], metas, strict=True)
        ]


def _padded(masks: Tensor, batch: Tensor) -> Tensor:
    """Masks [N, H, W] on the square of a batch [B, 3, S, S], float32 [N, S, S]."""
    rows, columns = batch.shape[-2:]
    return F.pad(masks.float(), (0, columns - masks.shape[2], 0, rows - masks.shape[1]))


def _loss_name(name: str) -> str:
    """The name of the library's loss in the other query models, whose earlier outputs come as d0., d1. and so on."""
    found = _LOSS.fullmatch(name)
    assert found is not None
    own = {"loss_cross_entropy": "loss_cls"}.get(found[1], found[1])
    return own if found[2] is None else f"d{found[2]}.{own}"
