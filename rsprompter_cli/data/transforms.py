"""Joint augmentation of a picture and its objects.

Every geometric step (flips, quarter turns, resize, crop) maps an output row to a source row and
an output column to a source column, after at most one transposition. So the steps are first
composed into two lists of sampling positions, and picture and masks are then read at the same
positions, once: bilinear and nearest. Boxes are the bounds of the masks that come out.

The order is the original's training pipeline: flip, large-scale jitter, random crop; vertical
flip and quarter turns join the flip, colours and detail change last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsprompter_cli.data.patches import Patch, pick, transpose


@dataclass(frozen=True, eq=False, slots=True)
class _Axis:
    """Where the rows, or the columns, of the new picture are read.

    positions: float64 [K] ascending, 0 = centre of the first source pixel.
    length: source pixels. mirrored: positions count from the far end.
    """

    positions: np.ndarray
    length: int
    mirrored: bool

    def nearest(self) -> np.ndarray:
        """Source pixels, int64 [K]."""
        near = np.clip(np.floor(self.positions + 0.5), 0, self.length - 1).astype(np.int64)
        return self.length - 1 - near if self.mirrored else near

    def neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """Source pixels before and after, int64 [K], and the weight of the latter, float32 [K]; edges replicated."""
        inside = np.clip(self.positions, 0, self.length - 1)
        before = np.floor(inside).astype(np.int64)
        after = np.minimum(before + 1, self.length - 1)
        weight = torch.from_numpy((inside - before).astype(np.float32))
        if self.mirrored:
            before, after = self.length - 1 - before, self.length - 1 - after
        return torch.from_numpy(before), torch.from_numpy(after), weight


@dataclass(frozen=True)
class TrainTransform:
    """What `train_transform` returns: plain values, so that it travels to spawned workers."""

    image_size: int
    flip: float
    vertical_flip: float
    rotate90: bool
    scale: tuple[float, float]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    coarsen: float

    def __call__(
        self, image: Tensor, patches: Sequence[Patch], rng: np.random.Generator
    ) -> tuple[Tensor, list[Patch | None]]:
        """Draw one variant.

        Args:
            image: uint8 [3, H, W].
            patches: the objects, in pixels of the image.
            rng: the only source of chance.

        Returns:
            uint8 [3, h, w] with h and w at most `image_size`, and for each object its patch in the
            new image, None when no pixel of it is left.
        """
        image, patches, flip_rows, flip_columns = self._turn(image, patches, rng)
        height, width = image.shape[1:]
        target = max(1, int(self.image_size * rng.uniform(*self.scale)))
        ratio = target / max(height, width)
        rows = _Axis(self._crop_positions(height, ratio, rng), height, flip_rows)
        columns = _Axis(self._crop_positions(width, ratio, rng), width, flip_columns)
        near_rows, near_columns = rows.nearest(), columns.nearest()
        moved = [pick(patch, near_rows, near_columns) for patch in patches]
        recoloured = self._recolour(_bilinear(image, rows, columns), rng)
        return self._coarsen(recoloured, rng), moved

    def _turn(
        self, image: Tensor, patches: Sequence[Patch], rng: np.random.Generator
    ) -> tuple[Tensor, Sequence[Patch], bool, bool]:
        """The picture, transposed or not, and whether its rows and its columns are then reversed.

        The draws are made whatever their probability, so that switching one off leaves the others.
        """
        flip_columns = bool(rng.random() < self.flip)
        flip_rows = bool(rng.random() < self.vertical_flip)
        drawn = int(rng.integers(4))
        turns = drawn if self.rotate90 else 0
        if turns % 2:
            # A quarter turn is a transposition and one reversal, a half turn is two reversals.
            image, patches = image.transpose(1, 2), [transpose(patch) for patch in patches]
        return image, patches, flip_rows ^ (turns in (2, 3)), flip_columns ^ (turns in (1, 2))

    def _crop_positions(self, length: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
        """Where the crop of one resized axis reads the source, float64 [at most image_size]."""
        resized = max(1, int(length * ratio + 0.5))
        start = int(rng.integers(max(resized - self.image_size, 0) + 1))
        taken = np.arange(start, min(start + self.image_size, resized))
        # Centre of resized pixel i lies at (i + .5) * old / new - .5, as bilinear resizing has it.
        return (taken + 0.5) * (length / resized) - 0.5

    def _recolour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Brightness, contrast, saturation and hue by a random amount each; uint8 [3, H, W]."""
        brightness, contrast, saturation, hue = rng.uniform(-1, 1, size=4)
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return image
        from torchvision.transforms.v2 import functional

        image = functional.adjust_brightness(image, 1 + self.brightness * brightness)
        image = functional.adjust_contrast(image, 1 + self.contrast * contrast)
        image = functional.adjust_saturation(image, 1 + self.saturation * saturation)
        return functional.adjust_hue(image, self.hue * hue) if self.hue else image

    def _coarsen(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Half the pictures as a sensor with larger pixels would have seen them, at the same size; uint8 [3, H, W]."""
        wanted, drawn = rng.random() < 0.5, rng.random()
        factor = 1 + (self.coarsen - 1) * drawn
        if not wanted or factor == 1:
            return image
        height, width = image.shape[1:]
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        small = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
        large = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)[0]
        return large.round_().clamp_(0, 255).to(torch.uint8)


def train_transform(
    *,
    image_size: int,
    flip: float,
    vertical_flip: float,
    rotate90: bool,
    scale: tuple[float, float],
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    coarsen: float,
) -> TrainTransform:
    """The training augmentation; the keywords after `image_size` are those of the configuration.

    The resized long side is int(image_size * u), u uniform over `scale`; a crop of at most
    image_size x image_size is taken at a random place. Like the original, the picture is read
    bilinearly without antialiasing, so a strong reduction aliases. Unlike the original, which
    rounds mask positions down (half an output pixel towards the origin in a reduction), masks
    are read at the pixel nearest to where the picture is read.
    """
    return TrainTransform(
        image_size=image_size,
        flip=flip,
        vertical_flip=vertical_flip,
        rotate90=rotate90,
        scale=(float(scale[0]), float(scale[1])),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        coarsen=coarsen,
    )


def _bilinear(image: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """The picture at the given positions, uint8 [3, K rows, K columns]."""
    above, below, row_weight = rows.neighbours()
    left, right, column_weight = columns.neighbours()
    # Only the part that the crop reads is turned into floats. A turned picture is laid out anew, bytes being small.
    first, last = int(min(left.min(), right.min())), int(max(left.max(), right.max()))
    image = image.contiguous()
    upper, lower = (image.index_select(1, row)[:, :, first : last + 1].float() for row in (above, below))
    strip = torch.lerp(upper, lower, row_weight[:, None])  # [3, h, last + 1 - first]
    # Within rows gather takes a tenth of index_select's time.
    shape = (*strip.shape[:2], len(column_weight))
    before, after = (strip.gather(2, (column - first).expand(shape)) for column in (left, right))
    crop = torch.lerp(before, after, column_weight)  # [3, h, w]
    return crop.round_().clamp_(0, 255).to(torch.uint8)
