"""Small vector files for comparing and filtering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
from shapely import Polygon, box

UTM = 32633
EAST, NORTH = 500_000.0, 5_000_000.0


def house(x: float, y: float, width: float = 10, height: float = 10) -> Polygon:
    """A box in UTM, placed in metres from a corner of the town."""
    return box(EAST + x, NORTH + y, EAST + x + width, NORTH + y + height)


def write_layer(path: Path, shapes: Sequence[Any], *, epsg: int | None = 4326, **columns: Sequence[Any]) -> Path:
    """Shapes in UTM, written in any CRS (None: in UTM, without naming it)."""
    frame = geopandas.GeoDataFrame(
        {key.rstrip("_"): list(values) for key, values in columns.items()}, geometry=list(shapes)
    )
    frame = frame.set_crs(UTM)
    frame = frame.set_crs(None, allow_override=True) if epsg is None else frame.to_crs(epsg)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path
