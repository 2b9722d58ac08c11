"""Objects kept on the disk as they come and read back in the order of their keys, in memory that does not grow."""

from __future__ import annotations

import heapq
import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import shapely

from rsprompter_cli.geo.stitch.instances import JoinedInstance, Key
from rsprompter_cli.io.atomic import not_written

_IN_MEMORY = 8 << 20
"""Bytes of objects up to which nothing is written."""

_RUN = 1 << 18
"""Objects that are sorted at once; of more, sorted runs are merged."""

_HEAD = struct.Struct("<qddqq")
"""Label, score, quality (NaN: none), members, bytes of the outline."""

_PLACE = np.dtype([("row", "i8"), ("col", "i8"), ("number", "i8"), ("at", "i8")])


class ExternalSorter:
    """Objects by key; use it as a context manager: what it wrote is gone afterwards, even after a kill."""

    def __init__(self, folder: Path, *, run: int = _RUN, in_memory: int = _IN_MEMORY) -> None:
        """Empty.

        Args:
            folder: where more than `in_memory` bytes are written to.
            run: objects sorted at once.
        """
        self._run = run
        self._objects: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=in_memory, dir=str(folder))  # noqa: SIM115
        self._sorted: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=in_memory, dir=str(folder))  # noqa: SIM115
        self._places = array("q")  # row, column, number and place in the file, one object after the other
        self._runs: list[int] = []
        self._at = 0

    def __len__(self) -> int:
        return sum(self._runs) + len(self._places) // 4

    def __enter__(self) -> ExternalSorter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the disk back."""
        self._objects.close()
        self._sorted.close()

    def add(self, objects: Iterable[JoinedInstance]) -> None:
        """Keep objects, in any order.

        Raises:
            OutputError: the disk is full.
        """
        try:
            for one in objects:
                outline = shapely.to_wkb(one.polygon, byte_order=1)
                quality = np.nan if one.quality is None else one.quality
                members = np.array(one.members, "<i8").tobytes()
                head = _HEAD.pack(one.label, one.score, quality, len(one.members), len(outline))
                self._places.extend((*one.key, self._at))
                self._at += self._objects.write(head + members + outline)
                if len(self._places) >= 4 * self._run:
                    self._sort()
        except OSError as error:
            raise not_written("a temporary file", error) from error

    def read(self) -> Iterator[JoinedInstance]:
        """All objects, by key; once, after all have been added."""
        self._sort()
        starts = np.cumsum([0, *self._runs]).tolist()
        runs = [self._read_run(start, size) for start, size in zip(starts, self._runs, strict=False)]
        for *_, at in heapq.merge(*runs):
            yield self._object(at)

    def _sort(self) -> None:
        if self._places:
            places = np.sort(np.frombuffer(self._places.tobytes(), _PLACE), order=["row", "col", "number"])
            self._sorted.seek(0, 2)
            self._sorted.write(places.tobytes())
            self._runs.append(len(places))
            self._places = array("q")

    def _read_run(self, start: int, size: int, block: int = 4096) -> Iterator[tuple[int, int, int, int]]:
        for place in range(start, start + size, block):
            count = min(block, start + size - place)
            self._sorted.seek(place * _PLACE.itemsize)
            yield from np.frombuffer(self._sorted.read(count * _PLACE.itemsize), _PLACE).tolist()

    def _object(self, at: int) -> JoinedInstance:
        self._objects.seek(at)
        label, score, quality, count, size = _HEAD.unpack(self._objects.read(_HEAD.size))
        members = np.frombuffer(self._objects.read(24 * count), "<i8").reshape(-1, 3).tolist()
        polygon = shapely.from_wkb(self._objects.read(size))
        keys = tuple(Key(*member) for member in members)
        return JoinedInstance(polygon, label, score, keys[0], keys, None if quality != quality else quality)
