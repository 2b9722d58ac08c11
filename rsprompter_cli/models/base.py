"""The base class of the models, and what a caller may ask of any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self, runtime_checkable

from torch import Tensor, nn

from rsprompter_cli.models.image_transform import ImageMeta, pad_batch, resize_batch, rounded_colour
from rsprompter_cli.models.trainable import keep_frozen_in_eval
from rsprompter_cli.structures import Detections, Size, Target


@runtime_checkable
class PadsImages(Protocol):
    """A model with its own value of a padded pixel, per channel on the 0..255 scale."""

    @property
    def padding(self) -> Sequence[float]: ...


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


class ImageModel(nn.Module, ABC):
    """What all models do alike: images in, losses or detections out. The only base class of the package.

    Args:
        image_size: side of the square input, pixels.
        pixel_mean, pixel_std: by which pixels are normalised, per channel on the 0..255 scale.
        eight_bit: pixels of images that are resized in evaluation are rounded, see `resize_batch`.
    """

    concurrency = 1
    """Forward passes that gain from running at the same time on a CPU."""

    def __init__(
        self, *, image_size: int, pixel_mean: Sequence[float], pixel_std: Sequence[float], eight_bit: bool = False
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.pixel_mean, self.pixel_std, self.eight_bit = tuple(pixel_mean), tuple(pixel_std), eight_bit

    @property
    def padding(self) -> Sequence[float]:
        """What a padded pixel is, per channel on the 0..255 scale."""
        return rounded_colour(self.pixel_mean) if self.eight_bit else self.pixel_mean

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but frozen parts stay in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self)
        return self

    @abstractmethod
    def losses(self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar losses by name.

        Args:
            batch: float32 [B, 3, S, S], normalised and padded.
            sizes: (rows, columns) of each image before padding.
            targets: B ground truths on the batch's device.
        """

    @abstractmethod
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of each image, in its own pixels.

        Args:
            batch: float32 [B, 3, S, S], normalised and padded.
            metas: how each image lies in its square.
        """

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: B tensors [3, H, W] RGB, uint8 or float on the 0..255 scale, not clipped.
            targets: B ground truths in the pixels of their image; needed in training only.

        Raises:
            InputError: a tensor that is no image, or a training image larger than the model's input.
        """
        device = next(self.parameters()).device
        size, mean, std = self.image_size, self.pixel_mean, self.pixel_std
        if not self.training:
            batch, metas = resize_batch(images, size, mean, std, device, eight_bit=self.eight_bit)
            return self.detect(batch, metas)
        if targets is None:
            raise ValueError("training needs targets")
        batch, sizes = pad_batch(images, size, mean, std, device)
        here = [Target(one.boxes.to(device), one.labels.to(device), one.masks.to(device)) for one in targets]
        return self.losses(batch, sizes, here)


@runtime_checkable
class SkipsWeak(Protocol):
    """A block that leaves out what scores less than `score_floor`, 0..1."""

    score_floor: float


@contextmanager
def with_score_floor(model: nn.Module, score: float) -> Iterator[None]:
    """Within the block, a model may leave out detections whose score is under `score`.

    Their masks are then never decoded, which is most of the time of a window with few objects. The
    other detections are the same to the bit: a weaker detection never changes a better one. Blocks
    that can save the work are `SkipsWeak`; any other model gives all it has.

    Args:
        score: 0..1.
    """
    blocks = [block for block in model.modules() if isinstance(block, SkipsWeak)]
    former = [block.score_floor for block in blocks]
    try:
        for block in blocks:
            block.score_floor = score
        yield
    finally:
        for block, value in zip(blocks, former, strict=True):
            block.score_floor = value
