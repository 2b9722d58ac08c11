"""Shapefiles whose text has any bytes, and GeoPackages of several layers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import pandas
import pyogrio

from tests.make.layers import UTM, house


def write_shapefile_with_text(
    path: Path,
    values: Sequence[bytes],
    *,
    field: bytes = b"class",
    width: int = 24,
    driver_id: int = 0,
    cpg: bytes | None = None,
    cpg_suffix: str = ".cpg",
) -> Path:
    """Houses with one attribute of text, whose .dbf and .cpg are written byte by byte.

    Args:
        values: of the attribute, as they stand in the .dbf.
        driver_id: the language driver id of the .dbf.
        cpg: content of the .cpg; None writes none.
    """
    frame = geopandas.GeoDataFrame(geometry=[house(20 * i, 0) for i in range(len(values))], crs=UTM)
    frame.to_file(path)
    head = struct.pack("<4BIHH17xB2x", 3, 126, 1, 1, len(values), 32 + 32 + 1, 1 + width, driver_id)
    column = field.ljust(11, b"\0") + b"C" + bytes(4) + bytes([width, 0]) + bytes(14)
    rows = b"".join(b" " + value.ljust(width) for value in values)
    path.with_suffix(".dbf").write_bytes(head + column + b"\r" + rows + b"\x1a")
    path.with_suffix(".cpg").unlink(missing_ok=True)
    if cpg is not None:
        path.with_suffix(cpg_suffix).write_bytes(cpg)
    return path


def write_layers(path: Path, layers: dict[str, Sequence[Any] | None], **columns: Sequence[Any]) -> Path:
    """A GeoPackage with layers of shapes in UTM by name; None is a table without geometry."""
    for name, shapes in layers.items():
        if shapes is None:
            pyogrio.write_dataframe(pandas.DataFrame({"a": [1]}), path, layer=name, driver="GPKG", append=path.exists())
            continue
        values = {key.rstrip("_"): list(value)[: len(shapes)] for key, value in columns.items()}
        frame = geopandas.GeoDataFrame(values, geometry=list(shapes), crs=UTM)
        pyogrio.write_dataframe(frame, path, layer=name, driver="GPKG", geometry_type="Polygon", append=path.exists())
    return path
