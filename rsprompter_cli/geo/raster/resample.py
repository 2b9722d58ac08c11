"""Resampling of one window such that every pixel is the same whichever window it is read through.

The weights of an output pixel depend on its place in the whole grid and on nothing else, so two
overlapping windows agree to the bit. Reducing takes the mean over the pixel's area, enlarging is
bilinear between pixel centres (edges replicated); each axis goes by its own ratio. Pixels that
are not valid have no weight.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

_NEGLIGIBLE = 1e-7
"""Share of a source pixel below which rounding, not geometry, brought it in."""


class AxisWeights:
    """The weights of output pixels start..stop along one axis.

    first, last: the source pixels first..last-1 carry them all.
    matrix: sparse [stop - start, last - first], rows sum to 1, or None when the axes are equal.
    """

    def __init__(self, start: int, stop: int, *, n_in: int, n_out: int, dtype: np.dtype) -> None:
        self.matrix: csr_array | None = None
        if n_in == n_out:
            self.first, self.last = start, stop
            return
        indices, weights = (_area if n_in > n_out else _linear)(np.arange(start, stop), n_in, n_out)  # both [n, K]
        weights = np.where(weights > _NEGLIGIBLE, weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        used = weights > 0
        self.first, self.last = int(indices[used].min()), int(indices[used].max()) + 1
        row_ends = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
        self.matrix = csr_array(
            (weights[used].astype(dtype), indices[used] - self.first, row_ends),
            shape=(stop - start, self.last - self.first),
        )


def resample(
    values: np.ndarray, valid: np.ndarray | None, rows: AxisWeights, cols: AxisWeights
) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply the weights of both axes.

    Args:
        values: float [C, h, w], the source pixels from `first` to `last` of both axes; anything
            (also NaN) where not valid.
        valid: bool [h, w], or None when all are.
        rows, cols: weights of the axes.

    Returns:
        float [C, H, W], 0 where not valid, and bool [H, W], or None when all are valid. An output
        pixel is valid when at least half of its weight is.
    """
    if valid is not None and valid.all():
        valid = None
    if valid is None:
        return np.stack([_apply(plane, rows, cols) for plane in values]), None
    planes = np.where(valid, values, 0).astype(values.dtype)
    missing = _apply((~valid).astype(values.dtype), rows, cols)  # [H, W]
    kept = missing <= 0.5
    # No division where nothing is missing: there the sum is what a fully valid window gives, to the bit.
    share = np.where(kept & (missing > 0), 1 - missing, 1).astype(values.dtype)
    result = np.stack([_apply(plane, rows, cols) for plane in planes])
    return np.where(kept, result / share, 0).astype(values.dtype), None if kept.all() else kept


def _apply(plane: np.ndarray, rows: AxisWeights, cols: AxisWeights) -> np.ndarray:
    """[h, w] to [H, W]."""
    if rows.matrix is not None:
        plane = rows.matrix @ plane
    if cols.matrix is not None:
        plane = (cols.matrix @ np.ascontiguousarray(plane.T)).T
    return plane


def _area(index: np.ndarray, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = index * n_in / n_out, (index + 1) * n_in / n_out  # [n], in source pixels
    first = np.floor(low).astype(np.int64)
    reach = int(np.ceil(n_in / n_out)) + 1
    indices = first[:, None] + np.arange(reach)
    weights = np.minimum(indices + 1, high[:, None]) - np.maximum(indices, low[:, None])
    weights = np.where(indices < n_in, np.clip(weights, 0, None), 0.0)
    return indices, weights


def _linear(index: np.ndarray, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    # A pixel centre lies at +0.5 in both grids.
    position = np.clip((index + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)  # [n]
    first = np.minimum(np.floor(position).astype(np.int64), max(n_in - 2, 0))
    share = position - first
    if n_in == 1:
        return first[:, None], np.ones((len(index), 1))
    return np.stack([first, first + 1], axis=1), np.stack([1 - share, share], axis=1)
