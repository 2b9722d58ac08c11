"""Fewer of the features of a vector file, as a higher threshold would have given them, without the model."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError, UsageError, did_you_mean, plural
from rsprompter_cli.geo.crs import geodesic_area, to_lonlat
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.vector.class_values import class_name_of, warn_of_look_alikes
from rsprompter_cli.geo.vector.read import Layer, LayerBatch, open_layer
from rsprompter_cli.geo.vector.tables import GEOMETRY, written_files
from rsprompter_cli.geo.vector.write import (
    GEOJSON_SUFFIXES,
    Feature,
    check_vector_suffix,
    try_vector_output,
    write_features,
)
from rsprompter_cli.io.atomic import refuse_existing

SCORE, CLASS, AREA = "score", "class", "area_m2"
"""Attributes as `rsp predict` names them."""

_COLLECTION = shapely.GeometryType.GEOMETRYCOLLECTION
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FilterReport:
    """What a filter did. Each feature that was dropped counts once, under the first reason in this order.

    dropped: not_polygons (no polygon with area), score (too low), no_score (the attribute is empty),
        classes (another class), min_area (too small), too_fine (nothing left at the decimals of GeoJSON).
    repaired: invalid polygons that were made valid.
    unmeasured: of those kept, features whose area_m2 is empty.
    """

    out: Path
    read: int
    kept: int
    dropped: dict[str, int]
    repaired: int
    unmeasured: int


@dataclass(slots=True)
class _Rules:
    """What is asked of a feature, and what was seen; None asks nothing."""

    score: float | None
    min_area: float | None
    classes: frozenset[str] | None
    read: int = 0
    measured: int = 0
    repaired: int = 0
    unmeasured: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    seen_classes: set[str] = field(default_factory=set)


def filter_features(
    path: str | Path,
    out: str | Path,
    *,
    score: float | None = None,
    min_area: float | None = None,
    classes: Sequence[str] | None = None,
    layer: str | None = None,
    overwrite: bool = False,
) -> FilterReport:
    """Write the features of a vector file that reach the thresholds, with all their attributes and their CRS.

    The ids stay, so that a feature can be followed from file to file. Features are streamed: memory
    does not grow with them, apart from what GDAL needs to read GeoJSON.

    Args:
        path: written by `rsp predict`, or any other layer of polygons.
        out: its extension names the format; GeoJSON is in WGS84, as the standard has it.
        score: lowest value of the attribute `score`.
        min_area: smallest area, square metres: the attribute `area_m2` where there is one, whose empty
            values pass, else measured on the ellipsoid.
        classes: values of the attribute `class`, without the blanks at their ends.
        layer: name of the layer, needed where the file has several.

    Raises:
        UsageError: nothing is asked for, an attribute that is needed or the layer is not there, several layers
            without `layer`, or an unknown extension.
        InputError: the file cannot be read, a score is no number, or no area is known.
        OutputError: the output exists and may not be replaced, is the input, or cannot be written.
    """
    path, out = Path(path), Path(out)
    check_vector_suffix(out)
    rules = _check_rules(score, min_area, classes)
    for file in written_files(out):
        refuse_existing(file, overwrite=overwrite, inputs=written_files(path))
    opened = open_layer(path, layer=layer)
    _check_attributes(opened, rules)
    if GEOMETRY in opened.attributes and out.suffix.lower() not in GEOJSON_SUFFIXES:
        raise UsageError(f"{path}: has an attribute {GEOMETRY!r}, which {out} cannot store", "write .geojson")
    try_vector_output(out, opened.attributes)
    too_fine: list[int] = []
    kept = write_features(
        out, _kept(opened, rules), opened.crs_wkt, attributes=opened.attributes, on_dropped=too_fine.append
    )
    if too_fine:
        rules.dropped["too_fine"] = len(too_fine)
    if rules.unmeasured:
        _log.warning("%s: kept %s without %s", path, plural(rules.unmeasured, "feature"), AREA)
    if rules.classes is not None and rules.read:
        warn_of_look_alikes(str(path), rules.seen_classes)
        for name in sorted(rules.classes - rules.seen_classes):
            hint = did_you_mean(name, rules.seen_classes)
            _log.warning("%s: no feature has the class %r%s", path, name, f" ({hint})" if hint else "")
    return FilterReport(out, rules.read, kept, dict(rules.dropped), rules.repaired, rules.unmeasured)


def _check_rules(score: float | None, min_area: float | None, classes: Sequence[str] | None) -> _Rules:
    if score is None and min_area is None and classes is None:
        raise UsageError("nothing to filter by", "add --score, --min-area or --classes")
    if score is not None and not math.isfinite(score):
        raise UsageError(f"--score {score:g}: must be a finite number")
    if min_area is not None and not 0 <= min_area < math.inf:
        raise UsageError(f"--min-area {min_area:g}: must be a finite number of square metres, 0 or more")
    if classes is not None and not classes:
        raise UsageError("--classes names no class", "for example --classes building,tank")
    names = None if classes is None else frozenset(class_name_of(name) or name for name in classes)
    return _Rules(score, min_area, names)


def _check_attributes(layer: Layer, rules: _Rules) -> None:
    """Without attributes a GeoJSON file is empty, or of no model: the first row will tell."""
    for value, column in ((rules.score, SCORE), (rules.classes, CLASS)):
        if value is not None and layer.attributes:
            layer.require(column)
    if rules.min_area is not None and AREA not in layer.attributes and layer.attributes and layer.crs_wkt is None:
        raise InputError(
            f"{layer.path}: has neither an attribute {AREA} nor a coordinate reference system to measure areas in"
        )


def _kept(layer: Layer, rules: _Rules) -> Iterator[Feature]:
    """The features that pass, in file order; what is dropped is counted in the rules."""
    names = list(layer.attributes)
    for batch in layer.batches():
        first = rules.read + 1
        rules.read += len(batch.geometries)
        geometries = _polygons(batch.geometries, rules)
        passing = _passing(layer, batch, geometries, rules, first)
        rows = zip(*(batch.columns[name] for name in names), strict=True) if names else iter([()] * len(geometries))
        for geometry, values, passes in zip(geometries, rows, passing, strict=True):
            if passes:
                yield Feature(geometry, dict(zip(names, values, strict=True)))
    if rules.min_area is not None and rules.unmeasured and not rules.measured:
        raise InputError(
            f"{layer.path}: no feature has a value of {AREA}",
            "omit --min-area for this file",
        )


def _polygons(geometries: np.ndarray, rules: _Rules) -> np.ndarray:
    """object [N]: valid polygons and multipolygons, None for what is none."""
    kinds = shapely.get_type_id(geometries)
    area = np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))
    finite = np.isfinite(shapely.bounds(geometries)).all(axis=1)
    usable = finite & (shapely.area(geometries) > 0)
    result = geometries.copy()
    result[~(area & usable)] = None
    for row in np.flatnonzero(finite & ((area & ~shapely.is_valid(geometries)) | (kinds == _COLLECTION))):
        result[row] = polygon_parts(geometries[row])
        rules.repaired += result[row] is not None
    return result


def _passing(layer: Layer, batch: LayerBatch, geometries: np.ndarray, rules: _Rules, first: int) -> np.ndarray:
    """bool [N]; every feature that does not pass is counted under its first reason."""
    left = np.ones(len(geometries), dtype=bool)

    def drop(reason: str, bad: np.ndarray) -> None:
        count = int((left & bad).sum())
        if count:
            rules.dropped[reason] += count
        left[bad] = False

    drop("not_polygons", shapely.is_missing(geometries))
    if rules.score is not None:
        scores = _numbers(layer, batch, SCORE, first)
        drop("score", scores < rules.score)
        drop("no_score", np.isnan(scores))
    if rules.classes is not None:
        layer.require(CLASS)
        names = [class_name_of(value) for value in batch.columns[CLASS]]
        rules.seen_classes.update(name for name in names if name is not None)
        drop("classes", np.array([name not in rules.classes for name in names], dtype=bool))
    if rules.min_area is not None:
        areas = _areas(layer, batch, geometries, left, first)
        rules.measured += int((left & ~np.isnan(areas)).sum())
        drop("min_area", areas < rules.min_area)
        rules.unmeasured += int((left & np.isnan(areas)).sum())
    return left


def _areas(layer: Layer, batch: LayerBatch, geometries: np.ndarray, left: np.ndarray, first: int) -> np.ndarray:
    """float64 [N] square metres, NaN where the attribute is empty."""
    if AREA in batch.columns:
        return _numbers(layer, batch, AREA, first)
    areas = np.full(len(geometries), np.nan)
    rows = np.flatnonzero(left)
    if layer.crs_wkt is None:
        raise InputError(f"{layer.path}: has no coordinate reference system to measure areas in")
    try:
        areas[rows] = [geodesic_area(lonlat) for lonlat in to_lonlat(geometries[rows], layer.crs_wkt)]
    except InputError as error:
        raise InputError(f"{layer.path}: {error.message}", error.hint) from error
    return areas


def _numbers(layer: Layer, batch: LayerBatch, column: str, first: int) -> np.ndarray:
    """float64 [N] of an attribute, NaN where it is empty.

    Args:
        first: number of the first row in the file, from 1.
    """
    layer.require(column)
    values: list[Any] = batch.columns[column]
    try:
        return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
    except ValueError:
        place, value = next((n, v) for n, v in enumerate(values, first) if v is not None and not _is_number(v))
        raise InputError(f"{layer.path}: feature {place} has the {column} {value!r}, which is not a number") from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
