"""TIFF files whose metadata has so many pieces that GDAL would take minutes."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.formats.tiff import MAX_METADATA_ITEMS, read_block_sizes, read_pages
from rsprompter_cli.geo.raster.source import open_raster, resolve_source

SIDE = 16


def xml(count: int, item: str = "<Item name='k%d'>v</Item>") -> bytes:
    return b"<GDALMetadata>" + b"".join(item.encode() % at for at in range(count)) + b"</GDALMetadata>\0"


def tiff(
    path: Path,
    texts: Sequence[bytes],
    kind: int = 2,
    wide: int = 1,
    places: Sequence[int] | None = None,
    tag: int = 42112,
    more: int = 0,
) -> Path:
    """A TIFF with a page for each text of metadata.

    Args:
        kind: TIFF's type of the tag. wide: bytes of one of its values.
        places: of each page the number of the text that it names.
        tag: in which the text is. more: bytes that it claims to have beyond its own.
    """
    data, starts = bytearray(b"II*\0" + bytes(4)), []
    for text in texts:
        starts.append(len(data))
        data += text + bytes(len(text) % 2)
    pixels = len(data)
    data += bytes(SIDE * SIDE)
    link = 4
    for number in range(len(texts)) if places is None else places:
        struct.pack_into("<I", data, link, len(data))
        entries = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        entries += [(273, 4, 1, pixels), (277, 3, 1, 1), (278, 4, 1, SIDE), (279, 4, 1, SIDE * SIDE)]
        entries.append((tag, kind, len(texts[number]) // wide + more, starts[number]))
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        link = len(data)
        data += bytes(4)
    path.write_bytes(data)
    return path


def refused(path: Path) -> None:
    for read in (read_pages, read_block_sizes, lambda path: open_raster(resolve_source(path))):
        with pytest.raises(InputError, match=r"has more than 10,000 pieces of metadata") as caught:
            read(path)
        assert path.name in caught.value.message
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError) as caught, contextlib.chdir(path.parent):
        open_raster(resolve_source(path.name))
    assert caught.value.message.startswith(f"{path.name}: ")


def test_too_many_pieces_of_metadata(tmp_path: Path) -> None:
    refused(tiff(tmp_path / "a.tif", [xml(MAX_METADATA_ITEMS + 1)]))
    assert len(read_pages(tiff(tmp_path / "b.tif", [xml(MAX_METADATA_ITEMS)]))) == 1


def test_the_metadata_of_all_pages_counts_together(tmp_path: Path) -> None:
    half = xml(MAX_METADATA_ITEMS // 2)
    assert len(read_block_sizes(tiff(tmp_path / "a.tif", [half, half]))) == 2
    refused(tiff(tmp_path / "b.tif", [half, half + b"<Item/>"]))
    refused(tiff(tmp_path / "c.tif", [half], places=[0, 0, 0]))


@pytest.mark.parametrize("item", ["<ITEM name='k%d'/>", "< \n item name='k%d'/>"])
def test_pieces_in_another_spelling(tmp_path: Path, item: str) -> None:
    refused(tiff(tmp_path / "a.tif", [xml(MAX_METADATA_ITEMS + 1, item)]))


def test_text_in_wider_numbers(tmp_path: Path) -> None:
    text = xml(MAX_METADATA_ITEMS + 1).decode().encode("utf-16-le")
    refused(tiff(tmp_path / "a.tif", [text], kind=3, wide=2))


def test_metadata_that_is_read_as_before(tmp_path: Path) -> None:
    with open_raster(resolve_source(tiff(tmp_path / "a.tif", [xml(3)]))) as dataset:
        assert {f"k{at}": "v" for at in range(3)}.items() <= dataset.tags().items()


def test_metadata_beyond_the_size_of_the_file(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", [xml(3)])
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HH", 42112, 2))
    struct.pack_into("<I", data, at + 4, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(InputError, match="its metadata is larger than the file"):
        open_raster(resolve_source(path))


def test_names_of_a_crs_are_read_once(tmp_path: Path) -> None:
    text = b"a plain name of a coordinate reference system|\0"
    assert len(read_pages(tiff(tmp_path / "a.tif", [text], places=[0] * 100, tag=34737))) == 100
    # Each place claims all that is behind it: together they would be read a hundred times over.
    overlapping = tiff(tmp_path / "b.tif", [text] * 100, tag=34737, more=10_000)
    with pytest.raises(ValueError, match="names of coordinate reference systems are larger than the file"):
        read_pages(overlapping)
    with pytest.raises(InputError, match=r"b\.tif: cannot be opened: its names"):
        open_raster(resolve_source(overlapping))


def overlapping(path: Path, directories: int, *, entries: int = 60_000, sub: bool = False) -> Path:
    """A TIFF whose directories, of very many entries each, begin six bytes apart: pages, or those that one names."""
    start = 8 + (2 + 12 + 4 + 4 * directories if sub else 0)
    places = [start + 6 * number for number in range(directories)]
    data = bytearray(places[-1] + 2 + 12 * entries + 4)
    data[:8] = b"II*\0" + struct.pack("<I", 8)
    if sub:
        data[8:26] = struct.pack("<HHHII", 1, 330, 4, directories, 26) + bytes(4)
        struct.pack_into(f"<{directories}I", data, 26, *places)
    for place, following in zip(places, [*places[1:], 0], strict=True):
        struct.pack_into("<H", data, place, entries)
        if not sub:
            struct.pack_into("<I", data, place + 2 + 12 * entries, following)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("sub", [False, True])
def test_directories_that_overlap_are_refused(tmp_path: Path, sub: bool) -> None:
    path = overlapping(tmp_path / "a.tif", 400, sub=sub)
    for read in (read_pages, read_block_sizes):
        with pytest.raises(ValueError, match="its directories are larger than the file"):
            read(path)
    with pytest.raises(InputError, match=r"a\.tif: cannot be opened: its directories are larger than the file"):
        open_raster(resolve_source(path))


def test_blocks_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    def stating(side: int) -> Path:
        entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
        entries += [(322, 3, 1, 16), (323, 3, 1, 16), (324, 4, 1, 8), (325, 4, 1, 256)]
        path = tmp_path / f"{side}.tif"
        table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        path.write_bytes(b"II*\0" + struct.pack("<I", 8) + table + bytes(1000))
        return path

    with pytest.raises(InputError, match="cannot be opened: it lists 1 of its 351,562,500 blocks"):
        open_raster(resolve_source(stating(300_000)))
    assert read_block_sizes(stating(1_600))[0].width == 16  # a damaged file of few blocks is GDAL's affair


def tiled(path: Path, side: int, *tiles: int) -> Path:
    """An image of one band whose width and height of a tile are stated several times."""
    entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries += [(tag, 4, 1, tile) for tag in (322, 323) for tile in tiles]
    entries += [(324, 4, 1, 8), (325, 4, 1, 256)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + table + bytes(1000))
    return path


def test_of_a_tag_that_is_there_twice_the_first_counts_as_in_libtiff(tmp_path: Path) -> None:
    """The last one would let a mask of 56,000 x 56,000 px pass the limit of a block."""
    (block,) = read_block_sizes(tiled(tmp_path / "a.tif", 8000, 8192, 256))
    assert (block.width, block.height) == (8192, 8192)


def test_tiles_far_larger_than_their_image_are_refused(tmp_path: Path) -> None:
    (block,) = read_block_sizes(tiled(tmp_path / "a.tif", 100, 4096))  # overviews have the tiles of their image
    assert block.width == 4096
    with pytest.raises(InputError, match="it has tiles of 32,768 x 32,768 px for an image of 4,096 x 4,096 px"):
        open_raster(resolve_source(tiled(tmp_path / "b.tif", 4096, 32_768)))
