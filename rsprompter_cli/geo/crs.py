"""From pixels to the map, from the map to longitude and latitude, and areas on the ground."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.geometry import object_array

if TYPE_CHECKING:
    from rsprompter_cli.structures import Georef

EDGE_TOLERANCE = 2e-7
"""Degrees (2 cm): how far a straight edge may lie from its image on the ellipsoid before vertices are added."""

EDGE_METRES = 0.02
"""The same on a map."""

_EARTH_RADIUS = (6.3e6, 6.4e6)
"""Metres between which the semi-major axes of all ellipsoids of the earth lie; Venus has 6.05e6."""

_MAX_EDGE_PARTS = 64.0

_MAX_ADDED = 1e6
_MAX_ADDED_PER_VERTEX = 8
"""Vertices; the edges of buildings need none."""

_log = logging.getLogger(__name__)

_Off = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""How far [N], in tolerances, the images [N, 2] of edges' starts, ends and middles say that an edge is bent."""


def to_map(geometries: Sequence[Any] | np.ndarray, georef: Georef) -> np.ndarray:
    """Geometries in pixels (x = column, y = row, origin at the outer corner) in map coordinates.

    Args:
        geometries: N shapely geometries in the pixels of the grid that `georef` places.

    Returns:
        object [N]. The affine is used as it is, so rotated, sheared and south-up grids are right.
    """
    a, b, c, d, e, f = georef.transform
    matrix = np.array([[a, d], [b, e]], dtype=np.float64)
    return shapely.transform(object_array(geometries), lambda xy: xy @ matrix + (c, f))


def to_pixels(geometries: Sequence[Any] | np.ndarray, georef: Georef) -> np.ndarray:
    """The inverse of `to_map`.

    Raises:
        InputError: the grid has no inverse (zero pixel size).
    """
    a, b, c, d, e, f = georef.transform
    determinant = a * e - b * d
    if determinant == 0:
        raise InputError(f"the geotransform {georef.transform} gives pixels without area")
    matrix = np.array([[e, -d], [-b, a]], dtype=np.float64) / determinant
    return shapely.transform(object_array(geometries), lambda xy: (xy - (c, f)) @ matrix)


def to_lonlat(geometries: Sequence[Any] | np.ndarray, crs_wkt: str, to_crs: str = "EPSG:4326") -> np.ndarray:
    """Geometries in a CRS as longitude and latitude in degrees, of WGS84 or another geographic CRS.

    Vertices are added where a straight edge would leave its place by more than EDGE_TOLERANCE, so
    long edges stay where they were. Longitudes are as the transformation gives them: a ring over
    the antimeridian jumps.

    Raises:
        InputError: unknown CRS, or coordinates the CRS cannot place.
    """
    return _densified(object_array(geometries), _transformer(crs_wkt, to_crs), _off_degrees)


def move_edges(geometries: Sequence[Any] | np.ndarray, from_crs: str, to_crs: str) -> np.ndarray:
    """Geometries in a projected CRS, with vertices added where a straight edge would leave its place by 2 cm.

    Raises:
        InputError: unknown CRS, or coordinates that cannot be placed.
    """
    per_unit = parse_crs(to_crs).axis_info[0].unit_conversion_factor
    return _densified(
        object_array(geometries), _transformer(from_crs, to_crs), lambda *ends: _off_metres(*ends) * per_unit
    )


def _densified(array: np.ndarray, transformer: Transformer, off: _Off) -> np.ndarray:
    """Transformed, with vertices added where `off` says that the middle of an edge leaves the chord too far."""
    longest = _edge_limits(array, transformer, off)
    bent = np.isfinite(longest)
    if bent.any():
        if _stretch(array[bent], longest[bent]) > 1:
            _log.warning(
                "outlines have edges so long that keeping them within 2 cm in another coordinate reference system "
                "needs too many vertices: they may be further off"
            )
        array = array.copy()
        array[bent] = with_short_edges(array[bent], longest[bent])
    return shapely.transform(array, lambda xy: _apply(transformer, xy))


def with_short_edges(array: np.ndarray, longest: np.ndarray | float) -> np.ndarray:
    """Geometries, object [N], with vertices added so that no edge is longer than `longest`, a number or float [N].

    Where that would add more than a million vertices and 8 for each that is there, edges stay longer.
    """
    return shapely.segmentize(array, longest * _stretch(array, longest))


def _stretch(array: np.ndarray, longest: np.ndarray | float) -> float:
    """By how much edges must be longer so that no more vertices are added than the limits allow; 1 or more."""
    added = float(np.nansum(shapely.length(array) / longest))
    return max(1.0, added / (_MAX_ADDED + _MAX_ADDED_PER_VERTEX * int(shapely.get_num_coordinates(array).sum())))


def reproject(geometries: Sequence[Any] | np.ndarray, from_crs: str, to_crs: str) -> np.ndarray:
    """Geometries moved vertex by vertex from one CRS (x, y order) to another.

    Raises:
        InputError: unknown CRS, or coordinates that cannot be placed.
    """
    array = object_array(geometries)
    if parse_crs(from_crs) == parse_crs(to_crs):
        return array
    transformer = _transformer(from_crs, to_crs)
    return shapely.transform(array, lambda xy: _apply(transformer, xy))


def area_m2(geometry: Any, georef: Georef) -> float | None:
    """Ground area in square metres of one polygon in pixels; `areas_m2` is faster for many."""
    return areas_m2([geometry], georef)[0]


def areas_m2(geometries: Sequence[Any] | np.ndarray, georef: Georef) -> list[float | None]:
    """Ground areas in square metres of polygons in pixels, None when the grid is not on the earth.

    The area is that of the geodesic polygon on the WGS84 ellipsoid, right at any latitude, over the
    antimeridian and around a pole.
    """
    if not georef.on_earth or georef.crs_wkt is None:
        return [None] * len(geometries)
    return [area for area, _ in measures_m(geometries, georef)]


def measures_m(geometries: Sequence[Any] | np.ndarray, georef: Georef) -> list[tuple[float, float]]:
    """Ground area in square metres and length of all rings in metres of polygons in pixels of a grid on the earth.

    Those of the geodesic polygon, as in `areas_m2`.
    """
    assert georef.crs_wkt is not None
    areas, perimeters = _geodesic_measures(to_lonlat(to_map(geometries, georef), georef.crs_wkt))
    return list(zip(areas.tolist(), perimeters.tolist(), strict=True))


def geodesic_area(lonlat: Any) -> float:
    """Square metres of a polygon or multipolygon in degrees, holes taken off."""
    return float(_geodesic_measures(object_array([lonlat]))[0][0])


def _geodesic_measures(lonlat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] twice: square metres of polygons and multipolygons [N] in degrees, and metres along their rings."""
    geod = _wgs84()
    parts, part_owner = shapely.get_parts(lonlat, return_index=True)
    rings, owner = shapely.get_rings(parts, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    starts = np.searchsorted(ring, np.arange(len(rings) + 1)).tolist()
    lon, lat = np.ascontiguousarray(xy.T)
    found = np.array([geod.polygon_area_perimeter(lon[a:b], lat[a:b]) for a, b in pairwise(starts)]).reshape(-1, 2)
    outer = np.diff(owner, prepend=-1) > 0  # of each polygon the first ring; the others are holes
    areas = np.where(outer, 1.0, -1.0) * np.abs(found[:, 0])
    areas, perimeters = (np.bincount(part_owner[owner], one, minlength=len(lonlat)) for one in (areas, found[:, 1]))
    return areas, perimeters


def local_equal_area(layers: Mapping[str, tuple[Sequence[Any], str]]) -> str:
    """An equal-area projection in metres, centred on polygons: areas in it are those on the ellipsoid.

    Lambert's azimuthal projection has no edge near its centre, neither at the antimeridian nor at a pole.

    Args:
        layers: polygons and their CRS by the name of their file; not all are empty.

    Raises:
        InputError: unknown CRS, or coordinates that it cannot place.
    """
    directions = []
    for name, (polygons, crs) in layers.items():
        if len(polygons):
            middles = shapely.bounds(object_array(polygons)).reshape(-1, 2, 2).mean(axis=1)
            try:
                lon, lat = np.radians(_apply(_transformer(crs, "EPSG:4326"), middles)).T
            except InputError as error:
                raise InputError(f"{name}: {error.message}", error.hint) from error
            directions.append(np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1))
    x, y, z = np.concatenate(directions).mean(axis=0)
    lon, lat = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])
    return f"+proj=laea +lat_0={lat:.5f} +lon_0={lon:.5f} +datum=WGS84 +units=m +no_defs"


def parse_crs(text: str) -> CRS:
    """A CRS from WKT, PROJJSON or "EPSG:32633".

    Raises:
        InputError: it names no coordinate reference system.
    """
    check_grids(text)
    try:
        return CRS.from_user_input(text)
    except ProjError as error:
        raise InputError(f"unknown coordinate reference system: {error}") from error


def is_of_earth(crs: CRS) -> bool:
    """False for a local CRS, and for one of the Moon or of another planet."""
    return (
        crs.geodetic_crs is not None
        and _EARTH_RADIUS[0] < crs.geodetic_crs.ellipsoid.semi_major_metre < _EARTH_RADIUS[1]
    )


def units_per_degree(crs: CRS) -> float | None:
    """Units of a geographic CRS in a degree: 1, or 10/9 where it counts in grads; None for any other CRS."""
    if not crs.is_geographic:
        return None
    return math.radians(1) / float(crs.axis_info[0].unit_conversion_factor)


class Geodetic:
    """The way from coordinates of a CRS on the earth to degrees on its own ellipsoid.

    `geod`: geodesics on that ellipsoid.
    """

    def __init__(self, crs: CRS) -> None:
        """Prepare the way.

        Raises:
            ProjError, CRSError: there is none.
        """
        base = crs.geodetic_crs
        if not base.is_geographic:  # geocentric
            raise ProjError(f"{crs.name} has no longitude and latitude")
        self._to_base = Transformer.from_crs(crs, base, always_xy=True)
        # Some bases count in grads, and longitudes from Paris: angles alone matter to geodesics.
        self._degrees = 1 / (units_per_degree(base) or 1.0)
        self.geod = crs.get_geod() or base.get_geod()

    def degrees(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude in degrees; longitudes count from the prime meridian of the CRS."""
        lon, lat = self._to_base.transform(x, y)
        return np.asarray(lon) * self._degrees, np.asarray(lat) * self._degrees


def _edge_limits(array: np.ndarray, transformer: Transformer, off: _Off) -> np.ndarray:
    """Per geometry the longest edge (CRS units) that stays in its place; inf where all do."""
    parts, part_owner = shapely.get_parts(array, return_index=True)  # a multipolygon itself gives no rings
    rings, part = shapely.get_rings(parts, return_index=True)
    owner = part_owner[part]
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    limits = np.full(len(array), np.inf)
    if len(xy) == 0:
        return limits
    edge = np.flatnonzero(ring[1:] == ring[:-1])
    start, end = xy[edge], xy[edge + 1]
    ends = _apply(transformer, xy)
    far = off(ends[edge], ends[edge + 1], _apply(transformer, (start + end) / 2))
    # The distance of an arc from its chord falls with the square of its length.
    pieces = np.ceil(np.sqrt(far)).clip(1, _MAX_EDGE_PARTS)
    long = pieces > 1
    length = np.hypot(*(end - start)[long].T) / pieces[long]
    np.minimum.at(limits, owner[ring[edge[long]]], length * (1 + 1e-9))
    return limits


def _off_degrees(start: np.ndarray, end: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Distance [N] of the images of edges' middles from their chords, in EDGE_TOLERANCE."""
    # Differences from one end, wrapped to +-180, so that an edge over the antimeridian is short.
    off = _wrap(middle - start) - _wrap(end - start) / 2
    off[:, 0] *= np.cos(np.radians(middle[:, 1]))
    return np.abs(off).max(axis=1) / EDGE_TOLERANCE


def _off_metres(start: np.ndarray, end: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The same on a map, in EDGE_METRES of its unit."""
    return np.abs(middle - (start + end) / 2).max(axis=1) / EDGE_METRES


def _wrap(degrees: np.ndarray) -> np.ndarray:
    wrapped = degrees.copy()
    wrapped[:, 0] = (wrapped[:, 0] + 180) % 360 - 180
    return wrapped


def _apply(transformer: Transformer, xy: np.ndarray) -> np.ndarray:
    try:
        moved = np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
    except ProjError as error:
        raise InputError(f"coordinates cannot be transformed: {error}") from error
    if not np.isfinite(moved).all():
        x, y = xy[~np.isfinite(moved).all(axis=1)][0]
        raise InputError(f"coordinates ({x:g}, {y:g}) are outside the domain of their coordinate reference system")
    return moved


@lru_cache(maxsize=16)
def _transformer(from_crs: str, to_crs: str) -> Transformer:
    try:
        return Transformer.from_crs(parse_crs(from_crs), parse_crs(to_crs), always_xy=True)
    except ProjError as error:
        raise InputError(f"no transformation between the coordinate reference systems: {error}") from error


@lru_cache(maxsize=1)
def _wgs84() -> Geod:
    return Geod(ellps="WGS84")
