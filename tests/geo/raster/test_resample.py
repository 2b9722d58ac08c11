"""Resampling: right values, and the same through every window."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.geo.raster.resample import AxisWeights, resample

F32 = np.dtype(np.float32)


def through_window(values, valid, height, width, box):
    """Resample [C, h, w] to the part (top, left, rows, cols) of a grid of height x width pixels."""
    top, left, rows, cols = box
    over_rows = AxisWeights(top, top + rows, n_in=values.shape[1], n_out=height, dtype=F32)
    over_cols = AxisWeights(left, left + cols, n_in=values.shape[2], n_out=width, dtype=F32)
    part = np.s_[over_rows.first : over_rows.last, over_cols.first : over_cols.last]
    return resample(values[:, *part], None if valid is None else valid[part], over_rows, over_cols)


def whole(values, valid, height, width):
    return through_window(values, valid, height, width, (0, 0, height, width))


@st.composite
def cases(draw):
    h, w = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    height = draw(st.integers(max(1, h // 4), int(h * 2.5) + 1))
    width = draw(st.integers(max(1, w // 4), int(w * 2.5) + 1))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    box = top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, 65536, (2, h, w)).astype(np.float32)
    valid = rng.random((h, w)) < draw(st.sampled_from([0.2, 0.8, 0.99]))
    values[:, ~valid] = draw(st.sampled_from([np.nan, np.inf, -9999.0]))
    return values, valid, height, width, box


@settings(max_examples=80, deadline=None)
@given(cases())
def test_a_window_holds_the_bits_of_the_whole(case):
    values, valid, height, width, box = case
    top, left, rows, cols = box
    part = np.s_[top : top + rows, left : left + cols]
    pixels, known = whole(values, valid, height, width)
    pixels_here, known_here = through_window(values, valid, height, width, box)
    assert np.array_equal(pixels_here, pixels[:, *part])
    everywhere = np.ones((height, width), bool) if known is None else known
    assert np.array_equal(np.ones((rows, cols), bool) if known_here is None else known_here, everywhere[part])
    assert np.isfinite(pixels).all()
    assert (pixels[:, ~everywhere] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_a_flat_scene_stays_flat_and_in_bounds(h, w, height, width):
    pixels, known = whole(np.full((1, h, w), 200, np.float32), None, height, width)
    assert known is None
    assert np.allclose(pixels, 200, rtol=1e-6)


def test_reducing_is_the_mean_over_the_area():
    values = np.arange(48, dtype=np.float32).reshape(1, 6, 8)
    pixels, _ = whole(values, None, 3, 4)
    assert np.array_equal(pixels[0], values[0].reshape(3, 2, 4, 2).mean(axis=(1, 3)))
    thirds, _ = whole(np.array([[[0, 30, 90]]], np.float32), None, 1, 2)
    assert np.allclose(thirds, [[[10, 70]]])  # (0 + 30/2) / 1.5, (30/2 + 90) / 1.5


def test_enlarging_is_bilinear_between_centres_with_edges_replicated():
    pixels, _ = whole(np.array([[[0, 100]]], np.float32), None, 1, 4)
    assert np.allclose(pixels, [[[0, 25, 75, 100]]])


def test_position_is_kept():
    """The centre of gravity of a blob stays where it is, in shares of the scene: no half-pixel shift."""
    values = np.zeros((1, 40, 40), np.float32)
    values[0, 10:14, 25:31] = 1
    for size in (16, 31, 77, 100):
        pixels, _ = whole(values, None, size, size)
        rows, cols = (np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size
        weight = pixels[0] / pixels[0].sum()
        assert abs((weight.sum(1) * rows).sum() - 12 / 40) < 0.25 / size
        assert abs((weight.sum(0) * cols).sum() - 28 / 40) < 0.25 / size


def test_invalid_pixels_have_no_weight():
    values = np.array([[[10, 20, 1000, 40, 1000, 1000]]], np.float32)
    valid = np.array([[True, True, False, True, False, False]])
    pixels, known = whole(values, valid, 1, 3)
    assert np.array_equal(pixels[0, 0], [15, 40, 0])
    assert np.array_equal(known, [[True, True, False]])
