"""Real GeoTIFFs that break tools: right pixels, or one line that says why not."""

from __future__ import annotations

import numpy as np
import pytest

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.windows import make_grid

TRAINED = (0.13, 0.3)


def some_windows(scene: Scene, most: int = 12):
    grid = make_grid(scene.height, scene.width, size=256)
    for index in range(0, len(grid), max(1, len(grid) // most)):
        window = grid.window_at(index)
        if scene.may_have_data(window):
            yield scene.read(window)


@pytest.mark.parametrize(
    ("name", "kind", "on_earth", "gsd", "bands", "dtype"),
    [
        ("RGBA.uint16.tif", "affine", True, 1.38, (3, 2, 1), "uint16"),
        ("all-nodata.tif", "affine", True, 3.0, (3, 2, 1), "uint16"),
        ("alpha.tif", "affine", True, 3.08, (1, 2, 3), "uint8"),
        ("colorado_rgba.tif", "affine", True, 0.15, (1, 2, 3), "uint8"),
        ("colorado_nodata.tif", "affine", True, 0.15, (1, 2, 3), "uint8"),
        ("cogeo.tif", "affine", True, 0.472, (1, 2, 3), "uint8"),
        ("cog_cmap.tif", "affine", True, 0.916, (1,), "uint8"),
        ("cog_gcps_ovr.tif", "gcp", False, None, (1,), "uint8"),
        ("inverted_lat.tif", "affine", True, 55_500, (1,), "float32"),
        ("cog_dateline.tif", "affine", True, 100, (1,), "uint16"),
        ("rotated.tif", "affine", False, None, (1,), "uint8"),
        ("float.tif", "affine", False, None, (1,), "float64"),
        ("float_nan.tif", "affine", False, None, (1,), "float32"),
    ],
)
def test_native(shared, name, kind, on_earth, gsd, bands, dtype):
    with open_scene(shared / "awkward" / name, native=True) as scene:
        assert (scene.georef.kind, scene.georef.on_earth, scene.bands, scene.dtype) == (kind, on_earth, bands, dtype)
        assert (scene.height, scene.width) == (scene.native_height, scene.native_width)
        assert (scene.gsd is None) if gsd is None else scene.gsd == pytest.approx((gsd, gsd), rel=0.01)
        tiles = list(some_windows(scene))
        assert tiles
        for tile in tiles:
            assert np.isfinite(tile.pixels).all()
            assert 0 <= tile.pixels.min() <= tile.pixels.max() <= 255
        if name in ("all-nodata.tif", "inverted_lat.tif"):
            assert not any(tile.valid is None or tile.valid.any() for tile in tiles)


@pytest.mark.parametrize(
    "name", ["RGBA.uint16.tif", "all-nodata.tif", "alpha.tif", "inverted_lat.tif", "cog_dateline.tif"]
)
def test_resolution_out_of_reach_is_refused_before_a_pixel_is_read(shared, name):
    with pytest.raises(InputError, match=name) as caught:
        open_scene(shared / "awkward" / name, trained_gsd=TRAINED)
    assert "--native" in caught.value.hint


@pytest.mark.parametrize("options", [{"native": True}, {"trained_gsd": TRAINED}])
def test_corrupt_names_file_and_window(shared, options):
    with (
        open_scene(shared / "awkward/corrupt.tif", **options) as scene,
        pytest.raises(InputError, match=r"corrupt\.tif: is damaged, the window of pixels"),
    ):
        list(some_windows(scene, most=1000))


def test_transparency_is_not_valid(shared):
    with open_scene(shared / "awkward/colorado_rgba.tif", trained_gsd=TRAINED) as scene:
        (tile, *_) = some_windows(scene)
        assert tile.valid is not None
        assert not tile.valid[:100, :100].any()
        assert tile.valid[150:, 150:].all()


@pytest.mark.parametrize(
    ("name", "metres"), [("banepa_core", 0.132), ("kampala_a", 0.149), ("catanduanes", 0.145), ("zanzibar_a", 0.297)]
)
def test_ground_resolution_of_real_scenes(shared, name, metres):
    with open_scene(shared / f"data/buildings/{name}.tif") as scene:
        assert scene.gsd == pytest.approx((metres, metres), rel=0.008)
        assert (scene.height, scene.width) == (scene.native_height, scene.native_width)
