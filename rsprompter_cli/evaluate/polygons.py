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

from rsprompter_cli.errors import InputError, UsageError, length_words
from rsprompter_cli.evaluate.area import cut_out, place_area, read_aoi, scene_area
from rsprompter_cli.evaluate.defaults import CLASS_COLUMN, MATCH_IOU, SCORE_COLUMN, SIZES
from rsprompter_cli.evaluate.outlines import Outlines, compare_outlines
from rsprompter_cli.evaluate.polygon_scores import Counts, Group, PolygonScores, PolygonSet, score_polygons
from rsprompter_cli.geo.crs import local_equal_area, reproject
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.raster.source import NOTHING_STATED, Stated
from rsprompter_cli.geo.vector.class_values import class_name_of, warn_of_look_alikes
from rsprompter_cli.geo.vector.read import WGS84, open_layer, require_layers
from rsprompter_cli.geo.vector.write import Footprints, move_footprints, read_footprints

NO_CLASS = "(no class)"
"""Class of objects whose class attribute is empty."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What of a file was compared.

    objects: that took part.
    repaired: of the file's polygons, invalid ones that were made valid.
    left_out: rows without a polygon with area.
    outside: polygons outside the area of interest and the scene.
    cut: of the objects, those of which a part lies outside.
    below_score: of the objects, predictions under the score.
    """

    path: str
    objects: int
    repaired: int
    left_out: int
    outside: int
    cut: int
    below_score: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class PolygonEvaluation:
    """A comparison of two layers.

    crs: the local equal-area projection that polygons were matched in; None when both layers are empty.
    iou, score, sizes: as asked for.
    scored: the predictions have scores; they were matched best score first. Else as many as possible were matched.
    class_column: attribute that objects were matched within; None when classes were left aside.
    pred, truth: the objects in `crs`, cut to the area that was compared.
    aoi: that area in `crs`: the area of interest, the valid pixels of the scene, or what they share; or None.
    scene: the scene whose valid pixels limit it, or None; with_aoi: an area of interest limits it.
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
    scene: str | None
    with_aoi: bool
    scores: PolygonScores

    @property
    def counts(self) -> Counts:
        """Correct, wrong and missed at the IoU asked for, with precision, recall and F1."""
        return self.scores.counts

    @property
    def ap(self) -> Mapping[str, float | None] | None:
        """AP, AP50 and AP75, None where the predictions have no score."""
        return self.scores.ap

    @property
    def by_class(self) -> tuple[Group, ...]:
        """Figures of each class, none where classes were left aside."""
        return self.scores.by_class

    @property
    def outlines(self) -> Outlines:
        """How well the outlines of the pairs at the IoU asked for agree; computed at each access."""
        matched = self.scores.pred_match
        pairs = np.flatnonzero(matched >= 0)
        pairs = pairs[~self.truth.optional[matched[pairs]]]
        pred, truth = self.pred.polygons, self.truth.polygons
        return compare_outlines(pred[pairs], truth[matched[pairs]], truth, self.aoi)


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
    scene: str | Path | None = None,
    stated: Stated = NOTHING_STATED,
    layer: str | None = None,
    truth_layer: str | None = None,
    aoi_layer: str | None = None,
) -> PolygonEvaluation:
    """Compare predicted polygons with true ones, both from vector files in any CRS.

    They are matched one to one in an equal-area projection around them, where an IoU is that of the
    ground: with scores by COCO's rule, without as many as possible. With `aoi` or `scene`, only what lies
    inside is compared: objects on the border are cut in both layers. A piece of less than half an object is
    neither missed nor wrong, and a prediction that matches such a piece is not counted either.

    Args:
        iou: from which on two polygons are the same object.
        score: predictions below are left out, except of AP and of the best score.
        score_column: attribute with the scores; None: `score` where the predictions have it.
        class_column: attribute of both layers that has to agree; None: `class` where both have it and
            some class in common.
        sizes: square metres where medium and large begin.
        aoi: a vector file whose polygons limit what is compared.
        scene: the raster that predictions were made from: both layers are cut to its valid pixels. Without it, a
            true object that reaches past the edge of the scene has a low IoU with the part that can be found.
        stated: what the user states of the file of `scene`.
        layer: name of the layer to compare, of `pred` and `truth` alike where they have it; a file with a single
            layer of features needs none.
        truth_layer: of `truth` alone. aoi_layer: of `aoi`.

    Raises:
        InputError: a file that cannot be read or placed, one whose x and y are swapped, a score that is no number,
            or a scene that is not georeferenced or has no valid pixel.
        UsageError: no such attribute or layer, several layers that could be meant, or a number out of range.
    """
    limits = _check_options(iou, score, sizes)
    layers = _layers_of(pred, truth, layer, truth_layer)
    columns = [class_column or CLASS_COLUMN]
    found = read_footprints(pred, columns=[score_column or SCORE_COLUMN, *columns], layer=layers[0])
    true = read_footprints(truth, columns=[SCORE_COLUMN, *columns], layer=layers[1], option=layers[2])
    values = _scores_of(found, Path(pred), score_column, needed=score is not None, layer=layers[0])
    if values is None and len(true) and SCORE_COLUMN in true.columns:
        _log.warning(
            "%s has a column %r and %s has none: are predictions and truth in the right order?",
            truth,
            SCORE_COLUMN,
            pred,
        )
    used_column, names, found_codes, true_codes = _classes_of(
        found, true, Path(pred), Path(truth), class_column, layers[:2]
    )
    _refuse_swapped(str(pred), found, str(truth), true)
    ground = None if scene is None else scene_area(scene, stated)
    crs = _local_crs({str(pred): found, str(truth): true}, ground)
    border = None if crs is None else _border(aoi, ground, crs, aoi_layer)
    if crs is not None:
        found, true = (
            move_footprints(one, crs, name=str(path)) if len(one) else one
            for one, path in ((found, pred), (true, truth))
        )
    found_set, found_rows, found_cut = cut_out(found, found_codes, border, pred)
    true_set, true_rows, true_cut = cut_out(true, true_codes, border, truth)
    _warn_of_distance(found_set, true_set, border)
    values = None if values is None else values[found_rows]
    scores = score_polygons(
        found_set,
        true_set,
        scores=values,
        class_names=names,
        iou=iou,
        score=score,
        sizes=limits,
        what=f"{pred} and {truth}",
    )
    below = int((~scores.kept).sum())
    return PolygonEvaluation(
        predictions=_facts(pred, found, found_rows, cut=found_cut, below=below),
        truths=_facts(truth, true, true_rows, cut=true_cut, below=0),
        crs=crs,
        iou=iou,
        score=score,
        sizes=limits,
        scored=values is not None,
        class_column=used_column,
        pred=found_set,
        truth=true_set,
        aoi=border,
        scene=None if scene is None else str(scene),
        with_aoi=aoi is not None,
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
        raise UsageError(f"--iou {iou:g}: must be above 0 and at most 1")
    if score is not None and not math.isfinite(score):
        raise UsageError(f"--score {score:g}: must be a finite number")
    return _check_sizes(sizes, ",".join(f"{size:g}" for size in sizes))


def _check_sizes(sizes: Sequence[float], text: str) -> tuple[float, float]:
    if len(sizes) != 2 or not 0 < sizes[0] < sizes[1] < math.inf:
        raise UsageError(
            f"--sizes {text}: must be the areas in square metres where medium and large begin",
            "for example --sizes 50,200",
        )
    return float(sizes[0]), float(sizes[1])


_LayerName = str | Sequence[str] | None
"""What `open_layer` takes as the layer of a file."""

_Classes = tuple[str | None, list[str], np.ndarray, np.ndarray]
"""The column that was taken, class names, and the class of each prediction and true object as index; no names where
classes are ignored."""


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
            f"{path}: feature {row} has the {name} {value!r}, which is not a number",
            "choose another column with --score-column, or remove this one to match without scores",
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
        what = f"{pred} has the classes {_some(only[0])}, {truth} has {_some(only[1])}"
        if column is None:
            _log.warning("%s: none in common, so classes are ignored (--class-column %s compares them)", what, name)
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
    return f"{shown} and {len(names) - 5:,} more" if len(names) > 5 else shown


def _local_crs(layers: Mapping[str, Footprints], ground: tuple[Any, str] | None) -> str | None:
    """A local projection centred on the scene where there is one, else on the objects; None without any object."""
    placed = {}
    for name, layer in layers.items():
        if len(layer):
            if layer.crs_wkt is None:
                raise InputError(
                    f"{name}: has no coordinate reference system", "add one, for example ogr2ogr -a_srs EPSG:32633"
                )
            placed[name] = (layer.polygons, layer.crs_wkt)
    if placed and ground is not None:
        return local_equal_area({"the scene": ([ground[0]], ground[1])})
    return local_equal_area(placed) if placed else None


def _border(aoi: str | Path | None, ground: tuple[Any, str] | None, crs: str, layer: str | None) -> Any:
    """What the area of interest and the scene share, in `crs`; None without either.

    Raises:
        InputError: they share nothing.
    """
    area = None if aoi is None else read_aoi(Path(aoi), crs, layer)
    if ground is None:
        return area
    outline = place_area(ground, crs)
    if area is None:
        return outline
    shared = polygon_parts(shapely.intersection(area, outline))
    if shared is None:
        raise InputError(f"{aoi}: the area of interest is outside the scene", "choose the scene that it belongs to")
    return shared


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
            f"{one} and {other} do not overlap, but would with x and y of {' or '.join(swapped)} swapped",
            "longitude or easting comes first; QGIS has the tool 'Swap X and Y coordinates'",
        )


def _ground(layer: Footprints, *, swapped: bool = False) -> Any:
    """The bounds of a layer as a polygon in degrees; None where they have none."""
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


def _warn_of_distance(found: PolygonSet, true: PolygonSet, border: Any) -> None:
    if not len(found) or not len(true):
        if border is not None and not len(found) and not len(true):
            _log.warning("neither layer has a polygon in the area of comparison")
        return
    boxes = [shapely.box(*shapely.total_bounds(one.polygons)) for one in (found, true)]
    if not shapely.intersects(*boxes):
        apart = shapely.distance(*boxes)
        _log.warning(
            "predictions and truth are %s apart: one may be of another scene, or have a wrong CRS", length_words(apart)
        )


def _facts(path: str | Path, layer: Footprints, rows: np.ndarray, *, cut: int, below: int) -> LayerFacts:
    left_out = layer.empty + layer.not_polygons
    return LayerFacts(str(path), len(rows), layer.repaired, left_out, len(layer) - len(rows), cut, below)
