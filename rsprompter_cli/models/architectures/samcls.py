"""SAM-cls: SAM's automatic masks, each named by a small classifier.

Source: SAM-cls of RSPrompter (arXiv 2306.16269, section III-C), whose code was never released.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.errors import InputError
from rsprompter_cli.models.architectures.crops import mask_crops
from rsprompter_cli.models.image_transform import normalise
from rsprompter_cli.models.layers.boxes import box_overlaps
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.sam.automatic_masks import AutomaskSettings, PictureMasks, SamSegmenter, automatic_masks
from rsprompter_cli.models.sam.mask_cache import AutomaskCache
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD, PromptedDecoder
from rsprompter_cli.models.trainable import keep_frozen_in_eval
from rsprompter_cli.models.training_context import permutation, random_seed, rank_mean
from rsprompter_cli.structures import Detections, MaskPatches, Target

_CROPS_AT_ONCE = 64

CropTransform = Callable[[Tensor, Sequence[Any], np.random.Generator], tuple[Tensor, list[Any]]]
"""Augmentation of one crop, uint8 [3, S, S], to uint8 or to float32 on the same scale, as
`data.transforms.train_transform` makes them."""


class SamCls(nn.Module):
    """The whole model: pictures in, losses or detections out.

    In training the masks are those of the pictures as they come, which should be as they lie on disk:
    masks are then the same in every epoch and can be kept. What is augmented is the finished crop,
    picture and blurred surroundings together, so that a mask and its picture cannot come apart.

    Args:
        encoder, mask_decoder: SAM's, frozen.
        resnet: crops [N, 3, S, S] to logits [N, K + 1]; the last is the background.
        image_size: side of SAM's square input, pixels.
        automask: how masks are made and chosen.
        crop_size, crop_scale, blur: see `mask_crops`.
        match_iou: a mask takes the class of the object its box overlaps most, if by more than this.
        crop_samples: crops per picture that a training step sees; objects are at most half of them
            where there is enough background.
        max_detections: pairs of mask and class kept per picture.

    Attributes:
        gives_quality: its detections carry SAM's guess of the quality of each mask.
        mask_cache: where masks are kept, or None.
        crop_transform: augmentation of the crops in training, or None.
    """

    gives_quality = True

    def __init__(
        self,
        *,
        encoder: nn.Module,
        mask_decoder: PromptedDecoder,
        resnet: nn.Module,
        image_size: int,
        automask: AutomaskSettings,
        crop_size: int,
        crop_scale: float,
        blur: int,
        match_iou: float,
        crop_samples: int,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_decoder = mask_decoder
        self.resnet = resnet
        self.image_size = image_size
        self.automask = automask
        self.crop_size = crop_size
        self.crop_scale = crop_scale
        self.blur = blur
        self.match_iou = match_iou
        self.crop_samples = crop_samples
        self.max_detections = max_detections
        self.mask_cache: AutomaskCache | None = None
        self.crop_transform: CropTransform | None = None
        self.padding, _ = pixel_statistics(encoder)

    @property
    def segmenter(self) -> SamSegmenter:
        """The SAM within, as the automatic masks ask it."""
        return SamSegmenter(self.encoder, self.mask_decoder, self.image_size)

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but frozen parts stay in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self)
        return self

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: B tensors [3, H, W] RGB, uint8 or float on the 0..255 scale, not clipped, of any size.
            targets: B ground truths in the pixels of their image; needed in training only.

        Raises:
            InputError: a tensor that is no picture.
        """
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
                raise InputError(
                    f"image {index} of the batch has shape {list(image.shape)}, expected [3, rows, columns]"
                )
        if not self.training:
            return [self.detect(image) for image in images]
        if targets is None:
            raise ValueError("training needs targets")
        return self.losses(images, targets)

    def find_masks(self, image: Tensor) -> PictureMasks:
        """The automatic masks of a picture [3, H, W], from the cache where there is one."""
        if self.mask_cache is not None:
            return self.mask_cache.masks(image, self.segmenter, self.automask)
        return automatic_masks(image, self.segmenter, self.automask)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The classifier's cross entropy, mean over the crops of all pictures; zero when there are none.

        Returns:
            float32 scalar loss_cls.
        """
        crops, labels = [], []
        for index, (image, target) in enumerate(zip(images, targets, strict=True)):
            found = self.find_masks(image)
            truth = self.label_masks(found, target)
            chosen = self._draw(truth, index)
            made = self._crops(image, found, chosen)
            crops.append(torch.stack([self._augmented(crop, index) for crop in made]) if chosen else made)
            labels.append(truth[chosen])
        weight: Tensor = self.resnet.get_parameter("fc.weight")
        wanted = torch.cat(labels).to(weight.device)
        normaliser = rank_mean(wanted.shape[0], weight)
        if wanted.shape[0] == 0:
            # Zero with a gradient: a batch without masks must still go through the backward pass.
            return {"loss_cls": weight.float().sum() * 0}
        return {"loss_cls": F.cross_entropy(self.classify(torch.cat(crops)), wanted, reduction="sum") / normaliser}

    @torch.no_grad()
    def detect(self, image: Tensor) -> Detections:
        """The best pairs of mask and class of a picture [3, H, W]; score is the class's, quality the mask's."""
        found = self.find_masks(image)
        parts = torch.arange(len(found)).split(_CROPS_AT_ONCE)
        logits = [self.classify(self._crops(image, found, part.tolist())) for part in parts if part.numel()]
        if not logits:
            nothing = found.quality
            return Detections(found.boxes, nothing.long(), nothing, found.masks, nothing)
        # The background takes its share of the probability and is no class to be found.
        scores = torch.cat(logits).softmax(dim=1)[:, :-1].cpu()  # [N, K]
        best, pairs = scores.flatten().topk(min(self.max_detections, scores.numel()))
        owners, labels = pairs // scores.shape[1], pairs % scores.shape[1]
        masks = MaskPatches(
            tuple(found.masks.values[index] for index in owners.tolist()),
            tuple(found.masks.corners[index] for index in owners.tolist()),
            found.masks.image,
        )
        return Detections(found.boxes[owners], labels, best, masks, found.quality[owners])

    def label_masks(self, found: PictureMasks, target: Target) -> Tensor:
        """The class of each mask by the overlap of boxes, int64 [N] on the CPU; K is the background."""
        background = int(self.resnet.get_parameter("fc.weight").shape[0]) - 1
        labels = torch.full((len(found),), background)
        if len(found) == 0 or target.boxes.shape[0] == 0:
            return labels
        overlap, owner = box_overlaps(target.boxes.float().cpu(), found.boxes).max(dim=0)
        return torch.where(overlap > self.match_iou, target.labels.cpu()[owner], labels)

    def classify(self, crops: Tensor) -> Tensor:
        """Logits float32 [N, K + 1] of crops [N, 3, S, S] on the 0..255 scale."""
        logits: Tensor = self.resnet(normalise(crops, IMAGENET_MEAN, IMAGENET_STD))
        return logits.float()

    def _crops(self, image: Tensor, found: PictureMasks, chosen: Sequence[int]) -> Tensor:
        picture = image.to(device=self.mask_decoder.no_mask_embed.weight.device, dtype=torch.float32)
        return mask_crops(
            picture,
            found.masks,
            found.boxes,
            size=self.crop_size,
            scale=self.crop_scale,
            blur=self.blur,
            chosen=chosen,
        )

    def _draw(self, labels: Tensor, image: int) -> list[int]:
        """Which masks of an image a step sees; chance is asked only when there are too many."""
        background = int(self.resnet.get_parameter("fc.weight").shape[0]) - 1
        if labels.shape[0] <= self.crop_samples:
            return list(range(labels.shape[0]))
        objects, others = (labels < background).nonzero()[:, 0], (labels == background).nonzero()[:, 0]
        few = max(self.crop_samples // 2, self.crop_samples - others.shape[0])
        objects = objects[permutation(objects.shape[0], image=image)[:few]]
        others = others[permutation(others.shape[0], image=image)[: self.crop_samples - objects.shape[0]]]
        chosen: list[int] = torch.cat([objects, others]).sort().values.tolist()
        return chosen

    def _augmented(self, crop: Tensor, image: int) -> Tensor:
        if self.crop_transform is None:
            return crop
        chance = np.random.default_rng(random_seed(image=image))
        pixels, _ = self.crop_transform(crop.round().clamp(0, 255).to("cpu", torch.uint8), [], chance)
        return pixels.to(crop)
