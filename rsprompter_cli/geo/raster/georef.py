"""Where a raster lies: its own affine, a world file beside it, control points, or nothing."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError

from rsprompter_cli.errors import InputError, why_unreadable
from rsprompter_cli.geo.crs import is_of_earth
from rsprompter_cli.geo.crs_grids import check_grids
from rsprompter_cli.geo.raster.source import Source
from rsprompter_cli.geo.target_crs import check_crs
from rsprompter_cli.structures import Georef

log = logging.getLogger(__name__)

_AUX_FACTS = {
    b"<SRS": "coordinate reference system",
    b"<GeoTransform": "geotransform",
    b"<GCPList": "list of ground control points",
    b"<NoDataValue": "nodata value",
}


_CRS_FILES = (".prj", ".PRJ", ".qpj", ".QPJ")
_LARGEST_CRS_FILE = 1 << 16


def read_georef(dataset: Any, source: Source, *, stated_crs: str | None = None) -> tuple[Georef, str | None]:
    """Find out where an open raster lies.

    The file's own position wins. Only a file without one takes that of a world file beside it
    (.tfw, .tifw, .wld and their kin). Its own reference system wins likewise; a file with a position and no system
    takes the one that the user states, else that of a .prj or .qpj beside it. All of this is told on the log. A
    .aux.xml is never read, because it can override the file and name others; the log tells when it holds something
    that matters.

    Args:
        dataset: an open rasterio dataset.
        source: what it was opened from.
        stated_crs: the reference system that the user states, as in EPSG:32633.

    Returns:
        The georeference, of kind "affine" when the file has a position, even without a reference system; and where
        the reference system comes from: "file", the name of a file beside it, "--scene-crs", or None without one.

    Raises:
        InputError: the position squeezes the picture to a line, or is not finite; the stated system is another than
            the file's, or the file has no position.
        UsageError: `stated_crs` names no map of the earth.
    """
    wanted = None if stated_crs is None else check_crs(stated_crs, "--scene-crs")
    crs_wkt = _crs_wkt(dataset, source)
    transform = Affine(*dataset.transform[:6])
    has_own = transform != Affine.identity()
    if source.path is not None:
        _mention_aux(source.path, source.name)
        world_file = _find_world_file(source.path)
        if world_file is not None and has_own:
            log.info("%s: %s is ignored, the file has a geotransform of its own", source.name, world_file.name)
        elif world_file is not None:
            transform = _read_world_file(world_file)
            has_own = True
            log.info("%s: has no geotransform, using that of %s", source.name, world_file.name)
    if has_own:
        _check_transform(transform, source.name)
        crs_wkt, origin = _choose_crs(crs_wkt, source, wanted, stated_crs)
        on_earth = crs_wkt is None or is_of_earth(CRS.from_wkt(crs_wkt))
        return Georef(_six(transform), crs_wkt, "affine" if on_earth else "off_earth"), origin
    if wanted is not None:
        raise InputError(
            f"{source.name}: has no geotransform, so --scene-crs {stated_crs} does not georeference it",
            "omit --scene-crs, add a world file (.tfw), or warp the file first with gdalwarp",
        )
    if dataset.gcps[0]:
        return Georef(_six(transform), None, "gcp"), None
    if dataset.tags(ns="RPC"):
        return Georef(_six(transform), None, "rpc"), None
    return Georef(_six(transform), crs_wkt, "none"), None if crs_wkt is None else "file"


def why_off_the_map(georef: Georef) -> str | None:
    """Why a grid is not georeferenced on the earth, as the predicate of its name; None where it is."""
    if georef.on_earth:
        return None
    if georef.kind == "off_earth":
        crs = CRS.from_wkt(georef.crs_wkt)
        what = "a local CRS" if crs.geodetic_crs is None else "a CRS of another celestial body"
        return f"has a coordinate reference system that does not refer to the earth ({crs.name}, {what})"
    return {
        "gcp": "has ground control points but no geotransform",
        "rpc": "has a camera model (RPC) but no geotransform",
        "none": "is not georeferenced",
        "affine": "has no coordinate reference system",
    }[georef.kind]


def way_onto_the_map(georef: Georef) -> str:
    """How to georeference a scene that is not, for hints."""
    local = georef.kind == "off_earth" and CRS.from_wkt(georef.crs_wkt).geodetic_crs is None
    if local or georef.kind == "affine":
        return "state its CRS with --scene-crs EPSG:N"
    return {
        "off_earth": "if that CRS is wrong, correct it with gdal_edit",
        "none": "georeference it first, for example with a world file",
    }.get(georef.kind, "warp it first with gdalwarp")


def off_earth_refusal(georef: Georef, name: str) -> str | None:
    """One line on a local CRS or one of another body, and what to do; None for any other grid."""
    if georef.kind != "off_earth":
        return None
    return f"{name}: {why_off_the_map(georef)}, so its polygons cannot be georeferenced"


def _choose_crs(
    own: str | None, source: Source, wanted: str | None, wanted_as: str | None
) -> tuple[str | None, str | None]:
    """The reference system of a file with a position, and where it comes from."""
    known = None if own is None else CRS.from_wkt(own)
    # A local system does not georeference anything: it counts as none.
    is_local = known is not None and known.geodetic_crs is None
    if known is not None and not is_local:
        if wanted is not None and not known.equals(CRS.from_wkt(wanted), ignore_axis_order=True):
            raise InputError(
                f"{source.name}: its CRS is {crs_title(known)}, not --scene-crs {wanted_as}",
                "omit --scene-crs; if the file is wrong, correct it with gdal_edit -a_srs",
            )
        return own, "file"
    beside, text = _crs_beside(source.path) if source.path is not None else (None, None)
    if wanted is not None:
        if (
            text is not None
            and beside is not None
            and not CRS.from_wkt(text).equals(CRS.from_wkt(wanted), ignore_axis_order=True)
        ):
            log.info("%s: using --scene-crs, not %s, which names another CRS", source.name, beside.name)
        return wanted, "--scene-crs"
    if beside is not None and text is not None:
        title = crs_title(CRS.from_wkt(text))
        log.info("%s: has no CRS, using that of %s: %s", source.name, beside.name, title)
        return text, beside.name
    return own, None if own is None else "file"


def crs_title(crs: CRS) -> str:
    """EPSG:32631 where it has a code, else its name."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.name)


def _crs_beside(path: Path) -> tuple[Path | None, str | None]:
    """The .prj or .qpj file beside a raster, and its reference system as WKT 2."""
    for ending in _CRS_FILES:
        for beside in (path.with_suffix(ending), path.with_name(path.name + ending)):
            if not beside.is_file():
                continue
            try:
                with beside.open("rb") as file:
                    text = file.read(_LARGEST_CRS_FILE).decode("utf-8-sig", errors="replace").strip("\x00 \t\r\n")
                check_grids(text, str(beside))
                with rasterio.Env():
                    found = rasterio.crs.CRS.from_wkt(text, morph_from_esri_dialect=True)
                    return beside, str(CRS.from_wkt(found.to_wkt(version="WKT2_2019")).to_wkt())
            except (OSError, CRSError, RasterioError, rasterio.errors.CRSError) as error:
                reason = " ".join(str(error).split())[:120]
                log.warning("%s: ignored, its coordinate reference system cannot be parsed: %s", beside, reason)
    return None, None


def scaled_georef(georef: Georef, *, per_row: float, per_col: float) -> Georef:
    """The georeference of a grid whose pixels are `per_row` x `per_col` pixels of this one."""
    a, b, c, d, e, f = georef.transform
    scaled = (a * per_col, b * per_row, c, d * per_col, e * per_row, f)
    return Georef(scaled, georef.crs_wkt, georef.kind)


def _six(transform: Affine) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    return a, b, c, d, e, f


def _crs_wkt(dataset: Any, source: Source) -> str | None:
    """The reference system as WKT 2, or None when it is missing or not understood."""
    try:
        if dataset.crs is None or not dataset.crs.wkt:
            return None
        wkt = dataset.crs.to_wkt(version="WKT2_2019")
        check_grids(wkt, source.name)
        crs = CRS.from_wkt(wkt)
    except (CRSError, RasterioError) as error:
        log.warning("%s: its coordinate reference system cannot be parsed and is ignored: %s", source.name, error)
        return None
    return str(crs.to_wkt())


def _check_transform(transform: Affine, name: str) -> None:
    if not all(math.isfinite(value) for value in transform[:6]) or transform.determinant == 0:
        raise InputError(f"{name}: its geotransform {_six(transform)} is not invertible", "repair it with gdal_edit")


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
        with path.open(encoding="ascii") as file:
            words = file.read(4096).replace(",", ".").split()
        a, d, b, e, x, y = (_finite(word) for word in words)
    except OSError as error:
        raise InputError(
            f"{path}: {why_unreadable(error)}", "make it readable: it says where the raster lies"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not a world file of six numbers", "repair or remove it") from error
    return Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value) or "_" in word:
        raise ValueError(word)
    return value


def _mention_aux(path: Path, name: str) -> None:
    beside = path.with_name(path.name + ".aux.xml")
    if not beside.is_file():
        return
    try:
        with beside.open("rb") as file:
            text = file.read(1 << 20)
    except OSError as error:
        log.warning("%s: %s %s; what it may say of the raster is unknown", name, beside.name, why_unreadable(error))
        return
    facts = [fact for mark, fact in _AUX_FACTS.items() if re.search(re.escape(mark) + rb"[ >]", text)]
    if facts:
        log.warning(
            "%s: %s is not read (it contains a %s); write this into the raster with gdal_translate or gdal_edit",
            name,
            beside.name,
            ", a ".join(facts),
        )
