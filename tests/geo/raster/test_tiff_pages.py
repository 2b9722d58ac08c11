"""Files of several pages: the obvious one, or none."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, TiffImagePlugin
from scipy import ndimage

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.raster.scene import open_scene, read_label, read_picture
from rsprompter_cli.geo.raster.source import Stated, resolve_source
from rsprompter_cli.geo.raster.tiff_pages import choose_page, page_count
from rsprompter_cli.geo.windows import Window
from tests.make.rasters import NORTH_UP, pattern, write_raster


def scenery(side: int, seed: int = 0) -> np.ndarray:
    """uint8 [side, side, 3] with structures of many sizes, as a landscape has."""
    noise = np.random.default_rng(seed).random((256, 256, 3))
    smooth = sum(ndimage.gaussian_filter(noise, (sigma, sigma, 0)) * sigma for sigma in (2, 8, 24))
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    return np.asarray(Image.fromarray(smooth.astype(np.uint8)).resize((side, side), Image.Resampling.BOX))


def write_pages(path: Path, *pages: np.ndarray, reduced: tuple[int, ...] = ()) -> Path:
    """Pages [H, W, 3] as Pillow writes them; those of `reduced`, from 0, are marked so (tag 254)."""
    images = [Image.fromarray(page) for page in pages]
    for place, image in enumerate(images):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        if place in reduced:
            tags[254] = 1
        image.encoderinfo = {"tiffinfo": tags}
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def read(path: Path, page: int | None = None) -> np.ndarray:
    with open_scene(path, stated=Stated(page=page)) as scene:
        tile = scene.read(Window(0, 0, 0, 0, scene.height, scene.width))
    return np.moveaxis(tile.pixels, 0, -1).astype(np.uint8)


def thumbnail(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))


def test_a_thumbnail_before_the_scene_is_recognised(tmp_path, caplog):
    scene = scenery(256)
    path = write_pages(tmp_path / "a.tif", thumbnail(scene, 64), scene)
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(path), scene)
    assert "reading page 2 (256 x 256 px, 3 bands)" in caplog.text
    assert "not read: page 1 (64 x 64 px, 3 bands)" in caplog.text
    assert np.array_equal(read_picture(path), scene)
    assert page_count(resolve_source(path)) == 2


def test_a_thumbnail_that_is_marked_needs_no_likeness(tmp_path, caplog):
    scene = scenery(256)
    path = write_pages(tmp_path / "a.tif", scenery(60, seed=5), scene, reduced=(0,))
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(path), scene)
    assert "page 2" in caplog.text


def test_a_thumbnail_after_the_scene_is_not_read(tmp_path, caplog):
    scene = scenery(256)
    path = write_pages(tmp_path / "a.tif", scene, thumbnail(scene, 64))
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(path), scene)
    assert "not read: page 2" in caplog.text


@pytest.mark.parametrize("other", [scenery(256, seed=1), scenery(64, seed=1), scenery(256, seed=1)[:, :128]])
def test_pages_that_differ_are_refused_and_can_be_chosen(tmp_path, other):
    path = write_pages(tmp_path / "a.tif", other, scenery(256))
    for reader in (open_scene, read_picture):
        with pytest.raises(InputError, match=r"a\.tif: contains 2 different pages: page 1 \(.*, page 2 \(") as caught:
            reader(path)
        assert "--page" in caught.value.hint
    assert np.array_equal(read(path, 1), other)
    assert np.array_equal(read(path, 2), scenery(256))


def test_pages_that_do_not_exist_are_named(tmp_path):
    path = write_pages(tmp_path / "a.tif", scenery(32), scenery(64))
    with pytest.raises(UsageError, match=r"--page 3: a\.tif has 2 pages|--page 3: .*a\.tif has 2 pages"):
        read(path, 3)
    with pytest.raises(UsageError, match="--page 0"):
        read(path, 0)
    Image.fromarray(scenery(32)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="has 1 page"):
        read(tmp_path / "a.png", 2)
    assert read(tmp_path / "a.png", 1).shape == (32, 32, 3)


def test_labels_of_several_pages_are_refused(tmp_path):
    images = [Image.fromarray(pattern(20, 30, 1, seed=seed)[0]) for seed in (0, 1)]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:])
    with pytest.raises(InputError, match="2 different pages"):
        read_label(tmp_path / "a.tif")


def test_overviews_and_masks_are_no_pages(tmp_path, caplog):
    mask = np.full((600, 600), 255, np.uint8)
    mask[:100] = 0
    path = write_raster(tmp_path / "a.tif", pattern(600, 600), overviews=(2, 4), mask=mask)
    source = resolve_source(path)
    assert choose_page(source) == source
    assert page_count(source) == 1
    with caplog.at_level(logging.INFO), open_scene(path) as scene:
        assert not scene.read(Window(0, 0, 0, 0, 600, 600)).valid[:100].any()
    assert "page" not in caplog.text
    with pytest.raises(UsageError, match="is the mask of another page"):
        choose_page(source, 2 if not _is_overview(path, 2) else 3)


def _is_overview(path: Path, number: int) -> bool:
    from rsprompter_cli.geo.raster.formats.tiff import read_pages

    return not read_pages(path)[number - 1].mask


def test_the_mask_of_a_later_page_is_honoured(tmp_path):
    scene = scenery(128)
    mask = np.full((128, 128), 255, np.uint8)
    mask[:40] = 0
    path = write_raster(tmp_path / "a.tif", np.moveaxis(thumbnail(scene, 32), -1, 0), crs=None, transform=None)
    with rasterio.open(path, "w", driver="GTiff", width=32, height=32, count=3, dtype="uint8") as first:
        first.write(np.moveaxis(thumbnail(scene, 32), -1, 0))
    profile = {"driver": "GTiff", "width": 128, "height": 128, "count": 3, "dtype": "uint8"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", APPEND_SUBDATASET="YES", crs="EPSG:32631", transform=NORTH_UP, **profile) as second,
    ):
        second.write(np.moveaxis(scene, -1, 0))
        second.write_mask(mask)
    source = choose_page(resolve_source(path))
    assert source == replace(resolve_source(path), page=2, mask_page=3)
    with open_scene(path) as opened:
        assert opened.georef.on_earth
        valid = opened.read(Window(0, 0, 0, 0, opened.height, opened.width)).valid
    assert not valid[:40].any()
    assert valid[40:].all()


def test_a_gdal_name_of_a_page_is_no_path(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(9, 9))
    with pytest.raises(InputError, match="not a file path") as caught:
        resolve_source(f"GTIFF_DIR:1:{path}")
    assert "--page N" in caught.value.hint
