"""FlatGeobuf files whose tables are named again and again, are nested without end, or lead out of the file."""

from __future__ import annotations

import struct
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.vector.formats.flatgeobuf import look_at_flatgeobuf
from rsprompter_cli.geo.vector.read import open_layer

_ENTRY = 4
"""Bytes of a field in the tables made here: each is an offset or a number of 32 bits."""


class Buffer:
    """A flat buffer that is written from its beginning, so all offsets lead forward."""

    def __init__(self) -> None:
        self.data = bytearray(4)

    def table(self, *fields: int) -> int:
        """Append a table with some fields, all else absent; returns where it begins."""
        places = [0] * (max(fields, default=-1) + 1)
        for order, field in enumerate(fields):
            places[field] = 4 + _ENTRY * order
        where = len(self.data)
        self.data += struct.pack(f"<HH{len(places)}H", 4 + 2 * len(places), 4 + _ENTRY * len(fields), *places)
        self.data += bytes(-len(self.data) % 4)
        begin = len(self.data)
        self.data += struct.pack("<i", begin - where) + bytes(_ENTRY * len(fields))
        return begin

    def point(self, at: int, target: int) -> None:
        struct.pack_into("<I", self.data, at, target - at)

    def offsets(self, at: int, count: int) -> int:
        """Append a list of offsets that `at` leads to; returns where the first is."""
        self.point(at, len(self.data))
        self.data += struct.pack("<I", count) + bytes(4 * count)
        return len(self.data) - 4 * count


def ring(buffer: Buffer, vertices: int) -> int:
    """Append a polygon of one ring."""
    part = buffer.table(1)
    buffer.data += bytes(4 if len(buffer.data) % 8 == 0 else 0)
    buffer.point(part + 4, len(buffer.data))
    turn = np.linspace(0, 2 * np.pi, vertices)
    xy = np.stack([np.cos(turn), np.sin(turn)], 1)
    xy[-1] = xy[0]
    buffer.data += struct.pack("<I", 2 * vertices) + xy.astype("<f8").tobytes()
    return part


def feature(levels: list[int], vertices: int) -> bytes:
    """A feature whose geometry names one part so often, which names one part so often ..., the last is a polygon."""
    buffer = Buffer()
    root = buffer.table(0)
    buffer.point(0, root)
    at = [root + 4]
    for count in levels:
        geometry = buffer.table(7)
        for one in at:
            buffer.point(one, geometry)
        first = buffer.offsets(geometry + 4, count)
        at = list(range(first, first + 4 * count, 4))
    part = ring(buffer, vertices)
    for one in at:
        buffer.point(one, part)
    return bytes(buffer.data)


def head(columns: int = 0, name: int = 1) -> bytes:
    """The head of a file without an index, with columns that are all the same table."""
    buffer = Buffer()
    root = buffer.table(9, *([7] if columns else []))  # the size of a node is 0: there is no index
    buffer.point(0, root)
    if columns:
        first = buffer.offsets(root + 8, columns)
        column = buffer.table(0)
        for at in range(first, first + 4 * columns, 4):
            buffer.point(at, column)
        buffer.point(column + 4, len(buffer.data))
        buffer.data += struct.pack("<I", name) + b"a" * name + b"\0"
    return bytes(buffer.data)


def write(path: Path, *features: bytes, start: bytes | None = None) -> Path:
    parts = [head() if start is None else start, *features]
    path.write_bytes(b"fgb\x03fgb\x00" + b"".join(struct.pack("<I", len(part)) + part for part in parts))
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        open_layer(path)
    assert path.name in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_part_that_is_named_a_thousand_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fgb", feature([1], 5), feature([2000], 6000))
    refused(path, "one of its features has 12,000,000 vertices")


def test_parts_that_take_far_more_than_their_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.fgb", feature([1], 5), feature([100], 50))
    refused(path, r"a feature of 1,\d\d\d bytes names its parts so often that they take 80,800")
    monkeypatch.setenv("RSP_VECTOR_LIMITS", "20")
    assert look_at_flatgeobuf(path) is None


def test_parts_of_parts(tmp_path: Path) -> None:
    refused(write(tmp_path / "doubled.fgb", feature([2] * 31, 5)), "names its parts so often")
    refused(write(tmp_path / "deep.fgb", feature([1] * 40, 5)), "nested over 32 levels deep")
    refused(write(tmp_path / "wide.fgb", feature([10_000] * 3, 5)), "names its parts so often")
    assert look_at_flatgeobuf(write(tmp_path / "plain.fgb", feature([1] * 3, 5))) is None


def test_columns_that_are_one_table(tmp_path: Path) -> None:
    refused(write(tmp_path / "many.fgb", feature([1], 5), start=head(3000)), "promises 3,000 attributes")
    path = write(tmp_path / "long.fgb", feature([1], 5), start=head(1000, 100_000))
    refused(path, "the names of its attributes take 100,000,000 bytes")


def honest(path: Path, *, index: bool) -> Path:
    """What GDAL writes of each kind of geometry; none of them is empty where the file has an index."""
    empty = [] if index else [shapely.Polygon(), None]
    shapes = [
        shapely.box(3, 45, 4, 46).difference(shapely.box(3.2, 45.2, 3.4, 45.4)),
        shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)]),
        shapely.Point(1, 2),
        shapely.GeometryCollection([shapely.Point(1, 2), shapely.MultiPoint([[1, 2], [3, 4]])]),
        shapely.LineString([[0, 0], [1, 1]]),
        *empty,
    ] * 40
    frame = gpd.GeoDataFrame({"name": [f"feature {at}" for at in range(len(shapes))]}, geometry=shapes, crs=4326)
    frame.to_file(path, driver="FlatGeobuf", engine="pyogrio", SPATIAL_INDEX="YES" if index else "NO")
    return path


@pytest.mark.parametrize("index", [True, False])
def test_files_of_gdal_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: bool) -> None:
    path = honest(tmp_path / "a.fgb", index=index)
    assert look_at_flatgeobuf(path) is None
    # Read in pieces that are smaller than a feature, too.
    monkeypatch.setattr("rsprompter_cli.geo.vector.formats.flatgeobuf._AT_ONCE", 50)
    assert look_at_flatgeobuf(path) is None
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, "it ends within a feature")


def test_a_file_that_ends_within_a_feature(tmp_path: Path) -> None:
    path = honest(tmp_path / "a.fgb", index=True)
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, "it ends within a feature")


@pytest.mark.parametrize("value", [0, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_damaged_offsets_are_no_exceptions(tmp_path: Path, value: int) -> None:
    data = write(tmp_path / "a.fgb", feature([3, 1], 8), start=head(2)).read_bytes()
    refusals = []
    for at in range(8, len(data) - 4):
        path = tmp_path / "damaged.fgb"
        path.write_bytes(data[:at] + struct.pack("<I", value) + data[at + 4 :])
        try:
            look_at_flatgeobuf(path)
        except InputError as error:
            refusals.append(error.message)
    assert len(refusals) > 3
    assert all("damaged.fgb" in message for message in refusals)


def test_three_dimensions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.fgb"
    shapes = [shapely.force_3d(shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)]), 7)]
    gpd.GeoDataFrame(geometry=shapes, crs=4326).to_file(path, driver="FlatGeobuf", engine="pyogrio")
    (batch,) = open_layer(path).batches()
    assert len(batch.geometries) == 1
