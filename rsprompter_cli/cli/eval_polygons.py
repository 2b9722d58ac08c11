"""`rsp eval-polygons`: two vector layers to precision, recall, F1 and AP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, LayerOption, OverwriteOption
from rsprompter_cli.cli.output import print_json, print_table
from rsprompter_cli.errors import UsageError
from rsprompter_cli.evaluate.defaults import MATCH_IOU, SIZES


def eval_polygons_command(
    pred: Annotated[Path, typer.Argument(help="Predicted polygons: .geojson .gpkg .shp .fgb .parquet, any CRS.")],
    truth: Annotated[Path, typer.Argument(help="True polygons, in any of these formats and any CRS.")],
    iou: Annotated[
        float, typer.Option("--iou", help="From which IoU on two polygons are the same object.")
    ] = MATCH_IOU,
    score: Annotated[
        float | None,
        typer.Option(
            "--score", min=0, max=1, help="Leave out predictions with a lower score, except of AP and best F1."
        ),
    ] = None,
    score_column: Annotated[
        str | None,
        typer.Option("--score-column", help="Attribute with the scores; default: score, where there is one."),
    ] = None,
    class_column: Annotated[
        str | None,
        typer.Option(
            "--class-column",
            help="Attribute of both layers that must agree; default: class, where both have it and a class in common.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Square metres where medium and large objects begin.")
    ] = f"{SIZES[0]:g},{SIZES[1]:g}",
    aoi: Annotated[
        Path | None,
        typer.Option(
            "--aoi", help="Vector file whose polygons limit what is compared; what they cut is cut in both layers."
        ),
    ] = None,
    layer: LayerOption = None,
    truth_layer: Annotated[
        str | None,
        typer.Option("--truth-layer", metavar="NAME", help="Layer of the true polygons; default: as --layer."),
    ] = None,
    aoi_layer: Annotated[
        str | None, typer.Option("--aoi-layer", metavar="NAME", help="Layer of the --aoi file, where it has several.")
    ] = None,
    error_map: Annotated[
        Path | None, typer.Option("--map", help="Draw right, wrong and missed polygons into this PNG.")
    ] = None,
    scene: Annotated[
        Path | None, typer.Option("--scene", help="Georeferenced imagery below the map; default: an empty sheet.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare predicted polygons with true ones: precision, recall, F1 and AP, and a map of the errors.

    rsp eval-polygons pred.geojson truth.geojson --map errors.png --scene scene.tif

    Polygons are matched one to one in an equal-area projection around them: where the predictions have
    a score, each takes the best true polygon left, best score first, as in COCO; else as many as
    possible are matched. Figures that are 0/0 are "-", or null in JSON.
    """
    from rsprompter_cli.evaluate.error_map import save_error_map
    from rsprompter_cli.evaluate.polygon_report import as_tree, tables
    from rsprompter_cli.evaluate.polygons import evaluate_polygons, parse_sizes

    if aoi_layer is not None and aoi is None:
        raise UsageError("--aoi-layer belongs to --aoi", "add --aoi FILE")
    _check_map(error_map, scene, inputs=[pred, truth, aoi, scene], overwrite=overwrite)
    evaluation = evaluate_polygons(
        pred,
        truth,
        iou=iou,
        score=score,
        score_column=score_column,
        class_column=class_column,
        sizes=parse_sizes(sizes),
        aoi=aoi,
        layer=layer,
        truth_layer=truth_layer,
        aoi_layer=aoi_layer,
    )
    if error_map is not None:
        save_error_map(error_map, evaluation, scene=scene)
    if as_json:
        print_json(as_tree(evaluation))
        return
    for place, table in enumerate(tables(evaluation)):
        if place:
            print()
        print_table(*table)


def _check_map(error_map: Path | None, scene: Path | None, *, inputs: list[Path | None], overwrite: bool) -> None:
    """Raise UsageError or OutputError for a map that cannot be drawn as it is asked for."""
    from rsprompter_cli.io.atomic import refuse_existing

    if error_map is None:
        if scene is not None:
            raise UsageError("--scene belongs to --map", "add for instance --map errors.png")
        return
    if error_map.suffix.lower() != ".png":
        raise UsageError(f"--map {error_map}: is drawn as PNG", "name a file that ends in .png")
    refuse_existing(error_map, overwrite=overwrite, inputs=[path for path in inputs if path is not None])
