"""Whether the geographic libraries do here what is asked of them: formats, coordinate systems, a scene to try on."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rsprompter_cli.doctor.findings import Finding, State, checked, judged, said_by, shown

TEST_GSD = 0.3
"""Metres per pixel of the test scene."""

_CRS = "EPSG:32631"
_ORIGIN = (500_000.0, 300_000.0)
"""Easting and northing of the test scene's top left corner: open water in the Gulf of Guinea."""

_SIDE = 256
_HOUSES = ((26, 30, 46, 62), (110, 36, 60, 40), (30, 150, 44, 52), (120, 140, 52, 70), (200, 60, 40, 56))
"""Row, column, height and width in pixels of what looks like a roof."""

_RASTER_DRIVERS = {
    "GTiff": "GeoTIFF scenes", "PNG": "PNG images", "JPEG": "JPEG images", "JP2OpenJPEG": "JPEG 2000 scenes",
    "COG": "writing Cloud Optimized GeoTIFFs", "VRT": "virtual rasters (--allow-vrt)",
}  # fmt: skip
_NEEDED_DRIVERS = ("GTiff", "PNG", "JPEG")
_COMPRESSIONS = ("DEFLATE", "LZW", "JPEG", "ZSTD", "WEBP", "LERC")
_REINSTALL = "run pip install --force-reinstall rasterio pyogrio pyproj pyarrow, or create a new environment"


def raster_findings() -> Iterator[Finding]:
    """GDAL's raster drivers, and the ways in which a GeoTIFF may be compressed."""
    import rasterio

    with rasterio.Env() as env:
        there = env.drivers()
    for name in [name for name in _RASTER_DRIVERS if name not in there]:
        state = State.PROBLEM if name in _NEEDED_DRIVERS else State.WARNING
        yield Finding("formats", name, state, f"this GDAL has no driver for {_RASTER_DRIVERS[name]}", _REINSTALL)
    yield Finding(
        "formats", "GDAL raster drivers", State.OK, ", ".join(name for name in _RASTER_DRIVERS if name in there)
    )
    usable = [name for name in _COMPRESSIONS if _can_compress(name)]
    missing = ", ".join(name for name in _COMPRESSIONS if name not in usable)
    text = ", ".join(usable)
    fault = f"{text}; scenes compressed with {missing} cannot be read" if missing else ""
    way_out = "convert them with gdal_translate -co COMPRESS=DEFLATE"
    yield judged("formats", "GeoTIFF compressions", text, fault, way_out)


def _can_compress(name: str) -> bool:
    import numpy as np
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 3, "dtype": "uint8", "compress": name}
    try:
        with warnings.catch_warnings(), MemoryFile() as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(**profile) as file:
                file.write(np.zeros((3, 16, 16), dtype=np.uint8))
    except RasterioError:
        return False
    return True


def vector_findings() -> Iterator[Finding]:
    """Each vector format that can be written: one square is written and read back."""
    from rsprompter_cli.geo.vector.write import VECTOR_SUFFIXES

    whole = []
    for suffix in VECTOR_SUFFIXES:
        try:
            _round_trip(suffix)
        except Exception as error:  # a driver, pyarrow or PROJ may be broken in any way
            yield Finding(
                "formats", suffix, State.PROBLEM, f"cannot be written and read back: {said_by(error)}", _REINSTALL
            )
        else:
            whole.append(suffix)
    yield Finding("formats", "vector formats", State.OK, ", ".join(whole) + " written and read back")


def _round_trip(suffix: str) -> None:
    from pyproj import CRS
    from shapely.geometry import box

    from rsprompter_cli.geo.vector.write import object_feature, read_footprints, write_features

    east, north = _ORIGIN
    square = box(east, north, east + 10, north + 10)
    wkt = CRS.from_user_input(_CRS).to_wkt()
    with TemporaryDirectory(prefix="rsp-doctor-") as folder:
        path = Path(folder, f"square{suffix}")
        write_features(path, [object_feature(square, class_name="é", score=0.5, area_m2=100.0)], wkt)
        back = read_footprints(path, to_crs_wkt=wkt, class_attribute="class")
    if len(back) != 1 or back.classes != ["é"] or back.polygons[0].symmetric_difference(square).area > 1:
        raise ValueError("the features read back differ from those written")


def projection_findings() -> Iterator[Finding]:
    """PROJ in each library, by a point whose place is known, and variables that lead them to another PROJ."""
    named = [name for name in ("PROJ_LIB", "PROJ_DATA") if os.environ.get(name)]
    way_out = f"unset {' and '.join(named)}, which another program set for its own PROJ" if named else _REINSTALL
    for library, place in (("rasterio", _by_rasterio), ("pyproj", _by_pyproj)):
        name = f"coordinates, {library}"
        yield from checked("formats", name, functools.partial(_place_finding, name, place), way_out)
    for name in named:
        folders = [folder for folder in os.environ[name].split(os.pathsep) if folder]
        found = any(Path(folder, "proj.db").is_file() for folder in folders)
        yield _folder_finding(name, "" if found else "contains no proj.db")
    if folder := os.environ.get("GDAL_DATA"):
        yield _folder_finding("GDAL_DATA", "" if Path(folder).is_dir() else "no such folder")


def _place_finding(name: str, place: Callable[[float, float], tuple[float, float]]) -> Iterator[Finding]:
    east, north = place(3.0, 1.0)
    if abs(east - 500_000) > 1 or abs(north - 110_530) > 1:
        raise ValueError(f"3 E 1 N is projected to {east:.0f}, {north:.0f} in {_CRS}, not to 500000, 110530")
    yield Finding("formats", name, State.OK, "a known point is projected correctly")


def _by_rasterio(longitude: float, latitude: float) -> tuple[float, float]:
    from rasterio.warp import transform

    (east,), (north,) = transform("EPSG:4326", _CRS, [longitude], [latitude])
    return east, north


def _by_pyproj(longitude: float, latitude: float) -> tuple[float, float]:
    from pyproj import Transformer

    east, north = Transformer.from_crs("EPSG:4326", _CRS, always_xy=True).transform(longitude, latitude)
    return east, north


def _folder_finding(name: str, fault: str) -> Finding:
    """A variable that names a folder, and what is wrong with it."""
    value = shown(os.environ[name])
    return judged("environment", name, value, f"{value}: {fault}" if fault else "", f"unset {name}")


def write_test_scene(path: Path) -> None:
    """A small GeoTIFF with what looks like roofs on grass."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    pixels = np.empty((_SIDE, _SIDE, 3))
    pixels[:] = (92, 108, 66)
    pixels += rng.normal(0, 1, (_SIDE // 8, _SIDE // 8, 1)).repeat(8, axis=0).repeat(8, axis=1) * 9
    for top, left, height, width in _HOUSES:
        pixels[top + 5 : top + height + 7, left + 5 : left + width + 7] *= 0.45  # the shadow
        pixels[top : top + height // 2, left : left + width] = (196, 182, 170)
        pixels[top + height // 2 : top + height, left : left + width] = (158, 143, 132)
    pixels += rng.normal(0, 5, pixels.shape)
    profile = {
        "driver": "GTiff", "width": _SIDE, "height": _SIDE, "count": 3, "dtype": "uint8", "crs": _CRS,
        "transform": from_origin(*_ORIGIN, TEST_GSD, TEST_GSD), "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1))
