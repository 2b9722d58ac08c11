"""The one module that reads vector files: what a file is, and its rows, batch by batch or some columns at once."""

from __future__ import annotations

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

from rsprompter_cli.documents import parse_json
from rsprompter_cli.errors import InputError, UsageError, did_you_mean
from rsprompter_cli.geo.layer_choice import SEVERAL, LayerHead, choose_layer
from rsprompter_cli.geo.lonlat import parse_crs, units_per_degree
from rsprompter_cli.geo.text import OPENED_AS, TextDecoder, is_shapefile, is_utf8, text_decoder

READ_DRIVERS = {"GeoJSON", "GeoJSONSeq", "TopoJSON", "GPKG", "ESRI Shapefile", "FlatGeobuf"}
"""GDAL's names of what is read; GeoParquet is read without it."""

_ALWAYS_DEGREES = {"GeoJSON", "GeoJSONSeq"}
"""Formats that cannot say that they hold pixels: without another CRS GDAL takes them for degrees."""

_SEQUENCE_SUFFIXES = (".geojsonl", ".geojsonseq", ".geojsons", ".ndgeojson")
WGS84 = "EPSG:4326"

LAYER_OPTION = "--layer"
"""The option of the command line that names a layer."""

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
    """A layer of a vector file, its rows not read yet.

    attributes: name and type (int, float, str, bool) of its attributes, in file order; what has
        another type (dates, lists, bytes) is read as text.
    as_text: attributes of such another type.
    crs_wkt: None when the file names no CRS, or is GeoJSON whose coordinates can only be pixels.
    name: of the layer; place: from 0, among those of the file. several: the file has other layers with geometry.
    plain_names: Arrow can hold the names of the attributes. text: decodes names and values.
    """

    path: Path
    attributes: Mapping[str, type]
    as_text: tuple[str, ...]
    crs_wkt: str | None
    name: str = ""
    place: int = 0
    several: bool = False
    plain_names: bool = True
    text: TextDecoder | None = None

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
        text = self.text or text_decoder(self.path)
        try:
            if not self.plain_names:
                yield self._whole(text)
                return
            for batch, geometry, fields in self._arrow(text):
                wkb = batch.column(geometry).to_numpy(zero_copy_only=False)
                columns = {name: self._values(name, batch.column(field), text) for name, field in fields.items()}
                yield LayerBatch(shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore")), columns)
        except (DataSourceError, DataLayerError, pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: cannot be read as a vector file: {error}") from error

    def _arrow(self, text: TextDecoder) -> Iterator[tuple[pa.RecordBatch, str, Mapping[str, str]]]:
        """Record batches, the name of the column with their geometry as WKB, and that of each attribute's column."""
        if _is_parquet(self.path):
            primary, _ = _parquet_geometry(self.path)
            fields = {name: name for name in self.attributes}
            for batch in pq.ParquetFile(self.path).iter_batches(_BATCH, columns=[*fields, primary]):
                yield batch, primary, fields
            return
        shapefile = is_shapefile(self.path)
        options: dict[str, Any] = {"encoding": OPENED_AS} if shapefile else {}
        with pyogrio.raw.open_arrow(
            self.path, layer=self.place, batch_size=_BATCH, use_pyarrow=True, **options
        ) as source:
            meta, reader = source
            geometry = meta["geometry_name"] or "wkb_geometry"
            named = [str(field) for field in meta["fields"]]
            fields = {text.restore(field) if shapefile else field: field for field in named}
            for batch in reader:
                yield batch, geometry, fields

    def _whole(self, text: TextDecoder) -> LayerBatch:
        """All rows at once: Arrow refuses names of attributes that are not UTF-8."""
        geometries, values, _ = _read_raw(self.path, self.place, None, text)
        columns: dict[str, list[Any]] = {}
        for name, array in values.items():
            plain = [None if value != value else value for value in array.tolist()]  # gaps are read as not-a-number
            as_text = name in self.as_text
            columns[name] = [None if value is None else str(value) for value in plain] if as_text else plain
        return LayerBatch(geometries, columns)

    def _values(self, name: str, column: pa.Array, text: TextDecoder) -> list[Any]:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return _decoded(column, text, restore=is_shapefile(self.path))
        values: list[Any] = column.to_pylist()
        if name in self.as_text:
            return [None if value is None else str(value) for value in values]
        if pa.types.is_float32(column.type):
            # The shortest decimal that names a float32: 0.9, not 0.8999999761581421.
            return [None if value is None else float(str(np.float32(value))) for value in values]
        return values


def open_layer(
    path: str | Path,
    *,
    in_pixels: bool = True,
    layer: str | Sequence[str] | None = None,
    option: str = LAYER_OPTION,
) -> Layer:
    """Say what a layer of a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet file holds.

    Args:
        in_pixels: GeoJSON whose coordinates can be no degrees is in pixels; else it keeps its CRS, wrong as that is.
        layer: name of the layer, or several names of which the file has one; see `choose_layer`. A file with one
            layer of features needs none.
        option: the command-line option that names the layer, for messages.

    Raises:
        InputError: missing, damaged or foreign file, or no layer with geometry.
        UsageError: several layers could be meant, or there is no layer of that name.
    """
    path = Path(path)
    if _is_empty_sequence(path):
        return Layer(path, {}, (), WGS84)
    _check_kind(path)
    plain_names, head, several = True, LayerHead(0, path.stem, "Unknown"), False
    text = text_decoder(path)
    if _is_parquet(path):
        choose_layer(path, [head], layer, count=lambda _place: 0, option=option)
        primary, crs = _parquet_geometry(path)
        schema = pq.read_schema(path)
        types = {name: _plain(schema.field(name).type) for name in schema.names if name != primary}
    else:
        info, head, several = _choose(path, layer, option, force_total_bounds=True)
        crs = info["crs"]
        if in_pixels and info["driver"] in _ALWAYS_DEGREES and not _fit_degrees(info["total_bounds"], crs):
            _log.info("%s: its coordinates are not longitude and latitude and are read as pixels", path)
            crs = None
        types = {
            text.restore(str(name)): _OGR_TYPES.get(kind.split("(")[0] if sub != "OFSTBoolean" else "bool")
            for name, kind, sub in zip(info["fields"], info["ogr_types"], info["ogr_subtypes"], strict=True)
        }
        plain_names = is_shapefile(path) or all(is_utf8(str(name)) for name in info["fields"])
    as_text = tuple(name for name, kind in types.items() if kind is None)
    if as_text:
        _log.info("%s: attributes are read as text: %s", path, ", ".join(as_text))
    try:
        wkt = None if crs is None else parse_crs(crs).to_wkt()
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from error
    attributes = {name: kind or str for name, kind in types.items()}
    return Layer(path, attributes, as_text, wkt, head.name, head.place, several, plain_names, text)


def require_layers(paths: Sequence[str | Path], names: Sequence[str], *, option: str = LAYER_OPTION) -> None:
    """Raise UsageError for a name of a layer that none of some files has."""
    known = [name for path in paths for name in _layer_names(Path(path))]
    for name in names:
        if name not in known:
            which = str(paths[0]) if len(paths) == 1 else "none of the files"
            says = "has no layer" if len(paths) == 1 else "has a layer"
            raise UsageError(f"{option} {name}: {which} {says} of that name", did_you_mean(name, known))


def _choose(
    path: Path, layer: str | Sequence[str] | None, option: str, **options: bool
) -> tuple[dict[str, Any], LayerHead, bool]:
    """What GDAL says of the layer to read, its head, and whether the file has other layers with geometry."""

    def count(place: int) -> int:
        return int(_ogr_info(path, place, force_feature_count=True)["features"])

    first = _ogr_info(path, 0, **options)  # a large GeoJSON file takes long, so it is opened once
    heads = _heads(path, first)
    head = choose_layer(path, heads, layer, count=count, option=option)
    info = first if head.place == 0 else _ogr_info(path, head.place, **options)
    return info, head, sum(one.geometry is not None for one in heads) > 1


def _heads(path: Path, first: Mapping[str, Any]) -> list[LayerHead]:
    """The layers of a file.

    Args:
        first: what GDAL says of the first one.
    """
    if first["driver"] not in SEVERAL:
        return [LayerHead(0, str(first["layer_name"]), first["geometry_type"])]
    try:
        listed = pyogrio.list_layers(path).tolist()
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a vector file: {error}") from error
    return [LayerHead(place, str(name), kind) for place, (name, kind) in enumerate(listed)]


def _layer_names(path: Path) -> list[str]:
    """Names of the layers that have a geometry."""
    if _is_empty_sequence(path):
        return [path.stem]
    _check_kind(path)
    if _is_parquet(path):
        return [path.stem]
    return [head.name for head in _heads(path, _ogr_info(path, 0)) if head.geometry is not None]


def read_table(
    path: Path,
    required: str | None,
    wanted: Sequence[str],
    *,
    layer: str | Sequence[str] | None = None,
    option: str = LAYER_OPTION,
) -> tuple[np.ndarray, Mapping[str, np.ndarray], str | None]:
    """Geometries and some columns of a layer, all rows at once; curves come as the lines GDAL makes of them.

    Args:
        required: a column that must be there.
        wanted: columns that are left out where the file lacks them.
        layer, option: see `open_layer`.

    Returns:
        object [N], geometries in two dimensions, None where a row has none or a damaged one; the values [N] of each
        column; the CRS as WKT, None when the file names none.

    Raises:
        InputError: missing, damaged or foreign file, or no layer with geometry.
        UsageError: no such column or layer, or several layers that could be meant.
    """
    if _is_empty_sequence(path):
        return np.zeros(0, dtype=object), {}, WGS84
    _check_kind(path)
    if _is_parquet(path):
        whole = LayerHead(0, path.stem, "Unknown")
        choose_layer(path, [whole], layer, count=lambda _place: 0, option=option)
        wkb, values, crs = _parquet_table(path, required, wanted)
        return shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore")), values, crs
    text = text_decoder(path)
    info, head, _ = _choose(path, layer, option)
    fields = [str(field) for field in info["fields"]]
    names = [text.restore(field) for field in fields]
    _check_column(path, required, names)
    columns = [field for field, name in zip(fields, names, strict=True) if name == required or name in wanted]
    return _read_raw(path, head.place, columns, text)


def _read_raw(
    path: Path, place: int, columns: list[str] | None, text: TextDecoder
) -> tuple[np.ndarray, Mapping[str, np.ndarray], str | None]:
    """What `read_table` returns, of columns that are named as `OPENED_AS` has them; None: all."""
    try:
        meta, _, wkb, arrays = pyogrio.raw.read(path, layer=place, columns=columns, force_2d=True, encoding=OPENED_AS)
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a vector file: {error}") from error
    values = {text.restore(str(field)): array for field, array in zip(meta["fields"], arrays, strict=True)}
    for array in values.values():
        if array.dtype == object:
            array[:] = [text.restore(value) if isinstance(value, str) else value for value in array]
    return shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore")), values, meta["crs"]


def _decoded(column: pa.Array, text: TextDecoder, *, restore: bool) -> list[str | None]:
    """The values of an Arrow column of text, whose bytes need not be UTF-8.

    Args:
        restore: the file was opened with `OPENED_AS`.
    """
    if restore:
        return [None if value is None else text.restore(value) for value in column.to_pylist()]
    try:
        column.validate(full=True)
    except pa.ArrowException:
        kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [None if value is None else text.decode(value) for value in column.cast(kind).to_pylist()]
    values: list[str | None] = column.to_pylist()
    return values


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
        raise InputError(f"{path}: is not a GeoParquet file: {error}") from error
    values = {name: _parquet_values(table[name].combine_chunks(), text_decoder(path)) for name in columns}
    return np.array(table[primary].to_pylist(), dtype=object), values, wkt


def _parquet_values(column: pa.Array, text: TextDecoder) -> np.ndarray:
    """object [N]."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return np.array(_decoded(column, text, restore=False) if is_text else column.to_pylist(), dtype=object)


def check_degrees(
    geometries: Sequence[Any] | np.ndarray,
    crs: str,
    *,
    hint: str = "the file was written in another coordinate reference system: reproject it, or export it with its CRS",
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
            f"{path}: is not a vector file in a supported format",
            "supported are GeoJSON, GeoPackage, Shapefile, FlatGeobuf and GeoParquet; unpack archives first",
        )


def _ogr_info(path: Path, place: int, **options: bool) -> dict[str, Any]:
    """What GDAL reports of a layer, names of attributes as `OPENED_AS` has them.

    Raises:
        InputError: damaged, or GDAL opened the file with a driver that is not supported.
    """
    try:
        info = pyogrio.read_info(path, layer=place, encoding=OPENED_AS, **options)
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a vector file: {error}") from error
    if info["driver"] not in READ_DRIVERS:
        raise InputError(f"{path}: {info['driver']} is not a supported vector format")
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
        raise UsageError(f"{path}: has no attribute {column!r}", did_you_mean(column, names))


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
        geo = parse_json((pq.read_metadata(path).metadata or {})[b"geo"], path)
        primary = geo["primary_column"]
        described = geo["columns"][primary]
        if described["encoding"] != "WKB":
            raise InputError(f"{path}: has geometries encoded as {described['encoding']}, only WKB is supported")
        crs = described.get("crs", "OGC:CRS84")
        return primary, None if crs is None else CRS.from_user_input(crs).to_wkt()
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: is not a GeoParquet file: {error}") from error


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
            source, mark, layer = str(path).partition("|layername=")
            hint = "vector input must be a local .geojson, .geojsonl, .gpkg, .shp, .fgb or .parquet file"
            raise InputError(f"{path}: no such file", f"write {source} {LAYER_OPTION} {layer}" if mark else hint)
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", "check its permissions") from error
