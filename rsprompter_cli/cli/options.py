"""Options that several commands share, spelled once, and the panels of the help pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

SCENE = "Input"
DATA = "Data set"
LABELS = "Labels"
TILES = "Tiles"
MODEL = "Model"
TRAINING = "Training"
MATCHING = "Matching"
CHECKS = "Checks"
KEPT = "Filtering"
OUTPUT = "Output"
SPEED = "Performance"
SAFETY = "Safety"
PANELS = (SCENE, DATA, LABELS, TILES, MODEL, TRAINING, MATCHING, CHECKS, KEPT, OUTPUT, SPEED, SAFETY)
"""Panels of the options in the order of the pages: an option names its own by `rich_help_panel`."""


class Device(StrEnum):
    """Where tensors live; auto takes CUDA, then MPS, then the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """Arithmetic of a model; auto takes bf16 where the hardware multiplies in it, else fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def out_option(metavar: str, help: str, *, default: str = "") -> Any:
    """The option for what a command writes: FILE or FOLDER, and what stands for the default where it may be omitted."""
    shown = default or True
    return typer.Option("--out", "-o", metavar=metavar, rich_help_panel=OUTPUT, show_default=shown, help=help)


DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device",
        metavar="DEVICE",
        rich_help_panel=SPEED,
        help="Where the model runs: auto, cpu, cuda or mps.",
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        metavar="TYPE",
        rich_help_panel=SPEED,
        help="Precision of the model: auto, fp32, bf16 or fp16. auto uses bf16 only if the hardware supports it.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        rich_help_panel=SPEED,
        show_default="one per CPU core",
        help="Number of CPU threads.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print the result as JSON on stdout.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Replace outputs that already exist.")
]
CrowdsOption = Annotated[
    bool,
    typer.Option(
        "--crowds-are-objects",
        rich_help_panel=DATA,
        help="Treat annotations with iscrowd 1 as single objects, as needed for brush masks exported by CVAT.",
    ),
]
TrainedCrowdsOption = Annotated[
    bool | None,
    typer.Option(
        "--crowds-are-objects",
        rich_help_panel=DATA,
        show_default="as in the configuration",
        help="Treat annotations with iscrowd 1 as single objects, as needed for brush masks exported by CVAT.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", rich_help_panel=MODEL, help="Change one key of the preset. May be repeated."
    ),
]
SceneArgument = Annotated[
    str, typer.Argument(metavar="SCENE", help="A GeoTIFF scene, or a PNG or JPEG image.", show_default=False)
]
ScenesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SCENE...",
        help="GeoTIFF scenes, PNG or JPEG images: files, folders, quoted patterns, @list or .txt files of them.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="EXTENSION",
        rich_help_panel=OUTPUT,
        show_default="geojson",
        help="With --out FOLDER: the format of the file written for each scene.",
    ),
]
CheckpointArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Checkpoint folder, such as runs/NAME/best, or bundled.")
]
# A str, since a Path forgets the ./ by which a folder called "bundled" is told from the model of that name.
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        rich_help_panel=MODEL,
        show_default="bundled",
        help="Checkpoint folder of the model, or bundled.",
    ),
]
GsdOption = Annotated[
    float | None,
    typer.Option(
        "--gsd",
        min=1e-6,
        metavar="METRES",
        rich_help_panel=SCENE,
        show_default="the resolution of the model",
        help="Ground sampling distance to read at, in metres per pixel.",
    ),
]
NativeOption = Annotated[
    bool,
    typer.Option("--native", rich_help_panel=SCENE, help="Read the scene at its own resolution, without resampling."),
]
BandsOption = Annotated[
    str | None,
    typer.Option(
        "--bands",
        metavar="BANDS",
        rich_help_panel=SCENE,
        help="Bands to use as red,green,blue, counted from 1, such as 4,3,2.",
    ),
]
ScaleOption = Annotated[
    str | None,
    typer.Option(
        "--scale",
        metavar="RANGE",
        rich_help_panel=SCENE,
        show_default="auto",
        help="How sample values are scaled to 0..255: auto, none, percentile, or LOW,HIGH.",
    ),
]
OverlapOption = Annotated[
    float,
    typer.Option(
        "--overlap",
        metavar="SHARE",
        rich_help_panel=SCENE,
        help="Overlap of neighbouring windows, as a share of their side.",
    ),
]
PageOption = Annotated[
    int | None,
    typer.Option(
        "--page",
        min=1,
        metavar="N",
        rich_help_panel=SCENE,
        show_default="the only full-size page",
        help="Page of a multi-page TIFF, counted from 1.",
    ),
]
SceneCrsOption = Annotated[
    str | None,
    typer.Option(
        "--scene-crs",
        metavar="EPSG:N",
        rich_help_panel=SCENE,
        help="CRS of a scene that has none, neither in the file nor in a .prj file beside it.",
    ),
]
NodataOption = Annotated[
    float | None,
    typer.Option(
        "--nodata",
        metavar="VALUE",
        rich_help_panel=SCENE,
        show_default="from the file",
        help="Sample value that marks nodata pixels.",
    ),
]
MaxBlockOption = Annotated[
    int,
    typer.Option(
        "--max-block",
        min=1,
        metavar="MIB",
        rich_help_panel=SAFETY,
        help="Largest block of a file that is decoded, in MiB.",
    ),
]
MaxWindowsOption = Annotated[
    int,
    typer.Option(
        "--max-windows", min=1, metavar="N", rich_help_panel=SAFETY, help="Refuse scenes with more windows than this."
    ),
]
CrsOption = Annotated[
    str | None,
    typer.Option(
        "--crs",
        metavar="EPSG:N",
        rich_help_panel=OUTPUT,
        show_default="CRS of the scene",
        help="CRS of a .gpkg, .fgb, .parquet or .shp output, such as EPSG:32633.",
    ),
]
RegularizeOption = Annotated[
    bool,
    typer.Option(
        "--regularize",
        rich_help_panel=OUTPUT,
        help="Give buildings square corners where they fit, before --simplify and --min-area are applied.",
    ),
]
SimplifyOption = Annotated[
    float,
    typer.Option(
        "--simplify",
        min=0,
        metavar="METRES",
        rich_help_panel=OUTPUT,
        help="Simplify outlines, moving them by at most this distance.",
    ),
]
MinAreaOption = Annotated[
    float,
    typer.Option(
        "--min-area",
        min=0,
        metavar="M2",
        rich_help_panel=KEPT,
        help="Smallest area to keep, in square metres.",
    ),
]
ImageFolderOption = Annotated[
    str | None,
    typer.Option(
        "--image-folder",
        metavar="FOLDER",
        rich_help_panel=DATA,
        help="Folder of the images below the data folder; may contain {split}.",
    ),
]
PreviewOption = Annotated[
    Path | None,
    typer.Option(
        "--preview",
        metavar="FILE",
        rich_help_panel=OUTPUT,
        help="Also write a map for the browser, a single .html file that works offline.",
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option("--classes", metavar="NAMES", rich_help_panel=KEPT, help="Classes to keep, such as building,road."),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        rich_help_panel=SCENE,
        show_default="the only layer with features",
        help="Layer to read from a vector file with several layers.",
    ),
]
LayersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        rich_help_panel=LABELS,
        show_default="the only layer with features",
        help="Layer to read from label files with several layers. May be repeated for further files.",
    ),
]
AllowVrtOption = Annotated[
    bool,
    typer.Option("--allow-vrt", rich_help_panel=SAFETY, help="Allow VRT files, which refer to other files."),
]
RemoteOption = Annotated[bool, typer.Option("--remote", rich_help_panel=SAFETY, help="Allow https:// and s3:// paths.")]


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """`"4,3,2"` as (4, 3, 2).

    Raises:
        UsageError: not one to three whole numbers from 1.
    """
    from rsprompter_cli.errors import UsageError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    # Few digits, because Python makes no number of thousands of them.
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) for part in parts) or len(parts) not in (1, 3):
        raise UsageError(
            f"--bands {text}: must be one band, or three as red,green,blue, counted from 1", "for example --bands 4,3,2"
        )
    return tuple(int(part) for part in parts)


def split_names(text: str) -> list[str]:
    """`"a, b"` as two names, as they stand there."""
    return [name.strip() for name in text.split(",")]


def scene_pairs(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Scenes, each with the labels that follow it.

    Raises:
        UsageError: a scene without labels.
    """
    from rsprompter_cli.errors import UsageError

    if len(paths) % 2:
        raise UsageError(f"{paths[-1]}: this SCENE has no LABELS", "pass SCENE LABELS pairs")
    return list(zip(paths[::2], paths[1::2], strict=True))


def require_png(option: str, path: Path | None, example: str) -> None:
    """Raise UsageError for a picture to write that has another extension."""
    from rsprompter_cli.errors import UsageError

    if path is not None and path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: must be a .png file", f"for example {option} {example}")


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """`"a, b"` as ("a", "b"), each once."""
    if text is None:
        return None
    return tuple(dict.fromkeys(name for name in split_names(text) if name))
