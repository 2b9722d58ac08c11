"""The door every vector file passes: what a path may be, which driver may read it, and under which name.

Many formats of GDAL, and many names, lead to other files or to the network: archives, virtual sources, pipelines,
addresses. Here a path is one regular file, its format is told from its bytes, and what GDAL is handed is a name that
means this file and this driver and nothing else. Nothing beside it is opened but the parts of a Shapefile that are
regular files and the log of a GeoPackage.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyogrio
from pyogrio.util import vsi_path

from rsprompter_cli.errors import InputError, nearest_file, shorten, why_no_file
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.vector.formats.flatgeobuf import look_at_flatgeobuf
from rsprompter_cli.geo.vector.formats.geojson_check import JsonFacts, look_at_json, write_clean
from rsprompter_cli.geo.vector.formats.geopackage import Table, copy_with_log, feature_tables, files_beside, has_log
from rsprompter_cli.geo.vector.formats.limits import limit, reading

LAYER_OPTION = "--layer"
"""The option of the command line that names a layer."""

PARQUET = "Parquet"
SHAPEFILE = "ESRI Shapefile"
GEOPACKAGE = "GPKG"
FLATGEOBUF = "FlatGeobuf"
_SQLITE = b"SQLite format 3\x00"
_MAGIC = (
    (_SQLITE, GEOPACKAGE),
    (b"fgb", FLATGEOBUF),
    (b"\x00\x00\x27\x0a", SHAPEFILE),
    (b"PAR1", PARQUET),
)
_RASTERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff", b"\0\0\0\x0cjP  ")
"""How TIFF, PNG, JPEG and JPEG 2000 files begin."""
_SUFFIXES = {GEOPACKAGE: ".gpkg", FLATGEOBUF: ".fgb"}
_PREFIXED = ("GeoJSON", "GeoJSONSeq", "TopoJSON")
"""Drivers that take the name of a file after their own."""

_SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg", ".cst", ".qpj")
"""Beside the .shp itself."""
_LARGEST_TEXT_FILE = 1 << 20
_INDEX_HEAD, _INDEX_ENTRY, _SMALLEST_SHAPE, _SPARE = 100, 8, 12, 1 << 16
"""Bytes of a Shapefile's index, of a shape of nothing, and what a file may lack before its index is damaged."""

_KEPT = 8
_WARNINGS = 3
_SETTINGS = {
    # No request leaves: a proxy of no known kind is an error before any connection.
    "GDAL_HTTP_PROXY": "none://",
    "GDAL_HTTPS_PROXY": "none://",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{noext}.none",
    "GDAL_PAM_ENABLED": "NO",
    "OGR_SQLITE_LIST_VIRTUAL_OGR": "NO",
    "OGR_SQLITE_ALLOW_EXTERNAL_ACCESS": "NO",
}
_LOG = "CPL_LOG"
"""Where GDAL writes an error of which pyogrio makes neither a warning nor an exception, as of each broken shape of a
GeoPackage: by itself to stderr, with what the file says in it. It is opened at the first error of a process."""

_OBJECT_MEGABYTES = "OGR_GEOJSON_MAX_OBJ_SIZE"
_MEGABYTES = 150
"""Memory for one feature of GeoJSON: some 600,000 vertices."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class VectorSource:
    """A vector file that may be opened.

    path: as the user wrote it, for messages.
    driver: GDAL's name of the only driver that opens it, or PARQUET.
    name: what GDAL is handed.
    tables: of a GeoPackage those that are read, with or without geometry. views: its layers that are none.
    address: the web address that the file names as its CRS, which is not opened.
    linked: `name` is another name than the file's.
    """

    path: Path
    driver: str
    name: str
    tables: tuple[Table, ...] = ()
    views: tuple[str, ...] = ()
    address: str | None = None
    linked: bool = False
    folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def options(self) -> Mapping[str, str]:
        """Open options of the driver."""
        # Immutable: else SQLite, of a file that once had a log, makes one and deletes it.
        return {"LIST_ALL_TABLES": "NO", "IMMUTABLE": "YES"} if self.driver == GEOPACKAGE else {}


_admitted: dict[tuple[object, ...], VectorSource] = {}


def admit(path: str | Path) -> VectorSource:
    """Look at a file and decide how it is opened; the same file is looked at once.

    Raises:
        InputError: missing, not a regular file, of a kind that is not read, damaged, or made to read other files.
        InputError: over a limit.
    """
    path = Path(path)
    head = _head(path)
    with reading(path):
        facts = path.stat()
        beside = files_beside(path) if head.startswith(_SQLITE) else ()
    key = (str(path), str(Path.cwd()), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, limit(1), beside)
    source = _admitted.get(key)
    if source is None:
        with reading(path):
            source = _look(path, head)
        while len(_admitted) >= _KEPT:
            _admitted.pop(next(iter(_admitted)))
        _admitted[key] = source
    return source


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does."""
    return _head(path).startswith(b"PAR1")


@contextmanager
def gdal(source: VectorSource) -> Iterator[None]:
    """Around each use of GDAL: nothing is fetched, its warnings are log lines, and its errors are InputErrors."""
    settings = dict(_SETTINGS)
    if not os.environ.get(_OBJECT_MEGABYTES, "").strip():
        settings[_OBJECT_MEGABYTES] = str(limit(_MEGABYTES))
    if not os.environ.get(_LOG, "").strip():
        settings[_LOG] = os.devnull
    before = {name: pyogrio.get_gdal_config_option(name) for name in settings}
    pyogrio.set_gdal_config_options(settings)
    try:
        with reading(source.path), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield
    except InputError as error:
        raise InputError(error.message.replace(source.name, source.path.name), error.hint) from error
    finally:
        pyogrio.set_gdal_config_options(before)
    lines = dict.fromkeys(" ".join(str(one.message).split()) for one in said if one.category is RuntimeWarning)
    for line in [line for line in lines if not line.startswith("Several features with id")][:_WARNINGS]:
        _log.warning("%s: %s", source.path, shorten(line.replace(source.name, source.path.name), 240))


def _look(path: Path, head: bytes) -> VectorSource:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    driver = next((driver for magic, driver in _MAGIC if head.startswith(magic)), None)
    if driver is None and head.startswith(_RASTERS):
        raise InputError(f"{path}: is a raster where a vector file is expected", "is the order of the arguments right?")
    if driver is None and not text.startswith((b"{", b"\x1e")):
        raise InputError(
            f"{path}: is not a vector file in a supported format",
            "supported are GeoJSON, GeoJSONSeq, TopoJSON, GeoPackage, Shapefile, FlatGeobuf and GeoParquet; unpack "
            "archives first",
        )
    if driver is None:
        return _json_source(path, look_at_json(path))
    if driver == PARQUET:
        return VectorSource(path, driver, str(path))
    if driver == GEOPACKAGE:
        return _geopackage(path)
    if driver == FLATGEOBUF:
        return _flatgeobuf(path)
    return _shapefile(path)


def _geopackage(path: Path) -> VectorSource:
    """A GeoPackage or, where it has a log, a copy with what is in it: SQLite would write that to the file."""
    if not has_log(path):
        tables, views = feature_tables(path)
        return _source(path, GEOPACKAGE, tables=tuple(tables), views=tuple(views))
    folder = _folder()
    copy = Path(folder.name) / "layer.gpkg"
    copy_with_log(path, copy)
    tables, views = feature_tables(path, copy)
    return VectorSource(path, GEOPACKAGE, str(copy), tuple(tables), tuple(views), None, True, folder)


def _json_source(path: Path, facts: JsonFacts) -> VectorSource:
    if facts.utf8 and facts.address is None:
        return _source(path, facts.driver)
    folder = _folder()
    copy = Path(folder.name) / "layer.json"
    foreign = write_clean(path, copy, facts)
    if foreign is not None:
        _log.warning("%s: its text is not UTF-8 and was decoded as Windows-1252: %r", path, foreign)
    return VectorSource(path, facts.driver, f"{facts.driver}:{copy}", (), (), facts.address, True, folder)


def _source(path: Path, driver: str, *, tables: tuple[Table, ...] = (), views: tuple[str, ...] = ()) -> VectorSource:
    """The file under a name that neither GDAL nor pyogrio takes for anything else."""
    location = _location(path)
    prefix = f"{driver}:" if driver in _PREFIXED else ""
    own = not prefix and location.suffix.lower() != _SUFFIXES[driver]
    # GDAL opens an .aux beside a GeoPackage, be it a pipe; beside a link in a folder of its own there is none.
    own = own or (driver == GEOPACKAGE and os.name == "posix")
    if not own and _means_itself(prefix + str(location)):
        return VectorSource(path, driver, prefix + str(location), tables, views)
    folder = _folder()
    link = Path(folder.name) / f"layer{_SUFFIXES.get(driver, '.json')}"
    _link(location, link)
    return VectorSource(path, driver, prefix + str(link), tables, views, None, True, folder)


def _location(path: Path) -> Path:
    location = path.resolve()
    if str(location).startswith("/vsi"):
        raise InputError(f"{path}: paths that begin with /vsi are reserved by GDAL", "move the file")
    return location


def _means_itself(name: str) -> bool:
    """Whether pyogrio hands a name to GDAL as it is; an archive, an address or a `!` means something else."""
    try:
        name.encode("utf-8")
        return bool(vsi_path(name) == name)
    except ValueError:
        return False


def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="rsp-vector-", ignore_cleanup_errors=True)
    if not _means_itself(folder.name + "/layer.json"):
        raise InputError(f"{folder.name}: GDAL would misread the name of the temporary folder", "set TMPDIR to another")
    return folder


def _link(location: Path, link: Path) -> None:
    for make in (link.symlink_to, link.hardlink_to):
        try:
            make(location)
            return
        except OSError:  # Windows allows symbolic links to some users only, a hard link needs the same disk
            continue
    shutil.copyfile(location, link)


def _shapefile(path: Path) -> VectorSource:
    """A Shapefile in a folder of its own with the parts that are read.

    GDAL opens further files of the same name unasked, as spatial and attribute indexes, whatever they are: a pipe
    would keep it waiting for ever. In this folder there are none.

    Raises:
        InputError: a part is not a regular file, or the index names the same bytes again and again.
    """
    location = _location(path)
    parts = {suffix: part for suffix in _SHAPEFILE_PARTS if (part := _part(path, location, suffix)) is not None}
    if ".shx" in parts:
        _check_index(path, parts[".shx"], location.stat().st_size)
    for part in (parts[suffix] for suffix in (".prj", ".qpj") if suffix in parts):
        if part.stat().st_size > _LARGEST_TEXT_FILE:
            raise InputError(
                f"{path}: its part {part.name} is larger than {_LARGEST_TEXT_FILE:,} bytes",
                "remove that or write the Shapefile again",
            )
        check_grids(part.read_bytes().decode("latin-1"), str(part))
    folder = _folder()
    link = Path(folder.name) / "layer.shp"
    for suffix, part in parts.items():
        _link(part, link.with_suffix(suffix))
    _link(location, link)
    return VectorSource(path, SHAPEFILE, str(link), (), (), None, True, folder)


def _part(path: Path, location: Path, suffix: str) -> Path | None:
    """The part of a Shapefile with an extension, in lower or upper case."""
    found = [one for one in map(location.with_suffix, (suffix, suffix.upper(), suffix.title())) if one.exists()]
    for one in found:
        if not one.is_file():
            kind = "a folder" if one.is_dir() else "not a regular file"
            raise InputError(f"{path}: its part {one.name} is {kind}", "remove that or write the Shapefile again")
    return found[0] if found else None


def _check_index(path: Path, index: Path, size: int) -> None:
    """Raise InputError when the index of a Shapefile is larger than its shapes, or names the same bytes repeatedly.

    Args:
        size: bytes of the file of the shapes.
    """
    entries = (index.stat().st_size - _INDEX_HEAD) // _INDEX_ENTRY
    if entries * _SMALLEST_SHAPE > size + _SPARE:
        raise InputError(f"{path}: its index {index.name} has more entries than the file has", "write the file again")
    if entries < 1:
        return
    words = np.fromfile(index, dtype=">u4", count=2 * entries, offset=_INDEX_HEAD)
    lengths = words[1::2].astype(np.int64)
    if 2 * int(lengths.sum()) > 2 * size + _SPARE:
        raise InputError(f"{path}: its index {index.name} names more bytes than the file has", "write the file again")


def _flatgeobuf(path: Path) -> VectorSource:
    """A FlatGeobuf file after a look through it; its name becomes UTF-8."""
    named = look_at_flatgeobuf(path)
    return _source(path, FLATGEOBUF) if named is None else _with_plain_name(path, *named)


def _with_plain_name(path: Path, start: int, length: int) -> VectorSource:
    """A copy whose layer has an ASCII name: pyogrio cannot read another that is not UTF-8."""
    folder = _folder()
    copy = Path(folder.name) / "layer.fgb"
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        file.seek(start)
        raw = file.read(length)
        file.seek(start)
        file.write(bytes(byte if byte < 128 else ord("_") for byte in raw))
    return VectorSource(path, FLATGEOBUF, str(copy), (), (), None, True, folder)


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            if path.is_dir():
                raise InputError(f"{path}: is a folder", "give the path of a vector file")
            source, mark, layer = str(path).partition("|layername=")
            hint = nearest_file(path)
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a path keeps one slash of two
                hint = "download it: vector input must be a local file"
            raise InputError(f"{path}: {why_no_file(path)}", f"write {source} {LAYER_OPTION} {layer}" if mark else hint)
        with path.open("rb") as file:
            return file.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}", "check its permissions") from error
