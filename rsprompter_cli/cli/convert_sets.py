"""`rsp convert`: sets of pictures in other layouts, from and to COCO."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.console import print_message
from rsprompter_cli.cli.options import (
    DATA,
    LABELS,
    OUTPUT,
    CrowdsOption,
    ImageFolderOption,
    JsonOption,
    OverwriteOption,
    out_option,
    split_names,
)
from rsprompter_cli.cli.output import print_json
from rsprompter_cli.cli.progress import show_progress
from rsprompter_cli.cli.tables import print_outcome
from rsprompter_cli.errors import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rsprompter_cli.data.convert.picture_set import SetReport
    from rsprompter_cli.data.tiles.vector2coco import VectorReport

SetOutOption = Annotated[Path, out_option("FOLDER", "Folder of the data set: images/ and annotations/.")]
LinkOption = Annotated[
    bool, typer.Option("--link", rich_help_panel=OUTPUT, help="Hard-link the images instead of copying them.")
]
PictureSplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="SPLITS",
        rich_help_panel=DATA,
        show_default="folders if there are any, otherwise train=0.8,val=0.2",
        help="Shares such as train=0.8,val=0.1,test=0.1, one split for all such as val, or folders for the subfolders "
        "train, val and test.",
    ),
]


class MaskKind(StrEnum):
    """What the values of a mask mean."""

    BINARY = "binary"
    INSTANCES = "instances"
    CLASSES = "classes"


class Neighbours(StrEnum):
    """Which pixels hang together."""

    FOUR = "4"
    EIGHT = "8"


def mask2coco_command(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of the images.")],
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="Folder of the masks, named like the images; may be IMAGES.")
    ],
    out: SetOutOption,
    kind: Annotated[
        MaskKind | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            rich_help_panel=LABELS,
            show_default="classes if --classes names several, otherwise binary",
            help="binary: each connected region is an object. instances: each value is an object. classes: each value "
            "is a class, and each of its connected regions an object.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAMES",
            rich_help_panel=LABELS,
            help="Names of the values 1, 2, ..., such as building,road, or of other values, such as "
            "building=255,road=128.",
        ),
    ] = None,
    ignore: Annotated[
        list[int] | None,
        typer.Option(
            "--ignore",
            min=0,
            metavar="VALUE",
            rich_help_panel=LABELS,
            help="Value that is background. May be repeated.",
        ),
    ] = None,
    connectivity: Annotated[
        Neighbours,
        typer.Option(
            "--connectivity",
            metavar="N",
            rich_help_panel=LABELS,
            help="4: pixels of a region are connected by their edges. 8: also by their corners.",
        ),
    ] = Neighbours.FOUR,
    min_area: Annotated[
        int,
        typer.Option(
            "--min-area", min=0, metavar="PIXELS", rich_help_panel=LABELS, help="Smallest area to keep, in pixels."
        ),
    ] = 0,
    image_suffix: Annotated[
        str,
        typer.Option(
            "--image-suffix",
            metavar="SUFFIX",
            rich_help_panel=DATA,
            help="Suffix of the image names, before the extension, such as _sat.",
        ),
    ] = "",
    mask_suffix: Annotated[
        str,
        typer.Option(
            "--mask-suffix",
            metavar="SUFFIX",
            rich_help_panel=DATA,
            help="Suffix of the mask names, before the extension, such as _mask.",
        ),
    ] = "",
    split: PictureSplitOption = None,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert images and their label masks to a COCO data set.

    Examples:
        rsp convert mask2coco images masks --out data/town
        rsp convert mask2coco images masks --classes building,road --out data/town
    """
    from rsprompter_cli.data.convert.mask2coco import convert_masks

    convert = partial(
        convert_masks,
        images,
        masks,
        out,
        kind=None if kind is None else kind.value,
        classes=[] if classes is None else split_names(classes),
        ignore=ignore or (),
        connectivity=4 if connectivity is Neighbours.FOUR else 8,
        min_area=min_area,
        image_suffix=image_suffix,
        mask_suffix=mask_suffix,
        split=split,
    )
    _make_set(convert, "masks", link=link, overwrite=overwrite, as_json=as_json)


def coco2yolo_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A data folder with annotations/*{train,val,test}.json, or one COCO file."
        ),
    ],
    out: Annotated[Path, out_option("FOLDER", "Folder of the data set: images/, labels/ and data.yaml.")],
    image_folder: ImageFolderOption = None,
    crowds_are_objects: CrowdsOption = False,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a COCO data set to the layout of Ultralytics YOLO.

    A line of a YOLO file is one outline. Holes and further parts of an object are connected to it by cuts of zero
    width, which keeps its area. Crowds are omitted.

    Examples:
        rsp convert coco2yolo data/town --out data/town-yolo
    """
    from dataclasses import asdict

    from rsprompter_cli.data.convert.coco2yolo import convert_to_yolo

    with show_progress("reading the annotations") as display:
        on_progress = display.bar("images")
        report = convert_to_yolo(
            source,
            out,
            image_folder=image_folder,
            crowds_are_objects=crowds_are_objects,
            link=link,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if as_json:
        print_json(asdict(report))
        return
    _print_counts(report.splits, report.left_out)
    if report.joined:
        print_message(f"{plural(report.joined, 'object')} with holes or several parts, connected by cuts of zero width")
    print_outcome(report.outcome, report.out / "data.yaml")


def yolo2coco_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The data.yaml of a YOLO data set, or its folder.")],
    out: SetOutOption,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            rich_help_panel=DATA,
            show_default="path in data.yaml",
            help="Folder of the data set, if it was moved.",
        ),
    ] = None,
    boxes: Annotated[
        bool,
        typer.Option("--boxes", rich_help_panel=LABELS, help="Read boxes as rectangles; otherwise boxes are errors."),
    ] = False,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a YOLO data set of outlines or boxes to COCO, with the same splits.

    Examples:
        rsp convert yolo2coco data/town-yolo --out data/town
    """
    from rsprompter_cli.data.convert.yolo2coco import convert_from_yolo

    convert = partial(convert_from_yolo, source, out, root=root, boxes=boxes)
    _make_set(convert, "images", link=link, overwrite=overwrite, as_json=as_json)


def labelme2coco_command(
    labels: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of labelme JSON files, one per image.")],
    out: SetOutOption,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            rich_help_panel=DATA,
            show_default="from imagePath",
            help="Folder of the images.",
        ),
    ] = None,
    embedded: Annotated[
        bool,
        typer.Option("--embedded", rich_help_panel=DATA, help="Read the images from the JSON files (imageData)."),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAMES",
            rich_help_panel=LABELS,
            show_default="all, sorted",
            help="Labels in the order of their category ids, such as building,road.",
        ),
    ] = None,
    split: PictureSplitOption = None,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert the files of the annotation tool labelme to a COCO data set.

    Polygons, rectangles and circles are read. Shapes with the same label and group_id are one object.

    Examples:
        rsp convert labelme2coco labels --out data/town
    """
    from rsprompter_cli.data.convert.labelme2coco import convert_labelme

    names = [] if classes is None else split_names(classes)
    convert = partial(convert_labelme, labels, out, images=images, embedded=embedded, classes=names, split=split)
    _make_set(convert, "files", link=link, overwrite=overwrite, as_json=as_json)


def _make_set(convert: Callable[..., SetReport], what: str, *, link: bool, overwrite: bool, as_json: bool) -> None:
    """Convert with a bar that counts `what`, and say what the set holds."""
    from dataclasses import asdict

    with show_progress("reading the labels") as display:
        report = convert(link=link, overwrite=overwrite, on_progress=display.bar(what))
    if as_json:
        print_json(asdict(report))
        return
    _print_counts(report.splits, report.left_out)
    if report.skipped:
        print_message(plural(report.skipped, "other file skipped", "other files skipped"))
    print_message(f"classes: {', '.join(report.classes)}")
    print_annotations(report)


def print_annotations(report: SetReport | VectorReport) -> None:
    """Name the annotation files and the folder of a COCO set, and whether they were written or there already."""
    for path in (*sorted((report.out / "annotations").glob("*.json")), report.out):
        print_outcome(report.outcome, path)


def _print_counts(splits: Mapping[str, tuple[int, int]], left_out: Mapping[str, Sequence[str]]) -> None:
    for name, (images, instances) in splits.items():
        print_message(f"{name}: {plural(images, 'image')}, {plural(instances, 'annotation')}")
    for reason, names in left_out.items():
        print_message(f"omitted: {reason} ({len(names):,})")
