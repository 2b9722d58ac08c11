"""`rsp data`: look at a COCO set before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, OverwriteOption
from rsprompter_cli.cli.output import counted_progress, print_json
from rsprompter_cli.cli.tables import print_table

app = typer.Typer(help="Check, show, count and split COCO sets.", no_args_is_help=True)

SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="DIR|FILE", help="A data folder with annotations/*{train,val,test}.json, or one COCO file."),
]
ImageFolderOption = Annotated[
    str | None,
    typer.Option("--image-folder", help="Where the pictures lie below the data folder; may contain {split}."),
]
SplitOption = Annotated[str, typer.Option("--split", help="Which split of a data folder.")]


@app.command("check")
def check_command(
    source: SourceArgument,
    image_folder: ImageFolderOption = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Also decode every picture and compare its size.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Name every fault of a COCO set, by annotation or image id.

    Exit code 0: nothing stops training (there may be warnings). 3: there are errors.
    """
    from rsprompter_cli.data.checks import check_set
    from rsprompter_cli.errors import InputError

    with counted_progress("pictures") as on_picture:
        reports = check_set(source, image_folder=image_folder, read_pictures=pictures, on_picture=on_picture)
    if as_json:
        print_json([report.as_json() for report in reports])
    for report in () if as_json else reports:
        found = f"{len(report.errors)} errors, {len(report.warnings)} warnings"
        typer.echo(f"{report.file}: {report.images} images, {report.objects} objects, {found}")
        typer.echo("".join(f"  {line}\n" for line in report.lines()), nl=False)
    if any(report.errors for report in reports):
        raise typer.Exit(InputError.exit_code)


@app.command("show")
def show_command(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    split: SplitOption = "train",
    count: Annotated[int, typer.Option("--count", min=1, help="How many images.")] = 8,
    image_folder: ImageFolderOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the ground truth on some images, as PNG."""
    from rsprompter_cli.data.coco import read_coco
    from rsprompter_cli.data.images import locate
    from rsprompter_cli.data.show import show_images

    file, root = locate(source, split)
    with counted_progress("pictures") as on_picture:
        written = show_images(
            read_coco(file),
            root,
            out,
            count=count,
            image_folder=image_folder,
            overwrite=overwrite,
            on_picture=on_picture,
        )
    _print_paths(written, as_json=as_json)


@app.command("stats")
def stats_command(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Count images and objects by class and size."""
    from rsprompter_cli.data.coco import read_coco
    from rsprompter_cli.data.images import annotation_files
    from rsprompter_cli.data.stats import coco_stats

    counts = [coco_stats(read_coco(file)) for file in annotation_files(source)]
    if as_json:
        print_json(counts)
        return
    for one in counts:
        widths, heights, sides = one["image_sizes"]["width"], one["image_sizes"]["height"], one["side_px"]
        spread, sizes = one["objects_per_image"], one["objects_per_size"]
        typer.echo(
            f"{one['file']}\n"
            f"  {one['images']} images ({one['images_without_objects']} without objects), "
            f"{widths[0]}-{widths[1]} x {heights[0]}-{heights[1]} px\n"
            f"  {one['objects']} objects, {one['crowds']} crowds; per image "
            f"{spread['min']} to {spread['max']}, median {spread['median']:g}, mean {spread['mean']:g}\n"
            f"  small (< 32 x 32 px) {sizes['small']}, medium {sizes['medium']}, "
            f"large (>= 96 x 96 px) {sizes['large']}\n"
            f"  median side {sides['p50']:g} px, 5-95 %: {sides['p5']:g}-{sides['p95']:g} px"
        )
        print_table(["class", "objects"], [[name, total] for name, total in one["objects_per_class"].items()])


@app.command("split")
def split_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A COCO file.")],
    val: Annotated[
        float, typer.Option("--val", min=0.001, max=0.999, help="Share of the images to validate on.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another split.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Data folder to write annotations/ in; default: the file's own.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", help="Key of the image entries; images that share its value stay together."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut a COCO file into train and val by image, each class on both sides where it can be."""
    from rsprompter_cli.data.images import root_of
    from rsprompter_cli.data.split import split_file

    folder = root_of(file) if out is None else out
    written = split_file(file, folder, val=val, seed=seed, group_by=group_by, overwrite=overwrite)
    _print_paths(list(written.values()), as_json=as_json)


def _print_paths(paths: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json([str(path) for path in paths])
    else:
        typer.echo("\n".join(str(path) for path in paths))
