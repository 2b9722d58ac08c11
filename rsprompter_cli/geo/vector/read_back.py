"""Whether a vector file holds what was written to it.

GDAL's writers of FlatGeobuf and Shapefile ignore errors of some of their writes, so that a full disk can leave a file
that ends early, or has a hole, without a word. Of a GeoPackage it ignores that a part of its description could not be
written: the coordinate reference system, the spatial index, the name of the format. GeoParquet is Arrow's, which
reports every error.
"""

from __future__ import annotations

import sqlite3
import struct
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import shapely

_ROWS_AT_ONCE = 4096
_GPKG_MARKS = slice(60, 72)
"""Of the head of a database: the version and the name of its format."""

_NOT_DELETED = 0x20
"""First byte of each row of a .dbf."""


class FeatureCount:
    """Counts features and sums up their vertices, whatever their order and that of their rings.

    features: how many. vertices: a sum of hashes of all x and y.
    """

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.features = 0
        self.vertices = 0

    def add(self, geometries: np.ndarray) -> None:
        """Count geometries, object [N]."""
        self.features += len(geometries)
        x, y = np.ascontiguousarray(shapely.get_coordinates(geometries).T).view(np.uint64)
        mixed = (x ^ (x >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ y ^ (y >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        self.vertices = (self.vertices + int((mixed ^ (mixed >> np.uint64(32))).sum(dtype=np.uint64))) % 2**64

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureCount) and (self.features, self.vertices) == (other.features, other.vertices)

    __hash__ = None  # type: ignore[assignment]


def is_whole(path: Path, written: FeatureCount, *, placed: bool) -> bool:
    """Read a FlatGeobuf or Shapefile that was just written.

    Args:
        written: what it should hold.
        placed: whether it has a coordinate reference system.
    """
    if path.suffix.lower() == ".shp" and not _has_whole_companions(path, placed=placed):
        return False
    found = FeatureCount()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            pyogrio.raw.open_arrow(path, columns=[], batch_size=_ROWS_AT_ONCE, use_pyarrow=True) as (facts, reader),
        ):
            for batch in reader:
                column = batch.column(facts["geometry_name"] or "wkb_geometry")
                found.add(shapely.from_wkb(column.to_numpy(zero_copy_only=False)))
    except (RuntimeError, OSError, ValueError, pa.ArrowException, shapely.errors.ShapelyError):
        return False
    return found == written


def is_whole_geopackage(path: Path, written: FeatureCount, empty: bytes) -> bool:
    """Compare a GeoPackage that was just written with one that describes the same layer without features.

    Args:
        written: what it should hold.
        empty: the content of the other, which was written in memory.
    """
    with path.open("rb") as stream:
        if stream.read(72)[_GPKG_MARKS] != empty[_GPKG_MARKS]:
            return False
    try:
        location = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(location, uri=True)) as base, closing(sqlite3.connect(":memory:")) as other:
            other.deserialize(empty)
            one, two = _Description(base), _Description(other)
            if one.parts != two.parts:
                return False
            rows = [base.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in one.tables]  # noqa: S608
    except (sqlite3.Error, ValueError):
        return False
    return {one.counted, *rows} == {written.features} and (one.has_extent or not written.features)


class _Description:
    """What a GeoPackage says of its only layer.

    parts: tables, indices and triggers, and all that stays the same whatever the layer holds.
    tables: those of the layer and of its spatial index, quoted. counted: how many features it notes.
    has_extent: whether it notes where they lie.
    """

    def __init__(self, base: sqlite3.Connection) -> None:
        def read(query: str) -> list[tuple[Any, ...]]:
            return base.execute(query).fetchall()

        ((layer, column),) = read("SELECT table_name, column_name FROM gpkg_geometry_columns")
        self.tables = ['"' + name.replace('"', '""') + '"' for name in (layer, f"rtree_{layer}_{column}")]
        ((self.counted,),) = read("SELECT feature_count FROM gpkg_ogr_contents")
        ((extent,),) = read("SELECT min_x FROM gpkg_contents")
        self.has_extent = extent is not None
        self.parts = [
            read("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"),
            read("SELECT * FROM gpkg_spatial_ref_sys ORDER BY srs_id"),
            read("SELECT * FROM gpkg_geometry_columns"),
            read("SELECT * FROM gpkg_extensions ORDER BY rowid"),
            read("SELECT table_name, data_type, identifier, srs_id FROM gpkg_contents"),
        ]


def _has_whole_companions(path: Path, *, placed: bool) -> bool:
    """Whether the files of a Shapefile are as long as they say, without a hole in the table."""
    for suffix in (".shp", ".shx"):
        file = path.with_suffix(suffix)
        with file.open("rb") as stream:
            head = stream.read(28)
        if len(head) < 28 or 2 * struct.unpack_from(">I", head, 24)[0] != file.stat().st_size:
            return False
    table = path.with_suffix(".dbf")
    with table.open("rb") as stream:
        head = stream.read(12)
    if len(head) < 12:
        return False
    rows, start, width = struct.unpack_from("<IHH", head, 4)
    if not start or not width or table.stat().st_size < start + rows * width:
        return False
    if rows and (np.memmap(table, np.uint8, "r", start, (rows, width))[:, 0] != _NOT_DELETED).any():
        return False
    return not placed or (path.with_suffix(".prj").is_file() and path.with_suffix(".prj").stat().st_size > 0)
