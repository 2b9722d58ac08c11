"""What a GeoPackage holds, found out before GDAL opens it: the tables of features that can be read without surprises.

SQLite runs what a file says: a view can be an endless query, a virtual table can read other files, a computed column
can fill the memory, and a damaged tree can lead to the same rows for ever. Only plain tables are read, and only after
one walk along their keys.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsprompter_cli.errors import InputError, shorten
from rsprompter_cli.geo.vector_limits import limit, over_limit, reading

_SYSTEM_ROWS = 100_000
_ENTRIES = 20_000
_SECONDS = 10
_BYTES_PER_SECOND = 20e6
_LONGEST_VALUE = 256 << 20
_ROWS_AT_ONCE = 65_536
_HARMLESS_MODULES = ("rtree", "fts3", "fts4", "fts5")
_HARMLESS_FUNCTIONS = frozenset(
    {"abs", "coalesce", "ifnull", "iif", "nullif", "round", "sign", "lower", "upper", "trim", "ltrim", "rtrim"}
    | {"length", "substr", "substring", "min", "max", "typeof", "ceil", "ceiling", "floor", "sqrt", "pow", "power"}
    | {"instr", "date", "time", "datetime", "julianday"}
)
_BEFORE_BRACKETS = frozenset(
    {"as", "key", "check", "unique", "in", "and", "or", "not", "then", "else", "when", "case", "references", "values"}
    | {"varchar", "char", "text", "blob", "decimal", "numeric", "default", "geom", "boolean", "integer", "real"}
)
_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_MODULE = re.compile(r"^\s*CREATE\s+VIRTUAL\s+TABLE\b.*?\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE | re.DOTALL)
_TYPES = {
    name.upper(): name
    for name in (
        *("Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon", "GeometryCollection"),
        *("CircularString", "CompoundCurve", "CurvePolygon", "MultiCurve", "MultiSurface", "Curve", "Surface"),
    )
}
"""GDAL's names of geometry types by those of the format."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a GeoPackage that can be read.

    geometry: its type, None for a table of attributes. rows: how many it has.
    """

    name: str
    geometry: str | None
    rows: int


def feature_tables(path: Path) -> tuple[list[Table], list[str]]:
    """The tables that a GeoPackage lists and that are safe to read, and the names of the layers that are none.

    Raises:
        InputError: damaged, no GeoPackage, or made so that reading it runs what it says.
        InputError: over a limit.
    """
    with reading(path, what="cannot be read as a GeoPackage"):
        # A log beside the file may hold its newest rows; without one the file is read as it is.
        logged = any(path.with_name(path.name + end).is_file() for end in ("-wal", "-journal"))
        address = f"{path.resolve().as_uri()}?mode=ro{'' if logged else '&immutable=1'}"
        deadline = time.monotonic() + limit(_SECONDS + path.stat().st_size / _BYTES_PER_SECOND)
        with closing(sqlite3.connect(address, uri=True)) as base:
            base.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
            base.text_factory = bytes
            base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            base.execute("PRAGMA trusted_schema = OFF")
            try:
                return _tables(path, base)
            except sqlite3.OperationalError as error:
                if "interrupted" in str(error):
                    raise over_limit(path, "its tables take too long to look through") from error
                raise


def _tables(path: Path, base: sqlite3.Connection) -> tuple[list[Table], list[str]]:
    kinds = _schema(path, base)
    for name, kind in kinds.items():
        if name.startswith("gpkg_"):
            if kind != "table":
                raise InputError(f"{path}: its {name} is a {kind}, not a table", "export it again with ogr2ogr")
            _count_rows(path, base, name, limit(_SYSTEM_ROWS))
    if "gpkg_contents" not in kinds:
        raise InputError(f"{path}: is an SQLite database, but not a GeoPackage")
    types: dict[str, str] = {}
    if "gpkg_geometry_columns" in kinds:
        found = base.execute("SELECT table_name, geometry_type_name FROM gpkg_geometry_columns")
        types = {_name(table).lower(): _name(kind) for table, kind in found}
    tables: list[Table] = []
    others: list[str] = []
    for raw, content in base.execute("SELECT table_name, data_type FROM gpkg_contents").fetchall():
        name = _name(raw, strict=path)
        spatial = content == b"features" and name.lower() in types
        if not spatial and content not in (b"attributes", b"aspatial"):
            continue
        if kinds.get(name.lower()) != "table":
            others.append(name)
            continue
        rows = 0
        if spatial:
            _refuse_functions(path, base, name)
            rows = _count_rows(path, base, name, path.stat().st_size)
        tables.append(Table(name, _TYPES.get(types[name.lower()].upper(), "Unknown") if spatial else None, rows))
    return tables, others


def _schema(path: Path, base: sqlite3.Connection) -> dict[str, str]:
    """What there is of each name, in lower case: a table, a view or a virtual table."""
    entries = base.execute("SELECT type, name, sql FROM sqlite_master LIMIT ?", (limit(_ENTRIES) + 1,)).fetchall()
    if len(entries) > limit(_ENTRIES):
        raise over_limit(path, f"it has more than {limit(_ENTRIES):,} tables, views and indexes")
    kinds: dict[str, str] = {}
    for kind, name, sql in entries:
        if kind not in (b"table", b"view"):
            continue
        module = _MODULE.match(_name(sql or b""))
        if module and module[1].lower() not in _HARMLESS_MODULES:
            raise InputError(
                f"{path}: has a virtual table {shorten(_name(name))!r} ({module[1]}), which can read other files",
                "export its features to a new GeoPackage with ogr2ogr if you trust it",
            )
        kinds[_name(name).lower()] = "virtual table" if module else _name(kind)
    return kinds


def _refuse_functions(path: Path, base: sqlite3.Connection, table: str) -> None:
    """Raise InputError when a column of a table is computed by functions that can take any time or memory."""
    columns = base.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
    if not any(hidden in (2, 3) for *_, hidden in columns):
        return
    ((statement,),) = base.execute("SELECT sql FROM sqlite_master WHERE lower(name) = ?", (table.lower(),)).fetchall()
    # SQLite resolves such an expression as it reads the schema and asks no authorizer: its words tell what it calls.
    plain = _COMMENT.sub(" ", _name(statement)).translate(str.maketrans("", "", "\"'`[]")).lower()
    called = set(re.findall(r"(\w+)\s*\(", plain)) - _HARMLESS_FUNCTIONS - _BEFORE_BRACKETS
    called -= set(re.findall(r"\w+", table.lower()))
    if called:
        words = ", ".join(sorted(called))
        raise InputError(
            f"{path}: layer {table!r} has columns computed with {words}, which are not evaluated",
            "export it to a new GeoPackage with ogr2ogr if you trust it",
        )


def _count_rows(path: Path, base: sqlite3.Connection, table: str, most: int) -> int:
    """The rows of a table, in which every key must be greater than the one before, along each of its indexes once."""
    columns = {_name(row[1]).lower() for row in base.execute(f"PRAGMA table_xinfo({_quoted(table)})")}
    key = next((name for name in ("rowid", "_rowid_", "oid") if name not in columns), None)
    if key is None:
        raise InputError(f"{path}: table {table!r} has no row numbers and is not read")
    rows, last = 0, -(1 << 63) - 1
    for keys in _keys(base, f"SELECT {key} FROM {_quoted(table)} NOT INDEXED"):  # noqa: S608
        rows += len(keys)
        if keys[0] <= last or (keys[1:] <= keys[:-1]).any():
            raise InputError(f"{path}: is damaged: table {table!r} has rows twice")
        if rows > most:
            raise over_limit(path, f"table {table!r} has more than {most:,} rows")
        last = int(keys[-1])
    for row in base.execute(f"PRAGMA index_list({_quoted(table)})").fetchall():
        seen = 0
        try:
            for keys in _keys(base, f"SELECT {key} FROM {_quoted(table)} INDEXED BY {_quoted(_name(row[1]))}"):  # noqa: S608
                seen += len(keys)
                if seen > rows:
                    raise InputError(f"{path}: is damaged: an index of table {table!r} has rows twice")
        except sqlite3.OperationalError as error:
            if "no query solution" not in str(error):  # of an index that covers some rows
                raise
    return rows


def _keys(base: sqlite3.Connection, query: str) -> Iterator[np.ndarray]:
    cursor = base.execute(query)
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield np.array([key for (key,) in rows], dtype=np.int64)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _name(raw: object, *, strict: Path | None = None) -> str:
    if not isinstance(raw, bytes):
        return str(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        if strict is not None:
            raise InputError(f"{strict}: has a layer whose name is not UTF-8", "rename it and export again") from None
        return raw.decode("utf-8", errors="replace")
