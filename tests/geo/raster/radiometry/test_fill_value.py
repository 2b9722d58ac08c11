"""Undeclared fill values, and nodata that the user states."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.raster.radiometry import sampling
from rsprompter_cli.geo.raster.radiometry.fill_value import find_fill
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.raster.source import Stated
from rsprompter_cli.geo.windows import Window
from tests.make.rasters import write_raster

SIDE = 120


def imagery(dtype: str, low: float = 500, high: float = 3000, bands: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).uniform(low, high, (bands, SIDE, SIDE))
    return (values if np.dtype(dtype).kind == "f" else np.rint(values)).astype(dtype)


def collared(pixels: np.ndarray, value: float, rows: int = 40) -> np.ndarray:
    """The picture with a slanted collar of one value at its top left."""
    corner = np.add.outer(np.arange(SIDE), np.arange(SIDE)) < 2 * rows
    result = pixels.copy()
    result[:, corner] = value
    return result


def look(path, **options):
    with open_scene(path, **options) as scene:
        tile = scene.read(Window(0, 0, 0, 0, scene.height, scene.width))
        return scene.scaling, tile, scene.nodata_facts(), scene.data_box()


LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint16", 0), ("uint16", 65535), ("int16", -9999), ("int16", -32768), ("float32", -9999), ("float32", LOWEST)],
)
def test_a_fill_value_is_left_out_and_not_valid(tmp_path, caplog, dtype, value):
    clean = imagery(dtype)
    path = write_raster(tmp_path / "a.tif", collared(clean, value))
    declared = write_raster(tmp_path / "b.tif", collared(clean, value), nodata=value)
    with caplog.at_level(logging.INFO):
        scaling, tile, facts, _ = look(path)
    assert caplog.text.count("of the file from its border and is taken as nodata") == 1
    assert (facts["value"], facts["from"], facts["left_out_only"]) == (value, "found", False)
    as_declared = look(declared)
    assert scaling == as_declared[0]
    assert np.array_equal(tile.valid, as_declared[1].valid)
    assert np.array_equal(tile.pixels, as_declared[1].pixels)


def test_a_fill_value_in_a_large_scene_is_seen_in_its_lattice(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_SIDE", 20)
    monkeypatch.setattr(sampling, "_LATTICES", ((6, 8), (8, 4)))
    _, tile, facts, box = look(write_raster(tmp_path / "a.tif", np.pad(imagery("uint16"), ((0, 0), (0, 0), (60, 0)))))
    assert facts["value"] == 0
    assert not tile.valid[:, :60].any()
    assert tile.valid[:, 60:].all()
    assert box == (60, 0, 60 + SIDE, SIDE)


def test_a_negative_has_fill_values_as_stored(tmp_path):
    path = write_raster(tmp_path / "a.tif", collared(imagery("uint16", bands=1), 0), photometric="MINISWHITE")
    _, tile, facts, _ = look(path)
    assert facts["value"] == 0
    assert not tile.valid[0, 0]


def test_eight_bit_pictures_are_taken_as_they_are(tmp_path, caplog):
    pixels = collared(imagery("uint8", 1, 254), 0)
    with caplog.at_level(logging.INFO):
        _, tile, facts, _ = look(write_raster(tmp_path / "a.tif", pixels))
    assert (tile.valid, facts) == (None, None)
    assert "fills" not in caplog.text


@pytest.mark.parametrize("value", [0, 255])
def test_eight_bit_fill_is_only_left_out_of_percentiles(tmp_path, value):
    clean = imagery("uint8", 60, 180)
    scaling, tile, facts, _ = look(write_raster(tmp_path / "a.tif", collared(clean, value)), scale="percentile")
    assert tile.valid is None
    assert facts["left_out_only"]
    known, *_ = look(write_raster(tmp_path / "b.tif", collared(clean, value), nodata=value), scale="percentile")
    assert scaling == known


def test_real_black_and_white_are_no_fill():
    values = imagery("uint16").astype(np.float32)
    valid = np.ones((SIDE, SIDE), dtype=bool)
    scattered = values.copy()
    scattered[:, np.random.default_rng(1).random((SIDE, SIDE)) < 0.2] = 0
    inside = values.copy()
    inside[:, 40:80, 40:80] = 65535
    other = collared(values, 431)
    thin = values.copy()
    thin[:, 0] = 0
    for picture in (values, scattered, inside, other, thin):
        assert find_fill(picture, valid, "uint16") is None
    flat = np.zeros((3, SIDE, SIDE), np.float32)
    flat[:, 40:80, 40:80] = 900
    assert find_fill(flat, valid, "uint16") is None


def test_saturated_roofs_keep_the_value_valid():
    values = collared(imagery("uint16").astype(np.float32), 65535)
    values[:, 85:115, 85:115] = 65535
    found = find_fill(values, np.ones((SIDE, SIDE), dtype=bool), "uint16")
    assert found is not None
    assert not found.is_nodata


def test_fill_around_declared_nodata():
    values = collared(imagery("uint16").astype(np.float32), 65535)
    valid = np.ones((SIDE, SIDE), dtype=bool)
    valid[:10], valid[:, :10] = False, False
    assert find_fill(values, valid, "uint16").value == 65535


def test_stated_nodata_is_nodata_proper(tmp_path, caplog):
    pixels = collared(imagery("uint8", 1, 254), 77)
    path = write_raster(tmp_path / "a.tif", pixels, nodata=3)
    with caplog.at_level(logging.INFO):
        _, tile, facts, _ = look(path, stated=Stated(nodata=77))
    assert facts == {"value": 77, "from": "--nodata"}
    assert np.array_equal(tile.valid, ~(pixels == 77).all(axis=0))
    assert "fills" not in caplog.text
    _, tile, facts, _ = look(write_raster(tmp_path / "b.tif", collared(imagery("uint16"), 0)), stated=Stated(nodata=9))
    assert (tile.valid, facts["value"]) == (None, 9)


def test_few_digits_of_the_lowest_float_will_do(tmp_path):
    path = write_raster(tmp_path / "a.tif", collared(imagery("float32"), LOWEST))
    _, tile, _, _ = look(path, stated=Stated(nodata=-3.4e38))
    assert not tile.valid[0, 0]
    assert tile.valid[-1, -1]


def test_values_that_samples_cannot_have_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", imagery("uint8", 1, 254))
    for value, message in (
        (-9999, "uint8, cannot have this value"),
        (0.5, "uint8, cannot have this value"),
        (np.nan, "always invalid"),
    ):
        with pytest.raises(UsageError, match=f"--nodata {value:g}: .*{message}"):
            look(path, stated=Stated(nodata=value))
