"""Masks of single objects, cut to their bounds: what augmentation works on.

An image of hundreds of objects as full-size masks is hundreds of megabytes of zeros. A patch
holds an object's own rectangle; full masks are drawn once, at the very end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsprompter_cli.data.coco.rle import Segmentation, decode_counts, to_rle
from rsprompter_cli.structures import Target


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """One object's mask inside its bounds.

    top, left: pixels of the image. mask: bool [h, w]; first and last row and column hold a pixel.
    """

    top: int
    left: int
    mask: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1: bounds of the mask, last pixel + 1."""
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height


def decode(segmentation: Segmentation, height: int, width: int) -> Patch | None:
    """The patch of a checked segmentation on an image of height x width; None when it covers no pixel."""
    runs = decode_counts(to_rle(segmentation, height, width).counts)
    shown = np.flatnonzero(runs[1::2])
    if shown.size == 0:
        return None
    # Only the columns between the first and the last pixel are unrolled.
    start = int(runs[: 2 * shown[0] + 1].sum())
    inner = runs[2 * shown[0] : 2 * shown[-1] + 2].copy()  # background, object, ..., object
    inner[0] = start % height
    strip = np.repeat(np.arange(inner.size) % 2 == 1, inner)
    columns = -(-strip.size // height)
    full = np.pad(strip, (0, columns * height - strip.size)).reshape(columns, height)
    return tight(0, start // height, full.T)


def tight(top: int, left: int, mask: np.ndarray) -> Patch | None:
    """The patch of the true pixels of `mask`, which lies at (top, left); None when it has none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Patch(top + int(rows[0]), left + int(columns[0]), np.ascontiguousarray(cut))


def pick(patch: Patch, rows: np.ndarray, columns: np.ndarray) -> Patch | None:
    """The patch on a new grid whose pixel (r, c) shows pixel (rows[r], columns[c]) of the old one.

    Args:
        rows, columns: int64 [H], [W], each ascending or descending throughout.
    """
    height, width = patch.mask.shape
    inside_rows = np.flatnonzero((rows >= patch.top) & (rows < patch.top + height))
    inside_columns = np.flatnonzero((columns >= patch.left) & (columns < patch.left + width))
    if inside_rows.size == 0 or inside_columns.size == 0:
        return None
    picked = patch.mask[rows[inside_rows] - patch.top][:, columns[inside_columns] - patch.left]
    return tight(int(inside_rows[0]), int(inside_columns[0]), picked)


def transpose(patch: Patch) -> Patch:
    """The patch mirrored at the image's main diagonal."""
    return Patch(patch.left, patch.top, patch.mask.T)


def draw_target(
    patches: Sequence[Patch | None],
    labels: Sequence[int],
    height: int,
    width: int,
    boxes: np.ndarray | None = None,
) -> Target:
    """The ground truth of an image of height x width.

    Args:
        patches: of each object; one whose patch is None is left out.
        labels: of each object.
        boxes: float64 [N, 4] xyxy pixels of the image, where they are not the bounds of the masks; an
            object whose box has no area is left out.
    """
    if boxes is None:
        boxes = np.array([(0, 0, 0, 0) if patch is None else patch.box for patch in patches], dtype=np.float64)
    kept = [
        (patch, label, box)
        for patch, label, box in zip(patches, labels, boxes.astype(np.float32).reshape(-1, 4), strict=True)
        if patch is not None and box[2] > box[0] and box[3] > box[1]
    ]
    masks = np.zeros((len(kept), height, width), dtype=bool)
    for canvas, (patch, _, _) in zip(masks, kept, strict=True):
        x0, y0, x1, y1 = patch.box
        canvas[y0:y1, x0:x1] = patch.mask
    return Target(
        boxes=torch.from_numpy(np.array([box for *_, box in kept], dtype=np.float32).reshape(-1, 4)),
        labels=torch.tensor([label for _, label, _ in kept], dtype=torch.int64),
        masks=torch.from_numpy(masks),
    )
