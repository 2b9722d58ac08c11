"""The area that a comparison is limited to: polygons of a file, the valid pixels of a scene, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError
from rsprompter_cli.evaluate.polygon_scores import PolygonSet
from rsprompter_cli.geo.crs import move_edges, to_map, with_short_edges
from rsprompter_cli.geo.geometry import object_array, polygon_parts
from rsprompter_cli.geo.raster.georef import way_onto_the_map, why_off_the_map
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.raster.source import NOTHING_STATED, Stated
from rsprompter_cli.geo.vector.formats.wkb import union_of
from rsprompter_cli.geo.vector.intersections import check_intersections
from rsprompter_cli.geo.vector.write import Footprints, move_footprints, read_footprints

_INSIDE = 0.5
"""Share of its area that an object needs inside the area to be wrong or missed on its own account."""

_WHOLE = 0.9999
"""Share of its area from which on an object was not cut: its edge lay on that of the area, but for rounding."""

_AOI_EDGE_PARTS = 256
"""An edge of the area of interest is divided into steps of its extent by this, so that it stays in its place."""


def read_aoi(path: Path, crs: str, layer: str | None = None) -> Any:
    """The union of a file's polygons in `crs`.

    Raises:
        InputError: a file without polygons, or one that cannot be read or placed.
    """
    area = read_footprints(path, layer=layer, option="--aoi-layer")
    if not len(area):
        raise InputError(f"{path}: contains no polygons", "an area of interest needs at least one")
    west, south, east, north = shapely.total_bounds(area.polygons)
    step = max(east - west, north - south) / _AOI_EDGE_PARTS
    dense = Footprints(
        list(with_short_edges(np.array(area.polygons, dtype=object), step)), None, area.rows, area.crs_wkt
    )
    return union_of(move_footprints(dense, crs, name=str(path)).polygons, path)


def scene_area(path: str | Path, stated: Stated = NOTHING_STATED) -> tuple[Any, str]:
    """The outline of the valid pixels of a scene, and its coordinate reference system as WKT.

    Args:
        stated: what the user states of the file.

    Raises:
        InputError: a scene that cannot be read, that is not georeferenced, or without a valid pixel.
    """
    with open_scene(path, native=True, stated=stated) as scene:
        georef = scene.georef
        if not georef.on_earth or georef.crs_wkt is None:
            why, way_out = why_off_the_map(georef), way_onto_the_map(georef)
            raise InputError(f"{scene.path}: {why}", f"omit --scene, or {way_out}")
        outline = scene.footprint()
    if outline is None:
        raise InputError(f"{path}: has no valid pixels", "all of it is nodata or transparent; choose another scene")
    return to_map([outline], georef)[0], georef.crs_wkt


def place_area(area: tuple[Any, str], crs: str) -> Any:
    """An area as of `scene_area` in `crs`, a valid geometry; straight edges stay where they were to 2 cm."""
    outline, own = area
    return polygon_parts(move_edges([outline], own, crs)[0])


def cut_out(layer: Footprints, codes: np.ndarray, border: Any, path: str | Path) -> tuple[PolygonSet, np.ndarray, int]:
    """The objects of a layer inside the border (None: all), their places in it, int64, and how many were cut.

    Raises:
        InputError: their outlines, from the file `path`, cross the border too often.
    """
    polygons = object_array(layer.polygons)
    areas = shapely.area(polygons)
    rows = np.flatnonzero((areas > 0) & shapely.is_valid(polygons))
    optional = np.zeros(len(polygons), dtype=bool)
    cut = np.zeros(len(polygons), dtype=bool)
    if border is not None:
        shapely.prepare(border)
        rows = rows[shapely.intersects(border, polygons[rows])]
        crossing = rows[~shapely.covers(border, polygons[rows])]
        check_intersections(polygons[crossing], np.array([border], dtype=object), path)
        for row in crossing:
            polygons[row] = polygon_parts(shapely.intersection(polygons[row], border))
        rows = rows[shapely.area(polygons[rows]) > 0]  # of None it is nan
        cut[rows] = shapely.area(polygons[rows]) < _WHOLE * areas[rows]
        optional[rows] = shapely.area(polygons[rows]) < _INSIDE * areas[rows]
    return PolygonSet(polygons[rows], areas[rows], codes[rows], optional[rows]), rows, int(cut[rows].sum())
