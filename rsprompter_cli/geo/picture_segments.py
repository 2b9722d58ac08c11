"""How many pieces the head of a PNG or JPEG file has: decoders take time with the square of them."""

from __future__ import annotations

import struct
from pathlib import Path

MAX_SEGMENTS = 10_000
"""Pieces beside the pixels; an ICC profile has at most 255, long metadata some hundreds."""

_MAX_PIXEL_CHUNKS = 1_000_000


def has_too_many_segments(path: Path, driver: str) -> bool:
    """Whether a picture has more than MAX_SEGMENTS pieces beside its pixels.

    Args:
        driver: GDAL's name; of others than PNG and JPEG nothing is counted.
    """
    if driver not in ("PNG", "JPEG"):
        return False
    count = pixels = 0
    with path.open("rb") as file:
        file.seek(8 if driver == "PNG" else 2)
        while count <= MAX_SEGMENTS and pixels <= _MAX_PIXEL_CHUNKS:
            if driver == "PNG":
                head = file.read(8)
                if len(head) < 8 or head[4:] == b"IEND":
                    return False
                length = struct.unpack(">I", head[:4])[0] + 4
                pixels += head[4:] == b"IDAT"
                count += head[4:] != b"IDAT"
            else:
                head = file.read(4)
                if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
                    return False
                length = struct.unpack(">H", head[2:])[0] - 2
                count += 1
            file.seek(max(0, length), 1)
    return True
