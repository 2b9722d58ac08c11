"""A few hundred thousand valid samples of a scene of any size, for its percentiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsprompter_cli.geo.guard import CACHE_BYTES
from rsprompter_cli.geo.pixels import PixelReader

SAMPLE_SIDE = 1024
"""About this many rows and columns are looked at: percentiles do not change visibly with more."""

# Windows across the scene and pixels of each; the second try finds an island in an empty scene.
_LATTICES = ((16, 64), (64, 16))
_LARGEST_SCAN = 1 << 28
"""Pixels a whole scan may decode when the lattices met nothing valid: some seconds of work."""


def sample_valid(reader: PixelReader) -> np.ndarray:
    """Valid samples spread over one level of a raster, always the same ones.

    A level of up to (2 SAMPLE_SIDE)^2 pixels is read whole and thinned; of a larger one a lattice of small
    windows is read, so that the work does not grow with the scene; blocks never stored are not read.

    Returns:
        float [colours, M]; M is 0 when nothing valid was met.

    Raises:
        InputError: the file is damaged where it was read.
    """
    if reader.height * reader.width <= (2 * SAMPLE_SIDE) ** 2:
        return _thinned(reader)
    for count, side in _LATTICES:
        found = [_valid(reader, box, 1) for box in _lattice(reader, count, side)]
        samples = np.concatenate([np.empty((reader.colours, 0), reader.dtype), *found], axis=1)
        if samples.shape[1] > 0:
            return samples
    if reader.height * reader.width <= _LARGEST_SCAN:
        return _thinned(reader)
    return np.empty((reader.colours, 0), reader.dtype)


def _lattice(reader: PixelReader, count: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, height, width) of count x count windows with even gaps, first and last at the edges."""
    height, width = min(side, reader.height), min(side, reader.width)
    for top in _starts(reader.height - height, count):
        for left in _starts(reader.width - width, count):
            if reader.may_have_data(top, left, height, width):
                yield top, left, height, width


def _starts(room: int, count: int) -> list[int]:
    return sorted({round(room * step / (count - 1)) for step in range(count)})


def _thinned(reader: PixelReader) -> np.ndarray:
    """Every n-th row and column of the whole level, read in strips."""
    every = -(-max(reader.height, reader.width) // SAMPLE_SIDE)
    # Strips of whole steps keep the rows evenly spaced, and memory bounded for a wide level.
    strip = every * max(1, min(reader.height, (1 << 22) // reader.width) // every)
    boxes = [(top, 0, min(strip, reader.height - top), reader.width) for top in range(0, reader.height, strip)]
    return np.concatenate(
        [_valid(reader, box, every) for box in boxes if reader.may_have_data(*box)]
        or [np.empty((reader.colours, 0), reader.dtype)],
        axis=1,
    )


def _valid(reader: PixelReader, box: tuple[int, int, int, int], every: int) -> np.ndarray:
    """The valid samples of a rectangle, float [colours, M]."""
    narrow = box[3] < reader.width  # others of its row follow
    values, valid = reader.read(*box, cache=reader.cache_bytes(box[2]) if narrow else CACHE_BYTES)
    values = values[:, ::every, ::every]
    if valid is None:
        return values.reshape(len(values), -1)
    return values[:, valid[::every, ::every]]
