"""Rasters as people bring them, from the folder of reference data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pyproj import CRS

from rsprompter_cli.cli.app import run
from rsprompter_cli.geo.raster.resolution import ground_steps
from rsprompter_cli.geo.raster.scene import open_scene, read_picture
from rsprompter_cli.geo.windows import Window


def pixels(path, **options) -> np.ndarray:
    with open_scene(path, **options) as scene:
        return scene.read(Window(0, 0, 0, 0, scene.height, scene.width)).pixels


def test_bands_named_blue_green_red_nir(shared, capsys):
    path = shared / "field" / "band_names_bgr" / "bgrn.tif"
    assert np.array_equal(pixels(path), pixels(path, bands=(3, 2, 1)))
    assert run(["info", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["bands_read"] == [3, 2, 1]
    assert "because their names are red, green, blue" in err


def test_white_is_zero(shared):
    folder = shared / "field" / "miniswhite_grey"
    assert np.array_equal(pixels(folder / "miniswhite.tif"), pixels(folder / "miniswhite_ref.tif"))
    assert np.array_equal(read_picture(folder / "miniswhite.tif"), read_picture(folder / "miniswhite_ref.tif"))


def test_a_base_in_grads(shared):
    with open_scene(shared / "field" / "grad_ntf" / "scene.tif") as scene:
        assert scene.gsd == pytest.approx((0.25, 0.25), rel=2e-3)
        assert (scene.height, scene.width) == (scene.native_height, scene.native_width)
        assert CRS.from_wkt(scene.georef.crs_wkt).to_epsg() == 27572
        along, down = ground_steps(scene.georef, np.array([[190.0, 190.0]]))[0]
    corner = np.degrees(np.arccos(along @ down / np.hypot(*along) / np.hypot(*down)))
    assert corner == pytest.approx(90, abs=0.02)


def test_a_drone_mosaic_of_3_cm(shared, capsys):
    path = shared / "field" / "drone_3cm" / "drone.tif"
    assert run(["info", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["refusal"] is None
    assert facts["plan"]["gsd"] == pytest.approx([0.25, 0.25], rel=1e-2)
    assert "are resampled to 0.2501 x 0.2501 m" in err
    # Each pixel is the mean of 8 x 8 of the file.
    fine = pixels(path, native=True)
    mean = fine.reshape(3, 128, 8, 128, 8).mean(axis=(2, 4))
    assert np.abs(pixels(path, trained_gsd=(0.25, 0.3)) - mean).max() < 0.01
