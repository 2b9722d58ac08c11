"""Whole small pictures: training images and label rasters, read at once."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from rsprompter_cli.errors import InputError, RspError
from rsprompter_cli.geo.raster.radiometry.bands import black_of_negative, choose_bands, look_up_palette, turn_negative
from rsprompter_cli.geo.raster.source import Source, gdal_env, gdal_errors, gdal_reason, open_raster, resolve_source
from rsprompter_cli.geo.raster.tiff_pages import choose_page

MAX_PIXELS = 89_478_485
"""A picture that is read at once may not have more: Pillow's own mark of a decompression bomb
(a quarter GiB at 3 bytes a pixel)."""

log = logging.getLogger(__name__)

_SCENE_HINT = "process large rasters as scenes: rsp predict, rsp convert vector2coco"


def read_label(path: str | Path) -> np.ndarray:
    """A label raster, its values as stored.

    A 1-bit or grey TIFF whose photometric interpretation is "white is zero" is turned round, so
    that white is the larger value as in every other label. Of several pages see `choose_page`.

    Returns:
        [H, W] of the file's own dtype.

    Raises:
        InputError: unreadable, more than one band, complex numbers, or more than MAX_PIXELS.
    """
    source = choose_page(resolve_source(path))
    with gdal_env(source), gdal_errors(source.name), open_raster(source) as dataset:
        if dataset.count != 1:
            raise InputError(f"{source.name}: a label raster must have one band, this one has {dataset.count}")
        if np.dtype(dataset.dtypes[0]).kind == "c":
            raise InputError(f"{source.name}: labels must be real numbers, this raster contains {dataset.dtypes[0]}")
        _check_size(source, dataset.width, dataset.height)
        values: np.ndarray = _read(dataset, source, [1])[0]
        values = turn_negative(values, black_of_negative(dataset, 1))
    return values


def read_picture(path: str | Path) -> np.ndarray:
    """A training or evaluation picture with 8 bits per sample.

    TIFF goes by the rules of scenes for pages and bands (grey repeated, colours by interpretation or name, palette
    expanded, "white is zero" turned round); the other formats by Pillow, turned as their EXIF orientation says,
    transparency dropped. 16-bit and float pictures are refused: they have no scale of their own to 0..255.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: unreadable, damaged, not 8 bits per sample, or more than MAX_PIXELS.
    """
    source = choose_page(resolve_source(path))
    if source.driver in ("GTiff", "JP2OpenJPEG"):
        return _read_raster_picture(source)
    return _read_pillow_picture(source)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels as `read_picture` would give it.

    Of a TIFF the last row is decoded, so that a file cut short shows; other formats are decoded whole.

    Raises:
        InputError: unreadable, damaged or more than MAX_PIXELS.
    """
    source = choose_page(resolve_source(path))
    if source.driver not in ("GTiff", "JP2OpenJPEG"):
        height, width = _read_pillow_picture(source).shape[:2]
        return height, width
    with gdal_env(source), gdal_errors(source.name), open_raster(source) as dataset:
        _check_size(source, dataset.width, dataset.height)
        _read(dataset, source, [1], window=Window(0, dataset.height - 1, dataset.width, 1))
        return dataset.height, dataset.width


def _read_raster_picture(source: Source) -> np.ndarray:
    with gdal_env(source), gdal_errors(source.name), open_raster(source) as dataset:
        _check_size(source, dataset.width, dataset.height)
        plan = choose_bands(dataset, source.name)
        if any(dataset.dtypes[band - 1] != "uint8" for band in plan.colours):
            raise InputError(
                f"{source.name}: samples must have 8 bits, these are {dataset.dtypes[plan.colours[0] - 1]}",
                "convert it to 8 bits: gdal_translate -ot Byte -scale",
            )
        values = turn_negative(_read(dataset, source, plan.distinct), plan.negative)  # [B, H, W]
    if plan.notice:
        log.info("%s: %s", source.name, plan.notice)
    if plan.palette is not None:
        values, _ = look_up_palette(values[0], plan.palette)
    elif plan.full_scale is not None:
        values = (values.astype(np.uint16) * 255 // plan.full_scale).astype(np.uint8)
    values = np.broadcast_to(plan.arrange(values), (3, *values.shape[1:]))
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))


def _read_pillow_picture(source: Source) -> np.ndarray:
    from PIL import Image, ImageOps

    formats = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP"}
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 Mpx on and refuses from twice that; here both are refused.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source.location, formats=[formats[source.driver]]) as image:
                _check_size(source, image.width, image.height)
                if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
                    raise InputError(
                        f"{source.name}: samples must have 8 bits, this image is of mode {image.mode}",
                        "convert it to 8 bits",
                    )
                # A photograph's second frame is its own preview; those of an animation are other pictures.
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and source.driver != "JPEG":
                    log.info("%s: is an animation of %d frames; only the first is read", source.name, frames)
                upright = ImageOps.exif_transpose(image)
                return np.array(upright.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{source.name}: has more than {MAX_PIXELS:,} pixels", _SCENE_HINT) from error
    except (RspError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail anywhere in Pillow, with any kind of error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source.name}: cannot be read: {reason}", "is the file complete?") from error


def _check_size(source: Source, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(f"{source.name}: has {width} x {height} px, more than {MAX_PIXELS:,} pixels", _SCENE_HINT)


def _read(dataset: Any, source: Source, bands: list[int], window: Window | None = None) -> np.ndarray:
    try:
        return dataset.read(bands, window=window)
    except (RasterioError, CPLE_BaseError, MemoryError) as error:
        raise InputError(f"{source.name}: is damaged, its pixels cannot be read: {gdal_reason(error)}") from error
