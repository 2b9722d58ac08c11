"""Vector formats that are tables: GeoPackage, FlatGeobuf, Shapefile through GDAL, GeoParquet through Arrow.

All are fed by one stream of record batches, so memory does not grow with the number of features,
and none writes the time of day, so the same features give the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import CRS

from rsprompter_cli.documents import parse_json
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.geometry import object_array
from rsprompter_cli.geo.vector.read_back import FeatureCount, is_whole, is_whole_geopackage
from rsprompter_cli.io.atomic import check_writable, not_written, temporary_beside
from rsprompter_cli.io.interrupt import deferred_interrupt

GEOMETRY = "geometry"
"""The column of geometries; no attribute can have this name in a table."""

_log = logging.getLogger(__name__)
_BATCH = 4096
_ROW_GROUP = 65_536
"""Features that a reader of GeoParquet takes or skips at once."""

_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".shp": "ESRI Shapefile"}
_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_SHAPEFILE_COMPANIONS = (".dbf", ".shx", ".prj", ".cpg", ".qix", ".sbn", ".sbx", ".qpj")
_FIXED_DATE = "2000-01-01T00:00:00.000Z"
"""What GDAL writes for "last change": the time of day would make equal runs differ."""


class Batches:
    """Features as Arrow record batches: WKB geometry and attributes.

    count, bounds, types: of what went through.
    """

    def __init__(self, features: Iterable[tuple[Any, Mapping[str, Any]]], attributes: Mapping[str, type]) -> None:
        """Features are (geometry, properties); attributes give name and type of the columns, in order."""
        self._features = iter(features)
        self._attributes = dict(attributes)
        self.schema = pa.schema(
            [*((name, _ARROW[kind]) for name, kind in self._attributes.items()), (GEOMETRY, pa.binary())]
        )
        self.count = FeatureCount()
        self.bounds: np.ndarray | None = None
        self.types: set[str] = set()
        self.failure: BaseException | None = None

    def read(self, *, multi: bool, before_each: Callable[[], None] = lambda: None) -> Iterator[pa.RecordBatch]:
        """The batches; with `multi` every polygon is written as a multipolygon of one.

        Args:
            before_each: what it raises ends the batches.
        """
        try:
            while chunk := list(islice(self._features, _BATCH)):
                before_each()
                yield self._batch(chunk, multi=multi)
        except BaseException as error:
            # GDAL only sees that the stream broke: keep the reason for who asked it to write.
            self.failure = error
            raise

    def _batch(self, chunk: list[tuple[Any, Mapping[str, Any]]], *, multi: bool) -> pa.RecordBatch:
        geometries = shapely.normalize(object_array([geometry for geometry, _ in chunk]))
        if multi:
            single = shapely.get_type_id(geometries) == shapely.GeometryType.POLYGON
            geometries[single] = shapely.multipolygons(geometries[single][:, None])
        self.types.update(geometry.geom_type for geometry in geometries)
        bounds = shapely.total_bounds(geometries)
        old = self.bounds if self.bounds is not None else bounds
        self.bounds = np.concatenate([np.minimum(old[:2], bounds[:2]), np.maximum(old[2:], bounds[2:])])
        self.count.add(geometries)
        columns = [
            pa.array([properties[name] for _, properties in chunk], _ARROW[kind])
            for name, kind in self._attributes.items()
        ]
        wkb = pa.array(shapely.to_wkb(geometries, byte_order=1), pa.binary())
        return pa.RecordBatch.from_arrays([*columns, wkb], schema=self.schema)


def write_ogr(path: Path, batches: Batches, crs_wkt: str | None, *, target: Path, quiet: bool = False) -> None:
    """Write a GeoPackage, FlatGeobuf or Shapefile under exactly this path.

    Args:
        target: where it is moved afterwards; names its layer, and the file in messages.
        quiet: GDAL's warnings are not repeated.

    Raises:
        OutputError: GDAL cannot write it, or what it wrote is not whole.
    """
    suffix = path.suffix.lower()
    driver = _DRIVERS[suffix]
    options: dict[str, Any] = (
        {"encoding": "UTF-8", "DBF_DATE_LAST_UPDATE": _FIXED_DATE[:10]} if suffix == ".shp" else {}
    )
    options |= {
        "layer": target.stem,
        "driver": driver,
        "geometry_name": GEOMETRY,
        "geometry_type": "Polygon" if suffix == ".shp" else "MultiPolygon",
        "crs": crs_wkt,
    }
    with deferred_interrupt() as check, _fixed_date(), warnings.catch_warnings(record=True) as said:
        stream = batches.read(multi=suffix != ".shp", before_each=check)
        reader = pa.RecordBatchReader.from_batches(batches.schema, stream)
        warnings.filterwarnings("always", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        try:
            pyogrio.write_arrow(reader, path, **options)
            if suffix == ".gpkg":
                described = BytesIO()
                pyogrio.write_arrow(pa.RecordBatchReader.from_batches(batches.schema, []), described, **options)
                whole = is_whole_geopackage(path, batches.count, described.getvalue())
            else:
                whole = is_whole(path, batches.count, placed=crs_wkt is not None)
        except RuntimeError as error:  # the parent of all of pyogrio's errors
            if batches.failure is not None:
                raise batches.failure from error
            check_writable(target)  # SQLite reports a full disk in other words
            raise not_written(target, RuntimeError(str(error).rpartition(" failed: ")[2])) from error
    if not whole:
        check_writable(target)
        raise not_written(target, RuntimeError("some writes failed; is the disk full?"))
    for warning in [] if quiet else said:  # GDAL's own, of a name cut to the ten letters of a Shapefile
        _log.warning("%s: %s", target.name, warning.message)


def write_shapefile(path: Path, batches: Batches, crs_wkt: str | None, *, quiet: bool = False) -> None:
    """Write a Shapefile and its companions.

    See `put_in_place` for what a reader sees meanwhile.
    """
    folder = temporary_beside(path)
    try:
        folder.mkdir(parents=True)
        encoding = (folder / path.name).with_suffix(".cpg")
        encoding.touch()  # GDAL 3.12 crashes where it cannot create this file
        write_ogr(folder / path.name, batches, crs_wkt, target=path, quiet=quiet)
        encoding.write_text("UTF-8", encoding="ascii")
        for file in folder.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        put_in_place(folder, path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(folder: Path, path: Path) -> None:
    """Move the files of a folder, `path` and its companions, to where `path` lies.

    Several files cannot be replaced in one step: an old .shp goes first and the new one comes
    last, so that a reader never sees one with companions of another. Companions of the old one that
    the new one lacks (an index, a CRS) are removed.

    Raises:
        OSError: a file cannot be removed or moved.
    """
    if path.suffix.lower() == ".shp":
        for old in written_files(path):
            old.unlink(missing_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: file.suffix.lower() == ".shp"):
        os.replace(file, path.parent / file.name)


def written_files(path: Path) -> list[Path]:
    """`path`, and of a Shapefile the companions that writing it makes, replaces or removes."""
    companions = _SHAPEFILE_COMPANIONS if path.suffix.lower() == ".shp" else ()
    return [path, *(path.with_suffix(suffix) for suffix in companions)]


def write_parquet(path: Path, batches: Batches, crs_wkt: str | None) -> None:
    """Write GeoParquet 1.1 (WKB column, PROJJSON CRS, bounds)."""
    with pq.ParquetWriter(path, batches.schema, compression="zstd") as writer:
        stream = batches.read(multi=False)
        while group := list(islice(stream, _ROW_GROUP // _BATCH)):
            writer.write_table(pa.Table.from_batches(group, batches.schema))
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(batches.types),
            # null says "no CRS"; leaving the key out would say longitude and latitude.
            "crs": None if crs_wkt is None else json.loads(CRS.from_wkt(crs_wkt).to_json()),
        }
        if batches.bounds is not None:
            column["bbox"] = batches.bounds.tolist()
        geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
        writer.add_key_value_metadata({"geo": json.dumps(geo, sort_keys=True, allow_nan=False)})


class WrittenParquet:
    """What `write_parquet` wrote, read back in pieces, so that memory does not grow with it.

    columns: names of the attributes. crs_wkt: of the geometries, None for pixels.
    """

    def __init__(self, path: Path) -> None:
        """Look at the head of a file."""
        self._path = path
        geo = parse_json(pq.read_metadata(path).metadata[b"geo"], path)
        crs = geo["columns"][GEOMETRY]["crs"]
        check_grids(json.dumps(crs), str(path))
        self.crs_wkt = None if crs is None else str(CRS.from_json_dict(crs).to_wkt())
        self.columns = [name for name in pq.read_schema(path).names if name != GEOMETRY]

    def read(self) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
        """Some features at a time: geometries [N] and N times their attributes."""
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                geometries = shapely.from_wkb(batch.column(GEOMETRY).to_numpy(zero_copy_only=False))
                yield geometries, batch.drop_columns([GEOMETRY]).to_pylist()


@contextmanager
def _fixed_date() -> Iterator[None]:
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _FIXED_DATE})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
