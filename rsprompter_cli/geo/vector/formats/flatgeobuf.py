"""A look through a FlatGeobuf file before GDAL opens it: what its head promises, and what its features unfold to.

The head and each feature are tables of Google's flat buffers, which may name the same bytes any number of times. A
geometry that names one part thousands of times is thousands of parts to GDAL, at four bytes each. No common writer
makes such files: what a feature unfolds to is at most the bytes that it has.
Source: the FlatGeobuf schema (header.fbs, feature.fbs) and the flat buffers' binary format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.vector.formats.limits import ATTRIBUTES, VERTICES, limit, over_limit

DEEPEST = 32
"""Levels of parts of parts."""

SHARED = 4
"""Times its own bytes that a feature, or the columns of the head, may unfold to."""

_LARGEST_HEAD = 16 << 20
_AT_ONCE = 8 << 20
"""Bytes of features looked at together."""

_NAME, _COLUMNS, _COUNT, _NODE_SIZE = 0, 7, 8, 9
_TEXTS = (0, 2, 3, 10)
"""Fields of a column that are texts: name, title, description, metadata."""
_GEOMETRY = 0
_ENDS, _XY, _PARTS = 0, 1, 7
_NODE_BYTES, _DEFAULT_NODE_SIZE = 40, 16
_VERTEX_BYTES, _END_BYTES, _PART_BYTES = 16, 4, 8
"""What a vertex, the end of a ring and a part take in a file at least: a part is its offset and its table."""
_COMPLETE = "is the file complete? write it again"


def look_at_flatgeobuf(path: Path) -> tuple[int, int] | None:
    """Check the head and the features of a FlatGeobuf file.

    Returns:
        Where the name of the layer begins and its bytes, if it is not UTF-8.

    Raises:
        InputError: damaged, or over a limit.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<I", file.read(12)[8:12].ljust(4, b"\0"))
        if not 8 <= length <= min(size, _LARGEST_HEAD):
            raise InputError(f"{path}: is damaged: the length of its head is wrong", _COMPLETE)
        data = file.read(length)
        check_grids(data.decode("latin-1"), str(path))
        head = _Head(data)
        try:
            count = head.number("<Q", _COUNT, 0)
            nodes = head.number("<H", _NODE_SIZE, _DEFAULT_NODE_SIZE)
            columns, texts = head.columns(limit(ATTRIBUTES))
            named = head.name()
        except struct.error as error:
            raise InputError(f"{path}: is damaged: its head leads beyond its end", _COMPLETE) from error
        if count > size // 8:
            raise over_limit(path, f"promises {count:,} features in {size:,} bytes")
        if columns > limit(ATTRIBUTES):
            raise over_limit(path, f"promises {columns:,} attributes")
        if texts > limit(SHARED) * length:
            raise over_limit(path, f"the names of its attributes take {texts:,} bytes, its head has {length:,}")
        file.seek(12 + length + _index_bytes(count, nodes))
        for features in _features(path, file, size, count):
            _check_features(path, *features)
    return None if named is None else (12 + named[0], named[1])


class _Head:
    """The table at the head of a file; what leads out of it is a struct.error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._table = self._at("<I", 0)

    def number(self, kind: str, field: int, default: int) -> int:
        """A number of the table."""
        at = self._place(self._table, field)
        return default if at is None else self._at(kind, at)

    def name(self) -> tuple[int, int] | None:
        """Where the name begins and its bytes, if it is not UTF-8."""
        at = self._place(self._table, _NAME)
        if at is None:
            return None
        at += self._at("<I", at)
        start, length = at + 4, self._at("<I", at)
        try:
            self._data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            return start, min(length, len(self._data) - start)
        return None

    def columns(self, most: int) -> tuple[int, int]:
        """How many columns there are, and the bytes of their texts, each as often as it is named.

        Args:
            most: of more columns the texts are not looked at.
        """
        at = self._place(self._table, _COLUMNS)
        if at is None:
            return 0, 0
        at += self._at("<I", at)
        count, texts = self._at("<I", at), 0
        for place in range(at + 4, at + 4 + 4 * count, 4) if count <= most else ():
            table = place + self._at("<I", place)
            for field in _TEXTS:
                named = self._place(table, field)
                texts += 0 if named is None else self._at("<I", named + self._at("<I", named))
        return count, texts

    def _place(self, table: int, field: int) -> int | None:
        fields = table - self._at("<i", table)
        at = 4 + 2 * field
        offset = self._at("<H", fields + at) if at + 2 <= self._at("<H", fields) else 0
        return table + offset if offset else None

    def _at(self, kind: str, at: int) -> int:
        if at < 0:  # which struct would count from the end
            raise struct.error("an offset before the beginning")
        return int(struct.unpack_from(kind, self._data, at)[0])


def _index_bytes(count: int, nodes: int) -> int:
    """Bytes of the packed R-tree between the head and the features."""
    if not count or not nodes:
        return 0
    nodes = max(2, nodes)
    level, total = count, count
    while True:
        level = -(-level // nodes)
        total += level
        if level == 1:
            return total * _NODE_BYTES


def _features(path: Path, file: BinaryIO, size: int, count: int) -> Iterator[tuple[bytes, np.ndarray, np.ndarray]]:
    """The features in the order of the file, some together: bytes, and where in them each begins and ends."""
    at, seen = file.tell(), 0
    while at + 4 <= size and (seen < count or not count):
        file.seek(at)
        data = file.read(_AT_ONCE)
        first = 4 + int.from_bytes(data[:4], "little")
        if at + first > size:
            raise InputError(f"{path}: cannot be read as a vector file: it ends within a feature", _COMPLETE)
        if first > len(data):
            data += file.read(first - len(data))
        starts, ends, begin = [], [], 0
        while begin + 4 <= len(data) and (seen < count or not count):
            end = begin + 4 + int.from_bytes(data[begin : begin + 4], "little")
            if end > len(data):
                break
            starts.append(begin + 4)
            ends.append(end)
            begin, seen = end, seen + 1
        yield data, np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)
        at += begin


def _check_features(path: Path, data: bytes, starts: np.ndarray, ends: np.ndarray) -> None:
    """Raise InputError when a feature unfolds to far more than its bytes; all of them are looked at level by level.

    A table that a feature names repeatedly is one entry with a weight, so the work does not grow with what the
    feature would unfold to.
    """
    tables = _Tables(path, data, starts, ends)
    owner = np.arange(len(starts))
    root = tables.follow(starts, owner)
    at, there = tables.place(root, _GEOMETRY, owner)
    owner, at = owner[there], at[there]
    at = tables.follow(at, owner)
    weight: np.ndarray = np.ones(len(at))
    vertices, nbytes = np.zeros(len(starts)), np.zeros(len(starts))
    most = limit(SHARED) * (ends - starts).astype(float)
    for _ in range(DEEPEST):
        if not len(at):
            return
        _, long = tables.vector(at, _XY, owner)
        points = np.bincount(owner, weight * (long // 2), len(starts))
        vertices += points
        _, rings = tables.vector(at, _ENDS, owner)
        first, parts = tables.vector(at, _PARTS, owner)
        nbytes += points * _VERTEX_BYTES
        nbytes += np.bincount(owner, weight * (rings * _END_BYTES + parts * _PART_BYTES), len(starts))
        if (vertices > limit(VERTICES)).any():
            raise over_limit(path, f"one of its features has {int(vertices.max()):,} vertices")
        if (nbytes > most).any():  # before its parts are unfolded here
            worst = int(np.argmax(nbytes - most))
            raise over_limit(
                path,
                f"a feature of {int(ends[worst] - starts[worst]):,} bytes names its parts so often that they take "
                f"{int(nbytes[worst]):,}",
            )
        which = np.repeat(np.arange(len(at)), parts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts)
        owner, weight = owner[which], weight[which]
        at = tables.follow(first[which] + 4 * within, owner)
        # No byte belongs to two features, so the place of a table tells its feature.
        at, index, inverse = np.unique(at, return_index=True, return_inverse=True)
        owner, weight = owner[index], np.bincount(inverse, weight, len(at))
    if len(at):
        raise over_limit(path, f"its geometries are nested over {DEEPEST} levels deep")


class _Tables:
    """Many tables of flat buffers at once; each offset is followed within the feature that it belongs to."""

    def __init__(self, path: Path, data: bytes, starts: np.ndarray, ends: np.ndarray) -> None:
        self._path, self._starts, self._ends = path, starts, ends
        self._data = data

    def follow(self, at: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Where the offsets at some places lead, which is within the feature of each."""
        target = at + self._read(at, owner, "<u4")
        if (target >= self._ends[owner]).any():
            raise self._damaged()
        return target

    def place(self, tables: np.ndarray, field: int, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where a field of each table lies, and whether the table has it."""
        fields = tables - self._read(tables, owner, "<i4")
        at = 4 + 2 * field
        there = at + 2 <= self._read(fields, owner, "<u2")
        offsets = np.zeros(len(tables), dtype=np.int64)
        offsets[there] = self._read(fields[there] + at, owner[there], "<u2")
        return tables + offsets, offsets > 0

    def vector(self, tables: np.ndarray, field: int, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the first value of a list lies that is a field of each table, and how many values it has."""
        at, there = self.place(tables, field, owner)
        first, count = np.zeros(len(tables), dtype=np.int64), np.zeros(len(tables), dtype=np.int64)
        begin = self.follow(at[there], owner[there])
        first[there] = begin + 4
        count[there] = self._read(begin, owner[there], "<u4")
        # The smallest values of all lists here have four bytes.
        if (first[there] + 4 * count[there] > self._ends[owner[there]]).any():
            raise self._damaged()
        return first, count

    def _read(self, at: np.ndarray, owner: np.ndarray, kind: str) -> np.ndarray:
        wide = np.dtype(kind).itemsize
        if ((at < self._starts[owner]) | (at + wide > self._ends[owner])).any():
            raise self._damaged()
        # All numbers of this kind that begin at any byte: nothing is copied but those at the places.
        numbers = np.ndarray((max(0, len(self._data) - wide + 1),), dtype=kind, buffer=self._data, strides=(1,))
        values: np.ndarray = numbers[at].astype(np.int64)
        return values

    def _damaged(self) -> InputError:
        return InputError(f"{self._path}: is damaged: a feature leads beyond its end", _COMPLETE)
