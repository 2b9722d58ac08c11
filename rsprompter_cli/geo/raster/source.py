"""The door every raster passes: what a path may be, which drivers may read it, how large its blocks are.

A raster format can name other files (VRT sources, overview files, masks, sidecars), and GDAL
follows them anywhere. Here a path is one regular file, its format is told from its first bytes
and only that driver may open it, and nothing beside it is looked at unless this package reads
it itself. `--allow-vrt` and `--remote` open the door wider, for the whole file they name.
"""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from rsprompter_cli.errors import (
    NOT_UTF8,
    NOT_UTF8_WAY_OUT,
    ChangedInputError,
    InputError,
    UsageError,
    nearest_file,
    why_unreadable,
)
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES
from rsprompter_cli.geo.raster.formats.jpeg2000 import BYTES_PER_TILE, tile_count
from rsprompter_cli.geo.raster.formats.png_jpeg import excess_of_segments
from rsprompter_cli.geo.raster.formats.sample_layout import PIXEL, interleaving
from rsprompter_cli.geo.raster.formats.tiff import read_block_sizes
from rsprompter_cli.io.network.remote import check_answer

log = logging.getLogger(__name__)

_VECTORS = (".geojson", ".geojsonl", ".geojsonseq", ".gpkg", ".shp", ".fgb", ".parquet", ".kml")

CACHE_BYTES = 16 << 20
"""GDAL's cache of decoded blocks where nothing is read twice. Its own default is 5 % of the machine, which on a large
one is not bounded by the job."""

HTTP_TIMEOUT = 60
"""Seconds that a request may take, and a sixth of them the connection to be made."""

HTTP_RETRIES = 3
"""Times that a request is made again, after 1, 2, 4 ... seconds, when a server says that it is busy or broken."""

FIRST_ANSWER = 15.0
"""Seconds that a server may take for its first answer."""

_LOOPBACK = re.compile(r"^http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?/", re.IGNORECASE)
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")
_INLINE = ("<", "{")
_SIGNATURES = (
    ("GTiff", 0, (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")),
    ("PNG", 0, (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", 0, (b"\xff\xd8\xff",)),
    ("JP2OpenJPEG", 0, (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ("WEBP", 8, (b"WEBP",)),
)
READABLE = "GeoTIFF, PNG, JPEG, JPEG 2000, WebP"
# These decoders keep the whole picture, whatever block size GDAL reports.
_WHOLE_PICTURE_DRIVERS = frozenset({"PNG", "JPEG", "WEBP"})


@dataclass(frozen=True, slots=True)
class Source:
    """A raster that may be opened.

    name: as the user wrote it, for messages.
    location: absolute path of a regular file, or the URL of a remote file.
    driver: the only GDAL driver that may open it.
    page: the page of a TIFF to open, counted from 1; None: the first, with its overviews and mask.
    mask_page: the page that is the mask of `page`, or None.
    state: bytes, time of the last change and inode of a local file.
    """

    name: str
    location: str
    driver: str
    page: int | None = None
    mask_page: int | None = None
    state: tuple[int, int, int] | None = None

    def require_unchanged(self) -> None:
        """Raise ChangedInputError if the local file is no longer the one that was resolved."""
        if self.path is None or self.state is None or _file_state(self.path) == self.state:
            return
        raise ChangedInputError(f"{self.name}: was changed while it was read", "run again when it is complete")

    @property
    def path(self) -> Path | None:
        """The local file, or None when remote."""
        return None if _SCHEME.match(self.location) else Path(self.location)


def resolve_source(path: str | Path, *, allow_vrt: bool = False, remote: bool = False) -> Source:
    """Decide what a path is, without opening it as a raster.

    Raises:
        InputError: no such file, not a regular file, not a format that is read, a virtual raster
            without `allow_vrt`, an address without `remote`, or a GDAL name that is no path.
    """
    text = str(path)
    if not text.strip():
        raise InputError("the name of the raster is empty", "give the path of a raster file")
    shown = text if len(text) <= 120 else text[:117] + "..."
    if "\x00" in text:
        raise InputError(f"{shown!r}: a path cannot contain a null character")
    if _SCHEME.match(text):
        return _remote_source(text, shown, remote=remote)
    if text.upper().startswith("GTIFF_DIR:"):
        raise InputError(f"{shown}: is not a file path", "give the path of the file, and its page with --page N")
    if text.startswith(("/vsi", "\\vsi")) or text.lstrip().startswith(_INLINE):
        raise InputError(f"{shown}: is not a file path", "give the path of a raster file")
    location = resolve_file(text, shown)
    state = _file_state(location)
    try:
        with location.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{shown}: {why_unreadable(error)}", "check its permissions") from error
    driver = next((name for name, at, marks in _SIGNATURES if head[at:].startswith(marks)), None)
    if driver is None and (b"<VRTDataset" in head or location.suffix.lower() == ".vrt"):
        if not allow_vrt:
            raise InputError(
                f"{shown}: is a virtual raster, which can read any other file",
                "pass --allow-vrt if you trust it, or convert it to GeoTIFF",
            )
        driver = "VRT"
    if driver is None and location.suffix.lower() in _VECTORS:
        raise InputError(f"{shown}: is a vector file where a raster is expected", f"supported formats are {READABLE}")
    if driver is None:
        raise InputError(
            f"{shown}: is not a raster in a supported format",
            f"supported formats are {READABLE}; convert it with gdal_translate",
        )
    excess = excess_of_segments(location, driver)
    if excess:
        raise InputError(f"{shown}: has {excess}", "write it again, without metadata: for example gdal_translate")
    return Source(shown, str(location), driver, state=state)


def refuse_swapped(pairs: Iterable[tuple[str | Path, str | Path]]) -> None:
    """Raise InputError for a scene and its labels that are given in the wrong order."""
    for scene, labels in pairs:
        first, second = (Path(path).suffix.lower() in _VECTORS for path in (scene, labels))
        if first and not second and os.path.isfile(scene):
            raise InputError(
                f"{scene}: is a vector file where a raster is expected", "is the order of the arguments right?"
            )


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def resolve_file(path: str | Path, shown: str | None = None) -> Path:
    """The absolute path of an existing regular file.

    Raises:
        InputError: there is none.
    """
    shown = shown or str(path)
    try:
        os.path.abspath(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{shown}: {NOT_UTF8}, which GDAL requires", NOT_UTF8_WAY_OUT) from error
    try:
        location = Path(path).resolve(strict=True)
        regular = location.is_file()
    except FileNotFoundError:
        kind = "folder" if shown.endswith(("/", os.sep)) else "file"
        raise InputError(f"{shown}: no such {kind}", nearest_file(Path(path))) from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{shown}: is not a usable path: {reason}") from error
    if not regular:
        kind = "is a folder" if location.is_dir() else "is not a regular file"
        raise InputError(f"{shown}: {kind}", "give the path of a raster file")
    if str(location).startswith("/vsi"):
        raise InputError(f"{shown}: paths that begin with /vsi are reserved by GDAL", "move the file")
    return location


def _remote_source(text: str, shown: str, *, remote: bool) -> Source:
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    host = rest.partition("/")[0]
    if "@" in host:
        # It would stand in journals, reports and columns.
        plain = f"{scheme}://{rest[host.rindex('@') + 1 :]}"
        raise InputError(
            f"{plain[:120]}: the address contains a user name or password",
            "remove them and set GDAL_HTTP_USERPWD=NAME:PASSWORD",
        )
    # Nobody listens between this machine and itself.
    if scheme not in ("https", "s3") and not _LOOPBACK.match(text):
        raise InputError(
            f"{shown}: {scheme}:// is not supported", "give a local path, or an https:// or s3:// address with --remote"
        )
    if not remote:
        raise InputError(f"{shown}: is a remote file", "pass --remote to read it over the network")
    return Source(shown, scheme + text[len(scheme) :], "GTiff")


def _gdal_name(source: Source) -> str | Path:
    """What GDAL opens: addresses through its own reader of byte ranges, which takes credentials as its tools do."""
    if source.path is not None:
        # A path object, not a string: rasterio would parse a string for schemes.
        return source.path if source.page is None else f"GTIFF_DIR:{source.page}:{source.location}"
    scheme, _, rest = source.location.partition("://")
    address = f"/vsis3/{rest}" if scheme == "s3" else f"/vsicurl/{source.location}"
    return address if source.page is None else f"GTIFF_DIR:{source.page}:{address}"


def gdal_env(source: Source | None = None, *, cache: int = CACHE_BYTES) -> rasterio.Env:
    """The GDAL settings under which everything is opened and read, to be entered around each use.

    No .aux.xml is read or written, and no file beside the raster is looked for.

    Args:
        source: what is read.
        cache: bytes of decoded blocks that GDAL keeps. One that the user has set (GDAL_CACHEMAX in the environment)
            stays.
    """
    settings: dict[str, Any] = {
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    }
    if not os.environ.get("CPL_LOG", "").strip():
        # Decoders have threads of their own, whose errors GDAL would write to stderr.
        settings["CPL_LOG"] = os.devnull
    if not users_cache():
        settings["GDAL_CACHEMAX"] = cache
    if source is not None and source.path is None:
        settings |= {
            "GDAL_HTTP_MAX_RETRY": HTTP_RETRIES,
            "GDAL_HTTP_RETRY_DELAY": 1,
            "GDAL_HTTP_TIMEOUT": HTTP_TIMEOUT,
            "GDAL_HTTP_CONNECTTIMEOUT": max(1, HTTP_TIMEOUT // 6),
            "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        }
    return rasterio.Env(**settings)


def users_cache() -> bool:
    """Whether the user has set GDAL's block cache."""
    return bool(os.environ.get("GDAL_CACHEMAX", "").strip())


def open_raster(source: Source, *, max_block: int = MAX_BLOCK_BYTES, **options: Any) -> rasterio.DatasetReader:
    """Open a resolved source with its one driver, and refuse it before the first read if it is dangerous.

    Args:
        source: from `resolve_source`.
        max_block: bytes a decoded block may take.
        options: GDAL open options.

    Raises:
        InputError: it cannot be opened, names another file to read from, or has a block over the limit.
    """
    if max_block < 1:
        raise UsageError(f"--max-block {max_block}: must be at least 1 byte")
    if source.path is not None and source.driver == "GTiff":
        _check_tiff_blocks(source, max_block)
    if source.path is not None and source.driver == "JP2OpenJPEG":
        _check_jpeg2000_tiles(source, source.path, max_block)
    if source.location.startswith(("http://", "https://")):
        check_answer(source.location, timeout=FIRST_ANSWER)
    with gdal_errors(source.name), gdal_env(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = rasterio.open(_gdal_name(source), driver=source.driver, **options)
        try:
            _check_dataset(dataset, source, max_block)
        except BaseException:
            dataset.close()
            raise
    return dataset


@contextmanager
def gdal_errors(name: str) -> Iterator[None]:
    """Raise InputError for what rasterio and GDAL raise, in a block that reads the header of a file.

    Args:
        name: of the file, for the message.
    """
    try:
        yield
    except (RasterioError, CRSError, CPLE_BaseError, UnicodeError, OSError) as error:
        raise InputError(f"{name}: cannot be opened: {gdal_reason(error)}", "is the file complete?") from error


def gdal_reason(error: BaseException) -> str:
    """What GDAL says at the bottom of an exception, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = getattr(error, "errmsg", None) or str(error)
    return " ".join(reason.split()) or type(error).__name__


def _check_dataset(dataset: rasterio.DatasetReader, source: Source, max_block: int) -> None:
    # GDAL opens the file named here as overviews, wherever it lies; the tag can sit inside a TIFF.
    # GDAL compares names of tags and of their domains without regard to case.
    elsewhere = any(
        name.upper() == "OVERVIEW_FILE"
        for domain in dataset.tag_namespaces()
        if domain.upper() == "OVERVIEWS"
        for name in dataset.tags(ns=domain)
    )
    if elsewhere and source.driver != "VRT":
        raise InputError(f"{source.name}: reads its overviews from another file", "rewrite it with gdal_translate")
    if dataset.count < 1 or dataset.width < 1 or dataset.height < 1:
        raise InputError(
            f"{source.name}: contains no image", "if it is a container of several images, export one of them to a file"
        )
    whole = interleaving(dataset) == PIXEL
    itemsizes = [sample_bytes(name) for name in dataset.dtypes]
    all_bands = sum(itemsizes)
    for (height, width), itemsize in zip(dataset.block_shapes, itemsizes, strict=True):
        if source.driver in _WHOLE_PICTURE_DRIVERS:
            height, width, whole = dataset.height, dataset.width, True
        nbytes = height * width * (all_bands if whole else itemsize)
        _check_block(source, width, height, nbytes, max_block)


def _check_jpeg2000_tiles(source: Source, path: Path, max_block: int) -> None:
    try:
        tiles = tile_count(path) or 0
    except OSError as error:
        raise InputError(f"{source.name}: {why_unreadable(error)}") from error
    if tiles * BYTES_PER_TILE > max_block:
        raise InputError(
            f"{source.name}: {tiles:,} tiles take {tiles * BYTES_PER_TILE:,} bytes, over the limit of {max_block:,}",
            "raise --max-block if you trust the file, or convert it: gdal_translate -of COG",
        )


def _check_tiff_blocks(source: Source, max_block: int) -> None:
    try:
        blocks = read_block_sizes(Path(source.location), source.name)
    except (ValueError, OSError) as error:
        raise InputError(f"{source.name}: cannot be opened: {error}", "is the file complete?") from error
    for block in blocks:
        _check_block(source, block.width, block.height, block.nbytes, max_block)


def _check_block(source: Source, width: int, height: int, nbytes: int, max_block: int) -> None:
    if nbytes > max_block:
        raise InputError(
            f"{source.name}: a block of {width} x {height} px takes {nbytes:,} bytes, over the limit of {max_block:,}",
            "raise --max-block if you trust the file, or tile it: gdal_translate -of COG",
        )


def sample_bytes(dtype: str) -> int:
    """Bytes of a sample of a type, by rasterio's name."""
    # GDAL has complex integers that numpy lacks.
    return 4 if dtype == "complex_int16" else int(np.dtype(dtype).itemsize)


@dataclass(frozen=True, slots=True)
class Stated:
    """Facts of a file by its user; None leaves each to the file.

    page: of a TIFF, counted from 1.
    crs: the coordinate reference system, as in EPSG:32633, of a file that has none.
    nodata: the value of samples that hold no data, in place of the file's own.
    """

    page: int | None = None
    crs: str | None = None
    nodata: float | None = None

    def check(self) -> None:
        """Raise UsageError for a page that no file has, or a nodata value that is no number."""
        if self.page is not None and self.page < 1:
            raise UsageError(f"--page {self.page}: pages are numbered from 1")
        if self.nodata is not None and not math.isfinite(self.nodata):
            raise UsageError(
                f"--nodata {self.nodata:g}: such samples are always invalid", "omit --nodata, or give a finite number"
            )


NOTHING_STATED = Stated()
