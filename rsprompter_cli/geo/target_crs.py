"""The coordinate reference system that a user wants polygons in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.antimeridian import leaves_the_map, within_the_map
from rsprompter_cli.geo.crs import (
    is_of_earth,
    move_edges,
    parse_crs,
    reproject,
    to_lonlat,
    to_map,
    units_per_degree,
)
from rsprompter_cli.geo.geometry import object_array, polygon_parts

if TYPE_CHECKING:
    from rsprompter_cli.structures import Georef

WGS84 = "EPSG:4326"
_LONGITUDE_FIRST = (WGS84, "OGC:CRS84")

_ALONG_EDGE = 16
"""Points of each side of a scene that have to find their way into a CRS and back."""


def check_crs(text: str, option: str = "--crs") -> str:
    """The WKT of what a user calls a CRS, as in EPSG:32633.

    Args:
        text: by the user.
        option: that it was given with, for messages.

    Raises:
        UsageError: it names none, or one without a flat map: with heights, of the earth's centre, of a building site.
    """
    try:
        crs = parse_crs(text)
    except InputError as error:
        raise UsageError(
            f"{option} {text}: is not a coordinate reference system",
            f"for example {option} EPSG:32633; PROJ strings and WKT are accepted too",
        ) from error
    if not (crs.is_geographic or crs.is_projected) or len(crs.axis_info) != 2 or not is_of_earth(crs):
        raise UsageError(
            f"{option} {text}: {crs.name} is not a 2D geographic or projected CRS of the earth",
            f"for example {option} EPSG:32633",
        )
    return str(crs.to_wkt())


def is_wgs84(wkt: str) -> bool:
    """Whether a CRS is what GeoJSON is always in, in either order of its axes."""
    return any(parse_crs(wkt).equals(parse_crs(name), ignore_axis_order=True) for name in _LONGITUDE_FIRST)


class TargetCrs:
    """The way of a scene's polygons from its own CRS into another.

    Long edges get vertices where they would leave their place by more than 2 cm; polygons over the antimeridian are
    cut there, as in GeoJSON, where they would else be torn apart.

    elsewhere: of a CRS that is made for another part of the world, a message about it; else empty.
    """

    def __init__(
        self, georef: Georef, height: int, width: int, wkt: str, *, name: str, called: str | None = None
    ) -> None:
        """Prepare the transformation of a scene of height x width pixels, called `name`; `called` is the CRS as given.

        Raises:
            UsageError: the scene is outside the domain of the CRS.
        """
        assert georef.crs_wkt is not None
        self.wkt, self._source, self.elsewhere = wkt, georef.crs_wkt, ""
        target, source = parse_crs(wkt), parse_crs(georef.crs_wkt)
        self._same = target.equals(source, ignore_axis_order=True)
        if self._same:
            return
        frame = shapely.segmentize(shapely.box(0, 0, width, height), max(height, width) / _ALONG_EDGE)
        (border,) = to_map([frame], georef)
        lonlat = to_lonlat([border], georef.crs_wkt)
        self._per_degree, self._over_antimeridian = units_per_degree(target), bool(leaves_the_map(lonlat)[0])
        (pixel,) = to_map([shapely.box(0, 0, 1, 1)], georef)
        called = called or target.name
        self._refuse_misfit(border, np.sqrt(pixel.area), called, name)
        use = target.area_of_use
        west, south, east, north = lonlat[0].bounds
        if use is not None and not self._over_antimeridian and use.west <= use.east:
            apart = west > use.east or east < use.west or south > use.north or north < use.south
            if apart:
                self.elsewhere = f"{name}: is outside the area of use of --crs {called}: {use.name}"

    def move(self, geometries: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Polygons [N] of the scene's CRS in the other, valid."""
        array = object_array(geometries)
        if self._same or not len(array):
            return array
        if self._per_degree is not None:
            degrees = shapely.transform(to_lonlat(array, self._source, self.wkt), lambda xy: xy / self._per_degree)
            moved = shapely.transform(within_the_map(degrees), lambda xy: xy * self._per_degree)
        elif self._over_antimeridian:
            moved = move_edges(within_the_map(to_lonlat(array, self._source)), WGS84, self.wkt)
        else:
            moved = move_edges(array, self._source, self.wkt)
        for index in np.flatnonzero(~shapely.is_valid(moved)):
            moved[index] = polygon_parts(moved[index]) or moved[index]
        return moved

    def _refuse_misfit(self, border: Any, pixel: float, title: str, name: str) -> None:
        """Raise UsageError unless points of the border come back from the CRS to within half a pixel."""
        points = shapely.points(shapely.get_coordinates(border))
        try:
            back = reproject(reproject(points, self._source, self.wkt), self.wkt, self._source)
            lost = not shapely.distance(points, back).max() <= max(pixel / 2, 1e-9)
        except InputError:
            lost = True
        if lost and not self._over_antimeridian:
            raise UsageError(
                f"--crs {title}: cannot represent {name}, which is outside its domain", "choose a CRS of the region"
            )
