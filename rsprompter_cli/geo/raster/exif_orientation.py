"""Photographs that are stored turned, read upright."""

from __future__ import annotations

import logging
import warnings
from contextlib import ExitStack
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from rsprompter_cli.geo.raster.image import read_picture
from rsprompter_cli.geo.raster.source import Source

log = logging.getLogger(__name__)


def upright(dataset: Any, source: Source, stack: ExitStack) -> Any:
    """The dataset, or for a photograph stored turned, its upright pixels in memory, as `read_picture` gives them."""
    orientation = dataset.tags().get("EXIF_Orientation", "1").strip()
    if source.driver not in ("JPEG", "PNG", "WEBP") or orientation in ("", "0", "1"):
        return dataset
    pixels = read_picture(source.location)  # [H, W, 3]
    height, width = pixels.shape[:2]
    memory = stack.enter_context(MemoryFile())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(
            driver="GTiff", height=height, width=width, count=3, dtype="uint8", photometric="RGB"
        ) as turned:
            turned.write(np.moveaxis(pixels, -1, 0))
        log.info("%s: rotated according to its EXIF orientation (%s)", source.name, orientation)
        return stack.enter_context(memory.open())
