"""What polygons of a scene need to find their place: all of it but the pixels, so that it can be kept in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, get_args

from rsprompter_cli.geo.raster.resolution import GroundPixel
from rsprompter_cli.structures import Georef, GeorefKind

_FARTHEST = 1e8
"""Map units from the origin: the circumference of the earth is 4e7 m."""


class PlacedScene(Protocol):
    """A scene as those see it who read no pixel of it; see `Scene` for what each says."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def georef(self) -> Georef: ...
    @property
    def working_gsd(self) -> GroundPixel | None: ...
    @property
    def native_height(self) -> int: ...
    @property
    def native_width(self) -> int: ...
    @property
    def native_georef(self) -> Georef: ...
    @property
    def gsd(self) -> GroundPixel | None: ...


@dataclass(frozen=True, slots=True)
class StoredScene:
    """A scene whose pixels are elsewhere."""

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


def place_facts(scene: PlacedScene) -> dict[str, Any]:
    """JSON values that `stored_scene` makes a scene of again; where its file lies is not among them."""
    stored = StoredScene(**{one.name: getattr(scene, one.name) for one in fields(StoredScene)})
    return {name: value for name, value in asdict(stored).items() if name != "path"}


def stored_scene(facts: Mapping[str, Any]) -> StoredScene:
    """A scene from its facts.

    Raises:
        KeyError, TypeError, ValueError: they are not those of a scene.
    """
    values = {one.name: facts[one.name] for one in fields(StoredScene) if one.name != "path"}
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
    return StoredScene(path=values["name"], **values)
