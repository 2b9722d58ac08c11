"""GeoJSON before GDAL sees it: which kind of it a file is, what it says of its CRS, and how much it is.

GDAL fetches a CRS that is a web address, and keeps in memory whatever is no feature of a collection.
"""

from __future__ import annotations

import codecs
import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rsprompter_cli.documents import parse_json
from rsprompter_cli.errors import InputError, shorten
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.vector.formats.limits import LOOSE_JSON, TOPOJSON_BYTES, VERTICES, limit, over_limit

SEQUENCE_SUFFIXES = (".geojsonl", ".geojsonseq", ".geojsons", ".ndgeojson")
_HEAD = 1 << 20
_CHUNK = 8 << 20
_CRS_VALUES = (1 << 9, 1 << 12, 1 << 16)
"""Bytes of the value of a `crs` member that are looked at: more where it does not end before."""

_CRS_BYTES = 4
"""Bytes of such values that are looked at, at most, for each of the file's own."""

_LONGEST_STRING = 64 << 20
_LETTERS = rb"(?:[%b]|\\u00(?:%b))"
_CRS_KEY = re.compile(
    rb"[\"']" + _LETTERS % (b"cC", b"43|63") + _LETTERS % (b"rR", b"52|72") + _LETTERS % (b"sS", b"53|73") + rb"[\"']"
)
"""A string that is `crs`, its letters in any case and escaped or not."""

_OFFLINE = re.compile(r"https?://(?:www\.)?opengis\.net/(?:def|gml)/", re.IGNORECASE)
"""Addresses that are names: GDAL knows what they mean."""

_CONFORMS = re.compile(rb'conformsTo"\s*:\s*\[([^\]]*)')
_FEATURE_IN_LINE = re.compile(rb'\n[ \t\r]*\{\s*"type"\s*:\s*"Feature"')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEP = np.zeros(256, dtype=np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_COUNTED = np.zeros(256, dtype=bool)
_COUNTED[list(b"[{,")] = True


@dataclass(frozen=True, slots=True)
class JsonFacts:
    """What a file of JSON is.

    driver: GDAL's name of it.
    address: the web address that stands for its CRS, None where there is none.
    crs_keys: positions of the letters of the `crs` members that name an address.
    utf8: all its text is UTF-8.
    """

    driver: str
    address: str | None
    crs_keys: tuple[tuple[int, int], ...]
    utf8: bool


def look_at_json(path: Path) -> JsonFacts:
    """Look through a file that begins as JSON does.

    Raises:
        InputError: a format that is not read, or no JSON.
        InputError: over a limit.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"\0") >= 0:
            raise InputError(f"{path}: begins as GeoJSON, but contains binary data", "unpack archives first")
        driver = _driver(path, data[:_HEAD])
        address, keys = _addresses(path, data)
        if driver == "TopoJSON":
            _check_topology(path, data)
        elif driver == "GeoJSON":
            _check_document(path, data)
        else:
            _check_lines(path, data)
        return JsonFacts(driver, address, keys, _is_utf8(file))


def write_clean(source: Path, target: Path, facts: JsonFacts) -> str | None:
    """Write a copy in UTF-8 without the `crs` members that name an address.

    Returns:
        A text of the source that was not UTF-8, decoded as Windows-1252; None where all was.
    """
    found: list[str] = []

    def western(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        raw = error.object[error.start : error.start + 1]
        if not found:
            around = re.split(rb'[":\x00-\x1f]', error.object[max(0, error.start - 40) : error.start])[-1]
            after = re.split(rb'[":\x00-\x1f]', error.object[error.start + 1 : error.start + 40])[0]
            found.append(f"{around.decode('cp1252', 'ignore')}{_western(raw)}{after.decode('cp1252', 'ignore')}")
        return _western(raw), error.start + 1

    codecs.register_error("rsprompter_cli.western", western)
    decoder = codecs.getincrementaldecoder("utf-8")("rsprompter_cli.western")
    place = 0
    with source.open("rb") as file, target.open("wb") as out:
        while chunk := file.read(_CHUNK):
            cleaned = bytearray(chunk)
            for start, end in facts.crs_keys:
                for at in range(max(start, place), min(end, place + len(chunk))):
                    cleaned[at - place] = ord("_")
            place += len(chunk)
            out.write(decoder.decode(bytes(cleaned)).encode("utf-8", errors="replace"))
        out.write(decoder.decode(b"", final=True).encode("utf-8", errors="replace"))
    return found[0] if found else None


def _western(raw: bytes) -> str:
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _driver(path: Path, head: bytes) -> str:
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"\x1e"):
        return "GeoJSONSeq"
    conforms = _CONFORMS.search(start)
    if b'"coordRefSys"' in start or (conforms and b"json-fg" in conforms[1]):
        raise InputError(f"{path}: JSON-FG is not a supported vector format", "convert it: ogr2ogr out.gpkg in.json")
    if b'"esriGeometry' in start and b'"FeatureCollection"' not in start:
        raise InputError(f"{path}: ESRI JSON is not a supported vector format", "convert it: ogr2ogr out.gpkg in.json")
    if re.search(rb'"type"\s*:\s*"Topology"', start[:65_536]):
        return "TopoJSON"
    if path.suffix.lower() in SEQUENCE_SUFFIXES:
        return "GeoJSONSeq"
    if re.match(rb'\{\s*"type"\s*:\s*"FeatureCollection"', start):
        return "GeoJSON"
    text = start.decode("utf-8", errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be GeoJSON") from None
    except ValueError:  # not at its end yet, or written as GDAL alone accepts it
        if b'"FeatureCollection"' in start[:65_536]:
            return "GeoJSON"
        return "GeoJSONSeq" if _FEATURE_IN_LINE.search(start) else "GeoJSON"
    return "GeoJSONSeq" if text[end:].lstrip().startswith(("{", "\x1e")) else "GeoJSON"


def _addresses(path: Path, data: mmap.mmap) -> tuple[str | None, tuple[tuple[int, int], ...]]:
    """The first web address that is a CRS, and the positions of the letters of all keys of such."""
    first: str | None = None
    keys = []
    left = limit(_CRS_BYTES) * (len(data) + _CRS_VALUES[-1])
    for match in _CRS_KEY.finditer(data):
        for size in _CRS_VALUES:
            if (left := left - size) < 0:
                raise over_limit(path, "it has too many members called crs")
            readable, pairs = _members(data[match.end() : match.end() + size], str(path))
            if readable or match.end() + size >= len(data):
                break
        address = _address(pairs) if readable else "unreadable"
        if address is not None:
            first = first or address
            keys.append((match.start() + 1, match.end() - 1))
    return first, tuple(keys)


def _members(after: bytes, origin: str) -> tuple[bool, list[tuple[str, Any]]]:
    """Whether what follows the letters of a `crs` can be read, and the members of its value where that is an object.

    Raises:
        InputError: it is a CRS that names a grid by a path.
    """
    text = after.decode("utf-8", errors="replace").lstrip()
    if not text.startswith((":", "/")):
        return True, []  # a value, not a key
    text = text.lstrip(":").lstrip()
    if not text.startswith(("{", "/")):
        return True, []  # GDAL reads objects only
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.extend(found)
        return dict(found)

    try:
        _, end = json.JSONDecoder(object_pairs_hook=keep).raw_decode(text)
    except (ValueError, RecursionError):
        return False, []
    check_grids(text[:end], origin)
    return True, pairs


def _address(pairs: list[tuple[str, Any]]) -> str | None:
    """The address among the members of a `crs`, None where GDAL can read it without any."""
    words = [value for name, value in pairs if isinstance(value, str) and name.casefold() != "type"]
    kinds = {str(value).casefold() for name, value in pairs if name.casefold() == "type"}
    foreign = [word for word in words if re.match(r"\s*[a-z][a-z0-9+.\-]*://", word, re.IGNORECASE)]
    foreign = [word for word in foreign if not _OFFLINE.match(word)]
    if foreign or kinds & {"link", "url"}:
        return shorten(foreign[0] if foreign else next(iter(words), "no address"), 100)
    return None


def _is_utf8(file: IO[bytes]) -> bool:
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _values(data: bytes | mmap.mmap) -> int:
    """Arrays, objects and commas: about the values of some JSON."""
    blocks = (data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK))
    return sum(block.count(b"[") + block.count(b"{") + block.count(b",") for block in blocks)


def _check_lines(path: Path, data: mmap.mmap) -> None:
    """Raise InputError when a line of a sequence is too much to be one feature."""
    most, at = limit(LOOSE_JSON), 0
    while at < len(data):
        # A line that short cannot have more values than bytes.
        end = data.rfind(b"\n", at, at + most)
        if end < 0:
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            if _values(data[at:end]) > most:
                raise over_limit(path, f"a feature of it has more than {most:,} values")
        at = end + 1


def _check_document(path: Path, data: mmap.mmap) -> None:
    """Raise InputError when there is too much outside the features of a collection.

    Those are taken one by one, and GDAL itself limits each.
    """
    most = limit(LOOSE_JSON)
    if len(data) <= most or _values(data) <= most:
        return
    depth, inside, loose, collection = 0, False, 0, False
    for text in _without_strings(path, data):
        codes = np.frombuffer(text, dtype=np.uint8)
        depths = depth + np.cumsum(_STEP[codes], dtype=np.int64)
        outside = _COUNTED[codes]
        starts = [match.end() - 1 for match in re.finditer(rb"\x01:\[", text) if depths[match.start()] == 1]
        closes = np.flatnonzero((depths == 1) & (codes == ord("]")))
        at, start = 0, None
        while inside or (start := next((one for one in starts if one >= at), None)) is not None:
            at = at if inside or start is None else start
            later = closes[np.searchsorted(closes, at) :]
            inside = not len(later)
            end = len(codes) if inside else int(later[0])
            outside[at:end] = False
            at = end
            if inside:
                break
        collection |= any(depths[match.start()] == 1 for match in re.finditer(rb"\x02:\x03", text))
        loose += int(outside.sum())
        depth = int(depths[-1]) if len(depths) else depth
        if loose > most:
            break
    if loose > most or not collection:
        raise over_limit(path, f"it has more than {most:,} values outside the features of a collection")


def _without_strings(path: Path, data: mmap.mmap) -> Iterator[bytes]:
    """The text of a document without blanks and strings; of these `features` is 1, `type` 2, `FeatureCollection` 3."""
    rest = b""
    for at in range(0, len(data), _CHUNK):
        block = rest + data[at : at + _CHUNK]
        for mark, word in ((b"\x01", b'"features"'), (b"\x02", b'"type"'), (b"\x03", b'"FeatureCollection"')):
            block = block.replace(word, mark)
        text = _STRING.sub(b"", block)
        quote = text.find(b'"')  # of a string that ends in a later block
        cut = len(text) if quote < 0 else quote
        # A member whose value is not there yet waits, too.
        cut = max(text.rfind(b",", 0, cut), text.rfind(b"{", 0, cut)) + 1 or cut
        rest = text[cut:] if at + _CHUNK < len(data) else b""
        if len(rest) > _LONGEST_STRING:
            raise over_limit(path, f"a text of it is longer than {_LONGEST_STRING:,} bytes")
        yield text[: len(text) if not rest else cut].translate(None, b" \t\r\n")


def _check_topology(path: Path, data: mmap.mmap) -> None:
    """Raise InputError when the shapes of a TopoJSON file have too many vertices.

    An arc stands once in the file and can be part of any number of shapes.
    """
    if len(data) > limit(TOPOJSON_BYTES):
        raise over_limit(path, f"is TopoJSON of {len(data):,} bytes, over {limit(TOPOJSON_BYTES):,}")
    try:
        document = parse_json(data[:], path)
        arcs = document.get("arcs") or []
        sizes = [len(arc) if isinstance(arc, list) else 0 for arc in arcs]
        total, waiting = 0, [document.get("objects")]
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict):
                waiting += [value for name, value in one.items() if name != "properties"]
            elif isinstance(one, list):
                waiting += [value for value in one if isinstance(value, list | dict)]
                places = [value for value in one if isinstance(value, int)]
                total += sum(sizes[at] for at in places if -len(sizes) <= at < len(sizes))
            if total > limit(VERTICES):
                raise over_limit(path, f"its shapes have more than {limit(VERTICES):,} vertices")
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be TopoJSON") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is damaged TopoJSON: {error}") from error
