"""The error map of a comparison: on imagery, or north up on an empty sheet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from PIL import Image

from rsprompter_cli.data.tiles.coverage import outline_in_degrees
from rsprompter_cli.draw.error_map import draw_error_map
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.crs import reproject, to_pixels
from rsprompter_cli.geo.raster.georef import way_onto_the_map, why_off_the_map
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.raster.source import NOTHING_STATED, Stated
from rsprompter_cli.io.atomic import atomic_path
from rsprompter_cli.structures import Georef

if TYPE_CHECKING:
    from rsprompter_cli.evaluate.polygons import PolygonEvaluation

MAP_SIDE = 2048
"""Longest side of the map, pixels; imagery is shown with fewer where it has fewer."""

_SMALLEST_SIDE = 1024
"""Smaller pictures are enlarged to have about as many pixels on their longest side."""

_SHEET, _INK, _ON_IMAGERY = 245, (40, 40, 40), (255, 255, 255)
_MARGIN = 0.03


def save_error_map(
    path: str | Path,
    evaluation: PolygonEvaluation,
    *,
    scene: str | Path | None = None,
    stated: Stated = NOTHING_STATED,
) -> None:
    """Write the map as a PNG, atomically.

    Args:
        scene: imagery to draw on; what lies beside it is not seen, but counted in the legend.
        stated: what the user states of the file of `scene`.

    Raises:
        InputError: imagery that cannot be read, that is not georeferenced, or on which no polygon lies.
    """
    if scene is None:
        picture = _on_a_sheet(evaluation)
    else:
        with open_scene(scene, native=True, stated=stated) as opened:
            picture = _on_imagery(evaluation, opened)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def _on_imagery(evaluation: PolygonEvaluation, scene: Scene) -> Image.Image:
    crs = scene.georef.crs_wkt
    if not scene.georef.on_earth or crs is None:
        why, way_out = why_off_the_map(scene.georef), way_onto_the_map(scene.georef)
        raise InputError(f"{scene.path}: {why}", f"omit --scene, or {way_out}")
    background = Image.fromarray(scene.preview(MAP_SIDE))
    enlarge = max(1, math.ceil(_SMALLEST_SIDE / max(background.size)))
    background = background.resize((background.width * enlarge, background.height * enlarge), Image.Resampling.BICUBIC)
    groups = _groups(evaluation)
    if evaluation.crs is not None:
        local = evaluation.crs
        (frame,) = reproject([outline_in_degrees(scene)], "EPSG:4326", local)
        groups = {name: shapes[shapely.intersects(shapes, frame)] for name, shapes in groups.items()}
        if not any(len(shapes) for shapes in groups.values()):
            raise InputError(
                f"{scene.path}: contains no polygons of either layer", "choose the scene that they belong to"
            )
        across, down = background.width / scene.width, background.height / scene.height

        def place(shapes: np.ndarray) -> np.ndarray:
            pixels = to_pixels(reproject(shapes, local, crs), scene.georef)
            return shapely.transform(pixels, lambda xy: xy * (across, down))

        groups = {name: place(shapes) for name, shapes in groups.items()}
    return _draw(evaluation, np.asarray(background), groups, outline=_ON_IMAGERY)


def _on_a_sheet(evaluation: PolygonEvaluation) -> Image.Image:
    groups = _groups(evaluation)
    everything = np.concatenate(list(groups.values()))
    if not len(everything):
        return _draw(evaluation, np.full((_SMALLEST_SIDE // 4, _SMALLEST_SIDE, 3), _SHEET, np.uint8), groups, _INK)
    west, south, east, north = shapely.total_bounds(everything)
    margin = _MARGIN * max(east - west, north - south)
    west, south, east, north = west - margin, south - margin, east + margin, north + margin
    metres = max(east - west, north - south) / MAP_SIDE
    georef = Georef((metres, 0, west, 0, -metres, north), evaluation.crs, "affine")
    height, width = (max(1, round(side / metres)) for side in (north - south, east - west))
    sheet = np.full((height, width, 3), _SHEET, np.uint8)
    return _draw(evaluation, sheet, {name: to_pixels(shapes, georef) for name, shapes in groups.items()}, _INK)


def _groups(evaluation: PolygonEvaluation) -> dict[str, np.ndarray]:
    """Polygons in the local projection by kind; what counts neither as right nor as wrong is left out."""
    scores, pred, truth = evaluation.scores, evaluation.pred, evaluation.truth
    matched = scores.pred_match
    right = matched >= 0
    right[right] = ~truth.optional[matched[right]]
    found = np.zeros(len(truth), dtype=bool)
    found[matched[matched >= 0]] = True
    border = np.array([evaluation.aoi] if evaluation.with_aoi else [], dtype=object)
    return {
        "right": pred.polygons[right],
        "wrong": pred.polygons[(matched < 0) & scores.kept & ~pred.optional],
        "missed": truth.polygons[~found & ~truth.optional],
        "found": truth.polygons[found & ~truth.optional],
        "border": border,
    }


def _draw(
    evaluation: PolygonEvaluation, background: np.ndarray, groups: dict[str, Any], outline: tuple[int, int, int]
) -> Image.Image:
    counts = evaluation.counts
    named = {"precision": counts.precision, "recall": counts.recall, "F1": counts.f1}
    texts = [f"{name} {value:.3f}" for name, value in named.items() if value is not None]
    return draw_error_map(
        background,
        right=groups["right"],
        wrong=groups["wrong"],
        missed=groups["missed"],
        found=groups["found"],
        border=groups["border"][0] if len(groups["border"]) else None,
        outline=outline,
        counts=(counts.true_positives, counts.false_positives, counts.missed),
        figures=", ".join([f"IoU {evaluation.iou:g}", *texts]),
    )
