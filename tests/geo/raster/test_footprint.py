"""The outline of valid pixels: exact rectangles, collars, holes, cells of large rasters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling

from rsprompter_cli.geo.raster import valid_extent
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.raster.valid_extent import valid_footprint
from tests.make.scenes import UTM, write_scene


def outline_of(path: Path) -> Any:
    with open_scene(path, native=True) as scene:
        return scene.footprint()


def with_alpha(path: Path, valid: np.ndarray, **profile: Any) -> Path:
    """An RGBA scene of bool [H, W]."""
    pixels = np.full((4, *valid.shape), 120, np.uint8)
    pixels[3] = np.where(valid, 255, 0)
    return write_scene(path, pixels, photometric="RGB", alpha="yes", **profile)


def test_a_scene_without_gaps_is_its_rectangle(tmp_path: Path) -> None:
    plain = write_scene(tmp_path / "plain.tif", np.full((3, 33, 57), 9, np.uint8))
    opaque = with_alpha(tmp_path / "opaque.tif", np.ones((33, 57), bool))
    nodata = write_scene(tmp_path / "nodata.tif", np.full((3, 33, 57), 9, np.uint8), nodata=0)
    for path in (plain, opaque, nodata):
        assert shapely.equals_exact(shapely.normalize(outline_of(path)), shapely.normalize(shapely.box(0, 0, 57, 33)))


def test_a_collar_a_hole_and_an_island(tmp_path: Path) -> None:
    valid = np.zeros((60, 80), bool)
    valid[5:50, 10:70] = True
    valid[20:30, 30:40] = False
    valid[55:57, 75:76] = True
    valid[40, 60] = False  # a dark pixel
    for path in (
        with_alpha(tmp_path / "alpha.tif", valid),
        write_scene(tmp_path / "nodata.tif", np.where(valid, 7, 0)[None].repeat(3, 0).astype(np.uint8), nodata=0),
    ):
        got = outline_of(path)
        assert got.is_valid
        assert got.area == 45 * 60 - 100 + 2
        assert got.bounds == (10, 5, 76, 57)


def test_a_mask_inside_the_file(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "masked.tif", np.full((3, 40, 40), 9, np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        mask = np.zeros((40, 40), np.uint8)
        mask[:, 3:] = 255
        file.write_mask(mask)
    assert shapely.equals(outline_of(path), shapely.box(3, 0, 40, 40))


def test_nothing_valid(tmp_path: Path) -> None:
    assert outline_of(with_alpha(tmp_path / "empty.tif", np.zeros((8, 8), bool))) is None


def test_pixels_that_touch_by_a_corner(tmp_path: Path) -> None:
    valid = np.zeros((8, 8), bool)
    valid[:4, :4] = valid[4:, 4:] = True
    got = outline_of(with_alpha(tmp_path / "corner.tif", valid))
    assert got.is_valid
    assert got.area == 32


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(4, 70))
def test_no_valid_pixel_is_lost(tmp_path: Path, height: int, width: int, seed: int, side: int) -> None:
    """In cells of any size: what is outlined holds all valid pixels, and lies less than a cell around them."""
    rng = np.random.default_rng(seed)
    valid = np.kron(rng.random((-(-height // 5), -(-width // 5))) < 0.6, np.ones((5, 5)))[:height, :width] > 0
    path = with_alpha(tmp_path / "random.tif", valid)
    with open_scene(path, native=True) as scene:
        got = valid_footprint(scene._reader, longest_side=side)
    if not valid.any():
        assert got is None
        return
    assert got.is_valid
    assert shapely.box(0, 0, width, height).covers(got)
    rows, cols = np.nonzero(valid)
    assert got.covers(shapely.MultiPoint(np.column_stack([cols + 0.5, rows + 0.5])))
    pixels = shapely.union_all(shapely.box(cols, rows, cols + 1, rows + 1))
    assert shapely.difference(pixels, got).area == pytest.approx(0, abs=1e-9)
    cell = -(-max(height, width) // side)
    if cell == 1:
        # Only small holes were filled.
        filled = shapely.get_parts(shapely.difference(got, pixels))
        assert all(part.area < valid_extent.SMALLEST_HOLE for part in filled)


def test_a_large_scene_is_read_from_its_overview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valid = np.zeros((512, 768), bool)
    valid[64:448, 128:] = True
    path = with_alpha(tmp_path / "large.tif", valid, tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    monkeypatch.setattr("rsprompter_cli.geo.raster.scene.LONGEST_SIDE", 192)
    assert shapely.equals(outline_of(path), shapely.box(128, 64, 768, 448))


def test_turned_and_south_up_scenes_on_the_map(tmp_path: Path) -> None:
    from rsprompter_cli.evaluate.area import place_area, scene_area

    for place in (
        Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5),
        Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000),
    ):
        path = write_scene(tmp_path / "turned.tif", np.full((3, 40, 60), 9, np.uint8), transform=place)
        outline, crs = scene_area(path)
        assert outline.area == pytest.approx(40 * 60 / 4)
        corners = shapely.MultiPoint([place @ corner for corner in ((0, 0), (60, 0), (60, 40), (0, 40))])
        assert shapely.boundary(outline).buffer(1e-6).covers(corners)
        assert shapely.equals_exact(place_area((outline, crs), UTM), outline, 1e-6)
