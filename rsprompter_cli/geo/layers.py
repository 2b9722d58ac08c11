"""The one door that reads vector files: what a file is, and its rows, batch by batch or some columns at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS

from rsprompter_cli.errors import InputError, UsageError, did_you_mean
from rsprompter_cli.geo.lonlat import parse_crs, units_per_degree

READ_DRIVERS = {"GeoJSON", "GeoJSONSeq", "TopoJSON", "GPKG", "ESRI Shapefile", "FlatGeobuf"}
"""GDAL's names of what is read; GeoParquet is read without it."""

_ALWAYS_DEGREES = {"GeoJSON", "GeoJSONSeq"}
"""Formats that cannot say that they hold pixels: without another CRS GDAL takes them for degrees."""

_SEQUENCE_SUFFIXES = (".geojsonl", ".geojsonseq", ".geojsons", ".ndgeojson")
WGS84 = "EPSG:4326"

_MAGIC = (b"SQLite format 3\x00", b"fgb", b"\x00\x00\x27\x0a", b"PAR1", b"{", b"\x1e")
_BATCH = 16_384
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class LayerBatch:
    """Some rows of a layer.

    geometries: object [N], shapely geometries in two dimensions, None where a row has none.
    columns: N plain values (int, float, str, bool, None) by attribute, in file order.
    """

    geometries: np.ndarray
    columns: Mapping[str, list[Any]]


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """The first layer of a vector file, its rows not read yet.

    attributes: name and type (int, float, str, bool) of its attributes, in file order; what has
        another type (dates, lists, bytes) is read as text.
    as_text: attributes of such another type.
    crs_wkt: None when the file names no CRS, or is GeoJSON whose coordinates can only be pixels.
    """

    path: Path
    attributes: Mapping[str, type]
    as_text: tuple[str, ...]
    crs_wkt: str | None

    def require(self, column: str) -> None:
        """Raise UsageError when there is no such attribute."""
        _check_column(self.path, column, self.attributes)

    def batches(self) -> Iterator[LayerBatch]:
        """All rows in file order; memory does not grow with them, as far as the format's reader allows.

        Raises:
            InputError: the file is damaged.
        """
        if _is_empty_sequence(self.path):
            return
        try:
            for batch, geometry in self._arrow():
                wkb = batch.column(geometry).to_numpy(zero_copy_only=False)
                columns = {name: self._values(name, batch.column(name)) for name in self.attributes}
                yield LayerBatch(shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore")), columns)
        except (DataSourceError, DataLayerError, pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: cannot be read as a vector file: {error}") from error

    def _arrow(self) -> Iterator[tuple[pa.RecordBatch, str]]:
        """Record batches, and the name of the column with their geometry as WKB."""
        names = list(self.attributes)
        if _is_parquet(self.path):
            primary, _ = _parquet_geometry(self.path)
            for batch in pq.ParquetFile(self.path).iter_batches(_BATCH, columns=[*names, primary]):
                yield batch, primary
            return
        with pyogrio.raw.open_arrow(self.path, layer=0, columns=names, batch_size=_BATCH, use_pyarrow=True) as source:
            meta, reader = source
            geometry = meta["geometry_name"] or "wkb_geometry"
            for batch in reader:
                yield batch, geometry

    def _values(self, name: str, column: pa.Array) -> list[Any]:
        values: list[Any] = column.to_pylist()
        if name in self.as_text:
            return [None if value is None else str(value) for value in values]
        if pa.types.is_float32(column.type):
            # The shortest decimal that names a float32: 0.9, not 0.8999999761581421.
            return [None if value is None else float(str(np.float32(value))) for value in values]
        return values


def open_layer(path: str | Path, *, in_pixels: bool = True) -> Layer:
    """Say what the first layer of a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet file holds.

    Args:
        in_pixels: GeoJSON whose coordinates can be no degrees is in pixels; else it keeps its CRS, wrong as that is.

    Raises:
        InputError: missing, damaged or foreign file, or a layer without geometry.
    """
    path = Path(path)
    if _is_empty_sequence(path):
        return Layer(path, {}, (), WGS84)
    _check_kind(path)
    if _is_parquet(path):
        primary, crs = _parquet_geometry(path)
        schema = pq.read_schema(path)
        types = {name: _plain(schema.field(name).type) for name in schema.names if name != primary}
    else:
        info = _ogr_info(path, force_total_bounds=True)
        if info["geometry_type"] is None:
            raise InputError(f"{path}: its first layer has no geometry")
        crs = info["crs"]
        if in_pixels and info["driver"] in _ALWAYS_DEGREES and not _fit_degrees(info["total_bounds"], crs):
            _log.info("%s: its coordinates are no longitude and latitude, and are taken as pixels", path)
            crs = None
        types = {
            str(name): _OGR_TYPES.get(kind.split("(")[0] if sub != "OFSTBoolean" else "bool")
            for name, kind, sub in zip(info["fields"], info["ogr_types"], info["ogr_subtypes"], strict=True)
        }
    as_text = tuple(name for name, kind in types.items() if kind is None)
    if as_text:
        _log.info("%s: attributes read as text: %s", path, ", ".join(as_text))
    try:
        wkt = None if crs is None else parse_crs(crs).to_wkt()
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from error
    return Layer(path, {name: kind or str for name, kind in types.items()}, as_text, wkt)


def read_table(
    path: Path, required: str | None, wanted: Sequence[str]
) -> tuple[np.ndarray, Mapping[str, np.ndarray], str | None]:
    """Geometries and some columns of the first layer, all rows at once; curves come as the lines GDAL makes of them.

    Args:
        required: a column that must be there.
        wanted: columns that are left out where the file lacks them.

    Returns:
        object [N], geometries in two dimensions, None where a row has none or a damaged one; the values [N] of each
        column; the CRS as WKT, None when the file names none.

    Raises:
        InputError: missing, damaged or foreign file, or a layer without geometry.
        UsageError: no such column.
    """
    if _is_empty_sequence(path):
        return np.zeros(0, dtype=object), {}, WGS84
    _check_kind(path)
    if _is_parquet(path):
        wkb, values, crs = _parquet_table(path, required, wanted)
    else:
        names = _ogr_info(path)["fields"]
        _check_column(path, required, names)
        columns = [str(name) for name in names if name == required or name in wanted]
        try:
            meta, _, wkb, fields = pyogrio.raw.read(path, layer=0, columns=columns, force_2d=True)
        except (DataSourceError, DataLayerError) as error:
            raise InputError(f"{path}: cannot be read as a vector file: {error}") from error
        if wkb is None:
            raise InputError(f"{path}: its first layer has no geometry")
        values, crs = dict(zip([str(name) for name in meta["fields"]], fields, strict=True)), meta["crs"]
    return shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore")), values, crs


def _parquet_table(
    path: Path, required: str | None, wanted: Sequence[str]
) -> tuple[np.ndarray, Mapping[str, np.ndarray], str | None]:
    """WKB [N], values [N] by column, CRS."""
    primary, wkt = _parquet_geometry(path)
    try:
        names = [name for name in pq.read_schema(path).names if name != primary]
        _check_column(path, required, names)
        columns = [name for name in names if name == required or name in wanted]
        table = pq.read_table(path, columns=[primary, *columns])
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a GeoParquet file: {error}") from error
    values = {name: np.array(table[name].to_pylist(), dtype=object) for name in columns}
    return np.array(table[primary].to_pylist(), dtype=object), values, wkt


def check_degrees(
    geometries: Sequence[Any] | np.ndarray,
    crs: str,
    *,
    hint: str = "the file was written in another coordinate reference system: reproject it, or write it with its CRS",
) -> None:
    """Raise InputError, without the name of the file, for coordinates that by their CRS are degrees and cannot be."""
    bounds = shapely.total_bounds(geometries)
    if not _fit_degrees(bounds, crs):
        raise InputError(f"coordinates up to {np.abs(bounds).max():.0f} are not longitude and latitude", hint)


def _check_kind(path: Path) -> None:
    """Raise InputError when a path is no regular file of a kind that is read, known by its first bytes.

    Never by its name: GDAL would follow an XML file that describes a virtual source to any other
    file or host.
    """
    head = _head(path).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(_MAGIC):
        raise InputError(
            f"{path}: not a vector file that can be read",
            "GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet; unpack archives first",
        )


def _ogr_info(path: Path, **options: bool) -> dict[str, Any]:
    """What GDAL says of the first layer, unless it took the file for something that is not read here."""
    try:
        info = pyogrio.read_info(path, layer=0, **options)
    except (DataSourceError, DataLayerError) as error:
        raise InputError(f"{path}: cannot be read as a vector file: {error}") from error
    if info["driver"] not in READ_DRIVERS:
        raise InputError(f"{path}: {info['driver']} is not a vector format that is read here")
    return info


def _fit_degrees(bounds: Sequence[float] | None, crs: str | None) -> bool:
    """False when bounds (west, south, east, north) are in degrees by their CRS and cannot be; unknown ones fit."""
    if bounds is None or crs is None or not np.isfinite(bounds).all():
        return True
    per_degree = units_per_degree(parse_crs(crs))
    if per_degree is None:
        return True
    west, south, east, north = (bound / per_degree for bound in bounds)
    return bool(max(-west, east) <= 540 and max(-south, north) <= 90.001)


def _check_column(path: Path, column: str | None, known: Iterable[str]) -> None:
    """Raise UsageError when an attribute is asked for that is not known."""
    if column is not None and column not in (names := [str(name) for name in known]):
        raise UsageError(f"{path}: no attribute {column!r}", did_you_mean(column, names))


def _is_empty_sequence(path: Path) -> bool:
    """Whether a file holds no feature of a GeoJSON text sequence: it is empty, which GDAL takes for no file at all."""
    return path.suffix.lower() in _SEQUENCE_SUFFIXES and path.is_file() and path.stat().st_size == 0


def _is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does."""
    return _head(path).startswith(b"PAR1")


def _parquet_geometry(path: Path) -> tuple[str, str | None]:
    """The geometry column of a GeoParquet file and its CRS as WKT.

    Raises:
        InputError: damaged, not GeoParquet, or geometry that is not WKB.
    """
    try:
        # In the footer: the schema that Arrow stores beside it may lack it.
        geo = json.loads((pq.read_metadata(path).metadata or {})[b"geo"])
        primary = geo["primary_column"]
        described = geo["columns"][primary]
        if described["encoding"] != "WKB":
            raise InputError(f"{path}: geometry encoding {described['encoding']}, only WKB is read")
        crs = described.get("crs", "OGC:CRS84")
        return primary, None if crs is None else CRS.from_user_input(crs).to_wkt()
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a GeoParquet file: {error}") from error


_OGR_TYPES = {"bool": bool, "OFTInteger": int, "OFTInteger64": int, "OFTReal": float, "OFTString": str}


def _plain(kind: pa.DataType) -> type | None:
    """The Python type of an Arrow type, None where it has no plain one."""
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_integer(kind):
        return int
    if pa.types.is_floating(kind):
        return float
    return str if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(
                f"{path}: no such file", "vector input is a local .geojson, .geojsonl, .gpkg, .shp, .fgb or .parquet"
            )
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "check its permissions") from error
