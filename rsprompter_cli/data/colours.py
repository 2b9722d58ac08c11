"""How the pictures of a set were made from a scene's samples: `info.bands` and `info.scale` of its COCO files.

A model must be shown scenes as its training pictures were. Only what was chosen by hand is
written: the rules that hold otherwise decide for each scene by itself, in training as in prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.raster.radiometry.scaling import parse_scale

if TYPE_CHECKING:
    from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta

NO_CHOICE = "uint8"
"""The scaling in a checkpoint where none was chosen."""


def colour_info(bands: Sequence[int] | None, scale: str | None) -> dict[str, Any]:
    """The entries of `info` for a choice of --bands and --scale; none for the rules of every scene."""
    chosen: dict[str, Any] = {}
    if bands is not None:
        chosen["bands"] = list(bands)
    if scale is not None and scale != "auto":
        chosen["scale"] = scale
    return chosen


def stored_colours(info: Mapping[str, Any], path: Path) -> tuple[tuple[int, ...] | None, str | None]:
    """The bands and the value of --scale that a file's `info` states, each None when it states none.

    Raises:
        InputError: they are invalid.
    """
    bands, scale = info.get("bands"), info.get("scale")
    if bands is not None:
        numbers = isinstance(bands, list) and len(bands) in (1, 3) and all(type(band) is int for band in bands)
        if not numbers or min(bands) < 1:
            raise InputError(f"{path}: info.bands is {bands!r}, not one or three band numbers from 1")
        bands = tuple(bands)
    if scale is not None:
        try:
            parse_scale(scale if isinstance(scale, str) else repr(scale))
        except UsageError as error:
            raise InputError(f"{path}: info.scale is {scale!r}, not a value of --scale", error.hint) from error
    return bands, scale


def trained_scale(meta: CheckpointMeta | None) -> str | None:
    """The value of --scale that a model's training pictures were made with; None when none was chosen."""
    return None if meta is None or meta.scaling == NO_CHOICE else meta.scaling
