"""From pictures to the square batch a network takes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.errors import InputError
from rsprompter_cli.structures import MaskFrame, Size

_PAD_MULTIPLE = 32


class ImageMeta(NamedTuple):
    """How one image was laid into the square input.

    scale: new size over old size, (rows, columns).
    frame: where a map over the square lies on the image.
    """

    scale: tuple[float, float]
    frame: MaskFrame


def make_meta(image: Size, scale: tuple[float, float], side: int) -> ImageMeta:
    """The meta of an image of a size that was resized by `scale` into a square of `side` pixels."""
    # Truncated, as the original un-pads its masks: a row or column may be lost to rounding.
    content = (max(int(image[0] * scale[0]), 1), max(int(image[1] * scale[1]), 1))
    return ImageMeta(scale, MaskFrame((side, side), content, image))


def resize_batch(
    images: Sequence[Tensor],
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    *,
    eight_bit: bool = False,
) -> tuple[Tensor, list[ImageMeta]]:
    """The evaluation pipeline: long side to `side`, normalise, pad right and below with the mean colour.

    Args:
        images: B tensors [3, H, W] RGB, uint8 or float on the 0..255 scale (floats are not clipped).
        side: of the square, pixels.
        mean, std: per channel, on the 0..255 scale.
        device: where the batch goes.
        eight_bit: resize and pad before the picture leaves 8 bits: an uint8 picture is whole numbers
            after the resize too, and the padding is the mean colour rounded.

    Returns:
        float32 [B, 3, side, side] and how each image lies in it.

    Raises:
        InputError: a tensor that is no picture.
    """
    batch = torch.zeros((len(images), 3, side, side), dtype=torch.float32, device=device)
    if eight_bit:
        batch += normalise(batch.new_tensor(rounded_colour(mean))[:, None, None], mean, std)
    metas = []
    for index, image in enumerate(images):
        height, width = _check_image(image, index)
        longest = max(height, width)
        rows = max(int(height * (side / longest) + 0.5), 1)
        columns = max(int(width * (side / longest) + 0.5), 1)
        pixels = image.to(device=device, dtype=torch.float32)
        if (rows, columns) != (height, width):
            pixels = F.interpolate(pixels[None], size=(rows, columns), mode="bilinear", align_corners=False)[0]
            if eight_bit and image.dtype == torch.uint8:
                pixels = (pixels + 0.5).floor()
        batch[index, :, :rows, :columns] = normalise(pixels, mean, std)
        metas.append(make_meta((height, width), (rows / height, columns / width), side))
    return batch, metas


def pad_batch(
    images: Sequence[Tensor], side: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[Tensor, list[Size]]:
    """The training pipeline: normalise and pad, never resize (the jitter is the data's).

    Args:
        images, side, mean, std, device: as in `resize_batch`.

    Returns:
        float32 [B, 3, side, side] and the (rows, columns) of each image.

    Raises:
        InputError: a tensor that is no picture, or an image larger than the square.
    """
    batch = torch.zeros((len(images), 3, side, side), dtype=torch.float32, device=device)
    sizes = []
    for index, image in enumerate(images):
        height, width = _check_image(image, index)
        if max(height, width) > side:
            raise InputError(
                f"training image {index} of the batch has {height} x {width} pixels, the model takes {side}",
                "crop or resize in the data transforms",
            )
        pixels = image.to(device=device, dtype=torch.float32)
        batch[index, :, :height, :width] = normalise(pixels, mean, std)
        sizes.append((height, width))
    return batch, sizes


def anchor_areas(sizes: Sequence[Size], side: int) -> list[Size]:
    """How far the anchors of each training image reach into its padding, as the original's `pad_shape` tells it.

    Pictures are first padded to multiples of 32, and together to the largest height and the largest width of the
    batch. While those leave room in the square, every picture's anchors cover the whole of it. Where they fill it,
    even by two pictures of which one is high and one wide, each picture's anchors end with its own multiples of 32.

    Args:
        sizes: (rows, columns) of each image of the batch before padding.
        side: of the square, pixels.

    Returns:
        per image (rows, columns), at most `side` each.
    """
    padded = [(_padded(rows), _padded(columns)) for rows, columns in sizes]
    if max(rows for rows, _ in padded) < side or max(columns for _, columns in padded) < side:
        return [(side, side)] * len(padded)
    return [(min(rows, side), min(columns, side)) for rows, columns in padded]


def _padded(length: int) -> int:
    return -(-length // _PAD_MULTIPLE) * _PAD_MULTIPLE


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(pixels - mean) / std per channel, float32 [..., 3, H, W]."""
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def restore_pixels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """pixels * std + mean per channel, the inverse of `normalise`."""
    return pixels * pixels.new_tensor(std)[:, None, None] + pixels.new_tensor(mean)[:, None, None]


def rounded_colour(mean: Sequence[float]) -> tuple[float, ...]:
    """The mean colour as an 8-bit picture can hold it."""
    return tuple(float(round(value)) for value in mean)


def boxes_to_image(boxes: Tensor, meta: ImageMeta) -> Tensor:
    """Boxes [N, 4] from pixels of the square to pixels of the image."""
    rows, columns = meta.scale
    return boxes / boxes.new_tensor([columns, rows, columns, rows])


def boxes_to_square(boxes: Tensor, meta: ImageMeta) -> Tensor:
    """Boxes [N, 4] from pixels of the image to pixels of the square."""
    rows, columns = meta.scale
    return boxes * boxes.new_tensor([columns, rows, columns, rows])


def _check_image(image: Tensor, index: int) -> Size:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"image {index} of the batch has shape {list(image.shape)}, expected [3, rows, columns]")
    return int(image.shape[1]), int(image.shape[2])
