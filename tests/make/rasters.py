"""Small rasters of every awkward kind."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

UTM = "EPSG:32631"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


def pattern(height: int, width: int, bands: int = 3, *, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Noise [bands, height, width] over the whole range of an integer type, 0..1 for floats."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random((bands, height, width)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (bands, height, width), dtype=dtype, endpoint=True)


def write_raster(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: str | None = UTM,
    transform: Affine | None = NORTH_UP,
    colours: tuple[str, ...] | None = None,
    mask: np.ndarray | None = None,
    palette: dict[int, tuple[int, int, int, int]] | None = None,
    overviews: tuple[int, ...] = (),
    **profile: Any,
) -> Path:
    """Write [bands, H, W] as a GeoTIFF (or the driver in `profile`)."""
    bands, height, width = pixels.shape
    place = {key: value for key, value in (("crs", crs), ("transform", transform)) if value is not None}
    options = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_PAM_ENABLED="NO"),
            rasterio.open(path, "w", **{**options, **place, **profile}) as dataset,
        ):
            if colours is not None:
                dataset.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
            if palette is not None:
                dataset.write_colormap(1, palette)
            dataset.write(pixels)
            if mask is not None:
                dataset.write_mask(mask)
        if overviews:
            with rasterio.open(path, "r+") as dataset:
                dataset.build_overviews(overviews, rasterio.enums.Resampling.average)
    return path


def write_sparse(
    path: Path, height: int, width: int, *, stored: tuple[slice, slice], block: int = 256, bands: int = 3
) -> Path:
    """A tiled GeoTIFF in which only the blocks under `stored` (rows, columns) exist, filled with 200."""
    rows, cols = stored
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=height,
        width=width,
        dtype="uint8",
        crs=UTM,
        transform=NORTH_UP,
        tiled=True,
        blockxsize=block,
        blockysize=block,
        sparse_ok=True,
        compress="deflate",
        bigtiff="yes",
    ) as dataset:
        size = rows.stop - rows.start, cols.stop - cols.start
        window = rasterio.windows.Window(cols.start, rows.start, size[1], size[0])
        dataset.write(np.full((bands, *size), 200, dtype=np.uint8), window=window)
    return path


def vrt_text(source: Path, *, size: int = 64) -> str:
    """A virtual raster that shows another file."""
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}">'
        '<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def write_tiff_headers(path: Path, *images: dict[int, int]) -> Path:
    """A little-endian TIFF of directories alone: for each image the given tags, no pixels to speak of.

    Tags are LONG values by number: 256 width, 257 height, 322 and 323 tile size, 277 samples, ...
    """
    content = struct.pack("<2sHI", b"II", 42, 8)
    for index, image in enumerate(images):
        defaults = {258: 8, 259: 8, 262: 1, 277: 1, 284: 1, 324: 8, 325: 8}
        tags = sorted({**defaults, **image}.items())
        body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        following = len(content) + len(body) + 4 if index + 1 < len(images) else 0
        content += body + struct.pack("<I", following)
    path.write_bytes(content)
    return path
