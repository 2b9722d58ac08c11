"""`rsp filter`: fewer of a vector file's features, without running the model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_message
from rsprompter_cli.cli.options import (
    KEPT,
    ClassesOption,
    JsonOption,
    LayerOption,
    OverwriteOption,
    out_option,
    parse_names,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.errors import plural


def filter_command(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A vector file written by rsp predict.")],
    out: Annotated[Path, out_option("FILE", "Output file: .geojson .geojsonl .gpkg .fgb .parquet .shp.")],
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            min=0,
            max=1,
            metavar="SCORE",
            rich_help_panel=KEPT,
            help="Lowest score to keep, from 0 to 1; above that of rsp predict.",
        ),
    ] = None,
    min_area: Annotated[
        float | None,
        typer.Option(
            "--min-area",
            min=0,
            metavar="M2",
            rich_help_panel=KEPT,
            help="Smallest area to keep, in square metres on the ground.",
        ),
    ] = None,
    classes: ClassesOption = None,
    layer: LayerOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Select features by score, area or class.

    The model is not run. Attributes, ids and the CRS are kept (GeoJSON is always WGS84).

    Examples:
        rsp filter buildings.geojson --score 0.6 --min-area 20 --out sure.geojson
    """
    from dataclasses import asdict

    with show_progress("reading the features"):
        from rsprompter_cli.geo.vector.filter import filter_features

        names = parse_names(classes)
        report = filter_features(
            source, out, score=score, min_area=min_area, classes=names, layer=layer, overwrite=overwrite
        )
    if as_json:
        print_json(asdict(report))
        return
    reasons = ", ".join(f"{count:,} by {reason}" for reason, count in report.dropped.items())
    print_message(
        f"wrote {report.out}: {report.kept:,} of {plural(report.read, 'feature')}"
        + (f"; dropped: {reasons}" if reasons else "")
    )
