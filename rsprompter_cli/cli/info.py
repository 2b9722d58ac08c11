"""`rsp info`: a scene's facts and what predicting on it would take."""

from __future__ import annotations

from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, ModelOption, parse_bands
from rsprompter_cli.cli.output import print_json, print_table


def info_command(
    scene: Annotated[str, typer.Argument(help="A GeoTIFF scene, or a PNG or JPEG picture.", show_default=False)],
    model: ModelOption = None,
    gsd: Annotated[
        float | None, typer.Option("--gsd", min=1e-6, help="Metres on the ground per pixel to work at.")
    ] = None,
    native: Annotated[bool, typer.Option("--native", help="Work at the file's own pixels.")] = False,
    bands: Annotated[str | None, typer.Option("--bands", help="Bands for red,green,blue, from 1: 4,3,2.")] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", help="How samples become 0..255: auto, none, percentile, or LO,HI.")
    ] = None,
    overlap: Annotated[float, typer.Option("--overlap", help="Share of a window its neighbour sees too.")] = 0.25,
    max_block: Annotated[
        int, typer.Option("--max-block", min=1, help="Largest block of the file that is decoded, MiB.")
    ] = 1024,
    max_windows: Annotated[
        int, typer.Option("--max-windows", min=1, help="Refuse more windows than this.")
    ] = 5_000_000,
    allow_vrt: Annotated[bool, typer.Option("--allow-vrt", help="Admit VRT files, which read other files.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Admit https:// and s3:// paths.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a scene is, at which resolution it would be read, in how many windows, time and memory.

    rsp info scene.tif
    """
    from rsprompter_cli.predict.plan import scene_info

    info = scene_info(
        scene,
        model=model,
        gsd=gsd,
        native=native,
        bands=parse_bands(bands),
        scale=scale,
        overlap=overlap,
        max_block=max_block << 20,
        max_windows=max_windows,
        allow_vrt=allow_vrt,
        remote=remote,
    )
    if as_json:
        print_json(info.as_dict())
    else:
        print_table(["what", "value"], info.rows())
