"""`rsp convert`: from and to COCO."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.console import print_message
from rsprompter_cli.cli.convert_sets import (
    SetOutOption,
    coco2yolo_command,
    labelme2coco_command,
    mask2coco_command,
    print_annotations,
    yolo2coco_command,
)
from rsprompter_cli.cli.options import (
    DATA,
    KEPT,
    LABELS,
    OUTPUT,
    SCENE,
    SPEED,
    TILES,
    BandsOption,
    CrowdsOption,
    JsonOption,
    LayersOption,
    NativeOption,
    NodataOption,
    OverwriteOption,
    PageOption,
    ScaleOption,
    SceneCrsOption,
    out_option,
    parse_bands,
    scene_pairs,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_outcome, print_table
from rsprompter_cli.data.defaults import CLASS_NAME, MIN_VISIBLE, TILE, TILE_OVERLAP
from rsprompter_cli.errors import UsageError, plural

if TYPE_CHECKING:
    from rsprompter_cli.data.tiles.vector2coco import VectorReport

ABOUT = """Convert data sets to and from COCO.

Examples:
    rsp convert vector2coco scene.tif footprints.gpkg --out data/town
    rsp help convert vector2coco
"""
app = typer.Typer(help=ABOUT, no_args_is_help=True)
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
    root: Annotated[
        Path,
        typer.Option(
            "--root",
            metavar="FOLDER",
            rich_help_panel=DATA,
            help="Folder with imgs/{train,val,test}/{image,label}.",
        ),
    ] = Path("data/WHU"),
    out: Annotated[
        Path | None, out_option("FOLDER", "Folder of the JSON files.", default="annotations below --root")
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="NAME",
            rich_help_panel=DATA,
            show_default="train, val and test",
            help="Convert only this split. May be repeated.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            rich_help_panel=SPEED,
            show_default="one per CPU core, for at least 1000 labels",
            help="Number of processes.",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", rich_help_panel=DATA, help="Skip broken pairs instead of stopping with an error."),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert the label images of the WHU building data set to COCO.

    Writes WHU_building_{train,val,test}.json.

    Examples:
        rsp convert whu2coco --root data/WHU
    """
    from dataclasses import asdict

    with show_progress("reading the labels") as display:
        from rsprompter_cli.data.convert.whu2coco import SPLITS, convert_whu

        report = convert_whu(
            root,
            out,
            splits=splits or SPLITS,
            workers=workers,
            skip_bad=skip_bad,
            overwrite=overwrite,
            on_progress=display.bar("labels"),
        )
    if as_json:
        print_json(asdict(report))
        return
    for file in report.files:
        print_outcome(report.outcome, file)
    found = ", ".join(
        (
            plural(report.images, "image"),
            plural(report.instances, "building"),
            plural(report.skipped, "other file skipped", "other files skipped"),
        )
    )
    print_message(found)


@app.command("vector2coco")
def vector2coco_command(
    pairs: Annotated[
        list[Path],
        typer.Argument(metavar="SCENE LABELS ...", help="Scenes, each followed by its footprints."),
    ],
    out: SetOutOption,
    tile: Annotated[
        int, typer.Option("--tile", metavar="PIXELS", rich_help_panel=TILES, help="Side of a tile, in pixels.")
    ] = TILE,
    overlap: Annotated[
        float,
        typer.Option(
            "--overlap",
            metavar="SHARE",
            rich_help_panel=TILES,
            help="Overlap of neighbouring tiles, as a share of their side, below 0.5.",
        ),
    ] = TILE_OVERLAP,
    gsd: Annotated[
        list[float] | None,
        typer.Option(
            "--gsd",
            metavar="METRES",
            rich_help_panel=SCENE,
            show_default="resolution of the scene",
            help="Ground sampling distance of the tiles, in metres per pixel. May be repeated.",
        ),
    ] = None,
    native: NativeOption = False,
    class_column: Annotated[
        str | None,
        typer.Option(
            "--class-column",
            metavar="COLUMN",
            rich_help_panel=LABELS,
            help="Attribute of the footprints with the class.",
        ),
    ] = None,
    class_attribute: Annotated[str | None, typer.Option("--class-attribute", hidden=True)] = None,
    class_name: Annotated[
        str,
        typer.Option(
            "--class-name",
            metavar="NAME",
            rich_help_panel=LABELS,
            help="Class of footprints without such an attribute or value.",
        ),
    ] = CLASS_NAME,
    layer: LayersOption = None,
    val: Annotated[
        float | None,
        typer.Option(
            "--val",
            metavar="SHARE",
            rich_help_panel=TILES,
            show_default="0.2",
            help="Hold back one end of each scene, with this share of its footprints, for validation.",
        ),
    ] = None,
    val_scene: Annotated[
        list[str] | None,
        typer.Option(
            "--val-scene",
            metavar="SCENE",
            rich_help_panel=TILES,
            help="Use this scene (path, name or stem) for validation, the others for training. May be repeated.",
        ),
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(
            "--split", metavar="NAME", rich_help_panel=TILES, help="Put all scenes into this split: train or val."
        ),
    ] = None,
    min_visible: Annotated[
        float,
        typer.Option(
            "--min-visible",
            metavar="SHARE",
            rich_help_panel=TILES,
            help="Drop footprints cut by the tile edge if less than this share and fewer than 256 pixels remain. Those "
            "with fewer than 16 pixels are always dropped.",
        ),
    ] = MIN_VISIBLE,
    skip_empty: Annotated[
        bool,
        typer.Option("--skip-empty", rich_help_panel=TILES, help="Skip training tiles without footprints."),
    ] = False,
    min_data: Annotated[
        float,
        typer.Option(
            "--min-data",
            metavar="SHARE",
            rich_help_panel=TILES,
            help="Skip training tiles with less than this share of valid pixels.",
        ),
    ] = 0.0,
    bands: BandsOption = None,
    scale: ScaleOption = None,
    page: PageOption = None,
    scene_crs: SceneCrsOption = None,
    nodata: NodataOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut GeoTIFF scenes and their footprints into a COCO data set of tiles.

    The footprints may be in any CRS.

    Examples:
        rsp convert vector2coco scene.tif footprints.gpkg --out data/town
        rsp convert vector2coco a.tif a.gpkg b.tif b.gpkg --val-scene b --out data/ab
    """
    from dataclasses import asdict

    files = scene_pairs(pairs)
    if class_column is not None and class_attribute is not None:
        raise UsageError("--class-column and --class-attribute are one option", "omit --class-attribute")
    with show_progress("reading the scenes") as display:
        from rsprompter_cli.data.tiles.vector2coco import convert_vectors
        from rsprompter_cli.geo.raster.source import refuse_swapped

        refuse_swapped(files)
        report = convert_vectors(
            files,
            out,
            tile=tile,
            overlap=overlap,
            gsd=gsd or (),
            native=native,
            class_attribute=class_attribute if class_column is None else class_column,
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
            page=page,
            scene_crs=scene_crs,
            nodata=nodata,
            overwrite=overwrite,
            on_progress=display.bar("tiles"),
        )
    if as_json:
        print_json(asdict(report))
    else:
        _print_set(report)


def _print_set(report: VectorReport) -> None:
    """What vector2coco made: a row per scene, split and resolution, totals of several rows; the rest is in --json."""
    columns = ["scene", "split", "m/px", "tiles", "objects", "annotations"]
    rows = [
        [one.scene, one.split, f"{one.gsd:.3g}", one.tiles, one.objects, one.instances] for one in report.scenes
    ]  # fmt: skip
    print_table(columns, rows)
    for scene, (on_scene, all_of_them) in {one.scene: (one.on_scene, one.footprints) for one in report.scenes}.items():
        if on_scene < all_of_them:
            print_message(f"{scene}: {on_scene:,} of {plural(all_of_them, 'footprint')} lie on it")
    for scene, shared in {one.scene: one.in_both_splits for one in report.scenes if one.in_both_splits}.items():
        verb = "is" if shared == 1 else "are"
        print_message(
            f"{scene}: {plural(shared, 'object')} on the border of the held-back part {verb} annotated in both splits"
        )
    if any(one.instances > one.objects for one in report.scenes):
        print_message("an object is annotated in every tile that it reaches")
    for name, (images, instances) in report.splits.items():
        if sum(one.split == name for one in report.scenes) > 1:  # else its row has the same numbers
            print_message(f"{name} in all: {plural(images, 'tile')}, {plural(instances, 'annotation')}")
    print_annotations(report)


@app.command("coco2vector")
def coco2vector_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A COCO file, or a JSON list of detection results.")],
    out: Annotated[Path, out_option("FILE", "Output file: .geojson, .gpkg, .fgb or another vector format.")],
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FILE",
            rich_help_panel=DATA,
            help="COCO file of the images, if FILE is a list of results.",
        ),
    ] = None,
    score: Annotated[
        float,
        typer.Option("--score", metavar="SCORE", rich_help_panel=KEPT, help="Lowest score to keep."),
    ] = 0.0,
    pixel_coords: Annotated[
        bool,
        typer.Option(
            "--pixel-coords",
            rich_help_panel=OUTPUT,
            help="Write polygons in pixel coordinates of each image, for images without a georeference.",
        ),
    ] = False,
    crowds_are_objects: CrowdsOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert COCO instances to georeferenced polygons.

    The georeference is read from the tiles. Each instance becomes one feature with the name of its image, so objects
    in the overlap of two tiles are written twice.

    Examples:
        rsp convert coco2vector data/town/annotations/val.json --out val.gpkg
        rsp convert coco2vector found.json --images val.json --out found.gpkg
    """
    from dataclasses import asdict

    with show_progress("reading the instances") as display:
        from rsprompter_cli.data.convert.coco2vector import convert_coco

        report = convert_coco(
            file,
            out,
            images=images,
            score=score,
            pixel_coords=pixel_coords,
            crowds_are_objects=crowds_are_objects,
            overwrite=overwrite,
            on_progress=display.bar("instances"),
        )
    if as_json:
        print_json(asdict(report))
    else:
        omitted = f", {report.left_out:,} omitted" if report.left_out else ""
        print_outcome(report.outcome, report.out, f"{plural(report.features, 'feature')}{omitted}")
