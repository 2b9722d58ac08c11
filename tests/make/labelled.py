"""Scenes with bright buildings on dark ground, and the footprints that say where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS
from rasterio.features import rasterize
from shapely.affinity import rotate

from rsprompter_cli.geo.crs import reproject, to_map
from rsprompter_cli.geo.vector.write import Feature, write_features
from rsprompter_cli.structures import Georef
from tests.make.scenes import write_scene

GROUND, ROOF = 60, 220


def rectangle(x: float, y: float, width: float, height: float, angle: float = 0.0) -> Any:
    """A rectangle in pixels, turned about its centre."""
    return rotate(shapely.box(x, y, x + width, y + height), angle)


def make_labelled_scene(
    folder: Path,
    name: str,
    polygons: Sequence[Any],
    *,
    height: int = 256,
    width: int = 256,
    crs: str = "EPSG:32633",
    transform: Affine | None = None,
    label_crs: str = "EPSG:4326",
    label_suffix: str = ".gpkg",
    classes: Sequence[str | None] | None = None,
    **profile: Any,
) -> tuple[Path, Path]:
    """Write NAME.tif with polygons (in its pixels) painted, and NAME with `label_suffix` in `label_crs`."""
    transform = transform or Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    pixels = np.full((3, height, width), GROUND, np.uint8)
    if polygons:
        pixels[:, rasterize([(polygon, 1) for polygon in polygons], out_shape=(height, width)) == 1] = ROOF
    scene = write_scene(folder / f"{name}.tif", pixels, crs=crs, transform=transform, **profile)
    wkt = CRS.from_user_input(crs).to_wkt()
    placed = to_map(polygons, Georef(tuple(transform)[:6], wkt, "affine"))
    moved = reproject(placed, wkt, label_crs)
    names = classes or [None] * len(polygons)
    features = [Feature(polygon, {"kind": kind}) for polygon, kind in zip(moved, names, strict=True)]
    labels = folder / f"{name}{label_suffix}"
    write_features(labels, features, CRS.from_user_input(label_crs).to_wkt(), attributes={"kind": str})
    return scene, labels


def write_raw_geojson(path: Path, rings: Sequence[Sequence[tuple[float, float]]]) -> Path:
    """Polygons in degrees as they are, even if invalid."""
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [list(ring)]}}
        for ring in rings
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
