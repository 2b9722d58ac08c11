"""GeoTIFFs with coloured rectangles whose place on the map is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS

from tests.make.stub_model import COLOURS

Rectangle = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels."""

UTM = "EPSG:32633"
ORIGIN = (500_000.0, 5_000_000.0)


def paint(height: int, width: int, objects: Mapping[str, Sequence[Rectangle]]) -> np.ndarray:
    """uint8 [3, H, W]: grey ground with one filled rectangle per object, by colour name."""
    pixels = np.full((3, height, width), 90, np.uint8)
    for name, rectangles in objects.items():
        for x0, y0, x1, y1 in rectangles:
            pixels[:, y0:y1, x0:x1] = np.array(COLOURS[name], np.uint8).reshape(3, 1, 1)
    return pixels


def write_scene(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: str | None = UTM,
    transform: Affine | None = None,
    gsd: float = 0.5,
    **profile: Any,
) -> Path:
    """Write [bands, H, W] as a GeoTIFF; by default north-up in UTM with square pixels of `gsd` metres."""
    bands, height, width = pixels.shape
    if transform is None and crs is not None:
        transform = Affine(gsd, 0, ORIGIN[0], 0, -gsd, ORIGIN[1])
    options: dict[str, Any] = {"driver": "GTiff", "photometric": "RGB" if bands == 3 else "MINISBLACK", **profile}
    with rasterio.open(
        path,
        "w",
        height=height,
        width=width,
        count=bands,
        dtype=pixels.dtype,
        crs=CRS.from_user_input(crs) if crs else None,
        transform=transform,
        **options,
    ) as file:
        file.write(pixels)
    return path


def write_houses(path: Path, height: int, width: int, *, stored: float, block: int = 256) -> Path:
    """A tiled GeoTIFF with a red house every 128 px, of which a share of the blocks is stored; made block by block."""
    place = [(x + 38, y + 26, x + 66, y + 52) for x in range(0, block, 128) for y in range(0, block, 128)]
    pixels = paint(block, block, {"red": place})
    rng = np.random.default_rng(7)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype="uint8",
        crs=CRS.from_user_input(UTM),
        transform=Affine(0.5, 0, ORIGIN[0], 0, -0.5, ORIGIN[1]),
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
        interleave="pixel",
        sparse_ok=True,
    ) as file:
        for top in range(0, height, block):
            for left in range(0, width, block):
                if rng.random() < stored:
                    size = min(block, height - top), min(block, width - left)
                    window = rasterio.windows.Window(left, top, size[1], size[0])
                    file.write(pixels[:, : size[0], : size[1]], window=window)
    return path
