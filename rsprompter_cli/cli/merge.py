"""`rsp merge`: the parts of a scene that `rsp predict --shard` wrote, joined over their borders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_message
from rsprompter_cli.cli.options import (
    OUTPUT,
    SCENE,
    AllowVrtOption,
    ClassesOption,
    CrsOption,
    JsonOption,
    MaxBlockOption,
    MinAreaOption,
    OverwriteOption,
    PreviewOption,
    RegularizeOption,
    RemoteOption,
    SimplifyOption,
    out_option,
    parse_names,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_written
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES


def merge_command(
    parts: Annotated[
        list[Path],
        typer.Argument(metavar="PART...", help="The parts of all shards, in any order, or their folder."),
    ],
    out: Annotated[
        Path, out_option("FILE", "Output file, in any format that rsp predict writes, chosen by its extension.")
    ],
    classes: ClassesOption = None,
    crs: CrsOption = None,
    regularize: RegularizeOption = False,
    simplify: SimplifyOption = 0.0,
    min_area: MinAreaOption = 0.0,
    pixel_coords: Annotated[
        bool,
        typer.Option(
            "--pixel-coords",
            rich_help_panel=OUTPUT,
            help="Write polygons in pixel coordinates, for images without a georeference.",
        ),
    ] = False,
    preview: PreviewOption = None,
    scene: Annotated[
        str | None,
        typer.Option(
            "--scene",
            metavar="SCENE",
            rich_help_panel=SCENE,
            help="Scene of the parts; needed only for --preview and overlays.",
        ),
    ] = None,
    max_block: MaxBlockOption = MAX_BLOCK_BYTES >> 20,
    allow_vrt: AllowVrtOption = False,
    remote: RemoteOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Join the parts that rsp predict --shard wrote.

    The result is the same as that of a single run over the whole scene. The imagery is not read.

    Examples:
        rsp merge parts --out scene.gpkg
        rsp merge parts/1.part parts/2.part --out scene.geojson --min-area 10
    """
    with show_progress("checking the input") as display:
        for part in parts:
            if not os.path.exists(part):
                raise InputError(f"{part}: no such file or folder", "give what rsp predict --shard wrote")
        from rsprompter_cli.predict.merge import merge_parts
        from rsprompter_cli.predict.options import Reading
        from rsprompter_cli.predict.output.postprocess import OutputOptions

        output = OutputOptions(
            classes=parse_names(classes),
            crs=crs,
            pixel_coords=pixel_coords,
            regularize=regularize,
            simplify=simplify,
            min_area=min_area,
        )
        reading = Reading(max_block=max_block << 20, allow_vrt=allow_vrt, remote=remote)
        result = merge_parts(
            parts,
            out,
            output,
            scene=scene,
            reading=reading,
            preview=preview,
            overwrite=overwrite,
            progress=display.bar("windows"),
        )
    if as_json:
        print_json(result.as_dict())
    else:
        print_message(result.summary())
        print_written(*([] if preview is None else [preview]))
