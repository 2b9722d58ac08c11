"""The frame of a scene: all that polygons need to find their place on the earth, and its form in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from rsprompter_cli.geo.raster.resolution import GroundPixel
from rsprompter_cli.structures import Georef, GeorefKind

_FARTHEST = 1e8
"""Map units from the origin: the circumference of the earth is 4e7 m."""


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """What is left of a scene when its file is closed: its name, size, reference system and resolution.

    path: as the user wrote it; name: the file name alone.
    height, width, georef, working_gsd: of the working grid; working_gsd is (metres per row, metres
        per column), None without a place on the earth.
    native_height, native_width, native_georef, gsd: of the file.
    """

    path: str
    name: str
    height: int
    width: int
    georef: Georef
    working_gsd: GroundPixel | None
    native_height: int
    native_width: int
    native_georef: Georef
    gsd: GroundPixel | None


def frame_facts(frame: SceneFrame) -> dict[str, Any]:
    """JSON values that `stored_frame` makes a frame of again; where its file lies is not among them."""
    return {name: value for name, value in asdict(frame).items() if name != "path"}


def stored_frame(facts: Mapping[str, Any]) -> SceneFrame:
    """The frame that `frame_facts` wrote.

    Raises:
        KeyError, TypeError, ValueError: they are not those of a scene.
    """
    values = {one.name: facts[one.name] for one in fields(SceneFrame) if one.name != "path"}
    if not isinstance(values["name"], str):
        raise TypeError("the name of the scene is no text")
    for name in ("georef", "native_georef"):
        crs = values[name]["crs_wkt"]
        if not (crs is None or isinstance(crs, str)) or values[name]["kind"] not in get_args(GeorefKind):
            raise TypeError("the coordinate reference system is no text")
        a, b, c, d, e, f = (float(value) for value in values[name]["transform"])
        prefix = name.removesuffix("georef")
        width, height = (float(values[prefix + side]) for side in ("width", "height"))
        corners = [one for x in (0, width) for y in (0, height) for one in (a * x + b * y + c, d * x + e * y + f)]
        if not all(abs(one) <= _FARTHEST for one in corners):
            raise ValueError("the scene lies off the earth")
        values[name] = Georef((a, b, c, d, e, f), crs, values[name]["kind"])
    for name in ("working_gsd", "gsd"):
        values[name] = None if values[name] is None else tuple(float(value) for value in values[name])
    return SceneFrame(path=values["name"], **values)
