"""An undeclared fill value: one exact value around the imagery that the file does not call nodata.

It spoils percentiles, and shows a model a landscape that is not there. Real black and white must not suffer, so it has
to be a value that software fills with, at one end of all samples, and in one piece with the border of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.raster.radiometry.bands import BandPlan
from rsprompter_cli.geo.raster.reader import fits

SMALLEST_SHARE = 0.02
"""Of the samples: as much as the percentiles cut off. A smaller collar does not move them much."""

_IN_ONE_PIECE = 0.9
"""Share of the pixels with the value that hang together with the border: of real black or white little does."""

_FEWEST_VALUES = 16
"""A picture has more different values than this; a drawing of a few flat colours has no fill value."""

_SENTINELS = (-9999.0, -99999.0, -999.0, -32767.0, -32768.0, -1e10, -1e20, -1e30, -1e38, 1e20, 1e30, 1e38)
_TOPS = (255.0, 1023.0, 2047.0, 4095.0, 16383.0, 32767.0, 65535.0)
"""Largest values of 8, 10, 11, 12, 14, 15 and 16 bits."""

_EVERYWHERE = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True)
class Fill:
    """A fill value that was found.

    value: of all bands alike. share: of the samples looked at, 0..1.
    is_nodata: whether pixels of this value are taken as not valid; else they are only left out of the percentiles.
    """

    value: float
    share: float
    is_nodata: bool


def find_fill(values: np.ndarray, valid: np.ndarray, dtype: str) -> Fill | None:
    """The fill value of a picture, or None.

    Args:
        values: float [C, H, W], the picture thinned out; its first and last rows and columns are those of the file.
        valid: bool [H, W], what the file calls valid.
        dtype: numpy name of the file's samples.
    """
    kind = np.dtype(dtype)
    outside = np.pad(~valid, 1, constant_values=True)
    edge = valid & ndimage.binary_dilation(outside, _EVERYWHERE)[1:-1, 1:-1]
    if not edge.any():
        return None
    alike = valid & (values == values[0]).all(axis=0)
    candidates, counts = np.unique(values[0][edge & alike], return_counts=True)
    for value in candidates[np.argsort(-counts, kind="stable")][:4].tolist():
        if not _is_typical(value, kind):
            continue
        found = _check(value, values, valid, alike, kind)
        if found is not None:
            return found
    return None


def _check(value: float, values: np.ndarray, valid: np.ndarray, alike: np.ndarray, kind: np.dtype) -> Fill | None:
    is_value = alike & (values[0] == value)
    rest = values[:, valid & ~is_value]  # [C, M]
    if rest.shape[1] == 0 or any(len(np.unique(band)) < _FEWEST_VALUES for band in rest):
        return None
    if not ((rest >= value).all() or (rest <= value).all()):
        return None
    pieces, _ = ndimage.label(np.pad(is_value | ~valid, 1, constant_values=True), _EVERYWHERE)
    at_border = is_value & (pieces[1:-1, 1:-1] == pieces[0, 0])
    share = float(np.count_nonzero(at_border) / np.count_nonzero(valid))
    if share < SMALLEST_SHARE:
        return None
    in_one_piece = np.count_nonzero(at_border) >= _IN_ONE_PIECE * np.count_nonzero(is_value)
    impossible = kind.kind == "f" and abs(value) >= 1e10
    negative = value <= -999 and rest.min() >= -1
    if kind.itemsize == 1:
        # 0 and 255 are also the shadows and roofs of an 8-bit picture.
        return Fill(value, share, is_nodata=False) if in_one_piece else None
    return Fill(value, share, is_nodata=bool(in_one_piece or impossible or negative))


def _is_typical(value: float, kind: np.dtype) -> bool:
    """Whether software fills with such a value."""
    if value == 0 or value in _SENTINELS or (value in _TOPS and value > 0):
        return True
    if kind.kind == "f":
        return abs(value) >= 1e10
    return value in (np.iinfo(kind).min, np.iinfo(kind).max)


def check_nodata(nodata: float | None, dataset: Any, plan: BandPlan, name: str) -> None:
    """Raise UsageError for a stated value that the samples cannot have."""
    types = {np.dtype(dataset.dtypes[band - 1]) for band in plan.distinct}
    if nodata is None or all(fits(nodata, dtype) for dtype in types):
        return
    raise UsageError(
        f"--nodata {nodata:g}: the data type of {name}, {', '.join(sorted(map(str, types)))}, cannot have this value",
        "give a value in the range of the data type",
    )
