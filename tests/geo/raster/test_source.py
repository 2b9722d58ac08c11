"""What may not be opened, and why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.formats.tiff import read_block_sizes
from rsprompter_cli.geo.raster.scene import open_scene, read_label, read_picture
from rsprompter_cli.geo.raster.source import open_raster, resolve_source
from rsprompter_cli.geo.windows import Window
from tests.make.rasters import pattern, vrt_text, write_raster, write_tiff_headers

WHOLE = Window(0, 0, 0, 0, 64, 64)
SECRET = 99


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "secret.tif", np.full((1, 64, 64), SECRET, np.uint8))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "plain.tif", np.full((1, 64, 64), 7, np.uint8))


@pytest.mark.parametrize("name", ["evil.tif", "evil.vrt", "evil.png"])
@pytest.mark.parametrize("opener", [open_scene, read_label, read_picture])
def test_vrt_is_refused_whatever_its_name(tmp_path, secret, name, opener):
    evil = tmp_path / name
    evil.write_text(vrt_text(secret))
    with pytest.raises(InputError, match="virtual raster") as caught:
        opener(evil)
    assert "--allow-vrt" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_vrt_opens_when_allowed(tmp_path, secret):
    (tmp_path / "good.vrt").write_text(vrt_text(secret))
    with open_scene(tmp_path / "good.vrt", allow_vrt=True) as scene:
        assert (scene.read(WHOLE).pixels == SECRET).all()


@pytest.mark.parametrize(
    "path",
    [
        "<VRTDataset rasterXSize='1' rasterYSize='1'/>",
        '  {"type": "gdal_streamed_alg"}',
        "/vsimem/x.tif",
        "/vsicurl/https://example.com/x.tif",
        "/vsizip/x.zip/a.tif",
        "zip://x.zip!a.tif",
        "zip+https://example.com/x.zip!a.tif",
        "file:///etc/passwd",
        "http://example.com/x.tif",
        "ftp://example.com/x.tif",
        "GTIFF_DIR:1:plain.tif",
        "no/such/file.tif",
        "x" * 5000,
        "a\0b.tif",
    ],
)
def test_names_that_are_no_files_are_refused(path):
    with pytest.raises(InputError) as caught:
        open_scene(path, remote=True)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("path", ["https://example.com/x.tif", "s3://bucket/x.tif"])
def test_remote_files_need_the_option(path):
    with pytest.raises(InputError) as caught:
        open_scene(path)
    assert "--remote" in caught.value.hint
    assert resolve_source(path, remote=True).driver == "GTiff"


@pytest.mark.parametrize("scheme", ["https", "s3"])
def test_names_and_passwords_do_not_belong_in_an_address(scheme):
    with pytest.raises(InputError, match=f"^{scheme}://example.com/x.tif: the address contains a user name") as caught:
        resolve_source(f"{scheme}://me:sec@ret@example.com/x.tif", remote=True)
    assert "GDAL_HTTP_USERPWD" in caught.value.hint
    assert resolve_source("https://example.com/a@b.tif", remote=True).name == "https://example.com/a@b.tif"


def test_folder_and_text_are_refused(tmp_path):
    (tmp_path / "text.tif").write_text("not a raster")
    (tmp_path / "empty.tif").write_bytes(b"")
    for path, reason in (
        (tmp_path, "a folder"),
        (tmp_path / "text.tif", "not a raster"),
        (tmp_path / "empty.tif", "not a raster"),
    ):
        with pytest.raises(InputError, match=reason):
            open_scene(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(InputError, match="not a regular file"):
        open_scene(tmp_path / "pipe.tif")


def test_a_path_with_a_colon_is_a_path(tmp_path, plain):
    if sys.platform == "win32":
        pytest.skip("a colon cannot be in a file name here")
    odd = plain.rename(tmp_path / "GTIFF_DIR:2:a.tif")
    with open_scene(odd) as scene:
        assert scene.width == 64


def test_overviews_in_another_file_are_refused(tmp_path, secret):
    path = write_raster(tmp_path / "big.tif", np.full((1, 512, 512), 7, np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secret))
    # What it is about: with this tag GDAL itself answers from the other file.
    with rasterio.open(path) as dataset:
        assert dataset.read(1, out_shape=(32, 32)).max() == SECRET
    with pytest.raises(InputError, match="another file"):
        open_scene(path)


def test_vrt_sidecars_are_not_followed(tmp_path, plain, secret):
    (tmp_path / "plain.tif.ovr").write_text(vrt_text(secret))
    (tmp_path / "plain.aux").write_text(vrt_text(secret))
    with open_scene(plain) as scene:
        assert (scene.read(WHOLE).pixels == 7).all()
        assert set(scene._dataset.files) == {str(plain)}
    (tmp_path / "plain.tif.msk").write_text(vrt_text(secret))
    with pytest.raises(InputError, match="virtual raster"):
        open_scene(plain)


def test_huge_block_is_refused_before_a_read(tmp_path):
    resource = pytest.importorskip("resource")
    path = write_tiff_headers(tmp_path / "huge.tif", {256: 20000, 257: 20000, 277: 3, 322: 20000, 323: 20000})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for opener in (open_scene, read_label, read_picture):
        with pytest.raises(InputError, match="20000 x 20000 px takes 1,200,000,000 bytes") as caught:
            opener(path)
        assert "--max-block" in caught.value.hint
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (100 << 20 if sys.platform == "darwin" else 100 << 10)


def test_huge_block_of_an_overview_or_mask_is_refused(tmp_path):
    small = {256: 64, 257: 64, 322: 64, 323: 64}
    path = write_tiff_headers(tmp_path / "hidden.tif", small, {254: 1, 256: 32, 257: 32, 322: 65536, 323: 32768})
    with pytest.raises(InputError, match="65,536 x 32,768"):
        open_scene(path)


def test_max_block_is_the_limit(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(64, 64), tiled=True, blockxsize=64, blockysize=64, compress="lzw")
    block = 64 * 64 * 3
    with open_scene(path, max_block=block) as scene:
        assert scene.width == 64
    with pytest.raises(InputError, match=f"{block:,}"):
        open_scene(path, max_block=block - 1)


def test_block_sizes_equal_gdals(tmp_path):
    tiled = write_raster(
        tmp_path / "t.tif", pattern(300, 200, dtype="uint16"), tiled=True, blockxsize=128, blockysize=64, overviews=(2,)
    )
    first, second = read_block_sizes(tiled)
    assert (first.width, first.height, first.nbytes) == (128, 64, 128 * 64 * 3 * 2 if _pixelwise(tiled) else 16384)
    assert second.width == second.height == 128
    big = write_raster(tmp_path / "b.tif", pattern(64, 50, 1), bigtiff="yes", compress="lzw", blockysize=16)
    assert [(size.width, size.height, size.nbytes) for size in read_block_sizes(big)] == [(50, 16, 800)]
    single = write_raster(tmp_path / "s.tif", pattern(64, 50, 1), blockysize=64)
    assert read_block_sizes(single)[0].height == 1


def _pixelwise(path: Path) -> bool:
    with rasterio.open(path) as dataset:
        return bool(dataset.interleaving.value.upper() == "PIXEL")


def test_looping_and_cut_headers_are_refused(tmp_path, plain):
    loop = tmp_path / "loop.tif"
    content = write_tiff_headers(loop, {256: 4, 257: 4, 322: 16, 323: 16}).read_bytes()
    loop.write_bytes(content[:-4] + (8).to_bytes(4, "little"))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(plain.read_bytes()[:12])
    for path in (loop, cut):
        with pytest.raises(InputError, match=path.name):
            open_scene(path)


def test_a_link_to_a_file_is_that_file(tmp_path, plain):
    link = tmp_path / "link.tif"
    try:
        link.symlink_to(plain)
    except OSError:
        pytest.skip("no links here")
    with open_raster(resolve_source(link)) as dataset:
        assert dataset.width == 64


@pytest.mark.parametrize("opener", [open_scene, read_label, read_picture])
def test_file_that_may_not_be_read_is_one_line(plain, monkeypatch, opener):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"plain\.tif: cannot be read: Permission denied"):
        opener(plain)
