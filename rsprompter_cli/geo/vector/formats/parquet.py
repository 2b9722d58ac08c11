"""GeoParquet as it is read: its geometry column and CRS from the footer, its rows batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyproj import CRS
from pyproj.exceptions import ProjError

from rsprompter_cli.documents import parse_json
from rsprompter_cli.errors import InputError, plural
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.vector.formats.limits import GROWTH, limit, over_limit, reading
from rsprompter_cli.geo.vector.formats.parquet_pages import largest_page
from rsprompter_cli.geo.vector.formats.text import TextDecoder

NO_GEOPARQUET = "is not a GeoParquet file"
_SPARE_BYTES = 64 << 20
_SPARE_ROWS = 1_000_000
_VALUE_BYTES, _GEOMETRY_BYTES = (64 << 20, 4 << 10), (256 << 20, 64 << 10)
"""Bytes that a part of a column may take always, and further ones for each of its values."""

_REPEATED_BYTES = 64 << 20
"""Of the values decoded at once that repeat the beginning of the one before them."""


def parquet_geometry(path: Path) -> tuple[str, str | None]:
    """The geometry column of a GeoParquet file and its CRS as WKT.

    Raises:
        InputError: damaged, not GeoParquet, geometry that is not WKB, a damaged CRS, or over a limit.
    """
    with reading(path, what=NO_GEOPARQUET):
        # In the footer: the schema that Arrow stores beside it may lack it.
        metadata = pq.read_metadata(path)
        _check_size(path, metadata)
        geo = parse_json((metadata.metadata or {})[b"geo"], path)
        primary = geo["primary_column"]
        described = geo["columns"][primary]
        if described["encoding"] != "WKB":
            raise InputError(f"{path}: has geometries encoded as {described['encoding']}, only WKB is supported")
        crs = described.get("crs", "OGC:CRS84")
        if primary not in pq.read_schema(path).names:
            raise InputError(f"{path}: is damaged: it has no column {primary!r}")
    if crs is None:
        return primary, None
    check_grids(json.dumps(crs), str(path))
    try:
        wkt = CRS.from_user_input(crs).to_wkt()
    except (ProjError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(
            f"{path}: its coordinate reference system is damaged", "write it again with a CRS, or as .gpkg"
        ) from error
    return primary, wkt


def parquet_types(path: Path, primary: str) -> dict[str, type | None]:
    """The Python type of each attribute, None where it has no plain one."""
    with reading(path, what=NO_GEOPARQUET):
        schema = pq.read_schema(path)
        return {name: _plain(schema.field(name).type) for name in schema.names if name != primary}


def parquet_batches(path: Path, rows: int, columns: Sequence[str], primary: str) -> Iterator[pa.RecordBatch]:
    """The rows of some columns, so many at a time; text and geometry are dictionaries.

    A value that stands once in the file and belongs to a million rows is in memory once, too.
    """
    schema = pq.read_schema(path)
    most, plain = _look_at_pages(path, columns, primary)
    rows = min(rows, most)
    dictionaries = [name for name in (*columns, primary) if _is_bytes(schema.field(name).type) and name not in plain]
    with pq.ParquetFile(path, read_dictionary=dictionaries) as file:
        repeated = 0
        for batch in file.iter_batches(rows, columns=[*columns, primary]):
            repeated += sum(int(batch.column(name).nbytes) for name in plain)
            if repeated > limit(GROWTH) * path.stat().st_size + _SPARE_BYTES:
                raise over_limit(path, f"its features are over {limit(GROWTH)} times as large as the file")
            yield batch


def _look_at_pages(path: Path, columns: Sequence[str], primary: str) -> tuple[int, set[str]]:
    """How many rows may be decoded at once, and the columns that Arrow cannot read as dictionaries.

    Raises:
        InputError: over a limit, or the pages are larger than the footer states.
    """
    metadata, plain = pq.read_metadata(path), set[str]()
    repeating: dict[str, int] = {}
    with path.open("rb") as file:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for chunk in map(group.column, range(group.num_columns)):
                # Arrow reads all columns whose path begins with a name; a name may have dots itself.
                inner = chunk.path_in_schema
                names = [name for name in (*columns, primary) if inner == name or inner.startswith(f"{name}.")]
                if not names:
                    continue
                name = max(names, key=len)
                spare, each = _GEOMETRY_BYTES if name == primary else _VALUE_BYTES
                if chunk.total_uncompressed_size > limit(spare) + limit(each) * chunk.num_values:
                    values = plural(chunk.num_values, "value")
                    size = chunk.total_uncompressed_size
                    raise over_limit(path, f"column {name!r} takes {size:,} bytes of memory for {values}")
                largest = largest_page(file, chunk)
                if any(encoding.startswith("DELTA") for encoding in chunk.encodings):
                    plain.update(names)
                if "DELTA_BYTE_ARRAY" in chunk.encodings:
                    # A value repeats the beginning of the one before it, and is at most as long as a page.
                    repeating[name] = max(largest, repeating.get(name, 1))
    return max(1, limit(_REPEATED_BYTES) // max(1, sum(repeating.values()))), plain


def wkb_sizes(column: pa.Array) -> int:
    """Bytes of all values of a column of geometries, each counted as often as it stands in a row."""
    if not pa.types.is_dictionary(column.type):
        return 0
    lengths = np.array([len(one) for one in column.dictionary.to_pylist()], dtype=np.int64)
    indices = column.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(lengths[indices].sum()) if len(indices) else 0


def shared_values(column: pa.Array) -> list[Any]:
    """The values of a column, of a dictionary the same object for every row that has it."""
    if not pa.types.is_dictionary(column.type):
        values: list[Any] = column.to_pylist()
        return values
    known = column.dictionary.to_pylist()
    return [None if at is None else known[at] for at in column.indices.to_pylist()]


def text_values(column: pa.Array, text: TextDecoder, *, restore: bool) -> list[str | None]:
    """The values of an Arrow column of text, whose bytes need not be UTF-8.

    Args:
        restore: the file was opened with `OPENED_AS`.
    """
    if restore:
        return [None if value is None else text.restore(value) for value in column.to_pylist()]
    if pa.types.is_dictionary(column.type):
        known = text_values(column.dictionary, text, restore=False)
        return [None if at is None else known[at] for at in column.indices.to_pylist()]
    try:
        column.validate(full=True)
    except pa.ArrowException:
        kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [None if value is None else text.decode(value) for value in column.cast(kind).to_pylist()]
    values: list[str | None] = column.to_pylist()
    return values


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text, as a dictionary or not."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _plain(kind: pa.DataType) -> type | None:
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_integer(kind):
        return int
    if pa.types.is_floating(kind):
        return float
    return str if is_text(kind) else None


def _check_size(path: Path, metadata: pq.FileMetaData) -> None:
    """Raise InputError when a file states that its rows take far more memory than it has bytes."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    size = sum(group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns))
    most = limit(GROWTH) * path.stat().st_size + _SPARE_BYTES
    if not 0 <= size <= most:
        raise over_limit(path, f"its columns take {size:,} bytes of memory")
    if not 0 <= metadata.num_rows <= limit(GROWTH) * path.stat().st_size + _SPARE_ROWS:
        raise over_limit(path, f"promises {metadata.num_rows:,} rows")
