"""Two vector layers compared: counts, sizes, classes, areas of interest, and what users bring."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Point, Polygon

import rsprompter_cli
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.evaluate.polygon_report import (
    area_line,
    as_tree,
    class_rows,
    headline,
    iou_rows,
    outline_rows,
    size_rows,
    summary_rows,
)
from rsprompter_cli.evaluate.polygon_scores import Counts, PolygonSet, score_polygons
from rsprompter_cli.evaluate.polygons import NO_CLASS, PolygonEvaluation, evaluate_polygons, parse_sizes
from rsprompter_cli.geo.vector.write import write_features
from tests.make.layers import EAST, NORTH, house, write_layer
from tests.make.scenes import paint, write_scene

TOWN = [house(0, 0), house(20, 0), house(40, 0, 20, 20), house(100, 0)]
FOUND = [house(1, 0), house(20, 5), house(40, 0, 20, 20), house(200, 0)]
"""IoU .82, 1/3 and 1 with the first three houses of the town; the last is nowhere."""


def compare(folder: Path, found: list[Any], true: list[Any], **options: Any) -> PolygonEvaluation:
    return evaluate_polygons(
        write_layer(folder / "pred.geojson", found), write_layer(folder / "truth.gpkg", true, epsg=3857), **options
    )


def numbers(counts: Counts) -> tuple[int, int, int]:
    return counts.true_positives, counts.false_positives, counts.missed


def test_right_wrong_and_missed(tmp_path: Path) -> None:
    got = compare(tmp_path, FOUND, TOWN)
    assert numbers(got.counts) == (2, 2, 2)
    assert got.counts.precision == got.counts.recall == got.counts.f1 == 0.5
    assert got.counts.mean_iou == pytest.approx((9 / 11 + 1) / 2, abs=2e-3)
    by_iou = {iou: numbers(counts) for iou, counts in got.scores.by_iou}
    assert by_iou[0.3] == (3, 1, 1)
    assert by_iou[0.9] == (1, 3, 3)
    assert numbers(compare(tmp_path, FOUND, TOWN, iou=0.33).counts) == (3, 1, 1)
    assert got.ap is None
    assert got.scores.best is None
    assert not got.scored
    assert got.crs is not None
    assert got.pred.areas[2] == pytest.approx(400, rel=2e-3)  # on the ground, not on UTM's plane


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", ".parquet"])
@pytest.mark.parametrize("epsg", [4326, 3857, 32634, 3035])
def test_formats_and_crs_make_no_difference(tmp_path: Path, suffix: str, epsg: int) -> None:
    pred = write_layer(tmp_path / f"pred{suffix}", FOUND, epsg=epsg, score=[0.9, 0.8, 0.7, 0.6])
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    got = evaluate_polygons(pred, truth)
    assert numbers(got.counts) == (2, 2, 2)
    assert got.scored
    assert got.ap is not None
    assert got.ap["AP50"] == pytest.approx((26 * 1 + 25 * 2 / 3) / 101)


def test_a_score_limits_the_counts_but_not_ap(tmp_path: Path) -> None:
    pred = write_layer(tmp_path / "pred.geojson", FOUND, score=[0.9, 0.3, 0.2, 0.8])
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    whole, some = evaluate_polygons(pred, truth), evaluate_polygons(pred, truth, score=0.5)
    assert numbers(some.counts) == (1, 1, 3)
    assert some.predictions.below_score == 2
    assert some.ap == whole.ap
    assert whole.scores.best == some.scores.best == (0.2, pytest.approx(0.5))


def test_the_surer_of_two_takes_the_object(tmp_path: Path) -> None:
    pred = [house(0, 0), house(2, 0)]
    truth = write_layer(tmp_path / "truth.geojson", [house(0, 0)])
    for scores, place in (([0.4, 0.9], 1), ([0.9, 0.4], 0)):
        got = evaluate_polygons(write_layer(tmp_path / "pred.geojson", pred, score=scores), truth)
        assert got.scores.pred_match[place] == 0
        assert numbers(got.counts) == (1, 1, 0)


def test_nothing_on_either_side_gives_defined_figures(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.geojson"
    write_features(nothing, [], None)
    town = write_layer(tmp_path / "town.geojson", TOWN, score=[1, 1, 1, 1])
    cases = {
        (nothing, town): (None, 0.0, 0.0, {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}),
        (town, nothing): (0.0, None, 0.0, {"AP": None, "AP50": None, "AP75": None}),
        (nothing, nothing): (None, None, None, {"AP": None, "AP50": None, "AP75": None}),
    }
    for (pred, truth), (precision, recall, f1, ap) in cases.items():
        got = evaluate_polygons(pred, truth, score=0.5, class_column=None)
        assert (got.counts.precision, got.counts.recall, got.counts.f1) == (precision, recall, f1)
        assert got.ap == ap
        json.dumps(as_tree(got), allow_nan=False, default=str)
        for rows in (summary_rows, outline_rows, iou_rows, size_rows):
            assert "nan" not in str(rows(got))


def test_sizes_are_on_the_ground_and_add_up(tmp_path: Path) -> None:
    got = compare(tmp_path, FOUND, TOWN, sizes=(50, 300))
    groups = {group.name: numbers(group.counts) for group in got.scores.by_size}
    assert groups == {"small": (0, 0, 0), "medium": (1, 2, 2), "large": (1, 0, 0)}
    tree = as_tree(got)
    assert [(one["from_m2"], one["to_m2"]) for one in tree["by_size"]] == [(0, 50), (50, 300), (300, None)]


@pytest.mark.parametrize("text", ["", "50", "200,50", "a,b", "0,10", "nan,5", "5,inf", "1,2,3"])
def test_sizes_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="--sizes"):
        parse_sizes(text)
    assert parse_sizes(" 30, 90") == (30, 90)


@pytest.mark.parametrize("iou", [0.0, -1, 1.5, float("nan")])
def test_an_iou_out_of_range(tmp_path: Path, iou: float) -> None:
    with pytest.raises(UsageError, match="--iou"):
        compare(tmp_path, FOUND, TOWN, iou=iou)


# --- classes --------------------------------------------------------------------------------------


def classed(folder: Path, found: list[Any], true: list[Any], name: str = "class") -> tuple[Path, Path]:
    pred = write_layer(folder / "pred.geojson", TOWN, **{name + "_": found, "score": [0.9, 0.8, 0.7, 0.6]})
    return pred, write_layer(folder / "truth.geojson", TOWN, **{name + "_": true})


def test_classes_are_matched_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = classed(tmp_path, ["house", "shed", "house", "tent"], ["house", "house", "house", "shed"])
    with caplog.at_level(logging.WARNING):
        got = evaluate_polygons(*pair)
    assert numbers(got.counts) == (2, 2, 2)
    assert {group.name: numbers(group.counts) for group in got.by_class} == {
        "house": (2, 0, 1),
        "shed": (0, 1, 1),
        "tent": (0, 1, 0),
    }
    assert "'tent'" in caplog.text
    assert got.ap is not None
    house_ap, shed_ap = (group.ap["AP50"] for group in got.by_class[:2] if group.ap is not None)
    assert got.ap["AP50"] == pytest.approx((house_ap + shed_ap) / 2)  # type: ignore[operator]
    assert shed_ap == 0
    assert got.by_class[2].ap == {"AP": None, "AP50": None}
    table = class_rows(got)
    assert table is not None
    assert [row[0] for row in table[1]] == ["house", "shed", "tent"]


def test_classes_without_a_common_name_are_left_aside_unless_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = classed(tmp_path, ["building"] * 4, ["yes"] * 4)
    with caplog.at_level(logging.WARNING):
        got = evaluate_polygons(*pair)
    assert numbers(got.counts) == (4, 0, 0)
    assert got.class_column is None
    assert "none in common" in caplog.text
    assert numbers(evaluate_polygons(*pair, class_column="class").counts) == (0, 4, 4)


def test_another_column_numbers_and_gaps(tmp_path: Path) -> None:
    got = evaluate_polygons(*classed(tmp_path, [3, 3, None, 7], [3, 3, None, 3], "kind"), class_column="kind")
    assert {group.name: numbers(group.counts) for group in got.by_class} == {
        "3": (2, 0, 1),
        "7": (0, 1, 0),
        NO_CLASS: (1, 0, 0),
    }
    with pytest.raises(UsageError, match="no attribute 'kinds'") as caught:
        evaluate_polygons(tmp_path / "pred.geojson", tmp_path / "truth.geojson", class_column="kinds")
    assert "kind" in caught.value.hint


# --- scores ---------------------------------------------------------------------------------------


def test_scores_that_are_none(tmp_path: Path) -> None:
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    gap = write_layer(tmp_path / "gap.gpkg", FOUND, score=[0.1, None, 0.3, 0.4])
    with pytest.raises(InputError, match="feature 2 has the score None"):
        evaluate_polygons(gap, truth)
    text = write_layer(tmp_path / "text.gpkg", FOUND, score=["0.1", "high", "0.3", "0.4"])
    with pytest.raises(InputError, match="feature 2 has the score 'high'"):
        evaluate_polygons(text, truth)
    other = write_layer(tmp_path / "other.gpkg", FOUND, confidence=[0.1, 0.2, 0.3, 0.4])
    assert evaluate_polygons(other, truth).ap is None
    assert evaluate_polygons(other, truth, score_column="confidence").ap is not None
    with pytest.raises(UsageError, match="no attribute 'score'"):
        evaluate_polygons(other, truth, score=0.5)
    with pytest.raises(UsageError, match="'confidenc'") as caught:
        evaluate_polygons(other, truth, score_column="confidenc")
    assert "confidence" in caught.value.hint


# --- area of interest -----------------------------------------------------------------------------


def test_an_area_of_interest_cuts_both_layers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Its border at x = 47 leaves 7 m of the 20 m house: less than half, so it counts only when it is found.
    area = write_layer(tmp_path / "aoi.gpkg", [house(-50, -50, 97, 200)], epsg=3035)
    got = compare(tmp_path, FOUND, TOWN, aoi=area)
    assert numbers(got.counts) == (1, 1, 1)
    assert (got.truths.objects, got.truths.outside) == (3, 1)
    assert got.truth.polygons[2].area == pytest.approx(140, rel=1e-2)
    missing = compare(tmp_path, FOUND[:2], TOWN, aoi=area)
    assert numbers(missing.counts) == (1, 1, 1)
    elsewhere = write_layer(tmp_path / "far.gpkg", [house(5000, 0, 10, 10)])
    with caplog.at_level(logging.WARNING):
        assert numbers(compare(tmp_path, FOUND, TOWN, aoi=elsewhere).counts) == (0, 0, 0)
    assert "neither layer has a polygon" in caplog.text


def test_a_prediction_beyond_the_border_of_cut_truth_is_right(tmp_path: Path) -> None:
    area = write_layer(tmp_path / "aoi.gpkg", [house(0, 0, 105, 50)])
    got = compare(tmp_path, [house(100, 0)], [house(100, 0, 5, 10)], aoi=area)
    assert numbers(got.counts) == (1, 0, 0)


def test_an_area_of_interest_without_polygons(tmp_path: Path) -> None:
    write_features(tmp_path / "none.geojson", [], None)
    with pytest.raises(InputError, match="contains no polygons"):
        compare(tmp_path, FOUND, TOWN, aoi=tmp_path / "none.geojson")


# --- what users bring -----------------------------------------------------------------------------


def test_invalid_and_foreign_rows_are_repaired_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tie = Polygon([(EAST, NORTH), (EAST + 10, NORTH + 10), (EAST + 10, NORTH), (EAST, NORTH + 10)])
    with caplog.at_level(logging.WARNING):
        got = evaluate_polygons(
            write_layer(tmp_path / "pred.gpkg", [tie, Point(EAST, NORTH), None, Polygon()]),
            write_layer(tmp_path / "truth.gpkg", [tie]),
        )
    assert numbers(got.counts) == (1, 0, 0)
    assert (got.predictions.repaired, got.predictions.left_out) == (1, 3)
    assert "repaired" in caplog.text


def test_a_layer_without_crs_is_named(tmp_path: Path) -> None:
    pred = write_layer(tmp_path / "pred.shp", FOUND, epsg=None)
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    for pair in ((pred, truth), (truth, pred)):
        with pytest.raises(InputError, match=r"pred\.shp: has no coordinate reference system"):
            evaluate_polygons(*pair)


def test_layers_far_apart_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        got = compare(tmp_path, [house(300_000, 0)], TOWN)
    assert numbers(got.counts) == (0, 1, 4)
    assert "300 km apart" in caplog.text


def flipped(path: Path, epsg: int, out: str) -> Path:
    """A layer with x and y swapped, as a program writes it that takes EPSG at its word."""
    import geopandas

    frame = geopandas.read_file(path).to_crs(epsg)
    swapped = frame.set_geometry(shapely.transform(frame.geometry.to_numpy(), lambda xy: xy[:, ::-1]), crs=epsg)
    swapped.to_file(path.with_name(out))
    return path.with_name(out)


@pytest.mark.parametrize(("epsg", "suffix"), [(4326, ".geojson"), (4326, ".gpkg"), (4326, ".shp"), (32633, ".fgb")])
def test_swapped_axes_are_one_line(tmp_path: Path, epsg: int, suffix: str) -> None:
    truth = write_layer(tmp_path / "truth.gpkg", TOWN, epsg=3857)
    pred = flipped(write_layer(tmp_path / "right.geojson", FOUND), epsg, f"pred{suffix}")
    for pair in ((pred, truth), (truth, pred)):
        with pytest.raises(InputError, match=r"do not overlap, but would with x and y of .*pred.* swapped") as caught:
            evaluate_polygons(*pair)
        assert "\n" not in str(caught.value)
        assert "truth.gpkg swapped" not in str(caught.value)
    same = flipped(truth, epsg, f"swapped{suffix}")
    assert numbers(evaluate_polygons(pred, same).counts) == (2, 2, 2)  # both are: the figures hold nearly


def test_of_two_layers_in_degrees_either_may_be_swapped(tmp_path: Path) -> None:
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    pred = flipped(write_layer(tmp_path / "right.geojson", FOUND), 4326, "pred.geojson")
    with pytest.raises(InputError, match=r"x and y of .*pred\.geojson or .*truth\.geojson swapped"):
        evaluate_polygons(pred, truth)


def test_metres_called_degrees(tmp_path: Path) -> None:
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(TOWN[0])}
    (tmp_path / "pred.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(InputError, match=r"pred\.geojson: coordinates up to"):
        evaluate_polygons(tmp_path / "pred.geojson", truth)


@pytest.mark.parametrize(("lon", "lat"), [(179.9999, 10), (-180, -60), (0, 89.9999), (30, 0), (77, -89.99)])
def test_on_the_antimeridian_and_at_the_poles(tmp_path: Path, lon: float, lat: float) -> None:
    crs = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84"
    import geopandas

    shapes = [shapely.box(x, 5, x + 10, 15) for x in (-60, -25, -5, 20)]
    frame = geopandas.GeoDataFrame({"score": [0.5] * 4}, geometry=shapes, crs=crs)
    frame.to_file(tmp_path / "truth.gpkg")
    write_features(
        tmp_path / "pred.geojson",
        [(shape, {"id": None, "class": "a", "score": 0.5, "area_m2": 1.0}) for shape in shapes],  # type: ignore[misc]
        frame.crs.to_wkt(),
    )
    got = evaluate_polygons(tmp_path / "pred.geojson", tmp_path / "truth.gpkg", iou=0.97)
    assert numbers(got.counts) == (4, 0, 0)
    assert got.truth.areas == pytest.approx([100] * 4, rel=1e-3)


def sets(seed: int, count: int) -> PolygonSet:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    sides = rng.uniform(3, 12, (count, 2))
    shapes = shapely.box(*corners.T, *(corners + sides).T) if count else np.zeros(0, dtype=object)
    shapes = np.asarray(shapes, dtype=object)
    return PolygonSet(shapes, shapely.area(shapes), rng.integers(0, 2, count), rng.random(count) < 0.1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_groups_add_up_and_a_score_cuts_the_same_matches(seed: int, n: int, m: int, scored: bool) -> None:
    pred, truth = sets(seed, n), sets(seed + 1, m)
    values = np.random.default_rng(seed).random(n) if scored else None
    options: dict[str, Any] = {"class_names": ["a", "b"], "iou": 0.3, "sizes": (25.0, 80.0)}
    got = score_polygons(pred, truth, scores=values, score=None, **options)
    whole = np.array(numbers(got.counts))
    for groups in (got.by_size, got.by_class):
        assert np.array([numbers(group.counts) for group in groups]).sum(axis=0).tolist() == whole.tolist()
    assert whole[0] + whole[2] == (~truth.optional).sum()
    tps = [counts.true_positives for _, counts in got.by_iou]
    assert scored or tps == sorted(tps, reverse=True) or truth.optional.any()
    if values is not None:
        cut = score_polygons(pred, truth, scores=values, score=0.5, **options)
        keep = values >= 0.5
        alone = PolygonSet(pred.polygons[keep], pred.areas[keep], pred.classes[keep], pred.optional[keep])
        again = score_polygons(alone, truth, scores=values[keep], score=None, **options)
        assert numbers(cut.counts) == numbers(again.counts)


def test_the_package_has_it() -> None:
    assert rsprompter_cli.evaluate_polygons is evaluate_polygons
    assert "evaluate_polygons" in dir(rsprompter_cli)


def test_real_truth_against_itself(shared: Path) -> None:
    path = shared / "data/buildings/banepa_core.geojson"
    got = evaluate_polygons(path, path, iou=1.0)
    assert numbers(got.counts) == (1218, 0, 0)


# --- inside a scene -------------------------------------------------------------------------------


@pytest.mark.parametrize("epsg", [32633, 4326, 3857, 3035])
@pytest.mark.parametrize("turn", [0, 33])
def test_predictions_that_end_at_the_scene_are_all_right(tmp_path: Path, epsg: int, turn: float) -> None:
    """Whatever its CRS and turn, and with a transparent corner: outlines that are right inside it have F1 1."""
    from affine import Affine

    place = Affine.translation(EAST, NORTH + 60) @ Affine.rotation(turn) @ Affine.scale(0.5, -0.5)
    pixels = np.full((4, 120, 160), 200, np.uint8)
    pixels[3, :40, :40] = 0
    native = write_scene(tmp_path / "native.tif", pixels, transform=place, photometric="RGB", alpha="yes")
    valid = Polygon([place @ xy for xy in ((40, 0), (160, 0), (160, 120), (0, 120), (0, 40), (40, 40))])
    true = [house(x, y, 9, 9) for x in range(-60, 140, 12) for y in range(-60, 140, 12)]
    found = [part for part in (shapely.intersection(one, valid) for one in true) if part.area > 0.5]
    pred = write_layer(tmp_path / "pred.geojson", found, epsg=epsg)
    truth = write_layer(tmp_path / "truth.gpkg", true)
    got = evaluate_polygons(pred, truth, scene=native)
    assert got.counts.f1 == 1.0
    assert got.counts.true_positives > 30
    assert got.counts.mean_iou == pytest.approx(1, abs=2e-3)
    assert got.truths.outside + got.truths.objects == len(true)
    assert got.truths.cut >= 10
    assert got.predictions.outside == 0
    assert got.outlines.polis == pytest.approx(0, abs=0.03)
    assert (got.outlines.pred_corners.right_share or 0) > 0.95  # a cut of under half a metre shifts a corner
    without = evaluate_polygons(pred, truth)
    assert without.counts.f1 is not None
    assert without.counts.f1 < 0.9


def test_a_scene_and_an_area_of_interest_limit_together(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", paint(60, 120, {}))  # 60 m x 30 m, below the town's corner
    true = [house(5, -25), house(30, -25), house(90, -25)]
    area = write_layer(tmp_path / "aoi.gpkg", [house(0, -100, 20, 200)])
    got = compare(tmp_path, true, true, scene=scene, aoi=area)
    assert numbers(got.counts) == (1, 0, 0)
    assert got.with_aoi
    assert got.aoi.area == pytest.approx(20 * 30, rel=1e-2)
    assert "area of interest and the valid pixels of" in str(area_line(got))
    far = write_layer(tmp_path / "far.gpkg", [house(5000, 0)])
    with pytest.raises(InputError, match="is outside the scene"):
        compare(tmp_path, true, true, scene=scene, aoi=far)


def test_scenes_that_limit_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = write_scene(tmp_path / "bare.tif", paint(60, 120, {}), crs=None)
    with pytest.raises(InputError, match=r"bare\.tif: is not georeferenced"):
        compare(tmp_path, FOUND, TOWN, scene=bare)
    empty = write_scene(tmp_path / "empty.tif", np.zeros((3, 60, 120), np.uint8), nodata=0)
    with pytest.raises(InputError, match=r"empty\.tif: has no valid pixel"):
        compare(tmp_path, FOUND, TOWN, scene=empty)
    elsewhere = write_scene(tmp_path / "scene.tif", paint(60, 120, {}))
    with caplog.at_level(logging.WARNING):
        got = compare(tmp_path, FOUND, TOWN, scene=elsewhere)
    assert numbers(got.counts) == (0, 0, 0)
    assert "neither layer has a polygon" in caplog.text
    assert headline(got) == "Nothing to compare: there are no objects and no predictions inside the area of comparison."


def test_the_sentence_of_one_sided_layers(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.geojson"
    write_features(nothing, [], None)
    town = write_layer(tmp_path / "town.geojson", TOWN[:1])
    for pred, truth, words in (
        (nothing, town, "F1 0.000: 0 of 1 object found (recall 0.000), no predictions, at IoU 0.5."),
        (
            town,
            nothing,
            "F1 0.000: no objects to find, 1 of 1 prediction wrong (precision 0.000), at IoU 0.5.",
        ),
    ):
        assert headline(evaluate_polygons(pred, truth)) == words


def test_scores_in_the_truth_alone_are_a_sign_of_swapped_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pred = write_layer(tmp_path / "pred.geojson", FOUND, score=[0.9, 0.3, 0.2, 0.8])
    truth = write_layer(tmp_path / "truth.geojson", TOWN)
    evaluate_polygons(pred, truth)
    assert not caplog.messages
    evaluate_polygons(truth, pred)
    assert caplog.messages == [
        f"{pred} has a column 'score' and {truth} has none: are predictions and truth in the right order?"
    ]
