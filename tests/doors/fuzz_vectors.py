"""Small vector files of every format, and ways to damage them that keep enough of their structure to get inside."""

from __future__ import annotations

import functools
import json
import logging
import random
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import shapely

from rsprompter_cli.errors import RspError
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import read_footprints

FORMATS = (".geojson", ".geojsonl", ".topojson", ".gpkg", ".fgb", ".shp", ".parquet")
_DRIVERS = {".geojson": "GeoJSON", ".geojsonl": "GeoJSONSeq", ".gpkg": "GPKG", ".fgb": "FlatGeobuf"}
_PARTS = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_WORDS: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, -1e13, 2**63, 2**70, "", "x", "\x00", "Straße", "Feature", "MultiPolygon", "Topology"),
    *([], {}, [[]], [[[]]], [None], {"type": None}, {"type": "name", "properties": {"name": "EPSG:99999"}}),
    *("crs", "EPSG:32633", "urn:ogc:def:crs:EPSG::0", "GeometryCollection", [1], [1, 2, 3, 4], {"": 1}),
)


_BYTES = (b"\0", b"\xff", b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def seeds(folder: Path) -> dict[str, bytes]:
    """A small valid file of each format; the parts of a Shapefile one after the other, each after its length."""
    shapes = [
        shapely.box(39, -6, 39.5, -5.5),
        shapely.Point(39, -6).buffer(0.1, quad_segs=2),
        shapely.box(40, -6, 41, -5),
    ]
    shapes[2] = shapely.MultiPolygon([shapes[2], shapely.box(42, -6, 43, -5)])
    columns = {"class": ["a", "Straße", None], "score": [0.5, 0.25, 1.0], "n": [1, 2, 3], "yes": [True, False, True]}
    frame = geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326)
    made: dict[str, bytes] = {}
    for suffix in (".geojson", ".geojsonl", ".gpkg", ".fgb", ".parquet"):
        path = folder / f"seed{suffix}"
        if suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_file(path, driver=_DRIVERS[suffix])
        made[suffix] = path.read_bytes()
    frame.to_file(folder / "seed.shp", encoding="utf-8")
    parts = [(folder / "seed.shp").with_suffix(part).read_bytes() for part in _PARTS]
    made[".shp"] = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    arcs = [[[39, -6], [40, -6], [40, -5], [39, -6]]]
    objects = {
        "a": {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "arcs": [[0]], "properties": {"n": 1}}]}
    }
    made[".topojson"] = json.dumps({"type": "Topology", "arcs": arcs, "objects": objects}).encode()
    return made


def mutate(data: bytes, chance: random.Random, *, structured: bool) -> bytes:
    """One to four changes: of JSON values and keys where it is JSON, else of bytes."""
    for _ in range(chance.randint(1, 4)):
        if structured and chance.random() < 0.6:
            data = _edit_json(data, chance)
        else:
            data = chance.choice(_BYTE_CHANGES)(bytearray(data), chance)
    return data


def _flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 8))):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, chance: random.Random) -> bytes:
    word = chance.choice(_BYTES)
    if len(data) > len(word):
        at = chance.randrange(len(data) - len(word))
        data[at : at + len(word)] = word
    return bytes(data)


def _cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(len(data) + 1)])


def _move(data: bytearray, chance: random.Random) -> bytes:
    if len(data) < 8:
        return bytes(data)
    size = chance.randint(1, min(64, len(data) // 2))
    one, other = chance.randrange(len(data) - size), chance.randrange(len(data) - size)
    if chance.random() < 0.5:
        data[one : one + size] = data[other : other + size]
    elif chance.random() < 0.5:
        del data[one : one + size]
    else:
        data[one:one] = data[other : other + size]
    return bytes(data)


_Change = Callable[[bytearray, random.Random], bytes]
_BYTE_CHANGES: tuple[_Change, ...] = (_flip, _flip, _overwrite, _overwrite, _cut, _move)


def _edit_json(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n") if data.count(b'"Feature"') and b"FeatureCollection" not in data else [data]
    at = chance.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except ValueError:
        return _flip(bytearray(data), chance)
    places = list(_places(document))
    if not places:
        return data
    holder, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, chance.choice(_WORDS))
    elif kind == 2 and isinstance(holder, dict):
        holder[str(chance.choice(_WORDS))] = holder.pop(key)
    elif kind == 3:
        other, name = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    elif kind == 4:
        for _ in range(chance.choice((1, 3, 40))):
            one = holder[key]
            holder[key] = [one] if chance.random() < 0.7 else {"type": "GeometryCollection", "geometries": [one]}
    else:
        holder[key] = chance.choice(_WORDS)
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [document]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            yield one, key
            waiting.append(one[key])


def write(data: bytes, path: Path) -> Path:
    """A file of (damaged) bytes, of a Shapefile all its parts."""
    if path.suffix != ".shp":
        path.write_bytes(data)
        return path
    at = 0
    for suffix in _PARTS:
        (length,) = struct.unpack("<I", data[at : at + 4].ljust(4, b"\0"))
        path.with_suffix(suffix).write_bytes(data[at + 4 : at + 4 + length])
        at += 4 + min(length, len(data))
    return path


def read(path: Path) -> str:
    """Read a file in both ways; "" or what went wrong beyond an error of ours."""
    for way in (lambda: list(open_layer(path).batches()), lambda: read_footprints(path, columns=["score"])):
        try:
            way()
        except RspError as error:
            if not 2 <= error.exit_code <= 5 or "\n" in str(error) or path.name not in error.message:
                return f"{type(error).__name__}: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


@functools.cache
def _made() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name:
        return seeds(Path(name))


def attempt(seed: int) -> None:
    """One damaged file, of each format in turn; an error must be one line of ours that names it."""
    logging.disable(logging.CRITICAL)
    suffix = FORMATS[seed % len(FORMATS)]
    with tempfile.TemporaryDirectory(prefix="rsp-fuzz-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reason = read(write(case(suffix, seed, _made()), Path(name, f"case{suffix}")))
        finally:
            logging.disable(logging.NOTSET)
    assert reason == "", f"{suffix}: {reason}"


def case(suffix: str, number: int, made: dict[str, bytes]) -> bytes:
    """The damaged file of a format and a number: the same in every process."""
    return mutate(made[suffix], random.Random(f"{suffix} {number}"), structured="json" in suffix)
