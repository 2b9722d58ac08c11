"""Which bands are red, green and blue by their names."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import rasterio

from rsprompter_cli.geo.raster.radiometry import band_names
from rsprompter_cli.geo.raster.radiometry.bands import choose_bands
from rsprompter_cli.geo.raster.scene import open_scene, read_picture
from rsprompter_cli.geo.windows import Window
from tests.make.rasters import pattern, write_raster

PLAIN = "MINISBLACK"


def named(path, names, *, tags=None, whole=None, dtype="uint8", photometric=PLAIN, **profile):
    write_raster(path, pattern(8, 9, len(names), dtype=dtype), photometric=photometric, **profile)
    with rasterio.open(path, "r+") as dataset:
        for band, name in enumerate(names, 1):
            if name:
                dataset.set_band_description(band, name)
        for band, values in (tags or {}).items():
            dataset.update_tags(band, **values)
        dataset.update_tags(**(whole or {}))
    return path


def colours(path, **options):
    with rasterio.open(path) as dataset:
        return choose_bands(dataset, path.name, **options)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("blue green red nir", (3, 2, 1)),
        ("Blue Green Red NIR", (3, 2, 1)),
        ("BLUE GREEN RED NIR PAN", (3, 2, 1)),
        ("coastal_blue blue green_i green yellow red rededge nir", (6, 4, 2)),
        ("Coastal_Blue Blue Green_I Green_II Yellow Red Red_Edge NIR", (6, 4, 2)),
        ("Blue Green Red NIR Red_edge", (3, 2, 1)),
        ("Blue Green Red RedEdge NIR", (3, 2, 1)),
        ("Blue-444 Blue-475 Green-531 Green-560 Red-650 Red-668 Red_edge-705 NIR-842", (6, 4, 2)),
        ("BAND_B BAND_G BAND_R BAND_N", (3, 2, 1)),
        ("BAND_C BAND_B BAND_G BAND_Y BAND_R BAND_RE BAND_N BAND_N2", (5, 3, 2)),
        ("N R G B", (2, 3, 4)),
        ("pan blue green red", (4, 3, 2)),
        ("B2 B3 B4 B8", (3, 2, 1)),
        ("B02 B03 B04 B08", (3, 2, 1)),
        ("B8 B4 B3 B2", (2, 3, 4)),
        ("B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12", (4, 3, 2)),
        ("B02_-_Blue B03_-_Green B04_-_Red B08_-_NIR", (3, 2, 1)),
        ("SR_B2 SR_B3 SR_B4 SR_B5 SR_B6", (3, 2, 1)),
        ("SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B7 ST_B6", (3, 2, 1)),
        ("SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B7 ST_B10", (4, 3, 2)),
        ("surface_reflectance_blue surface_reflectance_green surface_reflectance_red", (3, 2, 1)),
        ("Band_1_(Blue) Band_2_(Green) Band_3_(Red) Band_4_(NIR)", (3, 2, 1)),
        ("red_std red green_std green blue blue_std", (2, 4, 5)),
    ],
)
def test_bands_are_found_by_name(tmp_path, names, expected):
    spaced = [name.replace("_-_", " - ") for name in names.split()]
    plan = colours(named(tmp_path / "a.tif", spaced))
    assert plan.colours == expected
    assert f"bands {','.join(map(str, expected))} are read as red, green, blue because their names are" in plan.notice


@pytest.mark.parametrize(
    "names",
    [
        "nir red green",
        "red red green blue",
        "Band_1 Band_2 Band_3 Band_4",
        "B2 B3 B4",
        "SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B7",
        "B1 B2 B3 B4",
        "coastal_blue green red nir",
        "red_edge green blue nir",
        "red/green green/blue blue/red",
        "a b c d",
    ],
)
def test_what_is_not_certain_is_left_to_the_rule_and_told(tmp_path, names):
    plan = colours(named(tmp_path / "a.tif", names.split()))
    assert plan.colours == (1, 2, 3)
    assert "does not state which bands are red, green, blue" in plan.notice
    assert names.split()[0] in plan.notice


def test_file_names_of_products_settle_landsat_numbers(tmp_path):
    names = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"]
    assert colours(named(tmp_path / "LC08_L2SP_038037.tif", names)).colours == (4, 3, 2)
    assert colours(named(tmp_path / "LE07_L2SP_038037.tif", names)).colours == (3, 2, 1)
    assert colours(named(tmp_path / "LT05_L2SP_038037.tif", names)).colours == (3, 2, 1)


@pytest.mark.parametrize("key", ["BandName", "band_name", "BAND_NAME", "description"])
def test_tags_name_bands_too(tmp_path, key):
    tags = {band: {key: name} for band, name in enumerate(("Blue", "Green", "Red", "NIR"), 1)}
    assert colours(named(tmp_path / "a.tif", [""] * 4, tags=tags)).colours == (3, 2, 1)


def test_a_list_of_names_and_numbered_tags(tmp_path):
    listed = named(tmp_path / "a.tif", [""] * 4, whole={"band_names": "['blue', 'green', 'red', 'nir']"})
    numbered = named(tmp_path / "b.tif", [""] * 3, whole={"Band_1": "blue", "Band_2": "green", "Band_3": "red"})
    assert colours(listed).colours == colours(numbered).colours == (3, 2, 1)


@pytest.mark.parametrize(
    ("waves", "unit"), [((490, 560, 665, 842), {}), ((0.49, 0.56, 0.665, 0.842), {"wavelength_units": "Micrometers"})]
)
def test_wavelengths(tmp_path, waves, unit):
    tags = {band: {"wavelength": str(wave), **unit} for band, wave in enumerate(waves, 1)}
    plan = colours(named(tmp_path / "a.tif", [""] * 4, tags=tags))
    assert plan.colours == (3, 2, 1)
    assert "their wavelengths are 665, 560, 490 nm" in plan.notice


def test_names_with_wavelengths_of_many_bands(tmp_path):
    names = [f"band {place} ({400 + 10 * place}.5 nm)" for place in range(1, 40)]
    assert colours(named(tmp_path / "a.tif", names)).colours == (26, 16, 8)


def test_names_come_before_the_default_interpretation_of_writers(tmp_path):
    """Four 8-bit bands become red, green, blue, alpha by default, and near infrared is no transparency."""
    path = named(tmp_path / "a.tif", ["blue", "green", "red", "nir"], photometric="RGB", ALPHA="YES")
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3].name == "alpha"
    plan = colours(path)
    assert (plan.colours, plan.alpha) == ((3, 2, 1), None)
    assert np.array_equal(read_picture(path), np.moveaxis(pattern(8, 9, 4)[[2, 1, 0]], 0, -1))
    plain = colours(named(tmp_path / "b.tif", ["red", "green", "blue", "alpha"], photometric="RGB", ALPHA="YES"))
    assert (plain.colours, plain.alpha, plain.notice) == ((1, 2, 3), 4, "")


def test_false_colours_are_told(tmp_path):
    plan = colours(named(tmp_path / "a.tif", ["nir", "red", "green"], photometric="RGB"))
    assert plan.colours == (1, 2, 3)
    assert "although their names are nir, red, green" in plan.notice


def test_an_order_of_colour_interpretation_that_someone_chose_wins(tmp_path):
    path = named(tmp_path / "a.tif", ["red", "green", "blue"])
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]
    plan = colours(path)
    assert plan.colours == (3, 2, 1)
    assert "although their names are red, green, blue" in plan.notice


def test_bands_of_the_user_and_of_the_training_win(tmp_path, caplog):
    path = named(tmp_path / "a.tif", ["blue", "green", "red", "nir"])
    assert colours(path, bands=(4, 3, 2)).colours == (4, 3, 2)
    assert colours(path, trained=(4, 2, 1)).colours == (4, 2, 1)
    with caplog.at_level(logging.INFO), open_scene(path) as scene:
        assert scene.bands == (3, 2, 1)
        assert np.array_equal(scene.read(Window(0, 0, 0, 0, 8, 9)).pixels.astype(np.uint8), pattern(8, 9, 4)[[2, 1, 0]])
    assert caplog.text.count("because their names are red, green, blue") == 1


# White is zero


@pytest.mark.parametrize(("bits", "dtype"), [(1, "uint8"), (2, "uint8"), (8, "uint8"), (12, "uint16"), (16, "uint16")])
def test_a_negative_is_read_as_what_it_shows(tmp_path, bits, dtype):
    top = 2**bits - 1
    positive = pattern(24, 32, 1, dtype=dtype) & top
    options = {"nbits": bits} if bits not in (8, 16) else {}
    negative = write_raster(tmp_path / "n.tif", (top - positive).astype(dtype), photometric="MINISWHITE", **options)
    usual = write_raster(tmp_path / "p.tif", positive, photometric="MINISBLACK", **options)
    tiles = []
    for path in (negative, usual):
        with open_scene(path) as scene:
            tiles.append(scene.read(Window(0, 0, 0, 0, 24, 32)).pixels)
    assert np.array_equal(*tiles)
    assert tiles[0].max() > tiles[0].min()
    if dtype == "uint8":
        assert np.array_equal(read_picture(negative), read_picture(usual))


def test_nodata_of_a_negative_is_that_of_the_file(tmp_path):
    stored = np.full((1, 10, 10), 200, np.uint8)
    stored[:, :3] = 0
    with open_scene(write_raster(tmp_path / "a.tif", stored, photometric="MINISWHITE", nodata=0)) as scene:
        tile = scene.read(Window(0, 0, 0, 0, 10, 10))
    assert not tile.valid[:3].any()
    assert (tile.pixels[:, 3:] == 55).all()


def test_white_is_zero_of_floats_is_told_to_be_ignored(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(9, 9, 1, dtype="float32"), photometric="MINISWHITE")
    assert "does not apply to float32 samples" in colours(path).notice


def test_a_name_of_very_many_digits_is_looked_through_once():
    assert band_names._wavelength("1" * 2_000_000, {}, {}) is None
    assert band_names._wavelength("", {"wavelength": "1" * 2_000_000}, {}) is None
    assert band_names._wavelength("665 nm " + "x" * 2_000_000, {}, {}) == 665
