"""The values that travel between the rooms of the house: frozen, with shapes, dtypes and units.

Letters: N instances, H rows, W columns of the image a value speaks of. Boxes are xyxy in
pixels, with the origin at the outer corner of the first pixel. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Size = tuple[int, int]
"""(rows, columns) in pixels."""

Progress = Callable[[int, int], None]
"""Called with (done, in all), each time more is done."""


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """The ground truth of one image.

    boxes: float32 [N, 4] xyxy pixels: the bounds of the masks (last pixel + 1), or the boxes of the annotation file
        where a run trains on those (train.boxes).
    labels: int64 [N], 0-based index into the class names.
    masks: bool [N, H, W], H and W those of the image.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """What a training or evaluation step takes.

    images: B tensors [3, H, W], RGB, uint8 or float32 on the 0..255 scale; sizes may differ.
    targets: B ground truths in the pixels of their image.
    image_ids: B ids of the COCO file, named in errors and logs.
    """

    images: list[Tensor]
    targets: list[Target]
    image_ids: list[int]


class MaskFrame(NamedTuple):
    """How a low-resolution mask map lies on its image.

    The map covers `padded` (the model's square input). Of that, the top left `content` pixels
    show the image; stretched to `image`, they are the image itself.
    """

    padded: Size
    content: Size
    image: Size


@dataclass(frozen=True, eq=False, slots=True)
class LowResMasks:
    """Masks as the decoder gave them, not inflated to image size.

    values: float32 [N, h, w], what is interpolated: probabilities in 0..1 or logits.
    threshold: a pixel belongs to the object where the interpolated value reaches this
        (.5 for probabilities, 0 for logits).
    frame: where the maps lie on the image.
    """

    values: Tensor
    threshold: float
    frame: MaskFrame


@dataclass(frozen=True, eq=False, slots=True)
class MaskPatches:
    """Masks as logits, each kept only in the part of the image that it covers.

    A pixel belongs to the object where its value reaches 0; outside its patch none does.

    values: N float tensors [h, w] at the image's pixels.
    corners: (left, top) of each patch in the image, pixels.
    image: (rows, columns).
    """

    values: tuple[Tensor, ...]
    corners: tuple[tuple[int, int], ...]
    image: Size


@dataclass(frozen=True, eq=False, slots=True)
class Detections:
    """What a model found in one image, best score first.

    boxes: float32 [N, 4] xyxy in pixels of the image as given to the model.
    labels: int64 [N], 0-based.
    scores: float32 [N] in 0..1.
    masks: bool [N, H, W], or the low-resolution maps with their frame, or a patch of logits each.
    quality: float32 [N] in 0..1, the model's own estimate of each mask's IoU, from models that give one.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | LowResMasks | MaskPatches
    quality: Tensor | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])


GeorefKind = Literal["affine", "gcp", "rpc", "none", "off_earth"]
"""See `Georef`."""


@dataclass(frozen=True, slots=True)
class Georef:
    """Where a pixel grid lies on the earth.

    transform: affine (a, b, c, d, e, f): x = a*col + b*row + c, y = d*col + e*row + f, in units of
        the CRS, for (col, row) at the outer corner of pixels.
    crs_wkt: the coordinate reference system as WKT, or None when the picture has none.
    kind: "affine" when the transform places the picture; "gcp" or "rpc" when the file only has
        control points or a camera model; "none" when it has nothing; "off_earth" when its reference
        system is a local one or that of another body, which `crs_wkt` then is.
    """

    transform: tuple[float, float, float, float, float, float]
    crs_wkt: str | None
    kind: GeorefKind

    @property
    def on_earth(self) -> bool:
        """True when pixels can be turned into map coordinates."""
        return self.kind == "affine" and self.crs_wkt is not None


@dataclass(frozen=True, eq=False, slots=True)
class Tile:
    """The pixels of one window, ready for a model.

    pixels: float32 [3, H, W] RGB on the 0..255 scale, 0 where not valid.
    valid: bool [H, W], False at nodata, or None when every pixel is valid.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
