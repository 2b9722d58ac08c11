"""The one module that reads vector files: what a file is, and its rows, batch by batch or some columns at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from pyproj import CRS

from rsprompter_cli.errors import InputError, UsageError, did_you_mean, plural
from rsprompter_cli.geo.crs import parse_crs, units_per_degree
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.geometry import object_array
from rsprompter_cli.geo.vector.formats.geojson_check import SEQUENCE_SUFFIXES
from rsprompter_cli.geo.vector.formats.limits import ATTRIBUTES, limit, over_limit, reading
from rsprompter_cli.geo.vector.formats.parquet import (
    is_text,
    parquet_batches,
    parquet_geometry,
    parquet_types,
    shared_values,
    text_values,
    wkb_sizes,
)
from rsprompter_cli.geo.vector.formats.source import GEOPACKAGE, LAYER_OPTION, VectorSource, admit, gdal, is_parquet
from rsprompter_cli.geo.vector.formats.text import OPENED_AS, TextDecoder, is_shapefile, is_utf8, text_decoder
from rsprompter_cli.geo.vector.formats.wkb import GeometryReader
from rsprompter_cli.geo.vector.layer_choice import SEVERAL, LayerHead, check_column, choose_layer

_ALWAYS_DEGREES = {"GeoJSON", "GeoJSONSeq"}
"""Formats that cannot say that they hold pixels: without another CRS GDAL takes them for degrees."""

WGS84 = "EPSG:4326"

_BATCH = 16_384
_CELLS = 4_000_000
"""Values of a batch: of many attributes fewer rows are read at once."""

_SHOWN = 12

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
        check_column(self.path, column, self.attributes)

    def batches(self) -> Iterator[LayerBatch]:
        """All rows in file order; memory does not grow with them, as far as the format's reader allows.

        Raises:
            InputError: the file is damaged.
        """
        if _is_empty_sequence(self.path):
            return
        text = self.text or text_decoder(self.path)
        with reading(self.path):
            reader = GeometryReader(self.path)
            if not self.plain_names:
                yield self._whole(text, reader)
                return
            for batch, geometry, fields in self._arrow(text):
                geometries = _geometries(batch.column(geometry), reader)
                columns = {name: self._values(name, batch.column(field), text) for name, field in fields.items()}
                yield LayerBatch(geometries, columns)

    def _arrow(self, text: TextDecoder) -> Iterator[tuple[pa.RecordBatch, str, Mapping[str, str]]]:
        """Record batches, the name of the column with their geometry as WKB, and that of each attribute's column."""
        rows = min(_BATCH, max(64, _CELLS // (len(self.attributes) + 1)))
        if is_parquet(self.path):
            primary, _ = parquet_geometry(self.path)
            fields = {name: name for name in self.attributes}
            for batch in parquet_batches(self.path, rows, list(fields), primary):
                yield batch, primary, fields
            return
        shapefile = is_shapefile(self.path)
        source = admit(self.path)
        options: dict[str, Any] = {**source.options, **({"encoding": OPENED_AS} if shapefile else {})}
        layer = _layer_key(source, LayerHead(self.place, self.name, None))
        with gdal(source):
            opened = pyogrio.raw.open_arrow(source.name, layer=layer, batch_size=rows, use_pyarrow=True, **options)
            meta, reader = opened.__enter__()
        try:
            geometry = meta["geometry_name"] or "wkb_geometry"
            named = [str(field) for field in meta["fields"]]
            fields = {text.restore(field) if shapefile else field: field for field in named}
            while True:
                with gdal(source):
                    batch = next(reader, None)
                if batch is None:
                    return
                yield batch, geometry, fields
        finally:
            opened.__exit__(None, None, None)

    def _whole(self, text: TextDecoder, reader: GeometryReader) -> LayerBatch:
        """All rows at once: Arrow refuses names of attributes that are not UTF-8."""
        head = LayerHead(self.place, self.name, None)
        wkb, values, _ = _read_raw(admit(self.path), head, None, text)
        columns: dict[str, list[Any]] = {}
        for name, array in values.items():
            plain = [None if value != value else value for value in array.tolist()]  # gaps are read as not-a-number
            as_text = name in self.as_text
            columns[name] = [None if value is None else str(value) for value in plain] if as_text else plain
        return LayerBatch(reader.take(wkb), columns)

    def _values(self, name: str, column: pa.Array, text: TextDecoder) -> list[Any]:
        if is_text(column.type):
            return text_values(column, text, restore=is_shapefile(self.path))
        values = shared_values(column)
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
    source = admit(path)
    plain_names, head, several = True, LayerHead(0, path.stem, "Unknown"), False
    text = text_decoder(path)
    if is_parquet(path):
        choose_layer(path, [head], layer, count=lambda _place: 0, option=option)
        primary, crs = parquet_geometry(path)
        types = parquet_types(path, primary)
    else:
        info, head, several = _choose(source, layer, option, force_total_bounds=source.driver in _ALWAYS_DEGREES)
        crs = _stated_crs(source, info)
        if in_pixels and source.driver in _ALWAYS_DEGREES and not _fit_degrees(path, info["total_bounds"], crs):
            _log.info("%s: its coordinates are not longitude and latitude and are read as pixels", path)
            crs = None
        types = {
            text.restore(str(name)): _OGR_TYPES.get(kind.split("(")[0] if sub != "OFSTBoolean" else "bool")
            for name, kind, sub in zip(info["fields"], info["ogr_types"], info["ogr_subtypes"], strict=True)
        }
        plain_names = is_shapefile(path) or all(is_utf8(str(name)) for name in info["fields"])
    if len(types) > limit(ATTRIBUTES):
        raise over_limit(path, f"has {len(types):,} attributes, over {limit(ATTRIBUTES):,}")
    as_text = tuple(name for name, kind in types.items() if kind is None)
    if as_text:
        _log.info("%s: attributes are read as text: %s", path, ", ".join(as_text))
    wkt = None if crs is None else _parsed(path, crs).to_wkt()
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
    source: VectorSource, layer: str | Sequence[str] | None, option: str, **options: bool
) -> tuple[dict[str, Any], LayerHead, bool]:
    """What GDAL says of the layer to read, its head, and whether the file has other layers with geometry."""
    path = source.path
    if source.driver == GEOPACKAGE:
        heads = _heads(source, {})
        head = choose_layer(path, heads, layer, count=lambda place: source.tables[place].rows, option=option)
        info = _ogr_info(source, head, **options)
    else:
        start = LayerHead(0, path.stem, None)
        first = _ogr_info(source, start, **options)  # a large GeoJSON file takes long, so it is opened once
        heads = _heads(source, first)

        def count(place: int) -> int:
            return int(_ogr_info(source, heads[place], force_feature_count=True)["features"])

        head = choose_layer(path, heads, layer, count=count, option=option)
        info = first if head.place == 0 else _ogr_info(source, head, **options)
    return info, head, sum(one.geometry is not None for one in heads) > 1


def _heads(source: VectorSource, first: Mapping[str, Any]) -> list[LayerHead]:
    """The layers of a file.

    Args:
        first: what GDAL says of the first one; not needed of a GeoPackage.

    Raises:
        InputError: damaged, or all its layers are views.
    """
    if source.driver == GEOPACKAGE:
        if source.views:
            views = ", ".join(repr(name) for name in source.views[:_SHOWN])
            words = f"{plural(len(source.views), 'layer is a view', 'layers are views')} and not read: {views}"
            if not any(table.geometry for table in source.tables):
                raise InputError(f"{source.path}: {words}", "export it to a table, for example with ogr2ogr")
            _log.info("%s: %s", source.path, words)
        return [LayerHead(place, table.name, table.geometry) for place, table in enumerate(source.tables)]
    if source.driver not in SEVERAL:
        name = source.path.stem if source.linked else str(first["layer_name"])
        return [LayerHead(0, name, first["geometry_type"])]
    with gdal(source):
        listed = pyogrio.list_layers(source.name).tolist()
    return [LayerHead(place, str(name), kind) for place, (name, kind) in enumerate(listed)]


def _layer_names(path: Path) -> list[str]:
    """Names of the layers that have a geometry."""
    if _is_empty_sequence(path):
        return [path.stem]
    source = admit(path)
    if is_parquet(path):
        return [path.stem]
    first = {} if source.driver == GEOPACKAGE else _ogr_info(source, LayerHead(0, path.stem, None))
    return [head.name for head in _heads(source, first) if head.geometry is not None]


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
    source = admit(path)
    if is_parquet(path):
        whole = LayerHead(0, path.stem, "Unknown")
        choose_layer(path, [whole], layer, count=lambda _place: 0, option=option)
        return _parquet_table(path, required, wanted)
    text = text_decoder(path)
    info, head, _ = _choose(source, layer, option, force_total_bounds=source.address is not None)
    crs = _stated_crs(source, info)
    fields = [str(field) for field in info["fields"]]
    names = [text.restore(field) for field in fields]
    check_column(path, required, names)
    columns = [field for field, name in zip(fields, names, strict=True) if name == required or name in wanted]
    wkb, values, _ = _read_raw(source, head, columns, text)
    with reading(path):
        return GeometryReader(path).take(wkb), values, crs


def _read_raw(
    source: VectorSource, head: LayerHead, columns: list[str] | None, text: TextDecoder
) -> tuple[np.ndarray, Mapping[str, np.ndarray], str | None]:
    """WKB [N] and the rest of what `read_table` returns, of columns named as `OPENED_AS` has them; None: all."""
    options: dict[str, Any] = dict(source.options)
    if source.driver == GEOPACKAGE:
        options["where"] = "1 = 1"  # else GDAL believes the number of rows that the file states
    with gdal(source):
        meta, _, wkb, arrays = pyogrio.raw.read(
            source.name,
            layer=_layer_key(source, head),
            columns=columns,
            force_2d=True,
            encoding=OPENED_AS,
            **options,
        )
    values = {text.restore(str(field)): array for field, array in zip(meta["fields"], arrays, strict=True)}
    for array in values.values():
        if array.dtype == object:
            array[:] = [text.restore(value) if isinstance(value, str) else value for value in array]
    return wkb, values, meta["crs"]


def _parquet_table(
    path: Path, required: str | None, wanted: Sequence[str]
) -> tuple[np.ndarray, Mapping[str, np.ndarray], str | None]:
    """What `read_table` returns."""
    primary, wkt = parquet_geometry(path)
    names = list(parquet_types(path, primary))
    check_column(path, required, names)
    columns = [name for name in names if name == required or name in wanted]
    text, values = text_decoder(path), {name: list[Any]() for name in columns}
    found: list[np.ndarray] = []
    with reading(path):
        geometries = GeometryReader(path)
        for batch in parquet_batches(path, _BATCH, columns, primary):
            found.append(_geometries(batch.column(primary), geometries))
            for name in columns:
                column = batch.column(name)
                plain = text_values(column, text, restore=False) if is_text(column.type) else shared_values(column)
                values[name].extend(plain)
    together = np.concatenate(found) if found else np.zeros(0, dtype=object)
    return together, {name: object_array(column) for name, column in values.items()}, wkt


def _geometries(column: pa.Array, reader: GeometryReader) -> np.ndarray:
    """object [N]."""
    reader.account(wkb_sizes(column))
    return reader.take(object_array(shared_values(column)))


def check_degrees(
    geometries: Sequence[Any] | np.ndarray,
    crs: str,
    *,
    hint: str = "the file was written in another coordinate reference system: reproject it, or export it with its CRS",
) -> None:
    """Raise InputError, without the name of the file, for coordinates that by their CRS are degrees and cannot be."""
    bounds = shapely.total_bounds(geometries)
    if not _fit_degrees(None, bounds, crs):
        raise InputError(f"coordinates up to {np.abs(bounds).max():.0f} are not longitude and latitude", hint)


def _layer_key(source: VectorSource, head: LayerHead) -> str | int:
    """What names a layer to pyogrio: in a GeoPackage, whose tables it may count otherwise, its name, else its place."""
    return head.name if source.driver == GEOPACKAGE else head.place


def _ogr_info(source: VectorSource, head: LayerHead, **options: bool) -> dict[str, Any]:
    """What GDAL reports of a layer, names of attributes as `OPENED_AS` has them.

    Raises:
        InputError: damaged, or GDAL opened the file with another driver than its own.
    """
    with gdal(source):
        info: dict[str, Any] = pyogrio.read_info(
            source.name, layer=_layer_key(source, head), encoding=OPENED_AS, **options, **source.options
        )
    if info["driver"] != source.driver:
        raise InputError(f"{source.path}: {info['driver']} is not a supported vector format")
    return info


def _stated_crs(source: VectorSource, info: Mapping[str, Any]) -> str | None:
    """The CRS of a layer; one that is a web address gives way to longitude and latitude, where they are that.

    Raises:
        InputError: they are not, or the CRS reads a grid from a file.
    """
    crs: str | None = info["crs"]
    if crs is not None:
        check_grids(crs, str(source.path))
    if source.address is None:
        return crs
    what = f"its coordinate reference system is a web address ({source.address}), which is not opened"
    if not _fit_degrees(source.path, info["total_bounds"], WGS84):
        raise InputError(
            f"{source.path}: {what}, and its coordinates are not longitude and latitude",
            "write it with the code of its CRS, for example ogr2ogr -a_srs EPSG:32633 out.gpkg in.geojson",
        )
    _log.warning("%s: %s; coordinates are read as longitude and latitude", source.path, what)
    return WGS84


def _parsed(path: Path, crs: str) -> CRS:
    try:
        return parse_crs(crs)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from error


def _fit_degrees(path: Path | None, bounds: Sequence[float] | None, crs: str | None) -> bool:
    """False when bounds (west, south, east, north) are in degrees by their CRS and cannot be; unknown ones fit."""
    if bounds is None or crs is None or not np.isfinite(bounds).all():
        return True
    per_degree = units_per_degree(parse_crs(crs) if path is None else _parsed(path, crs))
    if per_degree is None:
        return True
    west, south, east, north = (bound / per_degree for bound in bounds)
    return bool(max(-west, east) <= 540 and max(-south, north) <= 90.001)


def _is_empty_sequence(path: Path) -> bool:
    """Whether a file holds no feature of a GeoJSON text sequence: it is empty, which GDAL takes for no file at all."""
    return path.suffix.lower() in SEQUENCE_SUFFIXES and path.is_file() and path.stat().st_size == 0


_OGR_TYPES = {"bool": bool, "OFTInteger": int, "OFTInteger64": int, "OFTReal": float, "OFTString": str}
