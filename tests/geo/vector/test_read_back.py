"""What a full disk leaves of a vector file is told from a whole one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely

from rsprompter_cli.errors import OutputError
from rsprompter_cli.geo.vector import tables
from rsprompter_cli.geo.vector.read_back import FeatureCount, is_whole, is_whole_geopackage
from rsprompter_cli.geo.vector.write import Feature, write_features

HOUSES = [
    Feature(shapely.box(x, y, x + 4.1, y + 3.7).buffer(1), {"class": "house", "note": "", "score": x / 50})
    for x in range(0, 50, 10)
    for y in range(0, 50, 10)
]
ATTRIBUTES = {"class": str, "note": str, "score": float}


def written(path: Path, crs: str | None = "EPSG:32633") -> FeatureCount:
    """A file of houses, and what it should hold."""
    write_features(path, HOUSES, crs, attributes=ATTRIBUTES)
    count = FeatureCount()
    count.add(shapely.normalize(np.array([house.geometry for house in HOUSES], dtype=object)))
    return count


@pytest.mark.parametrize("suffix", [".fgb", ".shp", ".gpkg"])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "+proj=laea +lat_0=5 +lon_0=5 +units=m", None])
def test_whole_files_are_whole(tmp_path: Path, suffix: str, crs: str | None) -> None:
    count = written(tmp_path / f"a b'{suffix}", crs)  # refused if it were not
    if suffix != ".gpkg":
        assert is_whole(tmp_path / f"a b'{suffix}", count, placed=crs is not None)
    write_features(tmp_path / f"none{suffix}", [], crs, attributes=ATTRIBUTES)


def without(start: int, count: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:start] + bytes(len(content[start : start + count])) + content[start + count :]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a.fgb", lambda content: content[:4096]),
        ("a.fgb", lambda content: content[:-1]),
        ("a.fgb", lambda content: content[:4096] + content[8192:]),
        ("a.shp", lambda content: content[:4096]),
        ("a.shp", without(0, 100)),
        ("a.shp", without(4096, 4096)),
        ("a.shx", lambda content: content[:-8]),
        ("a.shx", without(108, 8)),
        ("a.dbf", lambda content: content[:-500]),
        ("a.dbf", without(0, 32)),
        ("a.prj", lambda content: b""),
    ],
)
def test_files_with_a_hole_or_an_early_end_are_not(tmp_path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name.replace(".shx", ".shp").replace(".dbf", ".shp").replace(".prj", ".shp")
    count = written(path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(change(content))
    assert (tmp_path / name).read_bytes() != content
    assert not is_whole(path, count, placed=True)


def test_a_row_of_a_table_that_was_lost(tmp_path: Path) -> None:
    count = written(tmp_path / "a.shp")
    content = (tmp_path / "a.dbf").read_bytes()
    start, width = int.from_bytes(content[8:10], "little"), int.from_bytes(content[10:12], "little")
    (tmp_path / "a.dbf").write_bytes(without(start + 3 * width, width)(content))
    assert not is_whole(tmp_path / "a.shp", count, placed=True)


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA application_id = 0",
        "PRAGMA user_version = 0",
        "DELETE FROM gpkg_spatial_ref_sys WHERE srs_id = 32633",
        "UPDATE gpkg_contents SET srs_id = 0",
        "UPDATE gpkg_contents SET min_x = NULL",
        "UPDATE gpkg_ogr_contents SET feature_count = NULL",
        "DELETE FROM gpkg_extensions",
        "DROP TABLE rtree_a_geom",
        "DROP TRIGGER trigger_insert_feature_count_a",
        "DELETE FROM a WHERE fid = 3",
    ],
)
def test_parts_of_a_geopackage_that_were_lost(tmp_path: Path, statement: str) -> None:
    count = written(tmp_path / "a.gpkg")
    write_features(tmp_path / "none/a.gpkg", [], "EPSG:32633", attributes=ATTRIBUTES)
    empty = (tmp_path / "none/a.gpkg").read_bytes()
    assert is_whole_geopackage(tmp_path / "a.gpkg", count, empty)
    base = sqlite3.connect(tmp_path / "a.gpkg")
    if "FROM a" in statement:
        for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f'DROP TRIGGER "{name}"')
    base.execute(statement)
    base.commit()
    base.close()
    assert not is_whole_geopackage(tmp_path / "a.gpkg", count, empty)


def test_vertices_count_in_any_order_but_with_their_values() -> None:
    ring = shapely.box(0, 0, 2, 3)
    one, other, moved = FeatureCount(), FeatureCount(), FeatureCount()
    one.add(np.array([ring, ring.buffer(1)], dtype=object))
    other.add(np.array([shapely.reverse(ring.buffer(1)), ring], dtype=object))
    moved.add(np.array([ring.buffer(1), shapely.box(0, 0, 3, 2)], dtype=object))
    assert one == other
    assert one != moved


def test_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("is_whole", "is_whole_geopackage"):
        monkeypatch.setattr(tables, name, lambda *_, **__: False)
    for suffix in (".fgb", ".shp", ".gpkg"):
        with pytest.raises(OutputError, match=r"a\.\w+: cannot be written: some writes failed; is the disk full\?"):
            written(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []
