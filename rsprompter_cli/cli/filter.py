"""`rsp filter`: fewer of a vector file's features, without running the model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import ClassesOption, JsonOption, LayerOption, OverwriteOption, parse_names
from rsprompter_cli.cli.output import print_json


def filter_command(
    source: Annotated[Path, typer.Argument(help="A vector file written by rsp predict.")],
    out: Annotated[
        Path, typer.Option("--out", help="The extension names the format: .geojson .geojsonl .gpkg .fgb .parquet .shp")
    ],
    score: Annotated[
        float | None, typer.Option("--score", min=0, max=1, help="Lowest score kept; higher than that of rsp predict.")
    ] = None,
    min_area: Annotated[
        float | None, typer.Option("--min-area", min=0, help="Smallest area kept, square metres on the ground.")
    ] = None,
    classes: ClassesOption = None,
    layer: LayerOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Keep the features that reach a score, an area or have one of some classes; the model is not run.

    rsp filter buildings.geojson --score 0.6 --min-area 20 --out sure.geojson

    Attributes, ids and CRS stay as they are (GeoJSON is WGS84).
    """
    from dataclasses import asdict

    from rsprompter_cli.predict.filter import filter_features

    names = parse_names(classes)
    report = filter_features(
        source, out, score=score, min_area=min_area, classes=names, layer=layer, overwrite=overwrite
    )
    if as_json:
        print_json(asdict(report))
        return
    reasons = ", ".join(f"{count} by {reason}" for reason, count in report.dropped.items())
    typer.echo(
        f"{report.kept} of {report.read} features -> {report.out}" + (f"; dropped: {reasons}" if reasons else ""),
        err=True,
    )
