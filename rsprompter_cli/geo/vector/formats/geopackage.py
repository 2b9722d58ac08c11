"""What a GeoPackage holds, found out before GDAL opens it: the tables of features that can be read without surprises.

SQLite runs what a file says: a view can be an endless query, a virtual table can read other files, a computed column
or a long default can fill the memory, and a damaged tree can lead to the same rows for ever. Only plain tables are
read, and only after one walk along their keys. SQLite also writes to what it reads, when a log lies beside it: then a
copy is read.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rsprompter_cli.errors import InputError, shorten
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.vector.formats.limits import limit, over_limit, reading

_SYSTEM_ROWS = 100_000
_ENTRIES = 20_000
_SECONDS = 10
_BYTES_PER_SECOND = 20e6
_LONGEST_VALUE = 256 << 20
_HARMLESS_MODULES = ("rtree", "fts3", "fts4", "fts5")
_LOGS = ("-wal", "-journal")
"""What the name of a file ends in where SQLite keeps rows that are not in it yet."""

_JOURNAL_OF_SEVERAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""How a journal ends that names another file, which SQLite would delete."""

_LARGEST_PAGE = 1 << 16
_LENGTH_OF_NUMBERS = 3
"""Digits of a number, at most, for each byte that it takes in a row."""

_TERMS = 50
"""Of a sum in SQL: SQLite takes no expression that is nested over a thousand deep."""

_DEFAULTS_GROWTH = 20
"""Bytes that the defaults of a table, in each of its rows, may take for each of the file's own: a polygon takes some
150, so that two hundred columns may have a word each."""

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


def files_beside(path: Path) -> tuple[tuple[object, ...], ...]:
    """What tells a change of the files that SQLite keeps beside a GeoPackage.

    Raises:
        InputError: one of them is no regular file.
    """
    found: list[tuple[object, ...]] = []
    for end in (*_LOGS, "-shm"):
        beside = _beside(path, end)
        try:
            facts = beside.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(
                f"{path}: {shorten(beside.name)} beside it is not a regular file, so its latest changes cannot be read",
                "remove that, or copy the GeoPackage alone to another folder",
            )
        if end in _LOGS:
            found.append((end, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def has_log(path: Path) -> bool:
    """Whether a GeoPackage has rows in a log beside it, or had a writer that did not end."""
    files_beside(path)
    return any(log.is_file() and log.stat().st_size > 0 for log in (_beside(path, end) for end in _LOGS))


def copy_with_log(path: Path, copy: Path) -> None:
    """Copy a GeoPackage and what is in its log into one file; neither the GeoPackage nor its log is written to.

    Raises:
        InputError: changed at the same time, damaged, made to change other files, or there is no room for the copy.
    """
    with reading(path, what="cannot be read as a GeoPackage"):
        parts = {end: _beside(path, end) for end in ("", *_LOGS) if _beside(path, end).is_file()}
        before = {end: _facts(part) for end, part in parts.items()}
        size = sum(part.stat().st_size for part in parts.values())
        if size > shutil.disk_usage(copy.parent).free:
            raise InputError(
                f"{path}: has changes in a log, and {copy.parent.parent} has no room for a copy with them",
                "close the program that writes it, or set TMPDIR to another folder",
            )
        for end, part in parts.items():
            shutil.copyfile(part, _beside(copy, end))
        if {end: _facts(part) for end, part in parts.items()} != before:
            raise InputError(f"{path}: changed while it was read", "close the program that writes it")
        if "-journal" in parts and _names_another(_beside(copy, "-journal")):
            raise InputError(
                f"{path}: its journal {parts['-journal'].name} names another file, which is not opened",
                "ask for a GeoPackage that the program that wrote it has closed",
            )
        with closing(sqlite3.connect(f"{copy.as_uri()}?mode=rw", uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            base.execute("PRAGMA schema_version").fetchall()  # reads the file, and so undoes what is half done
            ((busy, logged, moved),) = base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy or logged != moved or copy.stat().st_size > size + _LARGEST_PAGE:
            raise InputError(f"{path}: the log beside it is damaged", "export it again with ogr2ogr")


def feature_tables(path: Path, content: Path | None = None) -> tuple[list[Table], list[str]]:
    """The tables that a GeoPackage lists and that are safe to read, and the names of the layers that are none.

    Args:
        path: for messages too.
        content: the copy to look at of a file with a log.

    Raises:
        InputError: damaged, no GeoPackage, or made so that reading it runs what it says.
        InputError: over a limit.
    """
    with reading(path, what="cannot be read as a GeoPackage"):
        content = path if content is None else content
        size = content.stat().st_size
        deadline = time.monotonic() + limit(_SECONDS + size / _BYTES_PER_SECOND)
        # Immutable: SQLite looks for no log and writes none.
        address = f"{content.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as base:
            base.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
            base.text_factory = bytes
            base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            base.execute("PRAGMA trusted_schema = OFF")
            try:
                return _tables(path, base, size)
            except sqlite3.OperationalError as error:
                if "interrupted" in str(error):
                    raise over_limit(path, "its tables take too long to look through") from error
                raise


def _tables(path: Path, base: sqlite3.Connection, size: int) -> tuple[list[Table], list[str]]:
    kinds = _schema(path, base)
    for key, kind in kinds.items():
        if key.startswith(b"gpkg"):
            system = _name(key)
            if kind != "table":
                raise InputError(f"{path}: its {system} is a {kind}, not a table", "export it again with ogr2ogr")
            defaults = _length_of_defaults(path, base, system)
            _check_defaults(
                path, system, defaults, _count_rows(path, base, system, size, limit(_SYSTEM_ROWS), defaults), size
            )
    if b"gpkg_contents" not in kinds:
        raise InputError(f"{path}: is an SQLite database, but not a GeoPackage")
    if b"gpkg_spatial_ref_sys" in kinds:
        for row in base.execute("SELECT * FROM gpkg_spatial_ref_sys"):
            for value in row:
                if isinstance(value, bytes):
                    check_grids(value.decode("utf-8", errors="replace"), str(path))
    types: dict[bytes, str] = {}
    if b"gpkg_geometry_columns" in kinds:
        found = base.execute("SELECT table_name, geometry_type_name FROM gpkg_geometry_columns")
        types = {_key(table): _name(kind) for table, kind in found}
    tables: list[Table] = []
    others: list[str] = []
    for raw, content in base.execute("SELECT table_name, data_type FROM gpkg_contents").fetchall():
        name = _name(raw, strict=path)
        spatial = content == b"features" and _key(raw) in types
        if not spatial and content not in (b"attributes", b"aspatial"):
            continue
        if kinds.get(_key(raw)) != "table":
            others.append(name)
            continue
        defaults, rows = _length_of_defaults(path, base, name), 0
        # A row takes a byte at least: short defaults of attributes, which are not read, need no count.
        if spatial or defaults > limit(_DEFAULTS_GROWTH):
            rows = _count_rows(path, base, name, size, size, defaults)
            _check_defaults(path, name, defaults, rows, size)
        tables.append(Table(name, _TYPES.get(types[_key(raw)].upper(), "Unknown") if spatial else None, rows))
    return tables, others


def _schema(path: Path, base: sqlite3.Connection) -> dict[bytes, str]:
    """What there is of each name, see `_key`: a table, a view or a virtual table."""
    entries = base.execute("SELECT type, name, sql FROM sqlite_master LIMIT ?", (limit(_ENTRIES) + 1,)).fetchall()
    if len(entries) > limit(_ENTRIES):
        raise over_limit(path, f"it has more than {limit(_ENTRIES):,} tables, views and indexes")
    kinds: dict[bytes, str] = {}
    for kind, name, sql in entries:
        if kind not in (b"table", b"view"):
            continue
        module = _MODULE.match(_name(sql or b""))
        if module and module[1].lower() not in _HARMLESS_MODULES:
            raise InputError(
                f"{path}: has a virtual table {shorten(_name(name))!r} ({module[1]}), which can read other files",
                "export its features to a new GeoPackage with ogr2ogr if you trust it",
            )
        kinds[_key(name)] = "virtual table" if module else _name(kind)
    return kinds


def _length_of_defaults(path: Path, base: sqlite3.Connection, table: str) -> int:
    """Bytes of the defaults of a table together, each of which a row that lacks the value has.

    Raises:
        InputError: a column is computed, which can take any time and memory, whatever the expression.
    """
    total = 0
    for _, name, _, _, default, _, hidden in base.execute(f"PRAGMA table_xinfo({_quoted(table)})"):
        if hidden in (2, 3):
            raise InputError(
                f"{path}: table {shorten(table)!r} has a computed column {shorten(_name(name))!r}, which is not "
                "evaluated",
                "export it to a new GeoPackage with ogr2ogr if you trust it",
            )
        total += 0 if default is None else len(default)
    return total


def _check_defaults(path: Path, table: str, defaults: int, rows: int, size: int) -> None:
    """Raise InputError where the defaults of a table, in each of its rows, take far more than the file."""
    most = limit(_DEFAULTS_GROWTH)
    if defaults * rows > most * size:
        raise over_limit(
            path, f"the default values of table {shorten(table)!r} are over {most} times as large as the file"
        )


def _count_rows(path: Path, base: sqlite3.Connection, table: str, size: int, most: int, defaults: int) -> int:
    """The rows of a table, in which every key must be greater than the one before, along each of its indexes once."""
    columns = {_name(row[1]).lower() for row in base.execute(f"PRAGMA table_xinfo({_quoted(table)})")}
    key = next((name for name in ("rowid", "_rowid_", "oid") if name not in columns), None)
    if key is None:
        raise InputError(f"{path}: table {table!r} has no row numbers and is not read")
    rows, last, stored = 0, -(1 << 63) - 1, 0
    # Row by row: the content of a row may be read to find its length, so that no more than the file is read.
    for number, length in base.execute(f"SELECT {key}, {_length(base, table)} FROM {_quoted(table)} NOT INDEXED"):  # noqa: S608
        rows, stored = rows + 1, stored + length
        if number <= last:
            raise InputError(f"{path}: is damaged: table {table!r} has rows twice")
        if rows > most:
            raise over_limit(path, f"table {table!r} has more than {most:,} rows")
        if stored - rows * defaults > _LENGTH_OF_NUMBERS * size:
            raise InputError(
                f"{path}: is damaged: rows of table {table!r} share their content", "export it again with ogr2ogr"
            )
        last = number
    for row in base.execute(f"PRAGMA index_list({_quoted(table)})").fetchall():
        seen = 0
        try:
            for _ in base.execute(f"SELECT {key} FROM {_quoted(table)} INDEXED BY {_quoted(_name(row[1]))}"):  # noqa: S608
                seen += 1
                if seen > rows:
                    raise InputError(f"{path}: is damaged: an index of table {table!r} has rows twice")
        except sqlite3.OperationalError as error:
            if "no query solution" not in str(error):  # of an index that covers some rows
                raise
    return rows


def _length(base: sqlite3.Connection, table: str) -> str:
    """The SQL of the length of a row's values.

    Pages that hold the rest of long values can be shared by many rows of a file that was made so: then the rows are
    far larger than the file.
    """
    columns = base.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
    names = [f"{_quoted(table)}.{_quoted(_name(column[1]))}" for column in columns]
    # The length of a text ends at its first zero, that of its bytes does not.
    lengths = [f"ifnull(length(CAST({name} AS BLOB)), 0)" for name in names]
    sums = ["(" + " + ".join(lengths[i : i + _TERMS]) + ")" for i in range(0, len(lengths), _TERMS)]
    return " + ".join(sums) or "0"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _key(name: object) -> bytes:
    """A name as SQLite compares it: only the letters of ASCII are the same in both cases."""
    return (name if isinstance(name, bytes) else str(name).encode()).lower()


def _beside(path: Path, end: str) -> Path:
    """A file that SQLite keeps beside another, which is not beside a link to it."""
    location = path.resolve()
    return location.with_name(location.name + end)


def _names_another(journal: Path) -> bool:
    with journal.open("rb") as file:
        file.seek(-min(len(_JOURNAL_OF_SEVERAL), journal.stat().st_size), os.SEEK_END)
        return file.read() == _JOURNAL_OF_SEVERAL


def _facts(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _name(raw: object, *, strict: Path | None = None) -> str:
    if not isinstance(raw, bytes):
        return str(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        if strict is not None:
            raise InputError(f"{strict}: has a layer whose name is not UTF-8", "rename it and export again") from None
        return raw.decode("utf-8", errors="replace")
