"""Reading a rectangle of an open raster: colour samples and what of them is valid."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.formats.sample_layout import BAND, interleaving
from rsprompter_cli.geo.raster.radiometry.bands import BandPlan, look_up_palette, turn_negative
from rsprompter_cli.geo.raster.source import (
    CACHE_BYTES,
    Source,
    gdal_env,
    gdal_reason,
    open_raster,
    resolve_source,
    sample_bytes,
)

log = logging.getLogger(__name__)

_SINGLE_PRECISION = frozenset({"uint8", "int8", "uint16", "int16", "float16", "float32"})
"""Types whose every value a float32 holds exactly; the others are worked on as float64."""

_MOST_KEPT = 448 << 20
"""Bytes of small blocks that are kept at most: they are decoded again at little cost."""

_MOST_KEPT_WIDE = 4 << 30
"""The same of strips: those of RGB scenes up to a million pixels wide under windows of 1024 px. A file with wider ones
may be made to fill the memory."""

_BEYOND_DATA = 1e30
"""No sample is as large as this: nodata values such as the lowest float are."""

_UNKNOWN, _MISSING, _STORED = range(3)
_KNOWN_BYTES = 1 << 20
"""Blocks of which it is remembered whether they are stored."""

_FEW = 4
"""Rows of windows that a small block lies in at most, apart from their overlap."""

_BLOCK_OVERHEAD = 512
"""Bytes that GDAL counts for a block beside its samples, at most: much where a block is a line of a narrow picture."""


class PixelReader:
    """Colour samples of one resolution level of a raster: the full image or one of its overviews.

    A sample is not valid where the file's mask or transparency says so, where all used bands hold
    the nodata value (the file's, or that of the user, or a fill value that was found in the file), where any of them
    is not finite, and where the file stores no block. One reader may be used from several threads; they take turns.

    Args:
        base: the open raster, full resolution; stays owned by the caller.
        source: what it was opened from.
        plan: which bands to read.
        level: index of the overview to read, or None for the full image.
        max_block: bytes a decoded block may take.
        nodata: the value that means nodata in all bands, in place of what the file says; None leaves it to the file.
        fill: a further such value, or None.
    """

    def __init__(
        self,
        base: Any,
        source: Source,
        plan: BandPlan,
        *,
        level: int | None,
        max_block: int,
        nodata: float | None = None,
        fill: float | None = None,
    ) -> None:
        self._nodata = [base.nodatavals[at - 1] if nodata is None else nodata for at in plan.distinct]
        self._fill = fill
        self._base, self._source, self._plan, self._level = base, source, plan, level
        self._lock = threading.Lock()
        self._closed = False
        with ExitStack() as stack:
            self._data = base
            if level is not None:
                self._data = stack.enter_context(open_raster(source, max_block=max_block, OVERVIEW_LEVEL=level))
            self._side_mask = _open_side_mask(base, source, max_block)
            if self._side_mask is not None:
                stack.enter_context(self._side_mask)
            self._opened = stack.pop_all()
        self.height, self.width = int(self._data.height), int(self._data.width)
        types = {base.dtypes[band - 1] for band in plan.distinct}
        self.dtype = np.dtype(np.float32 if types <= _SINGLE_PRECISION else np.float64)
        self.block_height, self.block_width = self._data.block_shapes[plan.distinct[0] - 1]
        self._has_mask = plan.alpha is None and MaskFlags.per_dataset in base.mask_flag_enums[plan.distinct[0] - 1]
        self._may_be_sparse = source.driver == "GTiff"
        self._asked_bands = plan.distinct if not interleaving(base) or self._is_planar else plan.distinct[:1]
        self._names_pixels = self._has_mask or self._side_mask is not None or self._samples_tell()
        self._known: dict[int, bytearray] = {}
        # Drivers of interleaved files decode all bands together and keep them all; one byte more for a mask.
        kept = range(base.count) if not self._is_planar else [band - 1 for band in plan.distinct]
        names = base.dtypes  # made anew each time it is asked for
        self._bytes_per_pixel = sum(sample_bytes(names[band]) for band in kept) + 1

    @property
    def colours(self) -> int:
        """Planes of `read`: 3, or 1 for grey."""
        return 3 if self._plan.palette is not None else len(self._plan.colours)

    def __enter__(self) -> PixelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what this reader opened, once no other thread reads; from then on reading raises RuntimeError."""
        with self._lock:
            self._closed = True
            self._opened.close()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the file for this thread. GDAL would crash if it read a file that was closed meanwhile."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._source.name} is closed")
            yield

    def cache_bytes(self, rows: int) -> int:
        """Bytes of decoded blocks to keep while windows of so many rows are read, one row of windows after another.

        All blocks that a row of windows touches are kept: then each is decoded once. It grows with the width alone.
        For blocks that are not as wide as the file and not much higher than a window it ends at _MOST_KEPT: beyond
        that each of them is decoded again for the rows of windows that it lies in, a few at most. A strip, or a line
        of a PNG, would be decoded again for every window of a row: up to _MOST_KEPT_WIDE of them are kept.
        """
        tall, wide = self.block_height, self.block_width
        down, across = -(-self.height // tall), -(-self.width // wide)
        kept = min((max(rows, 1) - 1) // tall + 2, down) * across
        need = kept * (tall * wide * self._bytes_per_pixel + _BLOCK_OVERHEAD)
        # What lies behind a virtual raster may be strips.
        small = across > 1 and tall <= _FEW * rows and self._source.driver != "VRT"
        return CACHE_BYTES + int(min(need, _MOST_KEPT if small else _MOST_KEPT_WIDE))

    def read(
        self, top: int, left: int, height: int, width: int, *, cache: int = CACHE_BYTES
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Samples of a rectangle of this level's pixels.

        Args:
            top, left, height, width: the rectangle.
            cache: bytes of decoded blocks to keep, see `cache_bytes`.

        Returns:
            float [colours, height, width] of `dtype` (any value where not valid), and bool
            [height, width] or None when all samples are valid.

        Raises:
            InputError: the file is damaged there; names the rectangle.
        """
        stored = self._stored_area(top, left, height, width)
        if stored.all():
            return self._decode(top, left, height, width, cache)
        # GDAL makes blocks of zeros of what is not stored, and keeps them: only what is around the stored ones is read.
        values, valid = np.zeros((self.colours, height, width), self.dtype), np.zeros((height, width), dtype=bool)
        rows, cols = np.flatnonzero(stored.any(1)), np.flatnonzero(stored.any(0))
        if len(rows):
            tall, wide = rows[-1] + 1 - rows[0], cols[-1] + 1 - cols[0]
            inner = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            values[:, *inner], known = self._decode(
                top + int(rows[0]), left + int(cols[0]), int(tall), int(wide), cache
            )
            valid[inner] = stored[inner] if known is None else stored[inner] & known
        return values, valid

    def _decode(self, top: int, left: int, height: int, width: int, cache: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As `read`, of blocks that are all stored, or zeros where they are not."""
        plan = self._plan
        window = RasterWindow(left, top, width, height)
        extra = [plan.alpha] if plan.alpha is not None else []
        try:
            with self._in_use(), gdal_env(self._source, cache=cache):
                raw = self._data.read([*plan.distinct, *extra], window=window)  # [B, h, w]
                mask = self._read_mask(window)
        except (RasterioError, CPLE_BaseError) as error:
            where = f"pixels {left}..{left + width - 1} x {top}..{top + height - 1}"
            where += "" if self._level is None else f" of overview {self._level}"
            if self._source.path is None:
                message = f"{self._source.name}: {where} cannot be read: {gdal_reason(error)}"
                raise InputError(message, "check the network connection and run it again") from error
            raise InputError(
                f"{self._source.name}: is damaged, the window of {where} cannot be read: {gdal_reason(error)}",
                "is the file complete?",
            ) from error
        samples = raw[: len(plan.distinct)]
        valid = self._usable(samples)
        if extra:
            valid &= raw[-1] > 0
        if mask is not None:
            valid &= mask > 0
        if plan.palette is not None:
            colours, opaque = look_up_palette(samples[0], plan.palette)
            valid &= opaque
        else:
            colours = plan.arrange(turn_negative(samples, plan.negative))
        return colours.astype(self.dtype), None if valid.all() else valid

    def valid(self, top: int, left: int, height: int, width: int, *, cache: int = CACHE_BYTES) -> np.ndarray | None:
        """As `read`, without the samples; decodes nothing where the file can only lack whole blocks."""
        if self._names_pixels:
            return self.read(top, left, height, width, cache=cache)[1]
        stored = self._stored_area(top, left, height, width)
        return None if stored.all() else stored

    def take_as_nodata(self, fill: float) -> None:
        """Take a further value as nodata from now on."""
        self._fill, self._names_pixels = fill, True

    @property
    def may_be_empty(self) -> bool:
        """Whether the file can say of pixels that they are not valid."""
        return self._names_pixels or self._may_be_sparse

    def may_have_data(self, top: int, left: int, height: int, width: int) -> bool:
        """False when the file stores no block of the rectangle; nothing is decoded."""
        if not self._may_be_sparse:
            return True
        with self._in_use():
            return bool(self._stored_blocks(top, left, height, width, enough=1).any())

    def _usable(self, samples: np.ndarray) -> np.ndarray:
        """Where not all used bands are nodata and all are finite, bool [h, w]."""
        valid = np.ones(samples.shape[1:], dtype=bool)
        if samples.dtype.kind == "f":
            valid &= np.isfinite(samples).all(axis=0)
        for wanted in (self._nodata, [self._fill] * len(samples)):
            empty = [
                _equals(band, nodata)
                for band, nodata in zip(samples, wanted, strict=True)
                if nodata is not None and fits(nodata, band.dtype)
            ]
            if len(empty) == len(samples):
                valid &= ~np.logical_and.reduce(empty)
        return valid

    def _samples_tell(self) -> bool:
        """Whether samples themselves can tell that they are not valid."""
        plan = self._plan
        if plan.alpha is not None or (plan.palette is not None and bool((plan.palette[:, 3] == 0).any())):
            return True
        types = [np.dtype(self._base.dtypes[band - 1]) for band in plan.distinct]
        named = self._fill is not None or all(value is not None for value in self._nodata)
        return named or any(dtype.kind == "f" for dtype in types)

    def _read_mask(self, window: RasterWindow) -> np.ndarray | None:
        """uint8 [h, w], 0 where the file's own mask says not valid."""
        if self._side_mask is not None:
            return self._side_mask.read(1, window=window)
        return self._data.read_masks(self._plan.distinct[0], window=window) if self._has_mask else None

    def _stored_area(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """bool [height, width]: which pixels of a rectangle lie in blocks that the file stores."""
        if not self._may_be_sparse:
            return np.ones((1, 1), dtype=bool)
        with self._in_use():
            blocks = self._stored_blocks(top, left, height, width)
        if blocks.all():
            return blocks
        rows = np.arange(top, top + height) // self.block_height - top // self.block_height
        cols = np.arange(left, left + width) // self.block_width - left // self.block_width
        return blocks[rows][:, cols]

    def _stored_blocks(self, top: int, left: int, height: int, width: int, *, enough: int | None = None) -> np.ndarray:
        """bool [rows, columns]: which of the blocks that a rectangle touches are stored.

        Args:
            top, left, height, width: the rectangle.
            enough: after so many stored ones no further are asked about.
        """
        first_row, last_row = top // self.block_height, (top + height - 1) // self.block_height
        first_col, last_col = left // self.block_width, (left + width - 1) // self.block_width
        found = np.zeros((last_row - first_row + 1, last_col - first_col + 1), dtype=bool)
        count = 0
        for row in range(first_row, last_row + 1):
            known = self._known_row(row)
            for col in range(first_col, last_col + 1):
                if known[col] == _UNKNOWN:
                    known[col] = _STORED if self._stored(row, col) else _MISSING
                if known[col] == _STORED:
                    found[row - first_row, col - first_col] = True
                    count += 1
                    if count == enough:
                        return found
        return found

    def _known_row(self, row: int) -> bytearray:
        """What is known of the blocks of a row, by column; neighbouring windows ask about the same ones."""
        known = self._known.get(row)
        if known is None:
            known = self._known[row] = bytearray(-(-self.width // self.block_width))
            while len(self._known) > 1 and len(self._known) * len(known) > _KNOWN_BYTES:
                del self._known[next(iter(self._known))]
        return known

    def _stored(self, row: int, col: int) -> bool:
        return any(
            self._base.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band, ovr=self._level) is not None
            for band in self._asked_bands
        )

    @property
    def _is_planar(self) -> bool:
        return interleaving(self._base) == BAND


def pick_overview(base: Any, source: Source, plan: BandPlan, *, height: int, width: int) -> int | None:
    """The coarsest overview that is still at least as fine as height x width pixels, or None for the full image.

    A mask in a file of its own has no overviews: with one, the full image is read.
    """
    if side_mask_path(source) is not None:
        return None
    reduction = min(base.height / height, base.width / width)
    # A pixel of slack: overviews are rounded up, working grids to the nearest.
    fitting = [
        (factor, index) for index, factor in enumerate(base.overviews(plan.distinct[0])) if factor <= reduction * 1.01
    ]
    return max(fitting)[1] if fitting else None


def side_mask_path(source: Source) -> Path | None:
    """The mask file GDAL writes beside a raster that cannot hold one: `scene.tif.msk`."""
    if source.path is None or source.driver == "VRT" or source.page is not None:
        return None
    beside = source.path.with_name(source.path.name + ".msk")
    return beside if beside.is_file() else None


def _open_side_mask(base: Any, source: Source, max_block: int) -> Any:
    """The mask of a page, or the mask file beside a raster, opened through the same door, or None."""
    if source.mask_page is not None:
        return open_raster(replace(source, page=source.mask_page, mask_page=None), max_block=max_block)
    beside = side_mask_path(source)
    if beside is None:
        return None
    mask_source = resolve_source(beside)
    if mask_source.driver != "GTiff":
        raise InputError(f"{beside}: mask files must be TIFF, this one is {mask_source.driver}", "remove or repair it")
    mask = open_raster(mask_source, max_block=max_block)
    if (mask.height, mask.width) != (base.height, base.width) or mask.count < 1:
        mask.close()
        raise InputError(f"{beside}: the size of the mask differs from that of {source.name}", "remove or repair it")
    log.info("%s: using the mask in %s", source.name, beside.name)
    return mask


def _equals(samples: np.ndarray, nodata: float) -> np.ndarray:
    """Where samples are a nodata value, bool of their shape."""
    if samples.dtype.kind == "f" and abs(nodata) >= _BEYOND_DATA:
        # Written in few digits, as in -3.4e38, it is meant all the same.
        bound = np.float64(nodata * 0.99)
        return np.asarray(samples <= bound if nodata < 0 else samples >= bound)
    return np.asarray(samples == samples.dtype.type(nodata))


def fits(nodata: float, dtype: np.dtype) -> bool:
    """Whether a sample of this type can equal the nodata value."""
    if dtype.kind == "f":
        return bool(np.isfinite(nodata))
    limits = np.iinfo(dtype)
    return bool(nodata == int(nodata) and limits.min <= nodata <= limits.max) if np.isfinite(nodata) else False
