"""Scenes: where they lie, sidecars, and pictures without a place."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.windows import Window
from tests.make.rasters import NORTH_UP, pattern, vrt_text, write_raster


def window(top, left, height, width):
    return Window(0, 0, top, left, height, width)


def read_all(path, **options):
    with open_scene(path, **options) as scene:
        return scene.read(window(0, 0, scene.height, scene.width))


def test_no_georeference_is_read_natively(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(30, 40), crs=None, transform=None)
    with open_scene(path, trained_gsd=(0.1, 0.3)) as scene:
        assert (scene.gsd, scene.working_gsd, scene.georef.kind) == (None, None, "none")
        assert (scene.height, scene.width) == (30, 40)
    with pytest.raises(InputError, match="--gsd"):
        open_scene(path, gsd=0.3)


def test_a_transform_without_a_reference_system(tmp_path):
    with open_scene(write_raster(tmp_path / "a.tif", pattern(9, 9), crs=None)) as scene:
        assert (scene.georef.kind, scene.georef.on_earth, scene.gsd) == ("affine", False, None)
    local = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    with open_scene(write_raster(tmp_path / "b.tif", pattern(9, 9), crs=local)) as scene:
        assert not scene.georef.on_earth


def test_control_points_and_camera_models_are_told_apart(tmp_path):
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC

    points = [GroundControlPoint(row, col, 10 + col, 50 - row) for row, col in ((0, 0), (0, 9), (9, 0), (9, 9))]
    gcp = write_raster(tmp_path / "gcp.tif", pattern(10, 10), crs="EPSG:4326", transform=None, gcps=points)
    rpc = RPC(0, 1, 50, 1, [1.0] * 20, [1.0] * 20, 5, 5, 10, 1, [1.0] * 20, [1.0] * 20, 5, 5, None, None)
    camera = write_raster(tmp_path / "rpc.tif", pattern(10, 10), crs=None, transform=None, rpcs=rpc)
    for path, kind in ((gcp, "gcp"), (camera, "rpc")):
        with open_scene(path) as scene:
            assert (scene.georef.kind, scene.georef.on_earth, scene.gsd) == (kind, False, None)


def test_a_degenerate_transform_is_refused(tmp_path):
    flat = write_raster(tmp_path / "a.tif", pattern(9, 9), transform=Affine(1, 1, 500_000, 1, 1, 5_000_000))
    with pytest.raises(InputError, match=r"a\.tif: its geotransform"):
        open_scene(flat)


WORLD_FILE = "2\n0\n0\n-2\n100001\n199999\n"


def test_a_world_file_is_taken_only_where_the_file_has_no_position(tmp_path, caplog):
    bare = write_raster(tmp_path / "bare.tif", pattern(9, 9), transform=None)
    (tmp_path / "bare.tfw").write_text(WORLD_FILE)
    placed = write_raster(tmp_path / "placed.tif", pattern(9, 9))
    (tmp_path / "placed.tfw").write_text(WORLD_FILE)
    with caplog.at_level(logging.INFO), open_scene(bare) as scene:
        assert scene.georef.transform == (2, 0, 100_000, 0, -2, 200_000)
        assert scene.georef.on_earth
    assert "using that of bare.tfw" in caplog.text
    with caplog.at_level(logging.INFO), open_scene(placed) as scene:
        assert scene.georef.transform == NORTH_UP[:6]
    assert "placed.tfw is ignored" in caplog.text
    for text in ("not numbers", WORLD_FILE.replace("0", "nan", 1), "1_0 0 0 -1_0 1 1"):
        (tmp_path / "bare.tfw").write_text(text)
        with pytest.raises(InputError, match=r"bare\.tfw: is not a world file"):
            open_scene(bare)


def test_an_aux_file_is_not_read_and_that_is_said(tmp_path, caplog):
    path = write_raster(tmp_path / "a.tif", np.full((1, 9, 9), 7, np.uint8))
    aux = tmp_path / "a.tif.aux.xml"
    aux.write_text(
        "<PAMDataset><GeoTransform>9,9,0,9,0,-9</GeoTransform>"
        '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    with open_scene(path) as scene:
        assert scene.georef.transform == NORTH_UP[:6]
        assert scene.read(window(0, 0, 9, 9)).valid is None
    assert "a.tif.aux.xml is not read (it contains a geotransform, a nodata value)" in caplog.text
    caplog.clear()
    aux.write_text("<PAMDataset><Metadata/></PAMDataset>")
    open_scene(path).close()
    assert caplog.text == ""


def test_sidecars_that_cannot_be_read(tmp_path, caplog, monkeypatch):
    def no_permission(path, *arguments, plain=Path.open, **options):
        if path.suffix in (".xml", ".tfw"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **options)

    bare = write_raster(tmp_path / "bare.tif", pattern(9, 9), transform=None)
    (tmp_path / "bare.tif.aux.xml").write_text("<PAMDataset/>")
    monkeypatch.setattr(Path, "open", no_permission)
    open_scene(bare).close()
    assert "bare.tif.aux.xml cannot be read: Permission denied; what it may say" in caplog.text
    with open(tmp_path / "bare.tfw", "w") as file:
        file.write(WORLD_FILE)
    with pytest.raises(InputError, match=r"bare\.tfw: cannot be read: Permission denied"):
        open_scene(bare)


def test_nothing_is_written_beside_the_scene(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(50, 50, dtype="uint16"))
    read_all(path, gsd=0.9)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


# Pictures as scenes


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_pictures_are_scenes_without_a_place(tmp_path, suffix):
    Image.fromarray(np.full((30, 40, 3), (200, 20, 20), np.uint8)).save(tmp_path / f"a.{suffix}")
    with open_scene(tmp_path / f"a.{suffix}", pixel_coords=True) as scene:
        assert (scene.height, scene.width, scene.georef.kind) == (30, 40, "none")
        assert np.abs(scene.read(window(0, 0, 30, 40)).pixels - [[[200]], [[20]], [[20]]]).max() < 8


def test_a_turned_photograph_is_read_upright(tmp_path):
    from rsprompter_cli.geo.raster.scene import read_picture

    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    with open_scene(tmp_path / "a.jpg") as scene:
        assert (scene.height, scene.width, scene.native_height) == (40, 30, 40)
        tile = scene.read(window(0, 0, 40, 30))
    assert np.array_equal(np.moveaxis(tile.pixels, 0, -1), read_picture(tmp_path / "a.jpg"))
    assert tile.pixels[:, :18].mean() < 10 < 240 < tile.pixels[:, 22:].mean()


def test_a_vrt_with_a_tif_name_needs_the_option(tmp_path):
    source = write_raster(tmp_path / "a.tif", pattern(64, 64, 1))
    (tmp_path / "evil.tif").write_text(vrt_text(source))
    with pytest.raises(InputError, match="virtual"):
        open_scene(tmp_path / "evil.tif")
    assert np.array_equal(read_all(tmp_path / "evil.tif", allow_vrt=True).pixels[0], pattern(64, 64, 1)[0])
