"""Vector files as the rest of the program takes them: footprints in, features out.

Files are read in `geo/vector/read.py` and written in `geo/vector/tables.py` and `geo/vector/geojson.py` alone.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely

from rsprompter_cli.errors import InputError, OutputError, UsageError, plural, shorten
from rsprompter_cli.geo.crs import reproject
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.vector.class_values import class_name_of
from rsprompter_cli.geo.vector.formats.source import LAYER_OPTION
from rsprompter_cli.geo.vector.geojson import prepared, write_geojson, write_geojson_sequence
from rsprompter_cli.geo.vector.read import check_degrees, read_table
from rsprompter_cli.geo.vector.tables import Batches, write_ogr, write_parquet, write_shapefile
from rsprompter_cli.io.atomic import atomic_path, check_writable, temporary_beside

OBJECT_ATTRIBUTES: Mapping[str, type] = {"id": int, "class": str, "score": float, "area_m2": float}
"""Attributes of a found object, in the order of the file."""

QUALITY_ATTRIBUTES: Mapping[str, type] = {"id": int, "class": str, "score": float, "quality": float, "area_m2": float}
"""The same for models that also estimate how good each mask is."""

_OF_WINDOWS: Mapping[str, type] = {"perimeter_m": float, "n_windows": int}

FOUND_ATTRIBUTES: Mapping[str, type] = {**OBJECT_ATTRIBUTES, **_OF_WINDOWS}
"""Those of an object that was found in the windows of a scene, n_windows: how many of them saw it."""

FOUND_WITH_QUALITY: Mapping[str, type] = {**QUALITY_ATTRIBUTES, **_OF_WINDOWS}
"""The same with the quality of each mask."""

GEOJSON_SUFFIXES = (".geojson", ".geojsonl", ".geojsonseq")
"""What is written as RFC 7946 wants it: one collection, a feature a line, or a text sequence (RFC 8142)."""

VECTOR_SUFFIXES = (*GEOJSON_SUFFIXES, ".gpkg", ".fgb", ".parquet", ".shp")
"""What `write_features` can write."""

SHAPEFILE_NAMES = {"perimeter_m": "perim_m"}
"""A Shapefile cuts names to ten letters: ours are shortened instead."""

_RECORD_SEPARATOR = "\x1e"

_log = logging.getLogger(__name__)


Row = tuple[Any, Mapping[str, Any]]
"""A feature on its way into a file: geometry and properties."""


class Feature(NamedTuple):
    """A polygon or multipolygon with its attributes; None is an absent value."""

    geometry: Any
    properties: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Footprints:
    """Polygons of a vector file, in file order.

    polygons: N valid shapely polygons or multipolygons (one row of the file is one object).
    classes: N class names (None where the attribute is empty or blank), or None when no attribute was asked for.
    rows: N positions in the file, from 0.
    crs_wkt: CRS of the polygons, None when neither the file nor the caller named one.
    columns: N values of each attribute that was asked for and is there, None where it is empty.
    repaired: polygons that were invalid (bow-ties, wrong holes) and were made valid.
    empty: rows left out because they have no geometry or no area.
    not_polygons: rows left out because they are points or lines.
    """

    polygons: list[Any]
    classes: list[str | None] | None
    rows: list[int]
    crs_wkt: str | None
    repaired: int = 0
    empty: int = 0
    not_polygons: int = 0
    columns: Mapping[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.polygons)


def object_feature(
    geometry: Any,
    *,
    class_name: str,
    score: float,
    area_m2: float | None,
    id: int | None = None,
    quality: float | None = None,
) -> Feature:
    """A found object with OBJECT_ATTRIBUTES, or QUALITY_ATTRIBUTES where its quality is given.

    Score and quality to 4 decimals, area to 0.1 m2 (None off the earth). Without an id it is numbered
    by `write_features`.
    """
    guess = {} if quality is None else {"quality": round(float(quality), 4)}
    area = None if area_m2 is None else round(area_m2, 1)
    named = {"id": id, "class": class_name, "score": round(float(score), 4)}
    return Feature(geometry, {**named, **guess, "area_m2": area})


def found_feature(
    geometry: Any,
    *,
    class_name: str,
    score: float,
    area_m2: float | None,
    perimeter_m: float | None,
    n_windows: int,
    quality: float | None = None,
) -> Feature:
    """An object found in a scene with FOUND_ATTRIBUTES, or FOUND_WITH_QUALITY where its quality is given.

    The perimeter to 0.1 m (None off the earth), the rest as `object_feature` has it.
    """
    _, properties = object_feature(geometry, class_name=class_name, score=score, area_m2=area_m2, quality=quality)
    around = None if perimeter_m is None else round(perimeter_m, 1)
    return Feature(geometry, {**properties, "perimeter_m": around, "n_windows": n_windows})


def read_footprints(
    path: str | Path,
    *,
    to_crs_wkt: str | None = None,
    class_attribute: str | None = None,
    columns: Sequence[str] = (),
    file_crs: str | None = None,
    layer: str | Sequence[str] | None = None,
    option: str = LAYER_OPTION,
) -> Footprints:
    """Read the polygons of a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet file.

    Args:
        path: an existing regular file.
        to_crs_wkt: CRS to bring the polygons into; None leaves them in the file's.
        class_attribute: the column with class names.
        columns: further attributes to read; those that the file lacks are left out.
        file_crs: CRS of a file that names none.
        layer, option: which layer is read, see `geo.vector.read.open_layer`.

    Raises:
        InputError: missing, damaged or foreign file; no CRS where one is needed; coordinates that do
            not fit the CRS; no polygon although there are rows.
        UsageError: no such column or layer, or several layers that could be meant.
    """
    path = Path(path)
    geometries, values, crs = read_table(path, class_attribute, columns, layer=layer, option=option)
    crs = crs or file_crs
    polygons, rows, counts = _polygons_of(geometries)
    if len(geometries) and not polygons:
        raise InputError(f"{path}: none of its {plural(len(geometries), 'feature')} is a polygon with area")
    for what, count in counts.items():
        if count:
            one, many = _COUNT_WORDS[what]
            _log.warning("%s: %s", path, plural(count, f"feature {one}", f"features {many}"))
    classes = None if class_attribute is None else [class_name_of(values[class_attribute][row]) for row in rows]
    taken = {name: [_plain_value(values[name][row]) for row in rows] for name in columns if name in values}
    footprints = Footprints(polygons, classes, rows, crs, columns=taken, **counts)
    return footprints if to_crs_wkt is None else move_footprints(footprints, to_crs_wkt, name=str(path))


def move_footprints(footprints: Footprints, to_crs_wkt: str, *, name: str) -> Footprints:
    """The same in another CRS, vertex by vertex; what folds over itself on the way is made valid.

    Args:
        name: of their file, for errors.

    Raises:
        InputError: they have no CRS, or coordinates that do not fit it.
    """
    polygons, crs = footprints.polygons, footprints.crs_wkt
    if crs is None:
        raise InputError(
            f"{name}: has no coordinate reference system", "add one, for example ogr2ogr -a_srs EPSG:32633"
        )
    if polygons:
        try:
            check_degrees(polygons, crs)
            moved = reproject(polygons, crs, to_crs_wkt)
        except InputError as error:
            raise InputError(f"{name}: {error.message}", error.hint) from error
        polygons = [polygon if polygon.is_valid else _valid_polygon(polygon) or polygon for polygon in moved]
    return replace(footprints, polygons=polygons, crs_wkt=to_crs_wkt)


def write_features(
    path: str | Path,
    features: Iterable[Feature],
    crs_wkt: str | None,
    *,
    attributes: Mapping[str, type] = OBJECT_ATTRIBUTES,
    on_dropped: Callable[[int], None] = lambda _place: None,
) -> int:
    """Stream polygons into a file whose extension names the format; it appears whole or not at all.

    The same features give the same bytes on every run. GeoJSON is RFC 7946 (WGS84); the other
    formats keep the CRS. Not-a-number becomes an absent value. Existing files are replaced: ask
    `io.atomic.refuse_existing` first.

    Args:
        path: with one of VECTOR_SUFFIXES.
        features: polygons or multipolygons in the CRS, one by one; memory does not grow with them.
        crs_wkt: CRS of the geometries, None for pixel coordinates.
        attributes: name and type (int, float, str, bool) of the attributes, in file order; every
            feature has exactly these. An `id` of None becomes the place in the file, from 1.
        on_dropped: told the place, from 0, of each feature that the format cannot hold (GeoJSON: nothing
            is left of it at 7 decimals).

    Returns:
        Features written.

    Raises:
        UsageError: unknown extension.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    check_vector_suffix(path)
    rows = _checked(features, attributes)
    suffix = path.suffix.lower()
    if suffix in GEOJSON_SUFFIXES:
        rows = _numbered(prepared(rows, crs_wkt, name=str(path), on_dropped=on_dropped))
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            if suffix == ".geojson":
                return write_geojson(file, rows)
            return write_geojson_sequence(file, rows, mark=_RECORD_SEPARATOR if suffix == ".geojsonseq" else "")
    if suffix == ".shp":
        names = {old: new for old, new in SHAPEFILE_NAMES.items() if old in attributes and new not in attributes}
        attributes = {names.get(name, name): kind for name, kind in attributes.items()}
        rows = ((geometry, {names.get(name, name): v for name, v in values.items()}) for geometry, values in rows)
    return _write_table(path, Batches(_numbered(rows), attributes), crs_wkt)


def _write_table(path: Path, batches: Batches, crs_wkt: str | None, *, quiet: bool = False) -> int:
    suffix = path.suffix.lower()
    if suffix == ".shp":
        write_shapefile(path, batches, crs_wkt, quiet=quiet)
        return batches.count.features
    with atomic_path(path) as temporary:
        if suffix == ".parquet":
            write_parquet(temporary, batches, crs_wkt)
        else:
            write_ogr(temporary, batches, crs_wkt, target=path, quiet=quiet)
    return batches.count.features


def try_vector_output(path: str | Path, attributes: Mapping[str, type] = FOUND_WITH_QUALITY) -> None:
    """Raise OutputError when `write_features` could not write a file, found out by trying; nothing is left behind.

    A file of the same format, name and attributes with one small polygon is written into a temporary folder beside it,
    so that a name that the format reserves, a full disk or a file system that is not writable show before the work.
    """
    path = Path(path)
    check_vector_suffix(path)
    check_writable(path)
    suffix = path.suffix.lower()
    if suffix in GEOJSON_SUFFIXES:
        return
    reason = _try_write(path, path.name, attributes)
    if reason is None:
        return
    plain = f"objects{suffix}"
    if _try_write(path, plain, attributes) is None:
        way_out = f"choose another file name, for example {plain}"
    elif _try_write(path, plain, {"id": int}) is None:
        way_out = "this format cannot store the attributes: write .geojson"
    else:
        way_out = "choose a writable folder with free space"
    raise OutputError(f"{path}: cannot be written: {reason}", way_out)


def _try_write(path: Path, name: str, attributes: Mapping[str, type]) -> str | None:
    """Why a tiny file cannot be written in a temporary folder beside `path`; None when it can."""
    above = next(folder for folder in path.absolute().parents if folder.is_dir())
    folder = above / temporary_beside(path).name
    tiny: Row = (shapely.box(0, 0, 1, 1), {one: _TINY[kind] for one, kind in attributes.items()})
    try:
        folder.mkdir()
        _write_table(folder / name, Batches([tiny], attributes), None, quiet=True)
    except OSError as error:
        return error.strerror or str(error)
    except OutputError as error:
        if isinstance(error.__cause__, FileNotFoundError | IsADirectoryError):
            return "its name has a character that is special to GDAL"
        reason = error.message.partition("cannot be written: ")[2] or error.message
        return shorten(reason.rpartition(" failed: ")[2])  # without the SQL that failed
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


_TINY: Mapping[type, Any] = {int: 1, float: 0.5, str: "a", bool: True}
"""Values of the feature that is written to try an output."""


def check_vector_suffix(path: str | Path) -> None:
    """Raise UsageError when the extension names no vector format that can be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in VECTOR_SUFFIXES:
        raise UsageError(
            f"{path}: no vector format has the extension {suffix!r}", f"use one of {' '.join(VECTOR_SUFFIXES)}"
        )


def _polygons_of(geometries: np.ndarray) -> tuple[list[Any], list[int], dict[str, int]]:
    polygons: list[Any] = []
    rows: list[int] = []
    counts = {"repaired": 0, "empty": 0, "not_polygons": 0}
    for row, geometry in enumerate(geometries):
        if geometry is None or geometry.is_empty:
            counts["empty"] += 1
            continue
        if geometry.geom_type not in ("Polygon", "MultiPolygon", "GeometryCollection"):
            counts["not_polygons"] += 1
            continue
        whole = geometry.is_valid and geometry.geom_type != "GeometryCollection"
        polygon = geometry if whole else _valid_polygon(geometry)
        if polygon is None or polygon.area == 0:
            counts["empty"] += 1
            continue
        counts["repaired"] += not whole
        polygons.append(polygon)
        rows.append(row)
    return polygons, rows, counts


def _valid_polygon(geometry: Any) -> Any:
    """The area of a geometry as a valid polygon or multipolygon, None when it has none or is not finite."""
    return polygon_parts(geometry) if np.isfinite(shapely.get_coordinates(geometry)).all() else None


_COUNT_WORDS = {
    "repaired": ("was invalid and has been repaired", "were invalid and have been repaired"),
    "empty": ("has no geometry or no area and was skipped", "have no geometry or no area and were skipped"),
    "not_polygons": ("is not a polygon and was skipped", "are not polygons and were skipped"),
}


def _plain_value(value: Any) -> Any:
    """A value as Python has it; None for not-a-number, as which gaps are read."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _numbered(rows: Iterable[Row]) -> Iterator[Row]:
    for number, (geometry, properties) in enumerate(rows, start=1):
        yield geometry, {**properties, "id": number} if properties.get("id", number) is None else properties


def _checked(features: Iterable[Feature], attributes: Mapping[str, type]) -> Iterator[Row]:
    names = list(attributes)
    for geometry, properties in features:
        if geometry.geom_type not in ("Polygon", "MultiPolygon") or geometry.is_empty:
            raise ValueError(f"a feature must be a polygon or multipolygon with area, not {geometry.geom_type}")
        values = {name: properties[name] for name in names}
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        yield geometry, values
