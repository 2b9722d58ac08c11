"""`rsp convert`: from and to COCO."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.convert_sets import (
    coco2yolo_command,
    labelme2coco_command,
    mask2coco_command,
    yolo2coco_command,
)
from rsprompter_cli.cli.options import BandsOption, JsonOption, LayersOption, OverwriteOption, ScaleOption, parse_bands
from rsprompter_cli.cli.output import counted_progress, print_json, print_table
from rsprompter_cli.data.convert.defaults import CLASS_NAME, MIN_VISIBLE, TILE, TILE_OVERLAP
from rsprompter_cli.errors import UsageError

if TYPE_CHECKING:
    from rsprompter_cli.data.convert.vector2coco import VectorReport

app = typer.Typer(help="Convert data sets from and to COCO.", no_args_is_help=True)
app.command("mask2coco")(mask2coco_command)
app.command("coco2yolo")(coco2yolo_command)
app.command("yolo2coco")(yolo2coco_command)
app.command("labelme2coco")(labelme2coco_command)


class Split(StrEnum):
    """Where the scenes of a set go."""

    TRAIN = "train"
    VAL = "val"


@app.command("whu2coco")
def whu2coco_command(
    root: Annotated[Path, typer.Option("--root", help="Folder that holds imgs/{train,val,test}/{image,label}.")] = Path(
        "data/WHU"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the JSON files; default: annotations below the root.")
    ] = None,
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split; may be repeated. Default: train, val, test.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; default: one per CPU for 1000 labels or more.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave broken pairs out instead of writing nothing.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the label pictures of the WHU building set into COCO files WHU_building_{train,val,test}.json."""
    from dataclasses import asdict

    from rsprompter_cli.data.convert.whu2coco import SPLITS, convert_whu

    with counted_progress("labels") as on_progress:
        report = convert_whu(
            root,
            out,
            splits=splits or SPLITS,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if as_json:
        print_json(asdict(report))
        return
    for file in report.files:
        typer.echo(f"{report.outcome}: {file}", err=True)
    found = f"{report.images} images, {report.instances} buildings, {report.skipped} files that are no pictures"
    typer.echo(found, err=True)


@app.command("vector2coco")
def vector2coco_command(
    pairs: Annotated[
        list[Path], typer.Argument(metavar="SCENE LABELS [SCENE LABELS ...]", help="Scenes, each with its footprints.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the set: images/ and annotations/.")],
    tile: Annotated[int, typer.Option("--tile", help="Side of a tile in pixels.")] = TILE,
    overlap: Annotated[
        float, typer.Option("--overlap", help="Share that neighbouring tiles share, below 0.5.")
    ] = TILE_OVERLAP,
    gsd: Annotated[
        list[float] | None,
        typer.Option("--gsd", help="Metres per pixel on the ground; may be repeated. Default: as fine as the scene."),
    ] = None,
    native: Annotated[bool, typer.Option("--native", help="Keep the pixels of the file.")] = False,
    class_attribute: Annotated[
        str | None, typer.Option("--class-attribute", help="Column of the footprints that names their class.")
    ] = None,
    class_name: Annotated[
        str, typer.Option("--class-name", help="Class of footprints without such a column or value.")
    ] = CLASS_NAME,
    layer: LayersOption = None,
    val: Annotated[
        float | None,
        typer.Option("--val", help="Cut an end off each scene to validate with this share of its footprints [0.2]."),
    ] = None,
    val_scene: Annotated[
        list[str] | None,
        typer.Option("--val-scene", help="This scene (path, name or stem) validates, the others train; repeatable."),
    ] = None,
    split: Annotated[Split | None, typer.Option("--split", help="All scenes go there.")] = None,
    min_visible: Annotated[
        float,
        typer.Option(
            "--min-visible",
            help="Drop cut pieces that show less of their footprint and have under 256 px; under 16 px always.",
        ),
    ] = MIN_VISIBLE,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Leave out training tiles without footprints.")
    ] = False,
    min_data: Annotated[
        float, typer.Option("--min-data", help="Leave out training tiles of which less than this share has data.")
    ] = 0.0,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut GeoTIFF scenes and their footprints, in any CRS, into a COCO set of tiles."""
    from dataclasses import asdict

    from rsprompter_cli.data.convert.vector2coco import convert_vectors

    if len(pairs) % 2:
        raise UsageError(f"{pairs[-1]}: each SCENE is followed by its LABELS, this one has none")
    with counted_progress("tiles") as on_progress:
        report = convert_vectors(
            list(zip(pairs[::2], pairs[1::2], strict=True)),
            out,
            tile=tile,
            overlap=overlap,
            gsd=gsd or (),
            native=native,
            class_attribute=class_attribute,
            class_name=class_name,
            layer=layer or (),
            val=val,
            val_scenes=val_scene or (),
            split=None if split is None else split.value,
            min_visible=min_visible,
            skip_empty=skip_empty,
            min_data=min_data,
            bands=parse_bands(bands),
            scale=scale,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if as_json:
        print_json(asdict(report))
    else:
        _print_set(report)


def _print_set(report: VectorReport) -> None:
    """What vector2coco made: a row per scene and resolution, a line per split."""
    from dataclasses import asdict

    rows = [{key: value for key, value in asdict(scene).items() if key != "labels"} for scene in report.scenes]
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    for name, (images, instances) in report.splits.items():
        typer.echo(f"{name}: {images} tiles, {instances} instances", err=True)
    typer.echo(f"{report.outcome}: {report.out}", err=True)


@app.command("coco2vector")
def coco2vector_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A COCO file, or a JSON list of detection results.")],
    out: Annotated[Path, typer.Option("--out", help="The extension names the format: .geojson, .gpkg, .fgb, ...")],
    images: Annotated[
        Path | None, typer.Option("--images", help="The COCO file that a list of results was made for.")
    ] = None,
    score: Annotated[float, typer.Option("--score", help="Leave out instances with a lower score.")] = 0.0,
    pixel_coords: Annotated[
        bool, typer.Option("--pixel-coords", help="Write pixels of each image; needs no georeference.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put COCO instances back on the map, by the georeference of their tiles.

    One feature per instance, with its image: what overlapping tiles show twice comes twice.
    """
    from dataclasses import asdict

    from rsprompter_cli.data.convert.coco2vector import convert_coco

    with counted_progress("instances") as on_progress:
        report = convert_coco(
            file,
            out,
            images=images,
            score=score,
            pixel_coords=pixel_coords,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(f"{report.outcome}: {report.out}, {report.features} features, {report.left_out} left out", err=True)
