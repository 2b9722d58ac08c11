"""Small rasters of every kind that is read, and ways to damage their structure: tags, boxes, chunks and bytes."""

from __future__ import annotations

import functools
import logging
import random
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import rasterio
from PIL import Image

from rsprompter_cli.errors import RspError
from rsprompter_cli.geo.raster.image import picture_size, read_label, read_picture
from rsprompter_cli.geo.raster.scene import open_scene
from tests.doors import mutate, pool
from tests.make.rasters import pattern

_NUMBERS = (0, 1, 2, 3, 8, 255, 256, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TAGS = (256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347, 42112,
         42113, 33550, 33922, 34264, 34735, 34736, 34737)  # fmt: skip
"""Of pictures, tiles, overviews, GDAL's metadata and GeoTIFF keys."""


@functools.cache
def seeds() -> dict[str, bytes]:
    """A small valid file of each kind, by a name with its extension."""
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name:
        folder = Path(name)
        _geotiffs(folder)
        picture = Image.fromarray(pattern(40, 50).transpose(1, 2, 0))
        for suffix in ("png", "jpg", "webp"):
            picture.save(folder / f"picture.{suffix}")
        picture.quantize(16).save(folder / "palette.png")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _geotiffs(folder: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "nodata": 0},
        "strips": {"blockysize": 7, "compress": "lzw", "predictor": 2},
        "jpeg": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "jpeg", "photometric": "ycbcr"},
        "big": {"BIGTIFF": "YES", "interleave": "band"},
        "sixteen": {"dtype": "uint16", "tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "packbits"},
        "float": {"dtype": "float32", "nodata": float("nan")},
        "zstd": {"compress": "zstd"},
        "jp2": {"driver": "JP2OpenJPEG"},
    }
    for name, options in kinds.items():
        options = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32737", **options}
        transform = rasterio.transform.from_origin(500_000, 9_300_000, 0.25, 0.25)
        path = folder / (name + (".jp2" if name == "jp2" else ".tif"))
        shape = {"width": 50, "height": 40, "count": 3, "transform": transform}
        with rasterio.open(path, "w", **shape, **options) as file:
            file.write(pattern(40, 50).astype(options["dtype"]))
            if name == "tiles":
                file.update_tags(note="Straße", AREA_OR_POINT="Point")
                file.set_band_description(1, "red")
                file.build_overviews([2, 4])


def read(path: Path) -> list[str]:
    """Read a file in each way in which commands do; the errors of ours, each a line that names it."""
    messages = []
    for way in (_scene, read_picture, picture_size, read_label):
        fault: RspError | None = None
        try:
            way(path)
        except RspError as error:
            fault = error
        pool.check_fault(fault, exit_codes=(2, 3))
        assert fault is None or path.stem in fault.message, repr(fault)  # a world file may be named
        assert fault is None or "\n" not in fault.message, repr(fault)
        messages += [] if fault is None else [fault.message]
    return messages


def _scene(path: Path) -> None:
    with open_scene(path, native=True) as scene:
        scene.preview(40)
        scene.nodata_facts()
        scene.footprint()
        scene.cached_bytes(64)


def attempt(seed: int) -> None:
    """One input; an error must be one line of ours."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kind, content = case(seed)
            path = Path(name, kind)
            path.write_bytes(content)
            rng = random.Random(seed)
            if rng.random() < 0.1:
                world = "0.25\n0\n0\n-0.25\n500000\n9300000\n"
                path.with_suffix(rng.choice((".tfw", ".wld", ".pgw"))).write_bytes(_damaged_text(world, rng))
            if rng.random() < 0.1:
                path.with_suffix(".prj").write_bytes(_damaged_text(rasterio.CRS.from_epsg(32737).to_wkt(), rng))
            read(path)
        finally:
            logging.disable(logging.NOTSET)


def case(seed: int) -> tuple[str, bytes]:
    """The name and the damaged bytes of a seed: the same in every process."""
    rng = random.Random(seed)
    kind = rng.choice(sorted(seeds()))
    content = seeds()[kind]
    for _ in range(rng.choice((1, 1, 2, 3))):
        structured = rng.random() < 0.7
        if structured and kind.endswith(".tif"):
            content = _damaged_tags(content, rng)
        elif structured and kind.endswith(".png"):
            content = _damaged_chunks(content, rng)
        elif structured and kind.endswith(".jp2"):
            content = _damaged_near(content, rng, (b"ihdr", b"jp2c", b"\xff\x4f\xff\x51", b"colr", b"uuid"))
        elif structured and kind.endswith(".jpg"):
            content = _damaged_near(content, rng, (b"\xff\xc0", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xe0"))
        else:
            content = mutate.damaged_bytes(content, rng)
    return kind, content


def _damaged_tags(content: bytes, rng: random.Random) -> bytes:
    """A TIFF with one entry of a directory, the values that it refers to, or the chain of directories changed."""
    data = bytearray(content)
    big = data[2:3] == b"+"
    try:
        places = list(_entries(bytes(data), big=big))
    except (struct.error, OverflowError):
        return mutate.damaged_bytes(content, rng)
    if not places:
        return mutate.damaged_bytes(content, rng)
    at = rng.choice(places)
    size, count_at, value_at = (20, 4, 12) if big else (12, 4, 8)
    word = "<Q" if big else "<I"
    kind = rng.randrange(7)
    number = rng.choice((*_NUMBERS, rng.randrange(len(data))))
    if kind == 0:
        struct.pack_into("<H", data, at, rng.choice(_TAGS))
    elif kind == 1:
        struct.pack_into("<H", data, at + 2, rng.choice((1, 2, 3, 4, 5, 7, 12, 13, 16, 99)))
    elif kind == 2:
        struct.pack_into(word, data, at + count_at, number)
    elif kind in (3, 4):
        struct.pack_into(word, data, at + value_at, number)
    elif kind == 5:
        other = rng.choice(places)
        data[at : at + size] = data[other : other + size]
    else:
        where = struct.unpack_from(word, data, at + value_at)[0]
        if where + 8 <= len(data):
            data[where : where + 8] = rng.choice((b"\0" * 8, b"\xff" * 8, rng.randbytes(8), b"<GDALMet"))
    return bytes(data)


def _entries(data: bytes, *, big: bool) -> list[int]:
    """Offsets of the entries of all directories."""
    found: list[int] = []
    at = struct.unpack_from("<Q" if big else "<I", data, 8 if big else 4)[0]
    for _ in range(20):
        if not at or at + 8 > len(data):
            break
        count = struct.unpack_from("<Q" if big else "<H", data, at)[0]
        start, size = at + (8 if big else 2), 20 if big else 12
        found += range(start, min(start + size * min(count, 100), len(data) - size), size)
        at = struct.unpack_from("<Q" if big else "<I", data, start + size * count)[0]
    return found


def _damaged_chunks(content: bytes, rng: random.Random) -> bytes:
    """A PNG with one chunk changed, its checksum right."""
    at, chunks = 8, []
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return mutate.damaged_bytes(content, rng)
    place = rng.randrange(len(chunks))
    name, body = chunks[place]
    if name == b"IHDR" and rng.random() < 0.7 and len(body) == 13:
        sides = struct.pack(">II", rng.choice(_NUMBERS) & 0x7FFFFFFF, rng.choice(_NUMBERS) & 0x7FFFFFFF)
        body = sides + bytes(
            (rng.choice((1, 2, 4, 8, 16, 7)), rng.choice((0, 2, 3, 4, 6, 9)), 0, 0, rng.choice((0, 1)))
        )
    elif rng.random() < 0.5:
        body = mutate.damaged_bytes(body, rng)
    else:
        name = rng.choice((b"IDAT", b"PLTE", b"tRNS", b"iTXt", b"zTXt", b"eXIf", b"acTL", b"iCCP", b"IEND"))
    chunks[place] = (name, body)
    if rng.random() < 0.2:
        chunks.insert(place, rng.choice(chunks))
    packed = [
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in chunks
    ]
    return content[:8] + b"".join(packed)


def _damaged_near(content: bytes, rng: random.Random, marks: tuple[bytes, ...]) -> bytes:
    """Some bytes changed a little behind one of the marks of a format."""
    data = bytearray(content)
    at = data.find(rng.choice(marks))
    if at < 0:
        return mutate.damaged_bytes(content, rng)
    at = min(at + rng.randrange(48), max(0, len(data) - 4))
    data[at : at + 4] = rng.choice((*(number.to_bytes(4, "big") for number in _NUMBERS), rng.randbytes(4)))
    return bytes(data)


def _damaged_text(text: str, rng: random.Random) -> bytes:
    changed = mutate.damaged_bytes(text.encode(), rng)
    return changed.replace(b"0.25", rng.choice((b"0", b"1e400", b"nan", b"-1e30", b"x")), 1)
