"""Where a picture of a COCO set lies on the earth: `georef` and `gsd` of its image entry.

`rsp convert vector2coco` and `rsp predict` write them, `rsp convert coco2vector` reads them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.errors import InputError
from rsprompter_cli.structures import Georef


def place_entry(georef: Georef, gsd: float) -> dict[str, Any]:
    """The keys of an image entry that say where its pixels lie.

    Args:
        georef: of the picture's pixels, on the earth.
        gsd: metres per pixel, see `mean_gsd`.
    """
    return {"gsd": gsd, "georef": {"crs_wkt": georef.crs_wkt, "transform": list(georef.transform)}}


def mean_gsd(gsd: tuple[float, float]) -> float:
    """Metres per pixel as one number: the geometric mean of (per row, per column), to a micrometre."""
    return round(math.sqrt(gsd[0] * gsd[1]), 6)


def read_place(image: CocoImage, path: Path) -> Georef:
    """Where an image lies, from its `georef` entry.

    Args:
        image: of a COCO file.
        path: that file, for messages.

    Raises:
        InputError: it has none, or a damaged one.
    """
    entry = image.extra.get("georef")
    if entry is None:
        raise InputError(
            f"{path}: image {image.id} ({image.file_name}) is not georeferenced",
            "pass --pixel-coords for pixel coordinates; images written by rsp convert vector2coco are georeferenced",
        )
    try:
        a, b, c, d, e, f = (float(value) for value in entry["transform"])
        crs_wkt = str(entry["crs_wkt"])
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: image {image.id} ({image.file_name}) has a damaged georef: {error}") from error
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e - b * d == 0:
        raise InputError(f"{path}: image {image.id} ({image.file_name}) has a georef whose transform is not invertible")
    return Georef((a, b, c, d, e, f), crs_wkt, "affine")
