"""Rasters with broken headers, and those that state more than they hold: one line each."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsprompter_cli.errors import InputError, ResourceError, RspError
from rsprompter_cli.geo.guard import open_raster, resolve_source
from rsprompter_cli.geo.jpeg2000 import tile_count
from rsprompter_cli.geo.layout import interleaving
from rsprompter_cli.geo.pictures import picture_size, read_picture
from rsprompter_cli.geo.raster import open_scene
from tests.make.rasters import pattern, write_raster


def jpeg2000(path: Path, *, tiles: int) -> Path:
    """A JPEG 2000 file whose header states a column of `tiles` tiles of which it holds one."""
    whole = path.with_name("whole.jp2")
    with rasterio.open(whole, "w", driver="JP2OpenJPEG", width=64, height=64, count=1, dtype="uint8",
                       blockxsize=64, blockysize=64, QUALITY="100", REVERSIBLE="YES") as file:  # fmt: skip
        file.write(np.full((1, 64, 64), 7, np.uint8))
    content = bytearray(whole.read_bytes())
    at = content.index(b"\xff\x4f\xff\x51") + 4
    content[at + 8 : at + 12] = struct.pack(">I", 64 * tiles)  # the height, behind length, capabilities and width
    box = content.index(b"ihdr") + 4
    content[box : box + 4] = struct.pack(">I", 64 * tiles)
    path.write_bytes(bytes(content))
    return path


def test_tiles_of_jpeg_2000_count_as_memory(tmp_path: Path) -> None:
    path = jpeg2000(tmp_path / "a.jp2", tiles=50_000)
    assert tile_count(path) == 50_000
    with pytest.raises(ResourceError, match=r"50,000 tiles take .* over the limit"):
        open_raster(resolve_source(path))
    with pytest.raises(ResourceError, match="over the limit"):
        open_raster(resolve_source(jpeg2000(tmp_path / "b.jp2", tiles=3000)), max_block=64 << 20)
    with open_raster(resolve_source(tmp_path / "whole.jp2")) as dataset:
        assert dataset.read(1)[0, 0] == 7


def damaged(content: bytes, seed: int) -> bytes:
    """A few bytes of the header and the tags behind the pixels changed."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    for at in rng.integers(4, min(len(changed), 900), rng.integers(1, 12)):
        changed[at] = int(rng.choice([0, 1, 255, rng.integers(256)]))
    return bytes(changed)


@pytest.mark.parametrize("kind", ["scene", "picture", "size"])
def test_damaged_headers(kind: str, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "good.tif", pattern(40, 50))
    with rasterio.open(path, "r+") as file:
        file.update_tags(note="Straße")
        file.gcps = ([rasterio.control.GroundControlPoint(0, 0, 9.0, 47.0)], "EPSG:4326")
    content, messages = path.read_bytes(), []
    for seed in range(300):
        broken = tmp_path / "broken.tif"
        broken.write_bytes(damaged(content, seed))
        try:
            if kind == "scene":
                with open_scene(broken, native=True) as scene:
                    scene.preview(40)
            elif kind == "picture":
                read_picture(broken)
            else:
                picture_size(broken)
        except RspError as error:
            messages.append(error.message)
    assert 0 < len(messages) < 300
    assert all("broken.tif" in message and "\n" not in message for message in messages)


def test_text_that_is_no_utf_8_in_a_header(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", pattern(40, 50), crs='LOCAL_CS["Qqqq",UNIT["metre",1]]')
    assert b"Qqqq" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Qqqq", b"Q\xff\xfeq"))
    with pytest.raises(InputError, match=r"a\.tif: cannot be opened"), open_scene(path, native=True):
        pass


def test_the_shared_cases(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "doors/raster-cpl-error").glob("*.tif")):
        for opened in (lambda path: open_scene(path, native=True).close(), read_picture, picture_size):
            try:
                opened(path)
            except RspError as error:
                json.dumps(error.message)
    (path,) = (shared / "doors/jp2-max-block").glob("*.jp2")
    with pytest.raises(ResourceError, match="over the limit"):
        open_scene(path)


def test_boxes_of_jpeg_2000_are_not_walked() -> None:
    # GDAL walks through them for its metadata on the structure of the image, in this file without end.
    path = Path(__file__).with_name("corpus") / "rasters" / "jp2-boxes-without-end.jp2"
    with open_raster(resolve_source(path)) as dataset:
        assert interleaving(dataset) == "PIXEL"
    with open_scene(path, native=True) as scene:
        assert scene.preview(20).shape[:2] == (16, 20)
