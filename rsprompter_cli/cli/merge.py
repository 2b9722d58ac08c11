"""`rsp merge`: the parts of a scene that `rsp predict --shard` wrote, joined over their borders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import (
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
    parse_names,
)
from rsprompter_cli.cli.output import counted_progress, print_json
from rsprompter_cli.cli.tables import print_written
from rsprompter_cli.geo.defaults import MAX_BLOCK_BYTES


def merge_command(
    parts: Annotated[
        list[Path], typer.Argument(help="The parts of all shards, in any order, or the folder that holds them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Output file, as of rsp predict; the extension names the format.")],
    classes: ClassesOption = None,
    crs: CrsOption = None,
    regularize: RegularizeOption = False,
    simplify: SimplifyOption = 0.0,
    min_area: MinAreaOption = 0.0,
    pixel_coords: Annotated[
        bool, typer.Option("--pixel-coords", help="Polygons in pixels, for pictures without georeference.")
    ] = False,
    preview: PreviewOption = None,
    scene: Annotated[
        str | None, typer.Option("--scene", help="The scene of the parts, which only --preview and overlays need.")
    ] = None,
    max_block: MaxBlockOption = MAX_BLOCK_BYTES >> 20,
    allow_vrt: AllowVrtOption = False,
    remote: RemoteOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Join the parts that rsp predict --shard wrote, to what one run over the scene would have written.

    rsp merge parts --out scene.gpkg

    Parts know the place of their scene: the imagery is not read.
    """
    from rsprompter_cli.predict.finish import OutputOptions
    from rsprompter_cli.predict.merge_parts import merge_parts
    from rsprompter_cli.predict.reading import Reading

    output = OutputOptions(
        classes=parse_names(classes),
        crs=crs,
        pixel_coords=pixel_coords,
        regularize=regularize,
        simplify=simplify,
        min_area=min_area,
    )
    reading = Reading(max_block=max_block << 20, allow_vrt=allow_vrt, remote=remote)
    with counted_progress("windows") as progress:
        result = merge_parts(
            parts,
            out,
            output,
            scene=scene,
            reading=reading,
            preview=preview,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        typer.echo(result.summary(), err=True)
        print_written(*([] if preview is None else [preview]))
