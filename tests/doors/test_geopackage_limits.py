"""GeoPackages of strangers: nothing is computed, no default fills the memory, and no input is written to."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.formats import geopackage as guard
from rsprompter_cli.geo.vector.formats.source import admit
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.geo.vector.write import read_footprints
from tests.make import reading
from tests.make.forking import Server
from tests.make.hostile_vectors import endless_layer, geopackage
from tests.make.reading import features

ENDS = ("-wal", "-journal", "-shm")
NEXT = "INSERT INTO a (geom, kind) SELECT geom, 'new' FROM a"


def refused(path: Path, match: str) -> None:
    """Both ways of reading refuse a file in one line that names it, and no copy of it, and the way out."""
    for error in reading.refused(path, match):
        assert error.message.startswith(f"{path}: ")
        assert "rsp-vector-" not in str(error)
        assert error.hint


def moved(columns: str) -> tuple[str, ...]:
    """Statements that put the rows of the layer into a table `b` with further columns."""
    named = [f"UPDATE {table} SET table_name = 'b'" for table in ("gpkg_contents", "gpkg_geometry_columns")]
    table = f"CREATE TABLE b (fid INTEGER PRIMARY KEY, geom BLOB, {columns})"
    return table, "INSERT INTO b (fid, geom) SELECT fid, geom FROM a", "PRAGMA foreign_keys = OFF", *named


def many_rows(table: str, columns: str, values: str, count: int) -> str:
    numbers = f"WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT {count})"
    return f"INSERT INTO {table} ({columns}) {numbers} SELECT {values} FROM r"


def state(path: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, time and inode of a GeoPackage and the files of SQLite beside it."""
    parts = [one for one in path.parent.iterdir() if one.name.startswith(path.name) and one.is_file()]
    return {one.name: (one.read_bytes(), one.stat().st_mtime_ns, one.stat().st_ino) for one in parts}


def with_wal(path: Path, *statements: str) -> Path:
    """A GeoPackage whose last statements are only in its log, as after the crash of their writer."""
    source = geopackage(path.with_name(f"source-{path.name}"))
    with closing(sqlite3.connect(source)) as base:
        base.execute("PRAGMA journal_mode = WAL")
        for statement in statements:
            base.execute(statement)
        base.commit()
        for end in ("", "-wal", "-shm"):
            shutil.copy(f"{source}{end}", f"{path}{end}")
    return path


def with_journal(path: Path) -> Path:
    """A GeoPackage that its writer left in the middle of a change of every row, which its journal undoes."""
    source = geopackage(path.with_name(f"source-{path.name}"))
    with closing(sqlite3.connect(source, isolation_level=None)) as base:
        base.execute("PRAGMA cache_size = 1")
        base.execute("PRAGMA cache_spill = 1")
        base.execute("BEGIN IMMEDIATE")
        base.execute(many_rows("a", "geom, kind", "zeroblob(3000), 'half'", 200))
        for end in ("", "-journal"):
            shutil.copy(f"{source}{end}", f"{path}{end}")
        base.execute("ROLLBACK")
    assert path.stat().st_size > 300_000  # rows of the change are in the file
    assert Path(f"{path}-journal").read_bytes()[:8] == guard._JOURNAL_OF_SEVERAL
    return path


@pytest.mark.parametrize(
    "column",
    [
        "x INTEGER AS ('aaaa' LIKE '%a%b') VIRTUAL",
        "x TEXT AS ('a' || fid) VIRTUAL, y TEXT AS (x || x) VIRTUAL",
        "x REAL AS (round(fid)) STORED",
    ],
)
def test_a_layer_with_a_computed_column_is_refused(tmp_path: Path, column: str) -> None:
    path = geopackage(tmp_path / "a.gpkg", *moved(column))
    refused(path, "table 'b' has a computed column 'x', which is not evaluated")


def test_a_table_that_describes_others_computes_nothing(tmp_path: Path) -> None:
    column = "ALTER TABLE gpkg_contents ADD COLUMN x TEXT AS (identifier || identifier) VIRTUAL"
    refused(geopackage(tmp_path / "a.gpkg", column), "table 'gpkg_contents' has a computed column 'x'")
    column = "CREATE TABLE gpkgext_relations (base_table_name TEXT, x TEXT AS (base_table_name LIKE 'a') VIRTUAL)"
    refused(geopackage(tmp_path / "b.gpkg", column), "table 'gpkgext_relations' has a computed column 'x'")


def test_endless_columns_end(tmp_path: Path) -> None:
    first = f"ALTER TABLE b ADD COLUMN g0 TEXT AS ('{'x' * 1000}' || fid) VIRTUAL"
    added = [first, *(f"ALTER TABLE b ADD COLUMN g{i} TEXT AS (g{i - 1} || g{i - 1}) VIRTUAL" for i in range(1, 19))]
    path = geopackage(tmp_path / "a.gpkg", *moved("x TEXT"), *added)
    assert run(["filter", str(path), "--min-area", "1", "--out", str(tmp_path / "o.geojson")]) == 3
    assert not (tmp_path / "o.geojson").exists()


def test_long_defaults_of_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many_rows("a", "geom, kind", "(SELECT geom FROM a LIMIT 1), 'a'", 5_000)
    path = geopackage(tmp_path / "a.gpkg", rows, f"ALTER TABLE a ADD COLUMN x TEXT DEFAULT '{'y' * 300_000}'")
    refused(path, "the default values of table 'a' are over 20 times as large as the file")
    shares = [f"ALTER TABLE a ADD COLUMN x{i} TEXT DEFAULT '{'y' * 300}'" for i in range(1_000)]
    refused(geopackage(tmp_path / "b.gpkg", rows, *shares), "the default values of table 'a' are over 20 times")
    geometry = f"ALTER TABLE a ADD COLUMN shape BLOB DEFAULT x'{'00' * 150_000}'"
    column = "UPDATE gpkg_geometry_columns SET column_name = 'shape'"
    refused(geopackage(tmp_path / "c.gpkg", rows, geometry, column), "the default values of table 'a'")
    plain = geopackage(tmp_path / "d.gpkg", rows, f"ALTER TABLE a ADD COLUMN x TEXT DEFAULT '{'y' * 300}'")
    assert open_layer(plain).attributes["x"] is str
    assert features(plain) == 5_002
    words = [f"ALTER TABLE a ADD COLUMN x{i} TEXT DEFAULT 'unknown'" for i in range(100)]
    assert features(geopackage(tmp_path / "w.gpkg", rows, *words)) == 5_002
    short = geopackage(tmp_path / "e.gpkg", rows, f"ALTER TABLE a ADD COLUMN x TEXT DEFAULT '{'y' * 10_000}'")
    refused(short, "over 20 times")
    monkeypatch.setenv("RSP_VECTOR_LIMITS", "10")
    assert open_layer(short).attributes["x"] is str


def test_long_defaults_of_attributes_and_descriptions_are_refused(tmp_path: Path) -> None:
    def attributes(name: str, default: int) -> Path:
        return geopackage(
            tmp_path / name,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)",
            many_rows("t", "n", "n", 10_000),
            f"ALTER TABLE t ADD COLUMN x TEXT DEFAULT '{'y' * default}'",
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES ('t', 'attributes', 't')",
        )

    refused(attributes("a.gpkg", 100_000), "the default values of table 't' are over 20 times")
    assert features(attributes("b.gpkg", 100)) == 2
    rows = many_rows(
        "gpkg_spatial_ref_sys",
        "srs_name, srs_id, organization, organization_coordsys_id, definition",
        "'n', 100000 + n, 'n', n, 'n'",
        20_000,
    )
    default = f"ALTER TABLE gpkg_spatial_ref_sys ADD COLUMN x TEXT DEFAULT '{'y' * 100_000}'"
    refused(geopackage(tmp_path / "c.gpkg", rows, default), "the default values of table 'gpkg_spatial_ref_sys'")


def with_shared_rows(path: Path, kind: str, column: str) -> Path:
    """A GeoPackage of 7 rows, each of which ends in the same 200 KB of the file.

    Args:
        kind: the SQL of a value of such a length that seven rows begin in one page.
        column: the column of that value.

    A row that is too long for its page begins there and ends with the number of the page in which it goes on.
    """
    geopackage(
        path,
        *moved(column),
        "DELETE FROM b WHERE fid > 1",
        f"UPDATE b SET x = {kind}",
        *["INSERT INTO b (geom, x) SELECT geom, x FROM b WHERE fid = 1"] * 6,
    )
    with closing(sqlite3.connect(path)) as base:
        ((root,),) = base.execute("SELECT rootpage FROM sqlite_master WHERE name = 'b'")
        ((size,),) = base.execute("PRAGMA page_size")
    data = bytearray(path.read_bytes())
    start = (root - 1) * size
    assert data[start] == 13  # a leaf of a table
    cells = sorted(struct.unpack_from(">7H", data, start + 8), reverse=True)
    # Each cell ends where the one before it begins.
    ends = [start + end - 4 for end in (size, *cells[:-1])]
    first = data[ends[0] : ends[0] + 4]
    for end in ends[1:]:
        data[end : end + 4] = first
    (last,) = struct.unpack(">I", first)
    while following := struct.unpack_from(">I", data, (last - 1) * size)[0]:
        last = following
    del data[last * size :]
    struct.pack_into(">I", data, 28, last)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("column", ["x", "x TEXT DEFAULT ''"])
@pytest.mark.parametrize("kind", ["zeroblob(196800)", "CAST(zeroblob(196800) AS TEXT)"])
def test_rows_that_share_their_content_are_refused(tmp_path: Path, kind: str, column: str) -> None:
    path = with_shared_rows(tmp_path / "a.gpkg", kind, column)
    assert path.stat().st_size < 600_000
    with closing(sqlite3.connect(path)) as base:
        lengths = base.execute("SELECT length(CAST(x AS BLOB)) FROM b").fetchall()
        assert lengths == [(196_800,)] * 7
    refused(path, "is damaged: rows of table 'b' share their content")


def test_shapes_that_are_broken_are_counted_once(tmp_path: Path, rsp: Server) -> None:
    """GDAL writes a line for each to stderr by itself."""
    geopackage(tmp_path / "a.gpkg", many_rows("a", "geom, kind", "x'4750000100', 'x'", 3_000))
    ran = rsp.run(["filter", "a.gpkg", "--min-area", "1", "--out", "o.geojson"], tmp_path)
    assert ran.exit_code == 0
    assert ran.stderr == "wrote o.geojson: 2 of 3,002 features; dropped: 3,000 by not_polygons\n"


def test_a_table_of_a_thousand_columns_is_read(tmp_path: Path) -> None:
    columns = [f"ALTER TABLE a ADD COLUMN x{i} TEXT" for i in range(1_500)]
    path = geopackage(tmp_path / "a.gpkg", *columns, "UPDATE a SET x7 = 'y', x1400 = 'z'")
    assert features(path) == 2


def test_a_view_does_not_pass_for_a_table(tmp_path: Path) -> None:
    """SQLite tells É from é, so a table of the one name makes no table of the view of the other."""
    table = "CREATE TABLE é (fid INTEGER PRIMARY KEY, geom BLOB)"
    path = geopackage(tmp_path / "a.gpkg", *endless_layer("É"), table)
    assert admit(path).views == ("É",)
    assert [table.name for table in admit(path).tables] == ["a"]


def test_names_that_need_quotes_are_read(tmp_path: Path) -> None:
    for number, name in enumerate(("x y", 'a"b', "it's", "[b]", "Größe", "select", "a.b", "UPPER")):
        quoted = '"' + name.replace('"', '""') + '"'
        text = name.replace("'", "''")
        named = [f"UPDATE {table} SET table_name = '{text}'" for table in ("gpkg_contents", "gpkg_geometry_columns")]
        off = "PRAGMA foreign_keys = OFF"
        path = geopackage(tmp_path / f"{number}.gpkg", off, f"ALTER TABLE a RENAME TO {quoted}", *named)
        assert features(path) == 2
    path = geopackage(tmp_path / "view.gpkg", "CREATE VIEW [x y] AS SELECT 1", "CREATE UNIQUE INDEX i ON a (fid, kind)")
    assert features(path) == 2


MAKERS: list[Callable[[Path], object]] = [
    lambda path: os.mkfifo(path),
    lambda path: path.mkdir(),
    lambda path: socket.socket(socket.AF_UNIX).bind(path.name),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("missing"),
]


@pytest.mark.skipif(os.name != "posix", reason="pipes are files on POSIX only")
@pytest.mark.parametrize("maker", range(len(MAKERS)))
@pytest.mark.parametrize("end", ENDS)
def test_a_log_that_is_no_regular_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: int, end: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = geopackage(tmp_path / "a.gpkg")
    assert features(path) == 2
    beside = tmp_path / f"a.gpkg{end}"
    MAKERS[maker](beside)
    kind = stat.S_IFMT(beside.lstat().st_mode)
    refused(path, f"a.gpkg{end} beside it is not a regular file")
    assert stat.S_IFMT(beside.lstat().st_mode) == kind
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "b.gpkg"
    link.symlink_to(path)
    refused(link, f"a.gpkg{end} beside it is not a regular file")


@pytest.mark.skipif(os.name != "posix", reason="pipes are files on POSIX only")
def test_nothing_else_beside_a_geopackage_is_opened(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "a.gpkg")
    for end in (".aux", ".AUX", ".aux.xml"):
        os.mkfifo(tmp_path / f"a.gpkg{end}")
    assert features(path) == 2


def test_rows_in_a_log_are_read_and_stay_there(tmp_path: Path) -> None:
    path = with_wal(tmp_path / "a.gpkg", NEXT)
    before = state(path)
    assert set(before) == {"a.gpkg", "a.gpkg-wal", "a.gpkg-shm"}
    assert features(path) == 4
    assert read_footprints(path, class_attribute="kind").classes == ["a", "b", "new", "new"]
    assert run(["filter", str(path), "--min-area", "1", "--out", str(tmp_path / "o.geojson")]) == 0
    assert state(path) == before
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "b.gpkg"
    link.symlink_to(path)
    assert features(link) == 4
    assert state(path) == before


def test_a_change_that_was_not_finished_is_undone_in_a_copy(tmp_path: Path) -> None:
    path = with_journal(tmp_path / "a.gpkg")
    before = state(path)
    assert features(path) == 2
    assert run(["filter", str(path), "--min-area", "1", "--out", str(tmp_path / "o.geojson")]) == 0
    assert state(path) == before


def test_a_log_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = with_wal(tmp_path / "a.gpkg", NEXT)
    assert features(path) == 4
    assert admit(path) is admit(path)
    with closing(sqlite3.connect(path)) as base:
        base.execute(NEXT)
        base.commit()
        assert features(path) == 8  # while its writer has it open
    assert features(path) == 8
    assert not Path(f"{path}-wal").exists()  # its writer has closed it


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "PERSIST"])
def test_without_a_log_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    path = geopackage(folder / "a.gpkg")
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"PRAGMA journal_mode = {mode}")
        base.execute(NEXT)
        base.commit()
    before = state(path)
    times = folder.stat().st_mtime_ns  # a file that is made and deleted changes it
    assert features(path) == 4
    assert run(["filter", str(path), "--min-area", "1", "--out", str(tmp_path / "o.geojson")]) == 0
    assert state(path) == before
    assert folder.stat().st_mtime_ns == times


def test_what_is_in_a_log_passes_the_same_door(tmp_path: Path) -> None:
    path = with_wal(tmp_path / "a.gpkg", "ALTER TABLE a ADD COLUMN x TEXT AS (kind || kind) VIRTUAL")
    before = state(path)
    refused(path, "table 'a' has a computed column 'x'")
    assert state(path) == before
    path = with_wal(tmp_path / "b.gpkg", NEXT)
    data = bytearray(Path(f"{path}-wal").read_bytes())
    data[:32] = b"\xff" * 32  # no log at all: SQLite goes on without it
    Path(f"{path}-wal").write_bytes(data)
    assert features(path) == 2


def test_a_journal_that_names_another_file_does_not_delete_it(tmp_path: Path) -> None:
    path = with_journal(tmp_path / "a.gpkg")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    name = str(victim).encode()
    journal = Path(f"{path}-journal")
    tail = struct.pack(">I", 0) + name + struct.pack(">II", len(name), sum(name)) + guard._JOURNAL_OF_SEVERAL
    journal.write_bytes(journal.read_bytes() + tail)
    before = state(path)
    refused(path, r"its journal a\.gpkg-journal names another file")
    assert victim.read_text() == "mine"
    assert state(path) == before


def test_a_copy_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_wal(tmp_path / "a.gpkg", NEXT)
    full = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match="has no room for a copy") as caught:
        open_layer(path)
    assert caught.value.message.startswith(f"{path}: ")
