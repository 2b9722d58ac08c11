"""GeoJSON as RFC 7946 wants it, streamed one feature per line.

WGS84 longitude and latitude with 7 decimals (1 cm), exterior rings counter-clockwise, holes
clockwise, rings closed, no `crs` member, geometries cut at the antimeridian, valid after rounding.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import IO, Any

import numpy as np
import shapely

from rsprompter_cli.errors import plural
from rsprompter_cli.geo.antimeridian import within_the_map
from rsprompter_cli.geo.crs import to_lonlat
from rsprompter_cli.geo.geometry import object_array, polygon_parts

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
        array = object_array([geometry for geometry, _ in batch])
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
    parts = object_array([polygon_parts(geometry) for geometry in rounded])
    return shapely.orient_polygons(parts, exterior_cw=False)


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
