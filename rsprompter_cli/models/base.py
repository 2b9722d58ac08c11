"""The contract of every model: pictures in, losses or detections out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rsprompter_cli.models.image_transform import ImageMeta, pad_batch, resize_batch
from rsprompter_cli.structures import Detections, Size, Target


class PictureModel(Protocol):
    """A model that answers a normalised, padded batch; see the docstrings of its two methods."""

    image_size: int
    training: bool

    def losses(self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar losses by name."""

    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of each image, in its own pixels."""


@runtime_checkable
class PadsWithMean(Protocol):
    """A model with its own value of a padded pixel, per channel on the 0..255 scale."""

    @property
    def pixel_mean(self) -> Sequence[float]: ...


@runtime_checkable
class RunsConcurrently(Protocol):
    """A model that states how many of its forward passes gain from running at the same time on a CPU."""

    @property
    def concurrency(self) -> int: ...


@runtime_checkable
class RatesMasks(Protocol):
    """A model that states whether its detections carry a predicted quality of each mask."""

    @property
    def gives_quality(self) -> bool: ...


def answer(
    model: PictureModel,
    images: Sequence[Tensor],
    targets: Sequence[Target] | None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    eight_bit: bool = False,
) -> dict[str, Tensor] | list[Detections]:
    """Losses in training mode, detections in evaluation mode.

    Args:
        model: whose mode decides.
        images: B tensors [3, H, W] RGB, uint8 or float on the 0..255 scale, not clipped.
        targets: B ground truths in the pixels of their image; needed in training only.
        mean, std: per channel, on the 0..255 scale.
        device: of the model.
        eight_bit: in evaluation, see `resize_batch`.

    Raises:
        InputError: a tensor that is no picture, or a training image larger than the model's input.
    """
    if not model.training:
        batch, metas = resize_batch(images, model.image_size, mean, std, device, eight_bit=eight_bit)
        return model.detect(batch, metas)
    if targets is None:
        raise ValueError("training needs targets")
    batch, sizes = pad_batch(images, model.image_size, mean, std, device)
    here = [Target(one.boxes.to(device), one.labels.to(device), one.masks.to(device)) for one in targets]
    return model.losses(batch, sizes, here)
