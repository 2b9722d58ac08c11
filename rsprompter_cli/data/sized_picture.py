"""The pixels of a picture that a COCO entry describes, in the size that the entry states; knows no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.image import read_picture


def read_sized_pixels(path: str | Path, image: CocoImage) -> np.ndarray:
    """The picture as uint8 [H, W, 3] RGB.

    Raises:
        InputError: it cannot be read, or its size is not that of the COCO entry.
    """
    pixels: np.ndarray = read_picture(path)
    height, width = pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        sizes = f"is {width} x {height} px, its entry (image {image.id}) has {image.width} x {image.height} px"
        turned = "; the EXIF orientation of images is applied" if (width, height) == (image.height, image.width) else ""
        raise InputError(f"{path} {sizes}", f"the annotations were drawn on another version of the image{turned}")
    return pixels
