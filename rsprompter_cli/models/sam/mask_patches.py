"""The decoder's maps seen in pixels, piece by piece: reading them, cleaning them, cutting them out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from rsprompter_cli.structures import MaskFrame, Size

_MARGIN = 3
"""Cells around a mask that decide about its pixels: two bilinear steps reach no farther."""

_HAIR = 1e-3
"""A logit just off the threshold, far above float16's smallest."""

_LARGEST = 1e4
"""A logit that leaves no doubt, within float16."""

_EIGHT = np.ones((3, 3), dtype=bool)
"""Pixels that touch by a corner belong together."""

Bounds = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last."""


class Patch(NamedTuple):
    """A mask in its part of the picture.

    values: float16 [h, w], logits at the picture's pixels, on the CPU.
    corner: (left, top) in the picture. box: bounds of the mask in the picture, last pixel + 1.
    """

    values: Tensor
    corner: tuple[int, int]
    box: tuple[int, int, int, int]


class Sampler:
    """Reads maps over a model's square at the pixels of the image that lies in it.

    The same interpolation as `masks.inflate`, to the square and then to the image. It is linear and
    separable, so it is two matrices, of which any rows and columns can be taken alone.

    Args:
        frame: how the maps lie on the image.
        shape: rows and columns of the maps.
        device: of the maps.
    """

    def __init__(self, frame: MaskFrame, shape: Size, device: torch.device) -> None:
        self.image = frame.image
        self._shape = shape
        places = zip(shape, frame.padded, frame.content, frame.image, strict=True)
        self._weights = tuple(_weights(*place) for place in places)  # [H, h], [W, w]
        self._on_device = tuple(weights.to(device) for weights in self._weights)
        self._reach = tuple(_reach(weights) for weights in self._weights)

    def bounds(self, inside: Tensor) -> list[Bounds | None]:
        """The extent of each of the masks bool [n, h, w] in cells; None for an empty one."""
        rows, columns = inside.any(2).cpu().numpy(), inside.any(1).cpu().numpy()
        found: list[Bounds | None] = []
        for by_row, by_column in zip(rows, columns, strict=True):
            y, x = np.flatnonzero(by_row), np.flatnonzero(by_column)
            found.append((int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1) if y.size else None)
        return found

    def pixels(self, values: Tensor, bounds: Bounds) -> tuple[Tensor, tuple[int, int]]:
        """The image's pixels that cells within bounds reach, and where they begin.

        Args:
            values: float32 [h, w].
            bounds: in cells.

        Returns:
            float32 [rows, columns] and (left, top) in the image.
        """
        top, bottom = self._touched(0, bounds[0], bounds[1])
        left, right = self._touched(1, bounds[2], bounds[3])
        y, x = self._cells(bounds)
        by_row, by_column = self._on_device
        with torch.autocast(values.device.type, enabled=False):
            pixels = by_row[top:bottom, y] @ values[y, x] @ by_column[left:right, x].T
        return pixels, (left, top)

    def piece(self, values: Tensor, bounds: Bounds) -> tuple[Tensor, tuple[int, int]]:
        """What `restore` needs of a map [h, w], as float16 on the CPU, and its first row and column."""
        y, x = self._cells(bounds)
        return values[y, x].clamp(-_LARGEST, _LARGEST).half().cpu(), (y.start, x.start)

    def restore(
        self, piece: Tensor, corner: tuple[int, int], box: tuple[int, int, int, int]
    ) -> tuple[Tensor, tuple[int, int]]:
        """A mask in pixels, with one pixel around its box where the image has one.

        Returns:
            float32 [rows, columns] and (left, top) in the image.
        """
        height, width = self.image
        left, top, right, bottom = (
            max(box[0] - 1, 0),
            max(box[1] - 1, 0),
            min(box[2] + 1, width),
            min(box[3] + 1, height),
        )
        by_row, by_column = self._weights
        y, x = slice(corner[0], corner[0] + piece.shape[0]), slice(corner[1], corner[1] + piece.shape[1])
        with torch.autocast("cpu", enabled=False):
            pixels = by_row[top:bottom, y] @ piece.float() @ by_column[left:right, x].T
        return pixels, (left, top)

    def _cells(self, bounds: Bounds) -> tuple[slice, slice]:
        rows, columns = self._shape
        y = slice(max(bounds[0] - _MARGIN, 0), min(bounds[1] + _MARGIN, rows))
        return y, slice(max(bounds[2] - _MARGIN, 0), min(bounds[3] + _MARGIN, columns))

    def _touched(self, axis: int, first: int, end: int) -> tuple[int, int]:
        low, high = self._reach[axis]
        return int(low[first:end].min()), int(high[first:end].max())


def clean_patch(values: Tensor, corner: tuple[int, int], image: Size, min_area: int) -> tuple[Tensor, bool]:
    """A mask whose holes below an area are filled and whose islands below it are removed; the largest stays.

    Args:
        values: float32 [h, w], logits; the mask keeps off the patch's edges except where it touches the image's.
        corner: (left, top) of the patch in the image.
        image: (rows, columns).
        min_area: pixels; 0 changes nothing.

    Returns:
        The logits, and whether any changed sides.
    """
    if min_area <= 0:
        return values, False
    mask = values.numpy() >= 0
    holes = _small_holes(mask, corner, image, min_area)
    filled = mask | holes
    islands = _small_islands(filled, min_area)
    if not holes.any() and not islands.any():
        return values, False
    away = values.abs() + _HAIR
    values = torch.where(torch.from_numpy(holes), away, values)
    return torch.where(torch.from_numpy(islands), -away, values), True


def tight_patch(values: Tensor, corner: tuple[int, int]) -> Patch | None:
    """The part of a patch around its mask, one pixel wider where there is one; None for an empty mask."""
    halves = values.half()
    mask = halves.numpy() >= 0
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if y.size == 0:
        return None
    left, top = max(int(x[0]) - 1, 0), max(int(y[0]) - 1, 0)
    kept = halves[top : int(y[-1]) + 2, left : int(x[-1]) + 2].clone()
    box = (corner[0] + int(x[0]), corner[1] + int(y[0]), corner[0] + int(x[-1]) + 1, corner[1] + int(y[-1]) + 1)
    return Patch(kept, (corner[0] + left, corner[1] + top), box)


def _small_holes(mask: np.ndarray, corner: tuple[int, int], image: Size, min_area: int) -> np.ndarray:
    """Pixels of the background's regions below an area; one that goes on outside the patch is not small."""
    regions, count = ndimage.label(~mask, structure=_EIGHT)
    small = np.bincount(regions.ravel(), minlength=count + 1) < min_area
    small[0] = False
    (left, top), (rows, columns) = corner, mask.shape
    if left > 0:
        small[regions[:, 0]] = False
    if top > 0:
        small[regions[0]] = False
    if left + columns < image[1]:
        small[regions[:, -1]] = False
    if top + rows < image[0]:
        small[regions[-1]] = False
    found: np.ndarray = small[regions]
    return found


def _small_islands(mask: np.ndarray, min_area: int) -> np.ndarray:
    """Pixels of the mask's regions below an area, but for the largest region."""
    regions, count = ndimage.label(mask, structure=_EIGHT)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    small = sizes < min_area
    small[[0, int(sizes.argmax())]] = False
    found: np.ndarray = small[regions]
    return found


def _weights(cells: int, padded: int, content: int, image: int) -> Tensor:
    """How much each of the `image` pixels takes of each cell, float32 [image, cells]; see `masks.inflate`."""
    unit = torch.eye(cells)[None]  # [1, cells as channels, cells]
    for length, taken in ((padded, content), (image, image)):
        if unit.shape[-1] != length:
            unit = F.interpolate(unit, size=length, mode="linear", align_corners=False)
        unit = unit[..., :taken]
    return unit[0].T.contiguous()


def _reach(weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each cell the first pixel it has a part in and the one after the last."""
    part = (weights > 0).numpy()
    touched = part.any(0)
    low = np.where(touched, part.argmax(0), part.shape[0])
    high = np.where(touched, part.shape[0] - part[::-1].argmax(0), 0)
    return low, high
