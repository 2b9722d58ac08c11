"""From the well-known binary of a file to geometries, none of which can crash or stall what works on them.

GEOS follows collections in collections by recursion, so depth is measured before it sees them.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError, plural
from rsprompter_cli.geo.crossings import Work, work_of
from rsprompter_cli.geo.vector.formats.limits import COORDINATE, GROWTH, PARTS, VERTICES, limit, over_limit

_DEPTH = 32
"""Collections inside collections; GDAL's own limit."""

_SHALLOW = 1_000
"""Bytes of well-known binary that cannot nest deeply enough to matter: a level takes nine."""

_FEW_VERTICES = 12
"""Of a geometry that is repaired in no time, whatever it looks like."""

_SPARE_PAIRS = 500_000
_PAIRS_PER_VERTEX = 8
_CROSSINGS = 20_000
_CROSSINGS_IN_ALL = 60_000
"""Crossings of edges: repairing 10,000 takes about a second."""

_UNITED_PAIRS = 5_000_000
UNITED_CROSSINGS = 200_000
"""Crossings of edges of polygons that are united: 160,000 take some seconds and 260 MB."""

_log = logging.getLogger(__name__)


class GeometryReader:
    """Makes the geometries of one file, in two dimensions, and keeps account of what they cost."""

    def __init__(self, path: Path) -> None:
        """Read those of a file, which is named in messages.

        Raises:
            OSError: the file is gone.
        """
        self._path = path
        self._most_bytes = limit(GROWTH) * (path.stat().st_size + (1 << 16))
        self._bytes = self._rows = self._crossings = self._told = 0
        self._known: dict[int, Work] = {}

    def account(self, nbytes: int) -> None:
        """Raise InputError when the rows so far and so many bytes more are too much for the file."""
        if self._bytes + nbytes > self._most_bytes:
            raise over_limit(self._path, f"its features are over {limit(GROWTH)} times as large as the file")

    def take(self, wkb: Sequence[bytes | None] | np.ndarray) -> np.ndarray:
        """Geometries of well-known binary, object [N]: None where a row has none, or one that cannot be used.

        Raises:
            InputError: nested too deeply, or crossing itself too often to be repaired.
            InputError: over a limit.
        """
        for row, one in enumerate(wkb, start=self._rows + 1):
            if one is None:
                continue
            if not isinstance(one, bytes):
                raise InputError(f"{self._path}: feature {row} has a geometry that is no well-known binary")
            self._bytes += len(one)
            if nests_deeply(one):
                raise InputError(
                    f"{self._path}: feature {row} is nested more than {_DEPTH} levels deep or has too many parts",
                    "split it into single polygons, for example with ogr2ogr -explodecollections",
                )
        self.account(0)
        geometries = shapely.force_2d(shapely.from_wkb(np.asarray(wkb, dtype=object), on_invalid="ignore"))
        self._check(geometries, wkb)
        self._rows += len(geometries)
        return geometries

    def _check(self, geometries: np.ndarray, wkb: Sequence[bytes | None] | np.ndarray) -> None:
        counts = shapely.get_num_coordinates(geometries)
        xy, owner = shapely.get_coordinates(geometries, return_index=True)
        far = np.unique(owner[~(np.abs(xy) <= COORDINATE).all(1)])
        if len(far):
            geometries[far] = None
            counts[far] = 0
            self._warn(len(far))
        for place in np.flatnonzero(counts > limit(VERTICES)):
            raise over_limit(self._path, f"feature {self._rows + place + 1} has {counts[place]:,} vertices")
        areal = shapely.get_dimensions(geometries) == 2
        for place in np.flatnonzero(areal & (counts > _FEW_VERTICES)):
            self._check_work(geometries[place], int(counts[place]), self._rows + int(place) + 1, hash(wkb[int(place)]))

    def _check_work(self, geometry: Any, vertices: int, row: int, content: int) -> None:
        large = vertices > _SPARE_PAIRS**0.5
        # A collection is united, a valid one too; anything else is only repaired.
        if not large and geometry.geom_type != "GeometryCollection" and geometry.is_valid:
            return
        most = limit(_CROSSINGS), limit(_CROSSINGS_IN_ALL) + self._rows
        pairs = limit(_SPARE_PAIRS + _PAIRS_PER_VERTEX * vertices)
        work = self._known.get(content)  # a file can repeat a geometry for a few bytes
        if work is None:
            work = self._known[content] = work_of(geometry, most_pairs=pairs, most_crossings=most[0])
        self._crossings += work.crossings
        if work.pairs > pairs or work.crossings > most[0] or self._crossings > most[1]:
            crossed = max(work.crossings, self._crossings) - 1
            what = f"its edges cross over {crossed:,} times, which takes too long to repair"
            if work.pairs > pairs:
                what = "so many of its edges lie side by side that it takes too long to check"
            raise over_limit(self._path, f"feature {row} has {plural(vertices, 'vertex', 'vertices')}: {what}")

    def _warn(self, count: int) -> None:
        if not self._told:
            what = plural(count, "feature has", "features have")
            _log.warning("%s: %s coordinates that are not finite or over %g", self._path, what, COORDINATE)
        self._told += count


def union_of(polygons: np.ndarray | list[Any], path: Path) -> Any:
    """The union of the polygons of a file, refused where their edges cross too often.

    Args:
        polygons: polygons and multipolygons.
        path: of the file, for messages.

    Raises:
        InputError: over a limit; n strips across n others alone have 4 n^2 crossings.
    """
    array = np.asarray(polygons, dtype=object)
    if len(array) == 1 and array[0].is_valid:
        return array[0]
    vertices = int(shapely.get_num_coordinates(array).sum())
    most, pairs = limit(UNITED_CROSSINGS), limit(_UNITED_PAIRS + _PAIRS_PER_VERTEX * vertices)
    work = work_of(shapely.GeometryCollection(list(array)), most_pairs=pairs, most_crossings=most)
    if work.crossings > most:
        raise over_limit(path, f"its polygons cross one another over {most:,} times, which takes too long to unite")
    if work.pairs > pairs:
        raise over_limit(path, "so many of its polygons lie on top of one another that it takes too long to unite them")
    return shapely.union_all(array)


def nests_deeply(wkb: bytes) -> bool:
    """Whether well-known binary nests too deeply, which crashes GEOS, or has too many parts."""
    return len(wkb) > _SHALLOW and not is_shallow(wkb, limit(PARTS))


def is_shallow(wkb: bytes, most_parts: int) -> bool:
    """Whether well-known binary has at most so many parts and nests at most as deeply as GDAL allows.

    Damaged binary, whose reading stops at the damage, is shallow as far as it goes.
    """
    waiting: list[int] = [1]  # geometries to come, by depth
    place, parts = 0, 0
    try:
        while waiting:
            if waiting[-1] == 0:
                waiting.pop()
                continue
            waiting[-1] -= 1
            order = "<" if wkb[place] == 1 else ">"
            (code,) = struct.unpack_from(f"{order}I", wkb, place + 1)
            place += 5 + (4 if code & 0x20000000 else 0)
            kind, thousands = (code & 0xFFFF) % 1000, (code & 0xFFFF) // 1000
            values = 2 + ((code >> 31) or thousands in (1, 3)) + (((code >> 30) & 1) or thousands in (2, 3))
            if kind == 1:
                place += 8 * values
                continue
            (count,) = struct.unpack_from(f"{order}I", wkb, place)
            place += 4
            if kind in (2, 8):
                place += 8 * values * count
            elif kind in (3, 17):
                parts += count
                for _ in range(count if parts <= most_parts else 0):
                    (points,) = struct.unpack_from(f"{order}I", wkb, place)
                    place += 4 + 8 * values * points
            else:
                parts += count
                waiting.append(count)
            if len(waiting) > _DEPTH or parts > most_parts:
                return False
    except (struct.error, IndexError):
        return True
    return True
