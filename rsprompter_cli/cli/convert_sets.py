"""`rsp convert`: sets of pictures in other layouts, from and to COCO."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsprompter_cli.cli.options import JsonOption, OverwriteOption
from rsprompter_cli.cli.output import counted_progress, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rsprompter_cli.data.convert.picture_set import SetReport
    from rsprompter_cli.data.convert.vector2coco import VectorReport

SetOutOption = Annotated[Path, typer.Option("--out", help="Folder of the set: images/ and annotations/.")]
LinkOption = Annotated[bool, typer.Option("--link", help="Hard-link the pictures instead of copying them.")]
PictureSplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Shares (train=0.8,val=0.1,test=0.1), one split for all (val), or folders: those named train, val, test. "
        "Default: folders where there are any, else train=0.8,val=0.2.",
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
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of pictures.")],
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="Folder of masks with the names of their pictures; may be IMAGES.")
    ],
    out: SetOutOption,
    kind: Annotated[
        MaskKind | None,
        typer.Option(
            "--kind",
            help="binary: each connected patch is an object; instances: each value is; classes: each value is a class, "
            "its patches are objects. Default: classes where --classes gives several, else binary.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Names of the values 1, 2, ... as in building,road, or of any as in building=255,road=128.",
        ),
    ] = None,
    ignore: Annotated[
        list[int] | None, typer.Option("--ignore", min=0, help="A value that is background; may be repeated.")
    ] = None,
    connectivity: Annotated[
        Neighbours, typer.Option("--connectivity", help="4: patches hang together by edges; 8: by corners too.")
    ] = Neighbours.FOUR,
    min_area: Annotated[int, typer.Option("--min-area", min=0, help="Leave out objects of fewer pixels.")] = 0,
    image_suffix: Annotated[
        str, typer.Option("--image-suffix", help="What the names of pictures end in, before the dot: _sat.")
    ] = "",
    mask_suffix: Annotated[
        str, typer.Option("--mask-suffix", help="What the names of masks end in, before the dot: _mask.")
    ] = "",
    split: PictureSplitOption = None,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn pictures and label masks of them into a COCO set."""
    from rsprompter_cli.data.convert.mask2coco import convert_masks

    convert = partial(
        convert_masks,
        images,
        masks,
        out,
        kind=None if kind is None else kind.value,
        classes=_names(classes),
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
        typer.Argument(metavar="DIR|FILE", help="A data folder with annotations/*{train,val,test}.json, or a file."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the set: images/, labels/ and data.yaml.")],
    image_folder: Annotated[
        str | None,
        typer.Option("--image-folder", help="Where the pictures lie below the data folder; may contain {split}."),
    ] = None,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a COCO set in the layout of Ultralytics' YOLO.

    A line of YOLO is one outline: holes and further parts of an object are joined to it by channels without width, so
    that its area stays. Crowds are left out.
    """
    from dataclasses import asdict

    from rsprompter_cli.data.convert.coco2yolo import convert_to_yolo

    with counted_progress("pictures") as on_progress:
        report = convert_to_yolo(
            source, out, image_folder=image_folder, link=link, overwrite=overwrite, on_progress=on_progress
        )
    if as_json:
        print_json(asdict(report))
        return
    _print_counts(report.splits, report.left_out)
    if report.joined:
        typer.echo(f"{report.joined} objects with holes or several parts, joined by channels", err=True)
    typer.echo(f"{report.outcome}: {report.out / 'data.yaml'}", err=True)


def yolo2coco_command(
    source: Annotated[Path, typer.Argument(metavar="YAML|DIR", help="The data.yaml of a YOLO set, or its folder.")],
    out: SetOutOption,
    root: Annotated[
        Path | None,
        typer.Option("--root", help="Folder of the set, where the path in data.yaml is that of another machine."),
    ] = None,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Take lines that are boxes as rectangles; without it they are errors.")
    ] = False,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a YOLO set of outlines, or of boxes, into a COCO set with the same splits."""
    from rsprompter_cli.data.convert.yolo2coco import convert_from_yolo

    convert = partial(convert_from_yolo, source, out, root=root, boxes=boxes)
    _make_set(convert, "pictures", link=link, overwrite=overwrite, as_json=as_json)


def labelme2coco_command(
    labels: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of labelme's JSON files, one per picture.")],
    out: SetOutOption,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures; default: where imagePath says, below DIR.")
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Take the pictures out of the JSON files (imageData).")
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Labels in the order of their category ids, a,b,c. Default: all, sorted."),
    ] = None,
    split: PictureSplitOption = None,
    link: LinkOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the files of the drawing tool labelme into a COCO set.

    Polygons, rectangles and circles are taken; shapes of one label and group_id are one object.
    """
    from rsprompter_cli.data.convert.labelme2coco import convert_labelme

    names = _names(classes)
    convert = partial(convert_labelme, labels, out, images=images, embedded=embedded, classes=names, split=split)
    _make_set(convert, "files", link=link, overwrite=overwrite, as_json=as_json)


def _names(text: str | None) -> list[str]:
    """`"a,b"` as two names."""
    return [] if text is None else [name.strip() for name in text.split(",")]


def _make_set(convert: Callable[..., SetReport], what: str, *, link: bool, overwrite: bool, as_json: bool) -> None:
    """Convert with a bar that counts `what`, and say what the set holds."""
    from dataclasses import asdict

    with counted_progress(what) as on_progress:
        report = convert(link=link, overwrite=overwrite, on_progress=on_progress)
    if as_json:
        print_json(asdict(report))
        return
    _print_counts(report.splits, report.left_out)
    if report.skipped:
        typer.echo(f"{report.skipped} files that are no pictures or labels", err=True)
    typer.echo(f"classes: {', '.join(report.classes)}", err=True)
    print_annotations(report)


def print_annotations(report: SetReport | VectorReport) -> None:
    """Name the annotation files and the folder of a COCO set, and whether they were written or there already."""
    for path in (*sorted((report.out / "annotations").glob("*.json")), report.out):
        typer.echo(f"{report.outcome}: {path}", err=True)


def _print_counts(splits: Mapping[str, tuple[int, int]], left_out: Mapping[str, Sequence[str]]) -> None:
    for name, (images, instances) in splits.items():
        typer.echo(f"{name}: {_count(images, 'image')}, {_count(instances, 'instance')}", err=True)
    for reason, names in left_out.items():
        typer.echo(f"left out: {len(names)} {reason}", err=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
