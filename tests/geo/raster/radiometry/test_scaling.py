"""Samples to 0..255."""

from __future__ import annotations

import numpy as np
import pytest

from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.raster.radiometry.scaling import PERCENTILE_LEVELS, choose_scaling, parse_scale


def choose(choice, *, dtype="uint16", full_scale=None, samples=None):
    def sample():
        assert samples is not None, "no sample is needed here"
        return samples

    colours = 1 if samples is None else len(samples)
    return choose_scaling(choice, dtype=dtype, full_scale=full_scale, colours=colours, sample=sample, name="a.tif")


def test_parse_scale():
    assert [parse_scale(text) for text in (None, "auto", "none", "percentile")] == [
        "auto",
        "auto",
        "none",
        "percentile",
    ]
    assert parse_scale("0,3000.5") == (0.0, 3000.5)
    assert parse_scale("-1e3,2") == (-1000.0, 2.0)


@pytest.mark.parametrize("text", ["percentil", "5", "5,", "1,2,3", "a,b", "3,3", "9,1", "nan,1", "0,inf", ""])
def test_bad_values_name_the_option(text):
    with pytest.raises(UsageError, match="--scale"):
        parse_scale(text)


def test_bytes_are_taken_as_they_are():
    values = np.array([[[0.0, 17.5, 255.0]]], np.float32)
    scaling = choose("auto", dtype="uint8")
    assert scaling.kind == "uint8"
    assert np.array_equal(scaling.apply(values), values)


def test_few_bits_fill_the_scale():
    assert np.array_equal(
        choose("auto", dtype="uint8", full_scale=3).apply(np.array([[[0, 1, 3]]], np.float32)), [[[0, 85, 255]]]
    )


def test_none_takes_any_type_and_cuts():
    assert np.array_equal(choose("none").apply(np.array([[[-5, 100, 4000]]], np.float32)), [[[0, 100, 255]]])


def test_range_maps_its_ends():
    scaled = choose((1000.0, 3000.0)).apply(np.array([[[0, 1000, 2000, 3000, 9000]]], np.float32))
    assert np.allclose(scaled, [[[0, 0, 127.5, 255, 255]]])
    assert scaled.dtype == np.float32


def test_percentiles_are_per_colour():
    samples = np.stack([np.arange(101), 1000 + 10 * np.arange(101)]).astype(np.float32)
    scaling = choose("auto", samples=samples)
    assert scaling.kind == "percentile"
    at_percentiles = scaling.apply(np.array([[[2, 98]], [[1020, 1980]]], np.float32))
    assert np.allclose(at_percentiles, [[PERCENTILE_LEVELS], [PERCENTILE_LEVELS]], atol=1e-3)
    assert choose("percentile", dtype="uint8", samples=samples) == scaling


def test_a_flat_scene_gives_no_nan():
    for flat in (0.0, 10_000.0, -3.5):
        scaling = choose("auto", dtype="float32", samples=np.full((1, 9), flat, np.float32))
        scaled = scaling.apply(np.full((1, 2, 2), flat, np.float32))
        assert np.allclose(scaled, PERCENTILE_LEVELS[0], atol=0.5)


def test_no_valid_sample_is_said(caplog):
    assert choose("auto", samples=np.empty((1, 0), np.float32)).kind == "none"
    assert "no valid sample" in caplog.text
