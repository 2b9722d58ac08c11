"""Rasters with broken headers, and those that state more than they hold: one line each."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from rsprompter_cli.errors import InputError, RspError
from rsprompter_cli.geo.raster.formats.jpeg2000 import tile_count
from rsprompter_cli.geo.raster.formats.sample_layout import interleaving
from rsprompter_cli.geo.raster.formats.tiff import read_pages
from rsprompter_cli.geo.raster.image import picture_size, read_picture
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.raster.source import open_raster, resolve_source
from rsprompter_cli.geo.windows import Window
from tests.make.forking import Server
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
    with pytest.raises(InputError, match=r"50,000 tiles take .* over the limit"):
        open_raster(resolve_source(path))
    with pytest.raises(InputError, match="over the limit"):
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
    with pytest.raises(InputError, match="over the limit"):
        open_scene(path)


def test_boxes_of_jpeg_2000_are_not_walked() -> None:
    # GDAL walks through them for its metadata on the structure of the image, in this file without end.
    path = Path(__file__).with_name("corpus") / "rasters" / "jp2-boxes-without-end.jp2"
    with open_raster(resolve_source(path)) as dataset:
        assert interleaving(dataset) == "PIXEL"
    with open_scene(path, native=True) as scene:
        assert scene.preview(20).shape[:2] == (16, 20)


def entries(data: bytes, order: str, *, big: bool) -> list[int]:
    """Offsets of the entries of the directories in the chain."""
    word, count_format, start, size = ("Q", "Q", 8, 20) if big else ("I", "H", 2, 12)
    found: list[int] = []
    (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
    while at:
        (count,) = struct.unpack_from(order + count_format, data, at)
        found += range(at + start, at + start + size * count, size)
        (at,) = struct.unpack_from(order + word, data, at + start + size * count)
    return found


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_offsets_beyond_the_file_write_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], big: bool, order: str
) -> None:
    path = write_raster(
        tmp_path / "good.tif", pattern(40, 50), tiled=True, blockxsize=16, blockysize=16, compress="deflate",
        BIGTIFF="YES" if big else "NO", ENDIANNESS="LITTLE" if order == "<" else "BIG",
    )  # fmt: skip
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    content, word, value_at = path.read_bytes(), order + ("Q" if big else "I"), 12 if big else 8
    far = (2**63 + 5, 2**63 - 1, 2**44 + 1, 2**64 - 1) if big else (2**31, 2**32 - 1)
    cases: list[bytes] = []
    for offset in far:
        for at in (8 if big else 4, *(entry + value_at for entry in entries(content, order, big=big))):
            changed = bytearray(content)
            struct.pack_into(word, changed, at, offset)
            cases.append(bytes(changed))
        for tag in (330, 34665, 34853):  # directories beside the chain: of images, EXIF and GPS
            at = entries(content, order, big=big)[-1]
            changed = bytearray(content)
            struct.pack_into(order + "HH" + word[1], changed, at, tag, 16 if big else 4, 1)
            struct.pack_into(word, changed, at + value_at, offset)
            cases.append(bytes(changed))
        # One tile of several.
        (at,) = (
            entry
            for entry in entries(content, order, big=big)
            if struct.unpack_from(order + "H", content, entry)[0] == 324
            and struct.unpack_from(word, content, entry + 4)[0] > 3
        )
        changed = bytearray(content)
        struct.pack_into(
            word, changed, struct.unpack_from(word, content, at + value_at)[0] + (16 if big else 8), offset
        )
        cases.append(bytes(changed))
    errors: list[RspError] = []
    for case in cases:
        broken = tmp_path / "broken.tif"
        broken.write_bytes(case)
        for way in (lambda path: open_scene(path, native=True).close(), read_picture, picture_size):
            try:
                way(broken)
            except RspError as error:
                errors.append(error)
    assert len(errors) > len(cases)
    assert all(error.exit_code == 3 and "broken.tif" in error.message for error in errors)
    assert capfd.readouterr().err == ""


def test_pieces_of_metadata_are_counted(tmp_path: Path) -> None:
    picture = Image.fromarray(pattern(20, 30).transpose(1, 2, 0))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.jpg")
    text = b"\0\0\0\3tEXtk\0v" + zlib.crc32(b"tEXtk\0v").to_bytes(4, "big")
    for name, at, piece in (("a.png", 33, text), ("a.jpg", 2, b"\xff\xec\0\4xx")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:at] + 300 * piece + whole[at:])
        assert picture_size(tmp_path / name) == (20, 30)
        (tmp_path / name).write_bytes(whole[:at] + 100_000 * piece + whole[at:])
        for way in (read_picture, picture_size, open_scene):
            with pytest.raises(InputError, match=rf"{name}: has more than 10,000 pieces of metadata"):
                way(tmp_path / name)


def test_sub_directories_are_bounded(tmp_path: Path) -> None:
    def directory(*entries: tuple[int, int, int, int]) -> bytes:
        return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)

    body = ((256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (273, 4, 1, 8))
    # Its own directory, and one that names itself: each is looked at once.
    page = directory(*body, (330, 4, 1, 8)) + struct.pack("<I", 0)
    path = tmp_path / "a.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + page)
    assert len(read_pages(path)) == 1
    page = directory(*body, (330, 4, 70_000, 8)) + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + page)
    with pytest.raises(InputError, match=r"a\.tif: .*sub-directories are too many"):
        open_raster(resolve_source(path))
    page = directory(*body, (330, 4, 60_000, 8)) + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + page)
    with pytest.raises(InputError, match=r"a\.tif: .*larger than the file"):
        open_raster(resolve_source(path))


@pytest.mark.parametrize("name", ["OVERVIEW_FILE", "overview_file", "Overview_File"])
@pytest.mark.parametrize("domain", ["OVERVIEWS", "overviews"])
def test_no_spelling_of_a_tag_leads_to_another_file(tmp_path: Path, name: str, domain: str) -> None:
    other = write_raster(tmp_path / "other.tif", np.full((3, 64, 64), 200, np.uint8))
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 256, 256), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns=domain, **{name: str(other)})
    with pytest.raises(InputError, match=r"a\.tif: reads its overviews from another file"):
        open_scene(path, native=True)


def placed_jpeg2000(path: Path) -> bytearray:
    """A JPEG 2000 file with a text that says where it lies."""
    profile = {"driver": "JP2OpenJPEG", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:32737"}
    with rasterio.open(path, "w", **profile, transform=Affine(0.25, 0, 500000, 0, -0.25, 9300000)) as file:
        file.write(np.random.default_rng(1).integers(0, 255, (3, 64, 64), dtype=np.uint8))
    return bytearray(path.read_bytes())


def test_what_libraries_print_by_themselves_is_not_shown(tmp_path: Path, rsp: Server) -> None:
    """A message of GDAL's that is no UTF-8, of which rasterio prints a traceback, and errors of a decoder's threads."""
    path = tmp_path / "a.jp2"
    content = placed_jpeg2000(path)
    text = bytes(content).replace(b"</gml:lowerCorner>", b"</gml:lowerC\xecrner>")
    assert text != content
    path.write_bytes(text)
    pixels = content.index(b"\xff\x93")  # where the data of the first tile begins
    content[pixels + 40 : pixels + 4000] = b"\xaa" * 3960
    (tmp_path / "b.jp2").write_bytes(content)
    for name in ("a.jp2", "b.jp2"):
        ran = rsp.run(["convert", "vector2coco", name, "labels.geojson", "--out", "set", "--tile", "64"], tmp_path)
        shown = rsp.run(["info", name], tmp_path)
        for line in (ran.stderr + shown.stderr).splitlines():
            assert line.startswith((f"{name}: ", "rsp: error: ", "warning: ")), line


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_texts_of_a_png_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(7_900_000)))
    for count, fits in ((20, True), (40, False)):
        path.write_bytes(whole[:33] + text * count + whole[33:])
        if fits:
            assert resolve_source(path).driver == "PNG"
            continue
        with pytest.raises(InputError, match=r"a\.png: has texts that may unfold to more than 268,435,456 bytes"):
            resolve_source(path)


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 50).save(path, progressive=True)
    whole = path.read_bytes()
    assert resolve_source(path).driver == "JPEG"
    # A scan of nothing: its header alone.
    start = whole.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", whole, start + 2)
    scan = whole[start : start + 2 + length] + b"\x00"
    path.write_bytes(whole[:-2] + scan * 250 + whole[-2:])
    with pytest.raises(InputError, match=r"a\.jpg: has more than 200 scans"):
        resolve_source(path)


def test_a_raster_of_very_many_bands_is_looked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 65_535, "dtype": "uint8", "interleave": "pixel"}
    with rasterio.open(path, "w", **profile, compress="deflate"):
        pass
    with open_scene(path) as scene:
        assert scene.read(Window(0, 0, 0, 0, 16, 16)).pixels.shape == (3, 16, 16)
