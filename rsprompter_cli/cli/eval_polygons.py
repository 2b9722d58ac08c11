"""`rsp eval-polygons`: two vector layers to precision, recall, F1 and AP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_result
from rsprompter_cli.cli.options import (
    MATCHING,
    OUTPUT,
    JsonOption,
    LayerOption,
    NodataOption,
    OverwriteOption,
    PageOption,
    SceneCrsOption,
    require_png,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_hanging, print_table, print_written
from rsprompter_cli.errors import UsageError
from rsprompter_cli.evaluate.defaults import MATCH_IOU, SIZES


def eval_polygons_command(
    pred: Annotated[
        Path,
        typer.Argument(metavar="PREDICTED", help="Predicted polygons in any CRS: .geojson .gpkg .shp .fgb .parquet."),
    ],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True polygons, in any vector format and CRS.")],
    iou: Annotated[
        float,
        typer.Option(
            "--iou",
            metavar="IOU",
            rich_help_panel=MATCHING,
            help="Lowest IoU at which two polygons match.",
        ),
    ] = MATCH_IOU,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0,
            max=1,
            metavar="SCORE",
            rich_help_panel=MATCHING,
            help="Ignore predictions with a lower score; AP and the best F1 still use them.",
        ),
    ] = None,
    score_column: Annotated[
        str | None,
        typer.Option(
            "--score-column",
            metavar="COLUMN",
            rich_help_panel=MATCHING,
            show_default="score, if the predictions have it",
            help="Attribute with the scores.",
        ),
    ] = None,
    class_column: Annotated[
        str | None,
        typer.Option(
            "--class-column",
            metavar="COLUMN",
            rich_help_panel=MATCHING,
            show_default="class, if both layers have it and share a class",
            help="Attribute that must be equal in both layers.",
        ),
    ] = None,
    sizes: Annotated[
        str,
        typer.Option(
            "--sizes",
            metavar="M2,M2",
            rich_help_panel=MATCHING,
            help="Lowest areas of medium and of large objects, in square metres.",
        ),
    ] = f"{SIZES[0]:g},{SIZES[1]:g}",
    aoi: Annotated[
        Path | None,
        typer.Option(
            "--aoi",
            metavar="FILE",
            rich_help_panel=MATCHING,
            help="Vector file: compare only inside its polygons, to which both layers are clipped.",
        ),
    ] = None,
    layer: LayerOption = None,
    truth_layer: Annotated[
        str | None,
        typer.Option(
            "--truth-layer",
            metavar="NAME",
            rich_help_panel=MATCHING,
            show_default="that of --layer",
            help="Layer of the true polygons.",
        ),
    ] = None,
    aoi_layer: Annotated[
        str | None,
        typer.Option(
            "--aoi-layer",
            metavar="NAME",
            rich_help_panel=MATCHING,
            help="Layer of the --aoi file, if it has several.",
        ),
    ] = None,
    error_map: Annotated[
        Path | None,
        typer.Option(
            "--map", metavar="FILE", rich_help_panel=OUTPUT, help="Draw correct, wrong and missed polygons to this PNG."
        ),
    ] = None,
    scene: Annotated[
        Path | None,
        typer.Option(
            "--scene",
            metavar="SCENE",
            rich_help_panel=MATCHING,
            help="Scene of the predictions: both layers are clipped to its valid pixels, and --map is drawn on it.",
        ),
    ] = None,
    page: PageOption = None,
    scene_crs: SceneCrsOption = None,
    nodata: NodataOption = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            rich_help_panel=OUTPUT,
            help="Also print AP (of the predictions in the file), outlines, sizes, classes and all IoUs.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare predicted with true polygons and map the errors.

    Prints precision, recall and F1. Polygons are matched one to one in an equal-area projection. If the predictions
    have scores, they are matched in order of decreasing score, each to the best unmatched true polygon, as in COCO;
    otherwise the number of matches is maximized. Pass --scene: without it, a true polygon across the edge of the scene
    counts as missed, and its predicted part as wrong. Undefined metrics (0/0) are "-", or null in JSON.

    Examples:
        rsp eval-polygons pred.geojson truth.geojson --scene scene.tif
        rsp eval-polygons pred.gpkg truth.gpkg --scene scene.tif --map errors.png
    """
    if scene is None and (page, scene_crs, nodata) != (None, None, None):
        raise UsageError("--page, --scene-crs and --nodata require --scene", "add --scene SCENE")
    if aoi_layer is not None and aoi is None:
        raise UsageError("--aoi-layer requires --aoi", "add --aoi FILE")
    with show_progress("reading the polygons"):
        from rsprompter_cli.evaluate.error_map import save_error_map
        from rsprompter_cli.evaluate.polygon_report import area_line, as_tree, full_tables, headline, short_tables
        from rsprompter_cli.evaluate.polygons import evaluate_polygons, parse_sizes
        from rsprompter_cli.geo.raster.source import Stated

        _check_map(error_map, inputs=[pred, truth, aoi, scene], overwrite=overwrite)
        stated = Stated(page, scene_crs, nodata)
        evaluation = evaluate_polygons(
            pred,
            truth,
            iou=iou,
            score=score,
            score_column=score_column,
            class_column=class_column,
            sizes=parse_sizes(sizes),
            aoi=aoi,
            scene=scene,
            stated=stated,
            layer=layer,
            truth_layer=truth_layer,
            aoi_layer=aoi_layer,
        )
        if error_map is not None:
            save_error_map(error_map, evaluation, scene=scene, stated=stated)
    if as_json:
        print_json(as_tree(evaluation))
        return
    print_hanging("", headline(evaluation))
    compared = area_line(evaluation)
    if compared is not None:
        print_hanging("", compared)
    for table in full_tables(evaluation) if full else short_tables(evaluation):
        print_result()
        print_table(*table)
    print_written(*([] if error_map is None else [error_map]))


def _check_map(error_map: Path | None, *, inputs: list[Path | None], overwrite: bool) -> None:
    """Raise UsageError or OutputError for a map that cannot be drawn as it is asked for."""
    from rsprompter_cli.io.atomic import refuse_existing

    if error_map is None:
        return
    require_png("--map", error_map, "errors.png")
    refuse_existing(error_map, overwrite=overwrite, inputs=[path for path in inputs if path is not None])
