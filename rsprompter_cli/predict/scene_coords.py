"""Laying the features of a vector file over a scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.affinity import translate

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs import parse_crs, reproject, to_pixels, units_per_degree
from rsprompter_cli.geo.vector.read import check_degrees

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene

_NO_DEGREES = "reproject the file, write it with its CRS, or pass --pixel-coords if the coordinates are pixels"


def from_file_pixels(geometries: np.ndarray, scene: Scene) -> np.ndarray:
    """Geometries [N] (or None) in pixels of the scene's file in those of its working grid."""
    per_pixel = np.array([scene.width / scene.native_width, scene.height / scene.native_height])
    return shapely.transform(geometries, lambda xy: xy * per_pixel)


def lay_over(path: Path, geometries: np.ndarray, crs: str | None, scene: Scene) -> np.ndarray:
    """Geometries [N] of a file in pixels of the working grid; None where one has no place in the scene's CRS.

    Args:
        path: of the file, for errors.
        geometries: finite, or None.
        scene: on the earth.

    Raises:
        InputError: no CRS, or coordinates that do not fit it.
    """
    target = scene.georef.crs_wkt or ""
    if crs is None:
        raise InputError(
            f"{path}: has no coordinate reference system that fits its coordinates",
            "assign one, e.g. ogr2ogr -a_srs EPSG:32633, or pass --pixel-coords if the coordinates are pixels",
        )
    rows = [row for row, geometry in enumerate(geometries) if geometry is not None]
    moved = geometries.copy()
    if not rows:
        return moved
    try:
        check_degrees(geometries[rows], crs, hint=_NO_DEGREES)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from error
    try:
        moved[rows] = reproject(geometries[rows], crs, target)
    except InputError:
        # One that has no place there must not keep the others from theirs.
        for row in rows:
            moved[row] = _reprojected(geometries[row], crs, target)
    per_degree = units_per_degree(parse_crs(target))
    if per_degree is not None:
        # A scene over the antimeridian has longitudes beyond 180, or features come from its other side.
        a, b, c, *_ = scene.georef.transform
        middle = a * scene.width / 2 + b * scene.height / 2 + c
        west, _, east, _ = shapely.bounds(moved).T
        for row in np.flatnonzero(np.maximum(middle - west, east - middle) > 180 * per_degree).tolist():
            moved[row] = _near(moved[row], middle, 360 * per_degree)
    return to_pixels(moved, scene.georef)


def _reprojected(geometry: Any, crs: str, to_crs: str) -> Any:
    try:
        return reproject([geometry], crs, to_crs)[0]
    except InputError:
        # The other side of the earth has no place in a local CRS, and is not on the scene.
        return None


def _near(geometry: Any, middle: float, turn: float) -> Any:
    """A geographic geometry, each part moved by whole turns around the earth to where it is nearest to a longitude."""
    parts = shapely.get_parts(geometry)
    west, _, east, _ = shapely.bounds(parts).T
    turns = turn * np.round((middle - (west + east) / 2) / turn)
    turned = [translate(part, by) for part, by in zip(parts, turns, strict=True)]
    return turned[0] if len(turned) == 1 else type(geometry)(turned)
