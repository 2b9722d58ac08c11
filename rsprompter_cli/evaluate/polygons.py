"""Comparing two vector layers: which polygons are found, which are wrong, which are missed, in map units."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.evaluate.defaults import CLASS_COLUMN, MATCH_IOU, SCORE_COLUMN, SIZES
from rsprompter_cli.evaluate.polygon_scores import Counts, Group, PolygonScores, PolygonSet, score_polygons
from rsprompter_cli.geo.class_values import class_name_of, warn_of_look_alikes
from rsprompter_cli.geo.layers import WGS84, open_layer, require_layers
from rsprompter_cli.geo.lonlat import local_equal_area, reproject
from rsprompter_cli.geo.polygons import polygon_parts
from rsprompter_cli.geo.vector import Footprints, move_footprints, read_footprints

NO_CLASS = "(no class)"
"""Class of objects whose class attribute is empty."""

_INSIDE = 0.5
"""Share of its area that an object needs inside the area of interest to be wrong or missed on its own account."""

_AOI_EDGE_PARTS = 256
"""An edge of the area of interest is divided into steps of its extent by this, so that it stays in its place."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What of a file was compared.

    objects: that took part.
    repaired: of the file's polygons, invalid ones that were made valid.
    left_out: rows without a polygon with area.
    outside: polygons outside the area of interest.
    below_score: of the objects, predictions under the score.
    """

    path: str
    objects: int
    repaired: int
    left_out: int
    outside: int
    below_score: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class PolygonEvaluation:
    """A comparison of two layers.

    crs: the local equal-area projection that polygons were matched in; None when both layers are empty.
    iou, score, sizes: as asked for.
    scored: the predictions have scores; they were matched best score first. Else as many as possible were matched.
    class_column: attribute that objects were matched within; None when classes were left aside.
    pred, truth: the objects in `crs`, cut to the area of interest.
    aoi: that area in `crs`, or None.
    scores: the figures.
    """

    predictions: LayerFacts
    truths: LayerFacts
    crs: str | None
    iou: float
    score: float | None
    sizes: tuple[float, float]
    scored: bool
    class_column: str | None
    pred: PolygonSet
    truth: PolygonSet
    aoi: Any
    scores: PolygonScores

    @property
    def counts(self) -> Counts:
        """Right, wrong and missed at the IoU asked for, with precision, recall and F1."""
        return self.scores.counts

    @property
    def ap(self) -> Mapping[str, float | None] | None:
        """AP, AP50 and AP75, None where the predictions have no score."""
        return self.scores.ap

    @property
    def by_class(self) -> tuple[Group, ...]:
        """Figures of each class, none where classes were left aside."""
        return self.scores.by_class


def evaluate_polygons(
    pred: str | Path,
    truth: str | Path,
    *,
    iou: float = MATCH_IOU,
    score: float | None = None,
    score_column: str | None = None,
    class_column: str | None = None,
    sizes: Sequence[float] = SIZES,
    aoi: str | Path | None = None,
    layer: str | None = None,
    truth_layer: str | None = None,
    aoi_layer: str | None = None,
) -> PolygonEvaluation:
    """Compare predicted polygons with true ones, both from vector files in any CRS.

    They are matched one to one in an equal-area projection around them, where an IoU is that of the
    ground: with scores by COCO's rule, without as many as possible. Objects that the border of `aoi`
    cuts are cut in both layers; a piece of less than half an object counts only when it is found.

    Args:
        iou: from which on two polygons are the same object.
        score: predictions below are left out, except of AP and of the best score.
        score_column: attribute with the scores; None: `score` where the predictions have it.
        class_column: attribute of both layers that has to agree; None: `class` where both have it and
            some class in common.
        sizes: square metres where medium and large begin.
        aoi: a vector file whose polygons limit what is compared.
        layer: name of the layer to compare, of `pred` and `truth` alike where they have it; a file with a single
            layer of features needs none.
        truth_layer: of `truth` alone. aoi_layer: of `aoi`.

    Raises:
        InputError: a file that cannot be read or placed, one whose x and y are swapped, or a score that is no number.
        UsageError: no such attribute or layer, several layers that could be meant, or a number out of range.
    """
    limits = _check_options(iou, score, sizes)
    layers = _layers_of(pred, truth, layer, truth_layer)
    columns = [class_column or CLASS_COLUMN]
    found = read_footprints(pred, columns=[score_column or SCORE_COLUMN, *columns], layer=layers[0])
    true = read_footprints(truth, columns=columns, layer=layers[1], option=layers[2])
    values = _scores_of(found, Path(pred), score_column, needed=score is not None, layer=layers[0])
    used_column, names, found_codes, true_codes = _classes_of(
        found, true, Path(pred), Path(truth), class_column, layers[:2]
    )
    _refuse_swapped(str(pred), found, str(truth), true)
    crs = _local_crs({str(pred): found, str(truth): true})
    border = None if aoi is None or crs is None else _read_aoi(Path(aoi), crs, aoi_layer)
    if crs is not None:
        found, true = (
            move_footprints(one, crs, name=str(path)) if len(one) else one
            for one, path in ((found, pred), (true, truth))
        )
    found_set, found_rows = _cut_out(found, found_codes, border)
    true_set, true_rows = _cut_out(true, true_codes, border)
    _warn_of_distance(found_set, true_set, border)
    values = None if values is None else values[found_rows]
    scores = score_polygons(found_set, true_set, scores=values, class_names=names, iou=iou, score=score, sizes=limits)
    below = int((~scores.kept).sum())
    return PolygonEvaluation(
        predictions=_facts(pred, found, found_rows, below),
        truths=_facts(truth, true, true_rows, 0),
        crs=crs,
        iou=iou,
        score=score,
        sizes=limits,
        scored=values is not None,
        class_column=used_column,
        pred=found_set,
        truth=true_set,
        aoi=border,
        scores=scores,
    )


def parse_sizes(text: str) -> tuple[float, float]:
    """`"50,200"` as (50, 200).

    Raises:
        UsageError: not two rising numbers above 0.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    return _check_sizes(numbers, text)


def _check_options(iou: float, score: float | None, sizes: Sequence[float]) -> tuple[float, float]:
    if not 0 < iou <= 1:
        raise UsageError(f"--iou {iou:g}: above 0, up to 1")
    if score is not None and not math.isfinite(score):
        raise UsageError(f"--score {score:g}: a number")
    return _check_sizes(sizes, ",".join(f"{size:g}" for size in sizes))


def _check_sizes(sizes: Sequence[float], text: str) -> tuple[float, float]:
    if len(sizes) != 2 or not 0 < sizes[0] < sizes[1] < math.inf:
        raise UsageError(f"--sizes {text}: square metres where medium and large begin", "as in --sizes 50,200")
    return float(sizes[0]), float(sizes[1])


_LayerName = str | Sequence[str] | None
"""What `open_layer` takes as the layer of a file."""

_Classes = tuple[str | None, list[str], np.ndarray, np.ndarray]
"""The column that was taken, class names, and the class of each prediction and true object as index; no names where
classes are left aside."""


def _scores_of(
    found: Footprints, path: Path, column: str | None, *, needed: bool, layer: _LayerName
) -> np.ndarray | None:
    """float64 [N]; None where the layer has no scores and none are needed. No objects need no column."""
    name = column or SCORE_COLUMN
    if not len(found):
        return np.zeros(0)
    if name not in found.columns:
        if column is not None or needed:
            open_layer(path, layer=layer).require(name)
        return None
    scores = np.full(len(found), np.nan)
    for place, value in enumerate(found.columns[name]):
        try:
            scores[place] = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            break
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        value, row = found.columns[name][bad[0]], found.rows[bad[0]] + 1
        raise InputError(
            f"{path}: feature {row} has the {name} {value!r}, which is no number",
            "name another column with --score-column, or remove this one to match without scores",
        )
    return scores


def _classes_of(
    found: Footprints,
    true: Footprints,
    pred: Path,
    truth: Path,
    column: str | None,
    layers: Sequence[_LayerName],
) -> _Classes:
    aside: _Classes = (None, [], np.zeros(len(found), np.int64), np.zeros(len(true), np.int64))
    name = column or CLASS_COLUMN
    for path, rows, layer in ((pred, found, layers[0]), (truth, true, layers[1])):
        if len(rows) and name not in rows.columns:
            if column is not None:
                open_layer(path, layer=layer).require(name)
            return aside
    sides = [[class_name_of(value) or NO_CLASS for value in layer.columns.get(name, [])] for layer in (found, true)]
    warn_of_look_alikes(f"{pred} and {truth}", {*sides[0], *sides[1]})
    only = [sorted(set(one) - set(other)) for one, other in (sides, sides[::-1])]
    if found.rows and true.rows and not set(sides[0]) & set(sides[1]):
        what = f"{pred} has the classes {_some(only[0])} and {truth} {_some(only[1])}"
        if column is None:
            _log.warning("%s: none in common, so classes are left aside (--class-column %s compares them)", what, name)
            return aside
        _log.warning("%s: none in common", what)
    elif found.rows and true.rows:
        for path, names in ((pred, only[0]), (truth, only[1])):
            if names:
                _log.warning("only %s has the classes %s", path, _some(names))
    names = sorted(set(sides[0]) | set(sides[1]))
    code = {one: place for place, one in enumerate(names)}
    found_codes, true_codes = (np.array([code[one] for one in side], dtype=np.int64) for side in sides)
    return name, names, found_codes, true_codes


def _layers_of(
    pred: str | Path, truth: str | Path, layer: str | None, truth_layer: str | None
) -> tuple[_LayerName, _LayerName, str]:
    """The layers of the predictions and of the truth, and the option that names the latter.

    Raises:
        UsageError: neither file has the layer that is named for both.
    """
    if truth_layer is not None:
        return layer, truth_layer, "--truth-layer"
    if layer is None:
        return None, None, "--truth-layer"
    require_layers([pred, truth], [layer])
    return [layer], [layer], "--truth-layer"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _local_crs(layers: Mapping[str, Footprints]) -> str | None:
    """None where no layer has an object."""
    placed = {}
    for name, layer in layers.items():
        if len(layer):
            if layer.crs_wkt is None:
                raise InputError(
                    f"{name}: names no coordinate reference system", "add one, e.g. ogr2ogr -a_srs EPSG:32633"
                )
            placed[name] = (layer.polygons, layer.crs_wkt)
    return local_equal_area(placed) if placed else None


def _refuse_swapped(one: str, here: Footprints, other: str, there: Footprints) -> None:
    """Raise InputError where two layers lie apart and would not if x and y of one of them changed places."""
    if not len(here) or not len(there) or _touch(_ground(here), _ground(there)):
        return
    swapped = []
    if _touch(_ground(here, swapped=True), _ground(there)):
        swapped.append(one)
    if _touch(_ground(here), _ground(there, swapped=True)):
        swapped.append(other)
    if swapped:
        raise InputError(
            f"{one} and {other} lie apart, but would not with x and y of {' or '.join(swapped)} swapped",
            "longitude, or easting, comes first; QGIS, for one, has 'Swap X and Y coordinates'",
        )


def _ground(layer: Footprints, *, swapped: bool = False) -> Any:
    """The bounds of a layer as a polygon in degrees; None where they have no place there."""
    west, south, east, north = shapely.total_bounds(layer.polygons)
    extent = shapely.box(south, west, north, east) if swapped else shapely.box(west, south, east, north)
    if layer.crs_wkt is None:
        return None
    try:
        return reproject([shapely.segmentize(extent, max(east - west, north - south) / 16)], layer.crs_wkt, WGS84)[0]
    except InputError:
        return None


def _touch(one: Any, other: Any) -> bool:
    return one is not None and other is not None and bool(shapely.intersects(one.envelope, other.envelope))


def _read_aoi(path: Path, crs: str, layer: str | None) -> Any:
    """The union of a file's polygons."""
    area = read_footprints(path, layer=layer, option="--aoi-layer")
    if not len(area):
        raise InputError(f"{path}: holds no polygon", "an area of interest has at least one")
    west, south, east, north = shapely.total_bounds(area.polygons)
    step = max(east - west, north - south) / _AOI_EDGE_PARTS
    dense = Footprints(list(shapely.segmentize(area.polygons, step)), None, area.rows, area.crs_wkt)
    return shapely.union_all(move_footprints(dense, crs, name=str(path)).polygons)


def _cut_out(layer: Footprints, codes: np.ndarray, border: Any) -> tuple[PolygonSet, np.ndarray]:
    """The objects of a layer inside the border (None: all), and their places in it, int64."""
    polygons = np.empty(len(layer), dtype=object)
    polygons[:] = layer.polygons
    areas = shapely.area(polygons)
    rows = np.flatnonzero((areas > 0) & shapely.is_valid(polygons))
    optional = np.zeros(len(polygons), dtype=bool)
    if border is not None:
        shapely.prepare(border)
        rows = rows[shapely.intersects(border, polygons[rows])]
        for row in rows[~shapely.covers(border, polygons[rows])]:
            polygons[row] = polygon_parts(shapely.intersection(polygons[row], border))
        rows = rows[shapely.area(polygons[rows]) > 0]  # of None it is nan
        optional[rows] = shapely.area(polygons[rows]) < _INSIDE * areas[rows]
    return PolygonSet(polygons[rows], areas[rows], codes[rows], optional[rows]), rows


def _warn_of_distance(found: PolygonSet, true: PolygonSet, border: Any) -> None:
    if not len(found) or not len(true):
        if border is not None and not len(found) and not len(true):
            _log.warning("no polygon of either layer lies in the area of interest")
        return
    boxes = [shapely.box(*shapely.total_bounds(one.polygons)) for one in (found, true)]
    if not shapely.intersects(*boxes):
        apart = shapely.distance(*boxes) / 1000
        _log.warning("predictions and truth lie %.3g km apart: one may name a wrong CRS", apart)


def _facts(path: str | Path, layer: Footprints, rows: np.ndarray, below: int) -> LayerFacts:
    left_out = layer.empty + layer.not_polygons
    return LayerFacts(str(path), len(rows), layer.repaired, left_out, len(layer) - len(rows), below)
