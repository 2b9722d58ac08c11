"""The pages and block sizes a TIFF declares, read from its headers alone.

GDAL reports the blocks of the main image, but overviews and internal masks are images of their
own, and any of them can hold one block of many gigabytes in a file of a few kilobytes.
Source: TIFF 6.0 section 2 (image file directories) and the BigTIFF proposal.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rsprompter_cli.errors import InputError, plural
from rsprompter_cli.geo.crs_grids import check_grids

MAX_DIRECTORIES = 1024
"""A pyramid has about twenty directories, a scanned book some hundreds; beyond this a file loops or attacks."""

MAX_SUB_DIRECTORIES = 65_536
"""Directories beside the chain of pages: a book of microscopy has some for each page."""

MAX_METADATA_ITEMS = 10_000
"""Pieces of metadata in GDAL's own tag, of all directories together: GDAL takes time with the square of them. A band
has some dozens."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_SAMPLES, _ROWS_PER_STRIP, _PLANAR = 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SUBFILE, _OLD_SUBFILE, _SUB_DIRECTORIES = 254, 255, 330
_PLACE = {33550, 33922, 34264}
"""Tags of GeoTIFF that place an image: pixel scale, tie points, transformation."""
_WANTED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT}
_WANTED |= {_SUBFILE, _OLD_SUBFILE, _SUB_DIRECTORIES}
_BLOCK_OFFSETS = {273, 324}
_COUNT_OF_OFFSETS = -1
"""In place of a tag: how many blocks an image lists."""

_FREE_BLOCKS = 1_000_000
"""Blocks that an image need not list: each that it lists takes 4 bytes, which bounds the work that a file can make."""

_LARGE_TILE = 8192
"""Pixels of a tile's side that any image may have. Larger tiles must fit their image: that of a mask is decoded anew
for every window."""

_GDAL_METADATA = 42112
_GEO_TEXTS = 34737
"""Names in the keys of a GeoTIFF, one of which can be a whole definition of a CRS."""
_LONGEST_GEO_TEXTS = 1 << 20
_ITEM = re.compile(rb"<\s*item", re.IGNORECASE)
"""The beginning of a piece of metadata as GDAL recognizes it."""
_REDUCED_BIT, _MASK_BIT = 1, 4
_INTEGER_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Of a value, by its type."""

_FARTHEST = 1 << 32
"""Offsets up to here exist in every file system. GDAL writes the error of a seek that fails to the terminal itself."""

_OFFSETS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class BlockSize:
    """A block as it is decoded: the smallest piece of an image that can be read."""

    width: int
    height: int
    samples: int
    bits: int

    @property
    def nbytes(self) -> int:
        """Memory the decoded block takes."""
        return self.width * self.height * self.samples * max(1, (self.bits + 7) // 8)


@dataclass(frozen=True, slots=True)
class Page:
    """An image of a TIFF file.

    number: counted from 1, as in GDAL's `GTIFF_DIR:number:path`.
    height, width: pixels. samples: bands.
    reduced: marked as a reduced-resolution version of another image. mask: a transparency mask of another image.
    placed: has a position of its own.
    has_sub_images: names further images that are not in the chain of pages (SubIFDs).
    """

    number: int
    height: int
    width: int
    samples: int
    reduced: bool = False
    mask: bool = False
    placed: bool = False
    has_sub_images: bool = False

    def __str__(self) -> str:
        return f"page {self.number} ({self.width} x {self.height} px, {plural(self.samples, 'band')})"


def read_pages(path: Path, name: str | None = None) -> list[Page]:
    """All images of a TIFF file, in its order: pages, overviews, masks.

    Args:
        name: of the file in messages.

    Raises:
        ValueError: not a TIFF, truncated within its headers, too many directories, or offsets beyond its end.
        InputError: too many pieces of metadata.
    """
    with _headers(path, name) as directories:
        return [_page(number, tags) for number, tags in enumerate(directories, 1)]


@contextmanager
def _headers(path: Path, name: str | None) -> Iterator[list[dict[int, int]]]:
    """The tags of each image of a file, for a block that finds in them what it needs or raises KeyError."""
    with path.open("rb") as file:
        try:
            yield _directories(file, name or str(path))
        except (struct.error, KeyError) as error:
            raise ValueError("damaged TIFF headers") from error


def _page(number: int, tags: dict[int, int]) -> Page:
    kind = tags.get(_SUBFILE, 0)
    return Page(
        number,
        tags[_HEIGHT],
        tags[_WIDTH],
        tags.get(_SAMPLES, 1),
        reduced=bool(kind & _REDUCED_BIT) or tags.get(_OLD_SUBFILE) == 2,
        mask=bool(kind & _MASK_BIT),
        placed=bool(_PLACE & tags.keys()),
        has_sub_images=_SUB_DIRECTORIES in tags,
    )


def read_block_sizes(path: Path, name: str | None = None) -> list[BlockSize]:
    """The block of each image in a TIFF file: the picture, its overviews, its masks, further pages.

    Args:
        name: of the file in messages.

    Raises:
        ValueError: not a TIFF, truncated within its headers, too many directories, or offsets beyond its end.
        InputError: too many pieces of metadata, or a CRS that names a grid by a path.
    """
    with _headers(path, name) as directories:
        return [_block_size(tags) for tags in directories]


def _directories(file: BinaryIO, name: str) -> list[dict[int, int]]:
    reader = _Reader(file, name)
    found = list(reader.directories())
    if reader.metadata_items > MAX_METADATA_ITEMS:
        raise InputError(
            f"{name}: has more than {MAX_METADATA_ITEMS:,} pieces of metadata",
            f"remove them: tiffset -u {_GDAL_METADATA} FILE",
        )
    return found


class _Reader:
    """Reads the directories of one file; no offset in them that is followed leads beyond what the file can have."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._size = file.seek(0, os.SEEK_END)
        self._offset_bytes = self._entry_bytes = 0
        self._sub_images: list[int] = []
        self.metadata_items = 0
        self._texts: dict[int, int] = {}
        self._metadata: dict[tuple[int, int], int] = {}
        file.seek(0)
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            raise ValueError("not a TIFF file")
        (version,) = struct.unpack(order + "H", head[2:4])
        if version not in (42, 43):
            raise ValueError("not a TIFF file")
        self._order, self._big = order, version == 43
        (self._first,) = struct.unpack(order + ("Q" if self._big else "I"), head[8:16] if self._big else head[4:8])

    def directories(self) -> Iterator[dict[int, int]]:
        """The wanted tags of each directory (first value of each), in the order of the chain."""
        offset, seen = self._first, set[int]()
        while offset:
            if offset in seen or len(seen) >= MAX_DIRECTORIES:
                raise ValueError("its directories form a loop or are too many")
            seen.add(offset)
            tags, offset = self._directory(offset)
            yield tags
        self._check_sub_images(seen)

    def _check_sub_images(self, seen: set[int]) -> None:
        """Follow the directories that the others name beside the chain, which GDAL does too."""
        count = 0
        while self._sub_images:
            offset = self._sub_images.pop()
            if offset in seen or not offset:
                continue
            seen.add(offset)
            count += 1
            if count > MAX_SUB_DIRECTORIES:
                raise ValueError("its sub-directories are too many")
            _, following = self._directory(offset)
            self._sub_images.append(following)

    def _directory(self, offset: int) -> tuple[dict[int, int], int]:
        """The wanted tags of one directory and the offset of the next one."""
        order = self._order
        count_format, entry_format, next_format = ("Q", "HHQ8s", "Q") if self._big else ("H", "HHI4s", "I")
        if offset >= self._size:
            raise ValueError(f"a directory begins at byte {offset:,}, beyond the end of the file")
        self._file.seek(offset)
        (count,) = struct.unpack(order + count_format, self._file.read(struct.calcsize(order + count_format)))
        size = struct.calcsize(order + entry_format)
        self._entry_bytes += count * size
        if self._entry_bytes > self._size:
            raise ValueError("its directories are larger than the file")
        body = self._file.read(count * size)
        (following,) = struct.unpack(order + next_format, self._file.read(struct.calcsize(order + next_format)))
        tags: dict[int, int] = {}
        for position in range(0, count * size, size):
            tag, kind, length, inline = struct.unpack_from(order + entry_format, body, position)
            value_format = _INTEGER_FORMATS.get(kind)
            nbytes = length * _BYTES.get(kind, 0)
            if self._big and nbytes > len(inline):
                self._check_far(tag, struct.unpack(order + "Q", inline)[0], nbytes)
            if tag == _SUB_DIRECTORIES and value_format is not None:
                if len(self._sub_images) + length > MAX_SUB_DIRECTORIES:
                    raise ValueError("its sub-directories are too many")
                for offsets in self._offsets(value_format, inline, nbytes):
                    self._sub_images += offsets.tolist()
            elif self._big and tag in _BLOCK_OFFSETS and value_format is not None:
                # Where the tiles or strips of an image lie.
                for offsets in self._offsets(value_format, inline, nbytes):
                    self._check_far(tag, int(offsets.max(initial=0)), 0)
            if tag == _GDAL_METADATA:
                self.metadata_items += self._items(inline, nbytes)
            if tag == _GEO_TEXTS and len(inline) < nbytes:
                self._look_at_texts(struct.unpack(order + ("Q" if self._big else "I"), inline)[0], nbytes)
            if tag in _BLOCK_OFFSETS:
                tags[_COUNT_OF_OFFSETS] = length
            if tag in _PLACE:
                tags[tag] = length
            if tag not in _WANTED or value_format is None or length < 1:
                continue
            width = struct.calcsize(value_format)
            if nbytes > len(inline):
                # Bits per sample of three or more bands do not fit: the entry holds their offset.
                self._file.seek(struct.unpack(order + ("Q" if self._big else "I"), inline)[0])
                inline = self._file.read(width)
            # Of a tag that is there twice libtiff takes the first.
            tags.setdefault(tag, struct.unpack_from(order + value_format, inline)[0])
        return tags, following

    def _items(self, inline: bytes, nbytes: int) -> int:
        """How many pieces of metadata a tag has; directories may name the same bytes, which are read once."""
        if nbytes <= len(inline):
            return 0
        place = (struct.unpack(self._order + ("Q" if self._big else "I"), inline)[0], nbytes)
        if place not in self._metadata:
            if sum(known for _, known in self._metadata) + nbytes > self._size:
                raise ValueError("its metadata is larger than the file")
            self._file.seek(place[0])
            # A tag of wider numbers is text to GDAL, too.
            text = self._file.read(nbytes).replace(b"\0", b"")
            self._metadata[place] = sum(1 for _ in _ITEM.finditer(text))
        return self._metadata[place]

    def _look_at_texts(self, offset: int, nbytes: int) -> None:
        """Raise InputError for a CRS that names a grid by a path; directories may name the same bytes, read once."""
        nbytes = min(nbytes, _LONGEST_GEO_TEXTS)
        if self._texts.get(offset, 0) >= nbytes:
            return
        self._texts[offset] = nbytes
        if sum(self._texts.values()) > self._size:
            raise ValueError("its names of coordinate reference systems are larger than the file")
        self._file.seek(offset)
        check_grids(self._file.read(nbytes).decode("latin-1"), self._name)

    def _check_far(self, tag: int, offset: int, nbytes: int) -> None:
        if offset + nbytes > max(self._size, _FARTHEST):
            raise ValueError(f"tag {tag} leads to byte {offset:,}, beyond the end of the file")

    def _offsets(self, value_format: str, inline: bytes, nbytes: int) -> Iterator[np.ndarray]:
        """The values of an entry, some at a time."""
        if nbytes <= len(inline):
            parts: Iterable[bytes] = [inline[:nbytes]]
        else:
            self._offset_bytes += nbytes
            if self._offset_bytes > self._size:
                raise ValueError("its lists of offsets are larger than the file")
            (start,) = struct.unpack(self._order + ("Q" if self._big else "I"), inline)
            self._file.seek(start)
            parts = (self._file.read(min(_OFFSETS_AT_ONCE, nbytes - at)) for at in range(0, nbytes, _OFFSETS_AT_ONCE))
        kind = np.dtype(self._order + value_format)
        for part in parts:
            yield np.frombuffer(part[: len(part) // kind.itemsize * kind.itemsize], dtype=kind)


def _block_size(tags: dict[int, int]) -> BlockSize:
    width, height = tags[_WIDTH], tags[_HEIGHT]
    rows, columns = tags.get(_ROWS_PER_STRIP, height), width
    if _TILE_WIDTH in tags:
        rows, columns = tags[_TILE_HEIGHT], tags[_TILE_WIDTH]
        if rows > max(2 * height, _LARGE_TILE) or columns > max(2 * width, _LARGE_TILE):
            raise ValueError(f"it has tiles of {columns:,} x {rows:,} px for an image of {width:,} x {height:,} px")
    blocks = -(-height // max(rows, 1)) * -(-width // max(columns, 1))
    if blocks > max(tags.get(_COUNT_OF_OFFSETS, 0), _FREE_BLOCKS):
        raise ValueError(f"it lists {tags.get(_COUNT_OF_OFFSETS, 0):,} of its {blocks:,} blocks")
    contiguous = tags.get(_PLANAR, 1) == 1
    samples = tags.get(_SAMPLES, 1) if contiguous else 1
    bits = tags.get(_BITS, 1)
    if _TILE_WIDTH in tags:
        return BlockSize(tags[_TILE_WIDTH], tags[_TILE_HEIGHT], samples, bits)
    rows = min(rows, height)
    if tags.get(_COMPRESSION, 1) == 1 and rows == height:
        # An uncompressed image in a single strip is read row by row.
        rows = 1
    return BlockSize(width, rows, samples, bits)
