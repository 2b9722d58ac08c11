"""GeoJSON as RFC 7946 wants it, streamed one feature per line.

WGS84 longitude and latitude with 7 decimals (1 cm), exterior rings counter-clockwise, holes
clockwise, rings closed, no `crs` member, geometries cut at the antimeridian, valid after rounding.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import IO, Any

import numpy as np
import shapely
from shapely.affinity import translate

from rsprompter_cli.errors import plural
from rsprompter_cli.geo.crs import to_lonlat
from rsprompter_cli.geo.polygonize import polygon_parts

DECIMALS = 7
_GRID = 10.0**-DECIMALS
_BATCH = 2048
_log = logging.getLogger(__name__)


def write_geojson(file: IO[str], features: Iterable[tuple[Any, Mapping[str, Any]]]) -> int:
    """Stream a FeatureCollection.

    Args:
        file: opened for text in UTF-8.
        features: (geometry from `prepared`, properties) one by one.

    Returns:
        Features written.
    """
    written = 0
    file.write('{"type":"FeatureCollection","features":[')
    for geometry, properties in features:
        file.write(",\n" if written else "\n")
        file.write(_feature_text(geometry, properties))
        written += 1
    file.write("\n]}\n")
    return written


def write_geojson_sequence(file: IO[str], features: Iterable[tuple[Any, Mapping[str, Any]]], *, mark: str = "") -> int:
    """Stream one feature per line.

    Args:
        file: opened for text in UTF-8.
        features: (geometry from `prepared`, properties) one by one.
        mark: before each feature: the record separator of RFC 8142, or nothing.

    Returns:
        Features written.
    """
    written = 0
    for geometry, properties in features:
        file.write(f"{mark}{_feature_text(geometry, properties)}\n")
        written += 1
    return written


def prepared(
    features: Iterable[tuple[Any, Mapping[str, Any]]],
    crs_wkt: str | None,
    *,
    name: str,
    on_dropped: Callable[[int], None],
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Features with geometries as RFC 7946 wants them, without those that rounding leaves without area.

    Args:
        features: (polygon or multipolygon in the CRS, properties) one by one.
        crs_wkt: CRS of the geometries; None keeps the coordinates (pixels).
        name: of the output, for the warning that counts what is left out.
        on_dropped: told the place, from 0, of each feature left out.
    """
    stream = iter(features)
    seen = dropped = 0
    while batch := list(islice(stream, _BATCH)):
        array = np.empty(len(batch), dtype=object)
        array[:] = [geometry for geometry, _ in batch]
        for place, (geometry, (_, properties)) in enumerate(zip(prepare(array, crs_wkt), batch, strict=True), seen):
            if geometry is not None:
                yield geometry, properties
            else:
                dropped += 1
                on_dropped(place)
        seen += len(batch)
    if dropped:
        were = plural(dropped, "polygon was", "polygons were")
        _log.warning("%s: %s omitted, with no area left at %d decimals of a degree", name, were, DECIMALS)


def prepare(geometries: np.ndarray, crs_wkt: str | None) -> np.ndarray:
    """Polygons in a CRS as RFC 7946 geometries.

    Args:
        geometries: object [N], polygons or multipolygons.
        crs_wkt: their CRS; None only rounds and winds.

    Returns:
        object [N]: valid polygons or multipolygons in degrees, or None where rounding left nothing.
    """
    lonlat = geometries if crs_wkt is None else within_the_map(to_lonlat(geometries, crs_wkt))
    rounded = shapely.transform(shapely.set_precision(lonlat, _GRID), _round)
    # Snapping makes a geometry valid on its grid; naming the grid points in decimals moves them by
    # less than 1e-14 degrees, which is seen here if it ever matters.
    for index in np.flatnonzero(~shapely.is_valid(rounded)):
        rounded[index] = shapely.transform(shapely.set_precision(shapely.make_valid(rounded[index]), _GRID), _round)
    result = np.empty(len(rounded), dtype=object)
    result[:] = [polygon_parts(geometry) for geometry in rounded]
    return shapely.orient_polygons(result, exterior_cw=False)


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


def _round(xy: np.ndarray) -> np.ndarray:
    return np.round(xy, DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0


def _feature_text(geometry: Any, properties: Mapping[str, Any]) -> str:
    polygons = [_rings(polygon) for polygon in shapely.get_parts(geometry)]
    coordinates = polygons[0] if geometry.geom_type == "Polygon" else polygons
    feature = {
        "type": "Feature",
        "properties": dict(properties),
        "geometry": {"type": geometry.geom_type, "coordinates": coordinates},
    }
    return json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _rings(polygon: Any) -> list[list[list[float]]]:
    return [shapely.get_coordinates(ring).tolist() for ring in (polygon.exterior, *polygon.interiors)]
