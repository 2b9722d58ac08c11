"""Options that several commands share, spelled once."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


DeviceOption = Annotated[Device, typer.Option("--device", help="Where the model runs.")]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Arithmetic; auto takes bf16 only where the hardware has it.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; default: as many as the machine has.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the preset; may be repeated."),
]
SceneArgument = Annotated[str, typer.Argument(help="A GeoTIFF scene, or a PNG or JPEG picture.", show_default=False)]
ScenesArgument = Annotated[
    list[str],
    typer.Argument(
        help="GeoTIFF scenes, PNG or JPEG pictures: files, folders, quoted patterns, @list or .txt files of them.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="With --out FOLDER: one file a scene, of this extension; default: geojson."),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Checkpoint folder; default: the bundled building model.")
]
GsdOption = Annotated[
    float | None,
    typer.Option("--gsd", min=1e-6, help="Metres on the ground per pixel to work at; default: what the model knows."),
]
NativeOption = Annotated[bool, typer.Option("--native", help="Work at the file's own pixels.")]
BandsOption = Annotated[str | None, typer.Option("--bands", help="Bands for red,green,blue, from 1: 4,3,2.")]
ScaleOption = Annotated[
    str | None, typer.Option("--scale", help="How samples become 0..255: auto, none, percentile, or LO,HI.")
]
OverlapOption = Annotated[float, typer.Option("--overlap", help="Share of a window its neighbour sees too.")]
MaxBlockOption = Annotated[
    int, typer.Option("--max-block", min=1, help="Largest block of the file that is decoded, MiB.")
]
MaxWindowsOption = Annotated[int, typer.Option("--max-windows", min=1, help="Refuse more windows than this.")]
CrsOption = Annotated[
    str | None,
    typer.Option("--crs", help="CRS of .gpkg .fgb .parquet .shp, as in EPSG:32633; default: the scene's."),
]
RegularizeOption = Annotated[
    bool,
    typer.Option(
        "--regularize", help="Square corners for buildings where they fit; before --simplify, then --min-area."
    ),
]
SimplifyOption = Annotated[
    float, typer.Option("--simplify", min=0, help="Largest shift of a simplified outline, metres.")
]
MinAreaOption = Annotated[float, typer.Option("--min-area", min=0, help="Smallest area kept, square metres.")]
PreviewOption = Annotated[
    Path | None,
    typer.Option("--preview", help="Also write a map for any browser: one .html file that needs no network."),
]
ClassesOption = Annotated[str | None, typer.Option("--classes", help="Classes kept: a,b,c.")]
LayerOption = Annotated[
    str | None,
    typer.Option("--layer", metavar="NAME", help="Layer of a vector file that has several, as a GeoPackage may."),
]
LayersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", metavar="NAME", help="Layer of the labels, of a file that has several; repeat it for further files."
    ),
]
AllowVrtOption = Annotated[bool, typer.Option("--allow-vrt", help="Admit VRT files, which read other files.")]
RemoteOption = Annotated[bool, typer.Option("--remote", help="Admit https:// and s3:// paths.")]


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
            f"--bands {text}: one band, or three for red,green,blue, counted from 1", "as in --bands 4,3,2"
        )
    return tuple(int(part) for part in parts)


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """`"a, b"` as ("a", "b"), each once."""
    if text is None:
        return None
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
