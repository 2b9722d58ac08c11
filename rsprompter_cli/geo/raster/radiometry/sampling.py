"""A few hundred thousand samples of a scene of any size, for its percentiles and for its fill value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rsprompter_cli.geo.raster.reader import PixelReader
from rsprompter_cli.geo.raster.source import CACHE_BYTES

SAMPLE_SIDE = 1024
"""About this many rows and columns are looked at: percentiles do not change visibly with more."""

# Windows across the scene and pixels of each; the second try finds an island in an empty scene.
_LATTICES = ((16, 64), (64, 16))
_LARGEST_SCAN = 1 << 28
"""Pixels a whole scan may decode when the lattices met nothing valid: some seconds of work."""


class Sample(NamedTuple):
    """Samples spread over a scene, laid side by side as they lie there.

    values: float [C, H, W], 0 where nothing was read. valid: bool [H, W].
    """

    values: np.ndarray
    valid: np.ndarray

    def where(self, mask: np.ndarray) -> np.ndarray:
        """The samples of a mask [H, W], float [C, M]."""
        return self.values[:, mask]


def take_sample(reader: PixelReader) -> Sample:
    """Samples spread over one level of a raster, always the same ones; those at its border are among them.

    A level of up to (2 SAMPLE_SIDE)^2 pixels is read whole and thinned; of a larger one a lattice of small
    windows is read, so that the work does not grow with the scene; blocks never stored are not read.

    Raises:
        InputError: the file is damaged where it was read.
    """
    if reader.height * reader.width <= (2 * SAMPLE_SIDE) ** 2:
        return _thinned(reader)
    for count, side in _LATTICES:
        sample = _lattice(reader, count, side)
        if sample.valid.any():
            return sample
    return _thinned(reader) if reader.height * reader.width <= _LARGEST_SCAN else sample


def _lattice(reader: PixelReader, count: int, side: int) -> Sample:
    """count x count windows with even gaps, first and last at the edges, laid side by side."""
    height, width = min(side, reader.height), min(side, reader.width)
    rows, cols = _starts(reader.height - height, count), _starts(reader.width - width, count)
    sample = _empty(reader, len(rows) * height, len(cols) * width)
    for down, top in enumerate(rows):
        for across, left in enumerate(cols):
            _fill_in(sample, reader, (top, left, height, width), 1, down * height, across * width)
    return sample


def _starts(room: int, count: int) -> list[int]:
    return sorted({round(room * step / (count - 1)) for step in range(count)})


def _thinned(reader: PixelReader) -> Sample:
    """Every n-th row and column of the whole level, read in strips."""
    every = -(-max(reader.height, reader.width) // SAMPLE_SIDE)
    # Strips of whole steps keep the rows evenly spaced, and memory bounded for a wide level.
    strip = every * max(1, min(reader.height, (1 << 22) // reader.width) // every)
    sample = _empty(reader, -(-reader.height // every), -(-reader.width // every))
    for top in range(0, reader.height, strip):
        box = (top, 0, min(strip, reader.height - top), reader.width)
        _fill_in(sample, reader, box, every, top // every, 0)
    return sample


def _empty(reader: PixelReader, height: int, width: int) -> Sample:
    return Sample(np.zeros((reader.colours, height, width), reader.dtype), np.zeros((height, width), dtype=bool))


def _fill_in(
    sample: Sample, reader: PixelReader, box: tuple[int, int, int, int], every: int, top: int, left: int
) -> None:
    """Read a rectangle (top, left, height, width) of the level, thinned, into a sample at a place."""
    if not reader.may_have_data(*box):
        return
    narrow = box[3] < reader.width  # others of its row follow
    values, valid = reader.read(*box, cache=reader.cache_bytes(box[2]) if narrow else CACHE_BYTES)
    values = values[:, ::every, ::every]
    place = np.s_[top : top + values.shape[1], left : left + values.shape[2]]
    known = True if valid is None else valid[::every, ::every]
    sample.values[:, *place] = np.where(known, values, 0)
    sample.valid[place] = known
