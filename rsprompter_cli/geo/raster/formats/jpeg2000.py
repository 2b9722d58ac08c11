"""What a JPEG 2000 file says of its tiles, which GDAL does not tell."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import plural

log = logging.getLogger(__name__)

_MANY_BLOCKS = 100
"""Blocks of 1024 x 1024 px: of fewer, reading the file again costs less than decoding it."""

_SIZE_MARKER = b"\xff\x4f\xff\x51"
"""Start of the codestream, and of the segment with its sizes, which comes first (ISO/IEC 15444-1, A.5.1)."""

_SIZES = struct.Struct(">HH8I")
"""Length, capabilities, then width and height of the grid, its offsets, width and height of a tile, its offsets."""

BYTES_PER_TILE = 24 << 10
"""That OpenJPEG keeps for each tile of an open file, measured; a file may state 65,535 tiles in a few kilobytes."""

_HEAD = 1 << 16
"""Bytes within which the codestream begins: boxes with colours and georeference come before it."""


def tile_count(path: Path) -> int | None:
    """Tiles of the picture; None when that is not found at the start of the file."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    at = head.find(_SIZE_MARKER)
    if at < 0 or at + 4 + _SIZES.size > len(head):
        return None
    _, _, width, height, _, _, tile_width, tile_height, left, top = _SIZES.unpack_from(head, at + 4)
    if tile_width == 0 or tile_height == 0:
        return None
    return int(-(-(width - left) // tile_width) * -(-(height - top) // tile_height))


def warn_of_one_tile(dataset: Any, path: Path | None, name: str) -> None:
    """A JPEG 2000 file of one tile is read as a whole for each block that is decoded."""
    if dataset.driver != "JP2OpenJPEG" or path is None or tile_count(path) != 1:
        return
    (tall, wide), *_ = dataset.block_shapes
    blocks = -(-dataset.height // tall) * -(-dataset.width // wide)
    if blocks > _MANY_BLOCKS:
        text = (
            "%s: is JPEG 2000 in a single tile, which is decoded again for each of its %s; "
            "gdal_translate -of COG avoids this"
        )
        log.warning(text, name, plural(blocks, "block"))
