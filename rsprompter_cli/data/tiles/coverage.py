"""Whether footprints lie on the scene they are given with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError, plural
from rsprompter_cli.geo.crs import to_lonlat, to_map, to_pixels
from rsprompter_cli.geo.raster.scene import Scene
from rsprompter_cli.geo.vector.duplicates import COPY_IOU, first_of_each

logger = logging.getLogger(__name__)

SMALL_SHARE = 0.1
"""A layer with a smaller part of its footprints on the scene is mentioned: it may be the wrong one."""

Extent = tuple[float, float, float, float]


def without_copies(label_path: Path, polygons: Sequence[Any], classes: Sequence[str]) -> list[int]:
    """The positions of the footprints that count; those that repeat an earlier one are logged.

    A copy would be a second training target, and in a figure an object that nobody finds.

    Raises:
        InputError: so many of them meet that comparing them takes too long.
    """
    kept = first_of_each(polygons, classes, label_path)
    copies = len(polygons) - len(kept)
    if copies:
        logger.warning(
            "%s: %s of %s footprints %s skipped (same class, IoU %g or more)",
            label_path,
            f"{copies:,}",
            f"{len(polygons):,}",
            "is a copy of another and is" if copies == 1 else "are copies of others and are",
            COPY_IOU,
        )
    return kept


def check_labels_on_scene(scene_path: Path, label_path: Path, scene: Scene, polygons: Sequence[Any]) -> int:
    """How many footprints touch the scene.

    Args:
        polygons: footprints in the CRS of the scene.

    Raises:
        InputError: none does; the message gives both extents in degrees.
    """
    if not polygons:
        raise InputError(f"{label_path}: contains no polygons")
    count = count_on_scene(scene, polygons)
    if count:
        if count < SMALL_SHARE * len(polygons):
            which = f"{count:,} of its {plural(len(polygons), 'footprint')} {'is' if count == 1 else 'are'}"
            logger.warning("%s: only %s on %s", label_path, which, scene_path)
        return count
    where, hint = extents_apart(scene, polygons, "labels")
    raise InputError(
        f"{label_path}: none of its {plural(len(polygons), 'footprint')} is on {scene_path}: {where}", hint
    )


def count_on_scene(scene: Scene, polygons: Sequence[Any]) -> int:
    """How many polygons in the CRS of a placed scene touch it."""
    frame = shapely.box(0, 0, scene.width, scene.height)
    return int(np.count_nonzero(shapely.intersects(to_pixels(polygons, scene.georef), frame)))


def extents_apart(scene: Scene, geometries: Sequence[Any], what: str) -> tuple[str, str]:
    """Where a placed scene and geometries beside it lie, in degrees, and what may be wrong, in words.

    Args:
        geometries: at least one, in the CRS of the scene.
        what: they are called.
    """
    crs = scene.georef.crs_wkt or ""
    extent = _extent(to_lonlat([shapely.box(*shapely.total_bounds(np.asarray(geometries, dtype=object)))], crs)[0])
    ground = _extent(outline_in_degrees(scene))
    hint = f"the file of the {what} may state a wrong coordinate reference system or belong to another scene"
    if _overlap((extent[1], extent[0], extent[3], extent[2]), ground):
        hint = f"longitude and latitude in the file of the {what} appear to be swapped"
    return f"{what} {_words(extent)}, scene {_words(ground)}", hint


def outline_in_degrees(scene: Scene) -> Any:
    """The border of a placed scene as a WGS84 polygon."""
    frame = shapely.box(0, 0, scene.width, scene.height)
    return to_lonlat(to_map([frame], scene.georef), scene.georef.crs_wkt or "")[0]


def _extent(geometry: Any) -> Extent:
    west, south, east, north = geometry.bounds
    return float(west), float(south), float(east), float(north)


def _overlap(one: Extent, other: Extent) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _words(extent: Extent) -> str:
    west, south, east, north = extent
    return f"longitude {west:.5f} to {east:.5f}, latitude {south:.5f} to {north:.5f}"
