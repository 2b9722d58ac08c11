"""Ground resolution, and the grid of square ground pixels a scene is worked on.

gsd: ground sampling distance, metres on the ellipsoid that one pixel spans along the row
direction (down) and along the column direction (right).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError, ProjError

from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crs import Geodetic
from rsprompter_cli.geo.raster.georef import scaled_georef
from rsprompter_cli.structures import Georef

log = logging.getLogger(__name__)

MAX_VARIATION = 1.25
"""Largest ratio of pixel sizes within a scene: objects of one size must look alike everywhere."""

MAX_FACTOR = 2.5
"""Enlarging beyond 2.5 invents detail. Reducing has no bound: a model that knows pixels of 0.25 m reads a scene of 3 cm
at 0.25 m, and averaging loses nothing that it could use."""

MAX_GSD = 100_000.0
"""Metres per pixel: coarser than any picture of the ground."""

_SQUARE_ENOUGH = 0.01
"""A pixel within 1 % of the wanted size is read as it is: no model sees the difference, and no sample is blurred."""

_HALF_STEP = 16.0
"""Pixels to either side of a place: a projection's inverse is good to a tenth of a millimetre only."""

GroundPixel = tuple[float, float]
"""(metres along a step of one row, metres along a step of one column)."""


@dataclass(frozen=True, slots=True)
class GroundResolution:
    """Pixel size on the ground.

    centre: at the middle of the scene.
    variation: the largest ratio, over both axes, between the sizes at the corners and the middle;
        inf where a corner does not lie on the earth.
    """

    centre: GroundPixel
    variation: float


@dataclass(frozen=True, slots=True)
class WorkingGrid:
    """The pixels a scene is worked on.

    height, width: pixels.
    georef: of the grid.
    gsd: metres per pixel as the grid has them, or None without a georeference.
    """

    height: int
    width: int
    georef: Georef
    gsd: GroundPixel | None


def ground_resolution(georef: Georef, height: int, width: int, *, name: str) -> GroundResolution | None:
    """Measure the pixels of a grid along geodesics.

    Args:
        georef: of the grid.
        height, width: pixels.
        name: the file, for messages.

    Returns:
        None when the grid has no place on the earth.

    Raises:
        InputError: the middle of the scene does not lie on the earth.
    """
    if not georef.on_earth or georef.crs_wkt is None:
        return None
    # A step of many pixels, because a projection's inverse is good to a tenth of a millimetre only.
    step = float(np.clip(min(height, width) / 2, 1, 64))
    half_row, half_col = min(step, height) / 2, min(step, width) / 2
    cols = np.array([width / 2, half_col, width - half_col, half_col, width - half_col])
    rows = np.array([height / 2, half_row, half_row, height - half_row, height - half_row])
    try:
        crs = CRS.from_wkt(georef.crs_wkt)
        geodetic = Geodetic(crs)
    except (CRSError, ProjError) as error:
        raise InputError(
            f"{name}: its coordinate reference system cannot be used: {error}", "assign another with gdal_edit"
        ) from error
    a, b, c, d, e, f = georef.transform

    def distance(d_col: float, d_row: float) -> np.ndarray:
        def at(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return geodetic.degrees(a * x + b * y + c, d * x + e * y + f)

        lon0, lat0 = at(cols - d_col / 2, rows - d_row / 2)
        lon1, lat1 = at(cols + d_col / 2, rows + d_row / 2)
        ends = np.stack([lon0, lat0, lon1, lat1])
        on_earth = np.isfinite(ends).all(axis=0) & (np.abs(ends[1::2]) <= 90 + 1e-9).all(axis=0)
        metres = geodetic.geod.inv(*np.where(on_earth, ends, 0.0))[2]
        return np.where(on_earth, metres, np.inf)

    per_row, per_col = distance(0, step) / step, distance(step, 0) / step
    if not (0 < per_row[0] < math.inf and 0 < per_col[0] < math.inf):
        raise InputError(
            f"{name}: the centre of the scene has no longitude and latitude",
            "correct its georeferencing with gdal_edit",
        )
    with np.errstate(divide="ignore"):
        variation = max(float(axis.max() / axis.min()) if axis.min() > 0 else math.inf for axis in (per_row, per_col))
    return GroundResolution((float(per_row[0]), float(per_col[0])), variation)


def ground_steps(georef: Georef, places: np.ndarray) -> np.ndarray:
    """What steps of one pixel are on the ground, which a rotated, sheared or geographic grid turns and stretches.

    Args:
        georef: of a grid on the earth.
        places: float64 [N, 2], column and row.

    Returns:
        float64 [N, 2, 2]: metres to the east and north of a step along a row (to the next column) and
        of one along a column (to the next row), so `steps_in_pixels @ it` is in metres. Not a number
        where a place does not lie on the earth.
    """
    geodetic = Geodetic(CRS.from_wkt(georef.crs_wkt))
    a, b, c, d, e, f = georef.transform
    steps = np.full((len(places), 2, 2), np.nan)
    for axis, half in enumerate(([_HALF_STEP, 0], [0, _HALF_STEP])):
        ends = [places - half, places + half]
        lonlat = [geodetic.degrees(*(xy @ [[a, d], [b, e]] + (c, f)).T) for xy in ends]
        known = np.isfinite(lonlat).all(axis=(0, 1)) & (np.abs(lonlat)[:, 1] <= 90).all(axis=0)
        azimuth, _, metres = geodetic.geod.inv(*(np.where(known, part, 0.0) for end in lonlat for part in end))
        vector = np.stack([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))], axis=1)
        steps[known, axis] = (vector * metres[:, None] / (2 * _HALF_STEP))[known]
    return steps


def plan_grid(
    georef: Georef,
    height: int,
    width: int,
    resolution: GroundResolution | None,
    *,
    name: str,
    gsd: float | None = None,
    native: bool = False,
    trained_gsd: tuple[float, float] | None = None,
    native_offered: bool = True,
) -> WorkingGrid:
    """Choose the grid a scene is worked on.

    `gsd` wins; else the resolution within `trained_gsd` that is nearest to the scene's own; else
    the scene's own (geometric mean of the axes). `native`, and a scene without a place on the
    earth, keep the pixels as they are.

    Args:
        georef, height, width: of the file.
        resolution: from `ground_resolution`.
        name: the file, for messages.
        gsd: metres per pixel wanted by the user.
        native: keep the file's pixels.
        trained_gsd: (low, high) metres per pixel that a model was trained at.
        native_offered: whether `native` is an option of the user, who is then told of it.

    Raises:
        UsageError: `gsd` together with `native`, or out of range.
        InputError: an enlargement beyond MAX_FACTOR, pixel sizes that vary too much, or
            `gsd` for a scene whose pixels have no known size.
    """
    if gsd is not None and native:
        raise UsageError("--gsd and --native are mutually exclusive")
    if gsd is not None and not 0 < gsd <= MAX_GSD:
        raise UsageError(f"--gsd {gsd:g}: must be metres per pixel, above 0 and at most {MAX_GSD:g}")
    if resolution is None:
        if gsd is not None:
            raise InputError(
                f"{name}: is not georeferenced, so its pixels have no size in metres and --gsd does not apply",
                "omit --gsd, or georeference the file",
            )
        return WorkingGrid(height, width, georef, None)
    if native:
        return WorkingGrid(height, width, georef, resolution.centre)
    if resolution.variation > MAX_VARIATION:
        raise InputError(
            f"{name}: the ground size of its pixels varies by more than {MAX_VARIATION - 1:.0%} across the scene",
            "reproject it (gdalwarp) or split it"
            + (", or pass --native to read pixels as they are" if native_offered else ""),
        )
    own = math.sqrt(resolution.centre[0] * resolution.centre[1])
    target = gsd if gsd is not None else _nearest(own, trained_gsd)
    _check_factor(resolution.centre, target, gsd, trained_gsd, name, native_offered=native_offered)
    if all(abs(target / size - 1) <= _SQUARE_ENOUGH for size in resolution.centre):
        return WorkingGrid(height, width, georef, resolution.centre)
    new_height = max(1, round(height * resolution.centre[0] / target))
    new_width = max(1, round(width * resolution.centre[1] / target))
    per_row, per_col = height / new_height, width / new_width
    return WorkingGrid(
        new_height,
        new_width,
        scaled_georef(georef, per_row=per_row, per_col=per_col),
        (resolution.centre[0] * per_row, resolution.centre[1] * per_col),
    )


def _nearest(own: float, trained_gsd: tuple[float, float] | None) -> float:
    if trained_gsd is None:
        return own
    low, high = trained_gsd
    if not 0 < low <= high < math.inf:
        raise UsageError(f"range of ground resolution {trained_gsd}: must be two positive numbers in ascending order")
    # A pixel within 1 % of the range counts as in it.
    if low * (1 - _SQUARE_ENOUGH) <= own <= high * (1 + _SQUARE_ENOUGH):
        return own
    return min(max(own, low), high)


def _check_factor(
    centre: GroundPixel,
    target: float,
    gsd: float | None,
    trained_gsd: tuple[float, float] | None,
    name: str,
    *,
    native_offered: bool,
) -> None:
    """Refuse to enlarge beyond MAX_FACTOR; no hint leads away from a resolution that the model knows."""
    factor = max(centre) / target
    if factor <= MAX_FACTOR:
        return
    own = math.sqrt(centre[0] * centre[1])
    usual = _nearest(own, trained_gsd)
    if gsd is not None and max(centre) / usual <= MAX_FACTOR:
        why, hint = f"--gsd {gsd:g} asks for", f"omit --gsd to read it at {usual:.3g} m"
    elif trained_gsd is not None:
        why = "the model was trained at" if gsd is None else f"--gsd {gsd:g} asks for"
        hint = f"the model needs finer imagery, of {MAX_FACTOR * trained_gsd[1]:.3g} m or less; or pass a --model "
        hint += f"trained on pixels of about {own:.3g} m"
        hint += " (--native reads pixels of a size that the model was not trained on)" if native_offered else ""
    else:
        why = "square pixels would be" if gsd is None else f"--gsd {gsd:g} asks for"
        hint = f"pass --gsd {_rounded_up(max(centre) / MAX_FACTOR)} or more"
    raise InputError(
        f"{name}: its pixels are {centre[0]:.4g} x {centre[1]:.4g} m, {why} {target:.4g} m: upsampling by "
        f"{factor:.3g}, over the limit of {MAX_FACTOR}",
        hint,
    )


def _rounded_up(metres: float) -> str:
    """Three digits, never below the number."""
    step = 10.0 ** (math.floor(math.log10(metres)) - 2)
    return f"{math.ceil(metres / step - 1e-9) * step:.6g}"
