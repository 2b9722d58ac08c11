"""Polygons in degrees over the antimeridian or a pole, cut so that they lie within -180..180."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely
from shapely.affinity import translate


def within_the_map(lonlat: np.ndarray) -> np.ndarray:
    """Polygons [N] in degrees, those over the antimeridian cut there."""
    result = lonlat.copy()
    for index in np.flatnonzero(leaves_the_map(lonlat)):
        result[index] = cut_antimeridian(lonlat[index])
    return result


def cut_antimeridian(geometry: Any) -> Any:
    """A polygon in degrees, whose longitudes may jump or pass 180, cut into pieces within -180..180.

    A ring around a pole is closed over the pole. Edges are taken the short way round.
    """
    pieces = []
    for polygon in shapely.get_parts(geometry):
        region = _unrolled(polygon.exterior)
        holes = [_unrolled(hole) for hole in polygon.interiors]
        if holes:
            region = shapely.difference(region, shapely.union_all(holes))
        pieces.append(region)
    return shapely.union_all(pieces)


def _unrolled(ring: Any) -> Any:
    """The region inside a ring, within -180..180."""
    lon, lat = shapely.get_coordinates(ring).T
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:  # once around the earth: the pole belongs to the region
        pole = math.copysign(90, float(lat.mean()))
        lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
    region = shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat])))
    first, last = math.floor((lon.min() + 180) / 360), math.floor((lon.max() + 180) / 360)
    turns = [
        translate(shapely.intersection(region, shapely.box(360 * k - 180, -90, 360 * k + 180, 90)), xoff=-360 * k)
        for k in range(first, last + 1)
    ]
    return shapely.union_all(turns)


def leaves_the_map(lonlat: np.ndarray) -> np.ndarray:
    """bool [N]: outside -180..180, or with an edge longer than half a turn."""
    west, _, east, _ = shapely.bounds(lonlat).T
    suspicious = (west < -180) | (east > 180)
    wide = np.flatnonzero((east - west > 180) & ~suspicious)
    for row in wide:
        rings = shapely.get_rings(shapely.get_parts(lonlat[row]))  # of a multipolygon itself it gives none
        steps = [np.abs(np.diff(shapely.get_coordinates(ring)[:, 0])).max() for ring in rings]
        suspicious[row] = max(steps) > 180
    return suspicious
