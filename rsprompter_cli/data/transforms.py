"""Joint augmentation of a picture and its objects.

Every geometric step (flips, quarter turns, resize, crop) maps an output row to a source row and
an output column to a source column, after at most one transposition. So the steps are first
composed into two lists of sampling positions, and picture and masks are then read at the same
positions, once: bilinear and nearest. Boxes are the bounds of the masks that come out, or the
annotated boxes, moved by the same steps.

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
    scale: new pixels per source pixel. start: first pixel of the crop in the resized picture.
    """

    positions: np.ndarray
    length: int
    mirrored: bool
    scale: float = 1.0
    start: int = 0

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

    def move(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intervals of the source in new pixels, cut to the crop; float64 [N] each, 0 = edge of the first pixel."""
        if self.mirrored:
            low, high = self.length - high, self.length - low
        ends = (np.clip(end * self.scale - self.start, 0, len(self.positions)) for end in (low, high))
        return next(ends), next(ends)


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
    eight_bit: bool

    def __call__(
        self, image: Tensor, patches: Sequence[Patch], rng: np.random.Generator
    ) -> tuple[Tensor, list[Patch | None]]:
        """Draw one variant; see `with_boxes`."""
        moved_image, moved, _ = self.with_boxes(image, patches, np.zeros((0, 4)), rng)
        return moved_image, moved

    def with_boxes(
        self, image: Tensor, patches: Sequence[Patch], boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, list[Patch | None], np.ndarray]:
        """Draw one variant.

        Args:
            image: uint8 [3, H, W].
            patches: the objects, in pixels of the image.
            boxes: float64 [N, 4] xyxy pixels of the image, of the objects or of none.
            rng: the only source of chance.

        Returns:
            uint8 where `eight_bit`, else float32 on the 0..255 scale, [3, h, w] with h and w at most
            `image_size`; for each object its patch in the new image, None when no pixel of it is left;
            the boxes in pixels of the new image, cut to it, so that one outside of it has no area.
        """
        turned, flip_rows, flip_columns = self._draw_turn(rng)
        if turned:
            image, patches = image.transpose(1, 2), [transpose(patch) for patch in patches]
            boxes = boxes[:, [1, 0, 3, 2]]
        height, width = image.shape[1:]
        target = max(1, int(self.image_size * rng.uniform(*self.scale)))
        ratio = target / max(height, width)
        rows = self._draw_axis(height, ratio, rng, mirrored=flip_rows)
        columns = self._draw_axis(width, ratio, rng, mirrored=flip_columns)
        near_rows, near_columns = rows.nearest(), columns.nearest()
        moved = [pick(patch, near_rows, near_columns) for patch in patches]
        left, right = columns.move(boxes[:, 0], boxes[:, 2])
        top, bottom = rows.move(boxes[:, 1], boxes[:, 3])
        resized = _bilinear(image, rows, columns)
        recoloured = self._recolour(_to_eight_bit(resized) if self.eight_bit else resized, rng)
        return self._coarsen(recoloured, rng), moved, np.stack([left, top, right, bottom], axis=1)

    def _draw_turn(self, rng: np.random.Generator) -> tuple[bool, bool, bool]:
        """Whether the picture is transposed, and whether its rows and its columns are then reversed.

        The draws are made whatever their probability, so that switching one off leaves the others.
        """
        flip_columns = bool(rng.random() < self.flip)
        flip_rows = bool(rng.random() < self.vertical_flip)
        drawn = int(rng.integers(4))
        turns = drawn if self.rotate90 else 0
        # A quarter turn is a transposition and one reversal, a half turn is two reversals.
        return turns % 2 == 1, flip_rows ^ (turns in (2, 3)), flip_columns ^ (turns in (1, 2))

    def _draw_axis(self, length: int, ratio: float, rng: np.random.Generator, *, mirrored: bool) -> _Axis:
        """One axis resized by `ratio` and cropped at a random place to at most `image_size`."""
        resized = max(1, int(length * ratio + 0.5))
        start = int(rng.integers(max(resized - self.image_size, 0) + 1))
        taken = np.arange(start, min(start + self.image_size, resized))
        # Centre of resized pixel i lies at (i + .5) * old / new - .5, as bilinear resizing has it.
        return _Axis((taken + 0.5) * (length / resized) - 0.5, length, mirrored, resized / length, start)

    def _recolour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Brightness, contrast, saturation and hue by a random amount each; [3, H, W] of the image's dtype."""
        brightness, contrast, saturation, hue = rng.uniform(-1, 1, size=4)
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return image
        from torchvision.transforms.v2 import functional

        # torchvision takes floats on the 0..1 scale, and cuts them off there.
        image = image / 255 if image.is_floating_point() else image
        image = functional.adjust_brightness(image, 1 + self.brightness * brightness)
        image = functional.adjust_contrast(image, 1 + self.contrast * contrast)
        image = functional.adjust_saturation(image, 1 + self.saturation * saturation)
        image = functional.adjust_hue(image, self.hue * hue) if self.hue else image
        return image * 255 if image.is_floating_point() else image

    def _coarsen(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Half the pictures as a sensor with larger pixels would have seen them; size and dtype stay."""
        wanted, drawn = rng.random() < 0.5, rng.random()
        factor = 1 + (self.coarsen - 1) * drawn
        if not wanted or factor == 1:
            return image
        height, width = image.shape[1:]
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        small = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
        large = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)[0]
        return large if image.is_floating_point() else _to_eight_bit(large)


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
    eight_bit: bool,
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
        eight_bit=eight_bit,
    )


def _bilinear(image: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """A uint8 picture at the given positions, float32 [3, K rows, K columns] on the 0..255 scale, not rounded."""
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
    return torch.lerp(before, after, column_weight)  # [3, h, w]


def _to_eight_bit(image: Tensor) -> Tensor:
    """Rounded to uint8, halves up as OpenCV and the evaluation pipeline round; [3, H, W]."""
    return (image + 0.5).floor_().clamp_(0, 255).to(torch.uint8)
