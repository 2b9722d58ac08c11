"""Scenes: bands, validity, scaling, working grid and windows of fabricated files."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Transformer

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.raster.radiometry.scaling import PERCENTILE_LEVELS
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.windows import Window, make_grid
from tests.make.rasters import NORTH_UP, UTM, pattern, write_raster, write_sparse


def window(top, left, height, width):
    return Window(0, 0, top, left, height, width)


def read_all(path, **options):
    with open_scene(path, **options) as scene:
        return scene.read(window(0, 0, scene.height, scene.width))


def blob_centre(scene):
    """Map coordinates of the centre of gravity of what is bright."""
    weight = scene.read(window(0, 0, scene.height, scene.width)).pixels[0].astype(float)
    rows, cols = np.mgrid[: scene.height, : scene.width] + 0.5
    row, col = (rows * weight).sum() / weight.sum(), (cols * weight).sum() / weight.sum()
    a, b, c, d, e, f = scene.georef.transform
    return a * col + b * row + c, d * col + e * row + f


# Colours


def test_three_bytes_are_taken_as_they_are(tmp_path):
    pixels = pattern(40, 50)
    tile = read_all(write_raster(tmp_path / "a.tif", pixels))
    assert tile.pixels.dtype == np.float32
    assert np.array_equal(tile.pixels, pixels)
    assert tile.valid is None


def test_grey_is_repeated(tmp_path):
    pixels = pattern(20, 30, 1)
    assert np.array_equal(read_all(write_raster(tmp_path / "a.tif", pixels)).pixels, np.repeat(pixels, 3, 0))


def test_grey_with_alpha(tmp_path):
    pixels = pattern(20, 30, 2)
    pixels[1] = 255
    pixels[1, :5] = 0
    tile = read_all(write_raster(tmp_path / "a.tif", pixels, colours=("gray", "alpha")))
    assert np.array_equal(tile.valid, pixels[1] > 0)
    assert np.array_equal(tile.pixels[:, 5:], np.repeat(pixels[:1, 5:], 3, 0))
    assert (tile.pixels[:, :5] == 0).all()


def test_second_of_two_bands_is_no_alpha_unless_it_says_so(tmp_path, caplog):
    pixels = pattern(20, 30, 2)
    pixels[1] = 0
    path = write_raster(tmp_path / "a.tif", pixels, colours=("gray", "undefined"))
    with caplog.at_level(logging.INFO):
        assert read_all(path).valid is None
    assert "using band 1 as grey" in caplog.text


def test_colour_order_goes_by_interpretation(tmp_path):
    pixels = pattern(20, 30, 4)
    pixels[3] = 255
    path = write_raster(tmp_path / "bgra.tif", pixels, colours=("blue", "green", "red", "alpha"))
    with open_scene(path) as scene:
        assert scene.bands == (3, 2, 1)
    assert np.array_equal(read_all(path).pixels, pixels[[2, 1, 0]])


def test_unnamed_bands_take_the_first_three_and_say_so(tmp_path, caplog):
    pixels = pattern(20, 30, 5)
    path = write_raster(tmp_path / "a.tif", pixels, colours=("gray",) + ("undefined",) * 4, photometric="minisblack")
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read_all(path).pixels, pixels[:3])
    assert "--bands" in caplog.text
    assert np.array_equal(read_all(path, bands=(5, 1, 4)).pixels, pixels[[4, 0, 3]])
    assert np.array_equal(read_all(path, bands=(4,)).pixels, np.repeat(pixels[3:4], 3, 0))
    assert np.array_equal(read_all(path, bands=(2, 2, 1)).pixels, pixels[[1, 1, 0]])


def test_a_band_that_is_not_there_names_the_option(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(9, 9))
    for bands in ((1, 2, 4), (0,), (1, 2)):
        with pytest.raises(UsageError, match="--bands"):
            open_scene(path, bands=bands)


def test_a_scene_without_the_bands_of_the_model_is_refused_with_the_way_out(tmp_path, caplog):
    pixels = pattern(20, 30, 4)
    rgb = write_raster(tmp_path / "rgb.tif", pixels[:3])
    with pytest.raises(InputError, match=r"rgb\.tif: the model was trained on bands 4,3,2 .* has 3") as caught:
        open_scene(rgb, trained_bands=(4, 3, 2))
    assert "--bands 1,2,3" in caught.value.hint
    assert np.array_equal(read_all(rgb, trained_bands=(4, 3, 2), bands=(1, 2, 3)).pixels, pixels[:3])
    four = write_raster(tmp_path / "four.tif", pixels, colours=("gray",) + ("undefined",) * 3, photometric="minisblack")
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read_all(four, trained_bands=(4, 3, 2)).pixels, pixels[[3, 2, 1]])
    assert "as in the model's training" in caplog.text


def test_a_range_of_deep_training_samples_does_not_blacken_an_8_bit_file(tmp_path, caplog):
    pixels = pattern(20, 30)
    path = write_raster(tmp_path / "a.tif", pixels)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read_all(path, trained_scale="0,3000").pixels, pixels)
    assert "0 to 3000" in caplog.text
    assert "--scale" in caplog.text
    # Whoever asks for it gets it, and deeper samples are meant anyway.
    assert read_all(path, scale="0,3000", trained_scale="none").pixels.max() < 22
    deep = write_raster(tmp_path / "deep.tif", pixels.astype(np.uint16) * 10)
    assert np.allclose(read_all(deep, trained_scale="0,2550").pixels, pixels, atol=1e-3)


def test_palette_is_expanded(tmp_path):
    index = np.array([[[0, 1], [2, 7]]], np.uint8)
    palette = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 90, 0, 255)}
    tile = read_all(write_raster(tmp_path / "a.tif", index, palette=palette))
    assert np.array_equal(tile.pixels[:, 0], [[10, 200], [20, 0], [30, 0]])
    assert np.array_equal(tile.pixels[:, 1, 0], [0, 90, 0])


def test_cmyk_tiffs_become_rgb(tmp_path):
    inks = np.zeros((4, 9, 9), np.uint8)
    inks[1:3] = 255
    tile = read_all(write_raster(tmp_path / "a.tif", inks, photometric="cmyk"))
    assert np.array_equal(tile.pixels[:, 0, 0], [255, 0, 0])


def test_other_colour_models_and_complex_numbers_are_refused(tmp_path):
    colours = ("cyan", "magenta", "yellow", "black")
    cmyk = write_raster(tmp_path / "cmyk.tif", pattern(9, 9, 4), photometric="minisblack", colours=colours)
    with pytest.raises(InputError, match="CMYK"):
        open_scene(cmyk)
    assert np.array_equal(read_all(cmyk, bands=(1, 2, 3)).pixels, pattern(9, 9, 4)[:3])
    radar = write_raster(tmp_path / "slc.tif", np.ones((1, 9, 9), np.complex64))
    with pytest.raises(InputError, match="complex"):
        open_scene(radar)


def test_one_bit_fills_the_scale(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[[0, 1, 1]]], np.uint8), nbits=1)
    assert np.array_equal(read_all(path).pixels[0], [[0, 255, 255]])


# What is valid


def test_nodata_needs_all_bands(tmp_path):
    pixels = np.full((3, 4, 4), 9, np.uint8)
    pixels[:, 0] = 0
    pixels[:2, 1] = 0
    tile = read_all(write_raster(tmp_path / "a.tif", pixels, nodata=0))
    assert np.array_equal(tile.valid[:, 0], [False, True, True, True])


def test_nodata_that_a_sample_cannot_hold_is_no_nodata(tmp_path):
    tile = read_all(write_raster(tmp_path / "a.tif", np.zeros((1, 4, 4), np.float32), nodata=float("nan")))
    assert tile.valid is None


def test_nan_and_inf_are_not_valid_and_never_come_out(tmp_path):
    pixels = pattern(60, 60, 3, dtype="float32")
    pixels[0, 3, 3], pixels[1, 4, 4], pixels[2, 5, 5] = np.nan, np.inf, -np.inf
    path = write_raster(tmp_path / "a.tif", pixels)
    tile = read_all(path)
    assert [bool(tile.valid[i, i]) for i in (2, 3, 4, 5, 6)] == [True, False, False, False, True]
    assert np.isfinite(read_all(path, gsd=0.9).pixels).all()
    assert tile.pixels.min() == 0
    assert 225 <= tile.pixels.max() <= 255


def test_internal_mask(tmp_path):
    mask = np.full((20, 20), 255, np.uint8)
    mask[:, 7:] = 0
    tile = read_all(write_raster(tmp_path / "a.tif", pattern(20, 20), mask=mask))
    assert np.array_equal(tile.valid, mask > 0)


def test_mask_in_a_file_beside(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(20, 20))
    mask = np.full((1, 20, 20), 255, np.uint8)
    mask[:, :, 7:] = 0
    write_raster(tmp_path / "a.tif.msk", mask, crs=None, transform=None)
    assert np.array_equal(read_all(path).valid, mask[0] > 0)
    write_raster(tmp_path / "a.tif.msk", mask[:, :9], crs=None, transform=None)
    with pytest.raises(InputError, match="size of the mask differs"):
        open_scene(path)


# From samples to 0..255


def test_sixteen_bits_are_scaled_once_for_all_windows(tmp_path):
    ramp = np.tile(np.linspace(200, 4000, 400).astype(np.uint16), (3, 300, 1))
    path = write_raster(tmp_path / "a.tif", ramp)
    with open_scene(path) as scene:
        left, right = scene.read(window(0, 0, 64, 64)), scene.read(window(0, 336, 64, 64))
        assert scene.scaling.kind == "percentile"
        at_percentiles = scene.scaling.apply(np.array([[[276, 3924]]] * 3, np.float32))
        assert np.allclose(at_percentiles, PERCENTILE_LEVELS, atol=1)
        assert left.pixels.max() < 70 < 180 < right.pixels.min()


def test_percentiles_ignore_what_is_not_valid(tmp_path):
    pixels = np.full((1, 50, 50), 65535, np.uint16)
    pixels[0, :10] = np.arange(1000, 1500).reshape(10, 50)
    with open_scene(write_raster(tmp_path / "a.tif", pixels, nodata=65535)) as scene:
        dark, bright = scene.scaling.apply(np.array([[[1000, 1500]]], np.float32))[0, 0]
        assert PERCENTILE_LEVELS[0] - 10 < dark < PERCENTILE_LEVELS[0]
        assert PERCENTILE_LEVELS[1] < bright < PERCENTILE_LEVELS[1] + 10


def test_percentiles_of_a_large_scene_come_from_a_few_windows(tmp_path):
    """Also an island that the first lattice misses is found; blocks never stored are not read."""
    path = write_sparse(tmp_path / "a.tif", 50_000, 50_000, stored=(slice(20_480, 20_992), slice(10_240, 10_752)))
    with open_scene(path, scale="percentile") as scene:
        assert np.allclose(scene.scaling.apply(np.full((3, 1, 1), 200, np.float32)), PERCENTILE_LEVELS[0])


def test_scale_options(tmp_path):
    pixels = np.array([[[0, 100, 1000, 3000]]], np.uint16)
    path = write_raster(tmp_path / "a.tif", pixels)
    assert np.array_equal(read_all(path, scale="none").pixels[0], [[0, 100, 255, 255]])
    assert np.allclose(read_all(path, scale="0,2000").pixels[0], [[0, 12.75, 127.5, 255]])
    assert np.allclose(read_all(path, scale=(0.0, 2000.0)).pixels[0], [[0, 12.75, 127.5, 255]])
    with pytest.raises(UsageError, match="--scale"):
        open_scene(path, scale="2000,0")


# Windows of the working grid


@pytest.mark.parametrize("gsd", [None, 0.23, 0.5, 0.83, 1.9])
@pytest.mark.parametrize("overviews", [(), (2, 4)])
def test_overlaps_are_equal_to_the_bit(tmp_path, gsd, overviews):
    pixels = pattern(333, 401)
    pixels[:, 100:140, 150:290] = 0
    path = write_raster(tmp_path / "a.tif", pixels, nodata=0, overviews=overviews)
    with open_scene(path, gsd=gsd) as scene:
        reference = scene.read(window(0, 0, scene.height, scene.width))
        for place in make_grid(scene.height, scene.width, size=67, overlap=0.3).windows():
            tile = scene.read(place)
            part = np.s_[place.top : place.top + place.height, place.left : place.left + place.width]
            assert np.array_equal(tile.pixels, reference.pixels[:, *part])
            assert np.array_equal(
                np.ones(tile.pixels.shape[1:], bool) if tile.valid is None else tile.valid, reference.valid[part]
            )


def test_large_windows_are_read_in_chunks_of_the_same_bits(tmp_path, monkeypatch):
    path = write_raster(tmp_path / "a.tif", pattern(200, 150))
    reference = read_all(path, gsd=0.7).pixels
    monkeypatch.setattr("rsprompter_cli.geo.raster.scene._CHUNK_SAMPLES", 1000)
    assert np.array_equal(read_all(path, gsd=0.7).pixels, reference)


def test_reducing_uses_the_overview(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((1, 512, 512), 7, np.uint8), overviews=(2,))
    with open_scene(path, gsd=1.0) as coarse, open_scene(path, gsd=0.9) as fine:
        assert coarse._reader.height == 256
        assert fine._reader.height == 512


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, NORTH_UP),
        (UTM, Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000)),
        (UTM, Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_000_000)),
        (UTM, Affine(0.5, 0.2, 500_000, 0, -0.5, 5_000_000)),
        ("EPSG:4326", Affine(5e-6, 0, 10, 0, -5e-6, 50)),
        ("EPSG:3857", Affine(0.8, 0, 1e6, 0, -0.8, 6e6)),
    ],
    ids=["north-up", "south-up", "rotated", "sheared", "geographic", "mercator"],
)
@pytest.mark.parametrize("gsd", [None, 0.31, 0.9])
def test_an_object_stays_at_its_place(tmp_path, crs, transform, gsd):
    pixels = np.zeros((1, 120, 160), np.uint8)
    pixels[0, 30:60, 90:130] = 250
    with open_scene(write_raster(tmp_path / "a.tif", pixels, crs=crs, transform=transform), gsd=gsd) as scene:
        a, b, c, d, e, f = transform[:6]
        expected = a * 110 + b * 45 + c, d * 110 + e * 45 + f
        lonlat = Transformer.from_crs(crs, CRS(crs).geodetic_crs, always_xy=True)
        lons, lats = lonlat.transform(*zip(expected, blob_centre(scene), strict=True))
        shift = CRS(crs).get_geod().inv(lons[0], lats[0], lons[1], lats[1])[2]
        assert shift < 0.1 * max(scene.working_gsd)
        assert scene.georef.on_earth
        if gsd is not None:
            assert scene.working_gsd == pytest.approx((gsd, gsd), rel=0.02)


def test_trained_resolution_is_met(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(100, 100))
    with open_scene(path, trained_gsd=(0.1, 0.25)) as scene:
        assert scene.working_gsd == pytest.approx((0.25, 0.25), rel=1e-2)
        assert (scene.native_height, scene.height) == (100, 200)


def test_a_window_beyond_the_grid_is_an_error(tmp_path):
    with open_scene(write_raster(tmp_path / "a.tif", pattern(10, 10))) as scene:
        for box in ((0, 0, 11, 10), (-1, 0, 5, 5), (0, 0, 0, 5)):
            with pytest.raises(ValueError, match="outside"):
                scene.read(window(*box))


def test_one_pixel_is_a_scene(tmp_path):
    assert np.array_equal(read_all(write_raster(tmp_path / "a.tif", pattern(1, 1))).pixels, pattern(1, 1))


# What the file does not store


def test_blocks_never_stored_are_told_without_reading(tmp_path):
    path = write_sparse(tmp_path / "a.tif", 4096, 4096, stored=(slice(512, 1024), slice(1024, 1536)))
    with open_scene(path) as scene:
        assert scene.may_have_data(window(512, 1024, 64, 64))
        assert scene.may_have_data(window(0, 0, 600, 1100))
        assert not scene.may_have_data(window(0, 0, 512, 4096))
        assert not scene.may_have_data(window(2048, 2048, 256, 256))
        tile = scene.read(window(448, 960, 128, 128))
        assert tile.valid.sum() == 64 * 64
        assert (tile.pixels[:, 64:, 64:] == 200).all()
    with open_scene(path, gsd=1.3) as scene:
        assert scene.may_have_data(window(200, 400, 20, 20))
        assert not scene.may_have_data(window(0, 0, 190, 1000))


def test_a_gigantic_empty_scene_opens_at_once(tmp_path):
    path = write_sparse(tmp_path / "a.tif", 400_000, 400_000, stored=(slice(0, 256), slice(0, 256)), block=1024)
    with open_scene(path) as scene:
        assert scene.may_have_data(window(0, 0, 256, 256))
        assert not scene.may_have_data(window(300_000, 300_000, 256, 256))


# Damage


@pytest.mark.parametrize("compress", ["deflate", None])
def test_a_truncated_file_names_itself_and_the_window(tmp_path, compress):
    path = write_raster(tmp_path / "a.tif", pattern(512, 512), compress=compress, blockysize=64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_scene(path) as scene:
        scene.read(window(0, 0, 64, 64))
        with pytest.raises(InputError, match=r"a\.tif: is damaged, the window of pixels 400..463 x 448..511") as caught:
            scene.read(window(448, 400, 64, 64))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overviews", [(), (2,)])
def test_windows_of_a_coarser_grid_are_means_of_the_pixels(tmp_path, overviews):
    pixels = np.maximum(pattern(48, 80), 1)
    pixels[:, :4, :8] = 0
    path = write_raster(tmp_path / "a.tif", pixels, nodata=0, overviews=overviews)
    with open_scene(path, native=True) as scene, scene.coarser(24, 40) as read:
        tile = read(window(4, 10, 16, 30))
        corner = read(window(0, 0, 8, 8))
    means = pixels.reshape(3, 24, 2, 40, 2).mean(axis=(2, 4))
    # An overview holds whole numbers.
    assert np.abs(tile.pixels - means[:, 4:20, 10:40]).max() <= 0.5
    assert not corner.valid[:2, :4].any()
    assert corner.valid[2:, 4:].all()


@pytest.mark.parametrize("factor", [8, 50])
def test_strong_reduction_is_the_mean_read_in_bounded_parts(tmp_path, monkeypatch, factor):
    from rsprompter_cli.geo.raster import reader
    from rsprompter_cli.geo.raster import scene as scene_module

    side, width = 8 * factor, 12 * factor
    values = pattern(side, width)
    path = write_raster(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    monkeypatch.setattr(scene_module, "_CHUNK_SAMPLES", 3 * factor * factor)
    asked = []
    read = reader.PixelReader.read

    def counted(self, top, left, height, width, **options):
        asked.append(height * width)
        return read(self, top, left, height, width, **options)

    monkeypatch.setattr(reader.PixelReader, "read", counted)
    with open_scene(path, gsd=0.5 * factor) as scene:
        assert (scene.height, scene.width) == (8, 12)
        tile = scene.read(Window(0, 0, 0, 0, 8, 12))
    mean = values.reshape(3, 8, factor, 12, factor).mean(axis=(2, 4))
    assert np.abs(tile.pixels - mean).max() < 0.01
    assert max(asked) <= 3 * factor * factor
