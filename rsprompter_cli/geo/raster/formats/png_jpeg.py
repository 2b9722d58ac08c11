"""What a PNG or JPEG file has beside its pixels, and how often a JPEG goes over them: what makes decoders slow."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

MAX_SEGMENTS = 10_000
"""Pieces beside the pixels; an ICC profile has at most 255, long metadata some hundreds."""

MAX_SCANS = 200
"""Passes over the pixels of a JPEG file; progressive ones have about ten, the finest some dozens."""

MAX_TEXT = 256 << 20
"""Bytes that the compressed texts of a PNG file may unfold to. libpng unfolds each that it meets."""

_MAX_PIXEL_CHUNKS = 1_000_000
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_LARGEST_TEXT, _RATIO = 8_000_000, 1_032
"""Bytes to which libpng unfolds one text at most, and zlib each of its bytes."""

_SCAN = b"\xff\xda"


def excess_of_segments(path: Path, driver: str) -> str:
    """What a picture has too much of, in words; empty where nothing is.

    Args:
        driver: GDAL's name; of others than PNG and JPEG nothing is counted.
    """
    if driver == "PNG":
        return _excess_of_chunks(path)
    if driver == "JPEG":
        return _excess_of_markers(path)
    return ""


def _excess_of_chunks(path: Path) -> str:
    count = pixels = text = 0
    with path.open("rb") as file:
        file.seek(8)
        while count <= MAX_SEGMENTS and pixels <= _MAX_PIXEL_CHUNKS:
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                return ""
            (length,) = struct.unpack(">I", head[:4])
            pixels += head[4:] == b"IDAT"
            count += head[4:] != b"IDAT"
            if head[4:] in _COMPRESSED:
                text += min(length * _RATIO, _LARGEST_TEXT)
                if text > MAX_TEXT:
                    return f"texts that may unfold to more than {MAX_TEXT:,} bytes"
            file.seek(length + 4, 1)
    return _TOO_MANY


def _excess_of_markers(path: Path) -> str:
    count = 0
    with path.open("rb") as file:
        file.seek(2)
        while count <= MAX_SEGMENTS:
            head = file.read(4)
            if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
                return _excess_of_scans(path)
            (length,) = struct.unpack(">H", head[2:])
            count += 1
            file.seek(max(0, length - 2), 1)
    return _TOO_MANY


def _excess_of_scans(path: Path) -> str:
    """Among the pixels the two bytes with which a scan begins are nothing else."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        count, place = 0, data.find(_SCAN)
        while place >= 0:
            count += 1
            if count > MAX_SCANS:
                return f"more than {MAX_SCANS} scans"
            place = data.find(_SCAN, place + 2)
    return ""


_TOO_MANY = f"more than {MAX_SEGMENTS:,} pieces of metadata"
