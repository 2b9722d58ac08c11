"""`rsp qgis-style`: polygons in QGIS with colours, and how to look at them there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, LayerOption, OverwriteOption
from rsprompter_cli.cli.output import print_json


def qgis_style_command(
    source: Annotated[
        Path, typer.Argument(help="Polygons: .geojson .gpkg .fgb .parquet .shp, as rsp predict writes them.")
    ],
    by: Annotated[
        str | None,
        typer.Option("--by", help="Attribute that has a colour for each value; default: class, where it is there."),
    ] = None,
    layer: LayerOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the QGIS style of a vector file beside it, and say how to look at it.

    rsp qgis-style buildings.gpkg writes buildings.qml, which QGIS takes by its name when the polygons are added:
    an outline and a light fill, a colour for each class, fainter where the score is low.
    """
    from rsprompter_cli.geo.qgis_style import write_qgis_style

    style = write_qgis_style(source, attribute=by, layer=layer, overwrite=overwrite)
    if as_json:
        print_json(style.as_dict())
        return
    typer.echo(style.summary(), err=True)
    for number, step in enumerate(style.recipe(), start=1):
        typer.echo(f"{number}. {step}")
