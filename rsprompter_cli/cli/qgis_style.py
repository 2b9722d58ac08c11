"""`rsp qgis-style`: polygons in QGIS with colours, and how to look at them there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_message, print_result
from rsprompter_cli.cli.options import OUTPUT, JsonOption, LayerOption, OverwriteOption
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress


def qgis_style_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Vector file of polygons: .geojson .gpkg .fgb .parquet .shp."),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            rich_help_panel=OUTPUT,
            show_default="class, if the file has it",
            help="Attribute to colour the polygons by, one colour for each value.",
        ),
    ] = None,
    layer: LayerOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a QGIS style beside a vector file.

    The style of buildings.gpkg is buildings.qml, which QGIS loads with the polygons: an outline and a light fill, one
    colour for each class, fainter where the score is low. The steps to open the file in QGIS are printed.

    Examples:
        rsp qgis-style buildings.gpkg
    """
    with show_progress("reading the features"):
        from rsprompter_cli.geo.vector.qgis_style import write_qgis_style

        style = write_qgis_style(source, attribute=by, layer=layer, overwrite=overwrite)
    if as_json:
        print_json(style.as_dict())
        return
    print_message(style.summary())
    for number, step in enumerate(style.recipe(), start=1):
        print_result(f"{number}. {step}")
