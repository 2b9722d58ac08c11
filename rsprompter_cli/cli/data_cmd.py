"""`rsp data`: look at a COCO set before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.console import print_result
from rsprompter_cli.cli.options import (
    CHECKS,
    DATA,
    CrowdsOption,
    ImageFolderOption,
    JsonOption,
    OverwriteOption,
    out_option,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_hanging, print_table
from rsprompter_cli.errors import plural

ABOUT = """Check, show, count and split COCO data sets.

Examples:
    rsp data check data/WHU
    rsp data stats data/WHU
"""
app = typer.Typer(help=ABOUT, no_args_is_help=True)

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A data folder with annotations/*{train,val,test}.json or another layout of docs/coco-sets.md, or one "
        "COCO file.",
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", metavar="NAME", rich_help_panel=DATA, help="Split of the data folder to draw.")
]


@app.command("check")
def check_command(
    source: SourceArgument,
    image_folder: ImageFolderOption = None,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures/--no-pictures",
            rich_help_panel=CHECKS,
            help="Also decode every image and compare its size.",
        ),
    ] = True,
    crowds_are_objects: CrowdsOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the errors of a COCO data set by annotation or image id.

    The exit code is 0 if nothing prevents training (there may be warnings), and 3 if there are errors.

    Examples:
        rsp data check data/WHU
    """
    from rsprompter_cli.errors import InputError

    with show_progress("reading the annotations") as display:
        from rsprompter_cli.data.check import check_set

        reports = check_set(
            source,
            image_folder=image_folder,
            read_pictures=pictures,
            crowds_are_objects=crowds_are_objects,
            on_picture=display.bar("images"),
        )
    if as_json:
        print_json([report.as_json() for report in reports])
    for report in () if as_json else reports:
        counts = [plural(report.images, "image"), plural(report.objects, "annotation")]
        counts += [plural(report.crowds, "crowd")] if report.crowds else []
        counts += [plural(report.error_count, "error"), plural(report.warning_count, "warning")]
        print_hanging(f"{report.file}: ", ", ".join(counts))
        for line in report.lines():
            print_hanging("  ", line)
    if any(report.errors for report in reports):
        raise typer.Exit(InputError.exit_code)


@app.command("show")
def show_command(
    source: SourceArgument,
    out: Annotated[Path, out_option("FOLDER", "Folder for the PNG images.")],
    split: SplitOption = "train",
    count: Annotated[
        int, typer.Option("--count", min=1, metavar="N", rich_help_panel=DATA, help="Number of images to draw.")
    ] = 8,
    image_folder: ImageFolderOption = None,
    crowds_are_objects: CrowdsOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the annotations on some images.

    Examples:
        rsp data show data/WHU --out pictures
    """
    with show_progress("reading the annotations") as display:
        from rsprompter_cli.data.coco.read import read_coco
        from rsprompter_cli.data.images import locate

        file, root = locate(source, split)
        display.announce("loading PyTorch")
        from rsprompter_cli.data.show import show_images

        display.announce("reading the annotations")
        written = show_images(
            read_coco(file, crowds_are_objects=crowds_are_objects, root=root, image_folder=image_folder),
            root,
            out,
            count=count,
            image_folder=image_folder,
            overwrite=overwrite,
            on_picture=display.bar("images"),
        )
    _print_paths(written, as_json=as_json)


@app.command("stats")
def stats_command(
    source: SourceArgument,
    image_folder: ImageFolderOption = None,
    crowds_are_objects: CrowdsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Count images and objects by class and size.

    Examples:
        rsp data stats data/WHU
    """
    from rsprompter_cli.data.coco.read import read_coco, warn_of_crowds
    from rsprompter_cli.data.coco.stats import coco_stats
    from rsprompter_cli.data.images import annotation_files

    root = source if source.is_dir() else None
    counts = []
    for file in annotation_files(source):
        coco = read_coco(file, crowds_are_objects=crowds_are_objects, root=root, image_folder=image_folder)
        warn_of_crowds(coco)
        counts.append(coco_stats(coco))
    if as_json:
        print_json(counts)
        return
    for one in counts:
        widths, heights, sides = one["image_sizes"]["width"], one["image_sizes"]["height"], one["side_px"]
        spread, sizes = one["objects_per_image"], one["objects_per_size"]
        print_result(
            f"{one['file']}\n"
            f"  {plural(one['images'], 'image')} ({one['images_without_objects']} without annotations), "
            f"{_span(widths)} x {_span(heights)} px\n"
            f"  {plural(one['objects'], 'annotation')}, {plural(one['crowds'], 'crowd')}; per image "
            f"{spread['min']} to {spread['max']}, median {spread['median']:g}, mean {spread['mean']:g}\n"
            f"  small (< 32 x 32 px) {sizes['small']}, medium {sizes['medium']}, "
            f"large (>= 96 x 96 px) {sizes['large']}\n"
            f"  median side {sides['p50']:g} px, 5-95 %: {sides['p5']:g}-{sides['p95']:g} px"
        )
        print_table(["class", "annotations"], [[name, total] for name, total in one["objects_per_class"].items()])


@app.command("split")
def split_command(
    file: Annotated[Path, typer.Argument(metavar="SOURCE", help="A COCO file, or a data folder with only one.")],
    val: Annotated[
        float,
        typer.Option(
            "--val",
            min=0.001,
            max=0.999,
            metavar="SHARE",
            rich_help_panel=DATA,
            help="Share of the images used for validation.",
        ),
    ] = 0.2,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", rich_help_panel=DATA, help="Seed of the random split.")
    ] = 0,
    out: Annotated[
        Path | None, out_option("FOLDER", "Data folder to write annotations/ to.", default="data folder of the file")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="KEY",
            rich_help_panel=DATA,
            help="Key of the image entries; images with the same value stay in the same split.",
        ),
    ] = None,
    crowds_are_objects: CrowdsOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Split a COCO file into train and val by image.

    Both splits contain every class where possible.

    Examples:
        rsp data split all.json --out data/town --val 0.2
    """
    from rsprompter_cli.data.coco.split import one_file, split_file
    from rsprompter_cli.data.images import root_of

    file = one_file(file)
    written = split_file(
        file,
        root_of(file) if out is None else out,
        val=val,
        seed=seed,
        group_by=group_by,
        crowds_are_objects=crowds_are_objects,
        overwrite=overwrite,
    )
    _print_paths(list(written.values()), as_json=as_json)


def _span(ends: Sequence[int]) -> str:
    """As in "158" or "158-256"."""
    low, high = ends[0], ends[1]
    return str(low) if low == high else f"{low}-{high}"


def _print_paths(paths: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json([str(path) for path in paths])
    else:
        print_result("\n".join(str(path) for path in paths))
