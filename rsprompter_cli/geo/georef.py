"""Where a raster lies: its own affine, a world file beside it, control points, or nothing."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.guard import Source
from rsprompter_cli.structures import Georef

log = logging.getLogger(__name__)

_AUX_FACTS = {
    b"<SRS": "coordinate reference system",
    b"<GeoTransform": "position",
    b"<GCPList": "control points",
    b"<NoDataValue": "nodata value",
}


def read_georef(dataset: Any, source: Source) -> Georef:
    """Say where an open raster lies.

    The file's own position wins. Only a file without one takes that of a world file beside it
    (.tfw, .tifw, .wld and their kin); both are said on the log. A .aux.xml is never read, because
    it can override the file and name others; the log says so when it holds something that matters.

    Args:
        dataset: an open rasterio dataset.
        source: what it was opened from.

    Returns:
        Of kind "affine" when the file has a position, even without a reference system.

    Raises:
        InputError: the position squeezes the picture to a line, or is not finite.
    """
    crs_wkt = _crs_wkt(dataset, source)
    transform = Affine(*dataset.transform[:6])
    has_own = transform != Affine.identity()
    if source.path is not None:
        _mention_aux(source.path, source.name)
        world_file = _find_world_file(source.path)
        if world_file is not None and has_own:
            log.info("%s: %s beside it is ignored, the file has its own position", source.name, world_file.name)
        elif world_file is not None:
            transform = _read_world_file(world_file)
            has_own = True
            log.info("%s: has no position of its own, taking that of %s", source.name, world_file.name)
    if has_own:
        _check_transform(transform, source.name)
        return Georef(_six(transform), crs_wkt, "affine")
    if dataset.gcps[0]:
        return Georef(_six(transform), None, "gcp")
    if dataset.tags(ns="RPC"):
        return Georef(_six(transform), None, "rpc")
    return Georef(_six(transform), crs_wkt, "none")


def scaled_georef(georef: Georef, *, per_row: float, per_col: float) -> Georef:
    """The georeference of a grid whose pixels are `per_row` x `per_col` pixels of this one."""
    a, b, c, d, e, f = georef.transform
    scaled = (a * per_col, b * per_row, c, d * per_col, e * per_row, f)
    return Georef(scaled, georef.crs_wkt, georef.kind)


def _six(transform: Affine) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    return a, b, c, d, e, f


def _crs_wkt(dataset: Any, source: Source) -> str | None:
    """The reference system as WKT 2, or None when it is missing or does not lie on the earth."""
    try:
        if dataset.crs is None or not dataset.crs.wkt:
            return None
        crs = CRS.from_wkt(dataset.crs.to_wkt(version="WKT2_2019"))
    except (CRSError, RasterioError) as error:
        log.warning("%s: its coordinate reference system is not understood and ignored: %s", source.name, error)
        return None
    if crs.geodetic_crs is None:
        log.warning("%s: its coordinate reference system (%s) is not on the earth and ignored", source.name, crs.name)
        return None
    return str(crs.to_wkt())


def _check_transform(transform: Affine, name: str) -> None:
    if not all(math.isfinite(value) for value in transform[:6]) or transform.determinant == 0:
        raise InputError(f"{name}: its affine {_six(transform)} does not place the picture", "repair it with gdal_edit")


def _find_world_file(path: Path) -> Path | None:
    suffix = path.suffix.lstrip(".")
    endings = ["wld", f"{suffix}w"]
    if len(suffix) >= 2:
        endings.insert(0, f"{suffix[0]}{suffix[-1]}w")
    for ending in endings:
        for spelling in (ending.lower(), ending.upper()):
            beside = path.with_suffix(f".{spelling}")
            if beside.is_file():
                return beside
    return None


def _read_world_file(path: Path) -> Affine:
    """Six lines: a, d, b, e, then x and y of the centre of the first pixel."""
    try:
        words = path.read_text(encoding="ascii")[:4096].replace(",", ".").split()
        a, d, b, e, x, y = (float(word) for word in words)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a world file, which has six numbers", "repair or remove it") from error
    return Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)


def _mention_aux(path: Path, name: str) -> None:
    beside = path.with_name(path.name + ".aux.xml")
    if not beside.is_file():
        return
    with beside.open("rb") as file:
        text = file.read(1 << 20)
    facts = [fact for mark, fact in _AUX_FACTS.items() if re.search(re.escape(mark) + rb"[ >]", text)]
    if facts:
        log.warning(
            "%s: %s beside it is not read (it holds a %s); write it into the raster with gdal_translate or gdal_edit",
            name,
            beside.name,
            ", a ".join(facts),
        )
