"""Noise with the fall-off that natural ground has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float32]


def fractal(rng: np.random.Generator, shape: tuple[int, int], roughness: float, largest: float) -> Floats:
    """Noise [H, W] of mean 0 and standard deviation 1 with power falling as frequency**-roughness.

    Args:
        rng: generator.
        shape: rows and columns.
        roughness: exponent of the power spectrum; 0 is white, 2 looks like soil, 3 like hills.
        largest: features larger than this many pixels are damped.
    """
    white = rng.standard_normal(shape, dtype=np.float32)
    rows = fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    columns = fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    power = rows**2 + columns**2 + np.float32(1.0 / largest**2)
    noise = fft.irfft2(fft.rfft2(white) * power ** np.float32(-roughness / 4), s=shape).astype(np.float32)
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-6)


def cells(rng: np.random.Generator, length: int = 509) -> Floats:
    """Random values -1..1 to be looked up by an integer cell number (see `at`)."""
    return rng.uniform(-1, 1, length).astype(np.float32)


def at(table: Floats, number: NDArray[np.float32]) -> Floats:
    """The table's value for each cell number, repeating at its end."""
    return table[np.floor(number).astype(np.int64) % len(table)]


def smooth(values: Floats, sigma: float) -> Floats:
    """Gaussian blur, sigma in pixels."""
    return ndimage.gaussian_filter(values, sigma, truncate=3.0).astype(np.float32)


def ramp(values: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between."""
    part = np.clip((values - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)
