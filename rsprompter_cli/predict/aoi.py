"""The area of interest: the part of a scene in which objects are looked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from rsprompter_cli.data.tiles.coverage import extents_apart
from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.antimeridian import leaves_the_map
from rsprompter_cli.geo.crs import parse_crs, reproject, to_map, units_per_degree, with_short_edges
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.raster.georef import why_off_the_map
from rsprompter_cli.geo.vector.formats.wkb import union_of
from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.predict.scene_coords import from_file_pixels, lay_over

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene
    from rsprompter_cli.geo.windows import Window, WindowGrid

_EDGE_PARTS = 256
"""An edge is divided into steps of the scene's extent by this, so that it stays in its place in another CRS."""

_SLIVER = 1e-6
"""Pixels: what lies this close to the border of a window, or of the area, only touches it."""

REACH = 0.25
"""Share of a window: so far around the area windows are read for the objects on its border to be whole, see
docs/decisions/0018-windows-around-the-area.md."""


class OffTheSceneError(InputError):
    """An area of interest that has no ground in common with a scene."""


class AreaOfInterest:
    """The polygons of a user's file in pixels of the working grid.

    polygon: valid, inside the scene, holes taken off.
    unfinished: objects on the border that go on where no window was read, as far as `touches` has seen them.
    """

    def __init__(self, polygon: Any, grid: WindowGrid, *, cut: bool) -> None:
        """Take the area in; with `cut` nothing beyond it is needed."""
        self.polygon, self.unfinished = polygon, 0
        self._grid, self._cut = grid, cut
        self._read = polygon if cut else shapely.buffer(polygon, REACH * grid.size, quad_segs=4)
        self._bounds = self._read.bounds
        shapely.prepare(self.polygon)
        shapely.prepare(self._read)

    def wants(self, window: Window) -> bool:
        """Whether a window has to be read."""
        x0, y0, x1, y1 = window.box
        west, north, east, south = self._bounds
        if x1 <= west or x0 >= east or y1 <= north or y0 >= south:  # most windows of a large scene
            return False
        inner = shapely.box(x0 + _SLIVER, y0 + _SLIVER, x1 - _SLIVER, y1 - _SLIVER)
        return bool(shapely.intersects(self._read, inner))

    def digest(self) -> str:
        """The same text for the same windows that are wanted."""
        shape = shapely.to_wkb(shapely.normalize(self.polygon), byte_order=1)
        return hashlib.sha256(shape + bytes([self._cut])).hexdigest()

    def touches(self, polygons: Sequence[Any]) -> np.ndarray:
        """bool [N]: which polygons have ground in common with the area."""
        array = np.empty(len(polygons), dtype=object)
        array[:] = list(polygons)
        touching = shapely.covers(self.polygon, array)
        border = np.flatnonzero(shapely.intersects(self.polygon, array) & ~touching)
        touching[border] = shapely.area(shapely.intersection(array[border], self.polygon)) > _SLIVER
        if not self._cut:
            self.unfinished += sum(self._goes_on(polygon) for polygon in array[border[touching[border]]])
        return touching

    def cut(self, polygons: Sequence[Any]) -> list[Any]:
        """The part of each polygon inside the area, None where nothing with area is."""
        array = np.empty(len(polygons), dtype=object)
        array[:] = list(polygons)
        border = np.flatnonzero(~shapely.covers(self.polygon, array))
        array[border] = [polygon_parts(shapely.intersection(one, self.polygon)) for one in array[border]]
        return list(array)

    def _goes_on(self, polygon: Any) -> bool:
        """Whether an object reaches ground that only windows which were not read answer for."""
        grid, stride = self._grid, self._grid.size - self._grid.overlap_px
        x0, y0, x1, y1 = polygon.bounds - np.array([grid.left, grid.top, grid.left, grid.top])
        around = shapely.buffer(polygon, 1.0, quad_segs=1)
        for row in range(max(0, int(y0 // stride) - 2), min(grid.rows, int(y1 // stride) + 2)):
            for col in range(max(0, int(x0 // stride) - 2), min(grid.cols, int(x1 // stride) + 2)):
                window = grid.window(row, col)
                if not self.wants(window) and shapely.intersects(shapely.box(*grid.core(window)), around):
                    return True
        return False


def read_area(
    path: str | Path, scene: Scene, grid: WindowGrid, *, cut: bool, pixel_coords: bool = False, layer: str | None = None
) -> AreaOfInterest:
    """The area of interest that a vector file describes.

    Args:
        grid: the windows of the scene.
        cut: objects end at its border.
        path, pixel_coords, layer: see `area_on_scene`, which also names the errors.
    """
    return AreaOfInterest(area_on_scene(path, scene, pixel_coords=pixel_coords, layer=layer), grid, cut=cut)


def area_on_scene(path: str | Path, scene: Scene, *, pixel_coords: bool = False, layer: str | None = None) -> Any:
    """Read the polygons of a vector file and lay them over a scene: one polygon or multipolygon in its pixels.

    Args:
        path: any format that footprints are read from, in any CRS.
        pixel_coords: the file's coordinates are pixels of the scene's file, y down, whatever CRS it names.
        layer: name of the layer, needed where the file has several.

    Raises:
        UsageError: no such layer, or several that could be meant.
        InputError: missing, damaged or foreign file; no polygon, no CRS, or no ground in common with the scene.
    """
    path = Path(path)
    if not pixel_coords and not scene.georef.on_earth:
        raise InputError(
            f"{scene.path}: {why_off_the_map(scene.georef)}, so --aoi {path} cannot be located on it",
            "pass --pixel-coords and give the area in pixel coordinates of the file",
        )
    given = read_footprints(path, layer=layer)
    if not len(given):
        raise InputError(f"--aoi {path}: contains no polygon", "an area of interest needs at least one")
    polygons = np.empty(len(given), dtype=object)
    polygons[:] = given.polygons
    frame = shapely.box(0, 0, scene.width, scene.height)
    if pixel_coords:
        places = from_file_pixels(polygons, scene)
    else:
        places = lay_over(path, _near_the_scene(polygons, given.crs_wkt, scene), given.crs_wkt, scene)
    there = [polygon_parts(place) for place in places if place is not None]
    whole = union_of([place for place in there if place is not None], path)
    polygon = polygon_parts(shapely.intersection(whole, frame))
    if polygon is None or polygon.area < _SLIVER:
        raise off_the_scene(
            f"--aoi {path}", path, polygons, given.crs_wkt, scene, what="area", pixel_coords=pixel_coords
        )
    return polygon


def _near_the_scene(polygons: np.ndarray, crs: str | None, scene: Scene) -> np.ndarray:
    """What of polygons in a CRS lies around the scene, with edges of small steps; None for those with nothing there.

    A country's outline, or the whole world, has vertices that no local CRS has a place for.
    """
    around = None if crs is None else _bounds_in(crs, scene)
    if around is not None:
        polygons = shapely.intersection(polygons, around)
    extent = around if around is not None else shapely.box(*shapely.total_bounds(polygons))
    west, south, east, north = extent.bounds
    dense = with_short_edges(polygons, max(east - west, north - south) / _EDGE_PARTS)
    result = np.empty(len(polygons), dtype=object)
    result[:] = [None if polygon.is_empty else polygon for polygon in dense]
    return result


def _bounds_in(crs: str, scene: Scene) -> Any:
    """A box in a CRS around the scene; None where it has no single one, over the antimeridian or a pole."""
    frame = shapely.segmentize(shapely.box(0, 0, scene.width, scene.height), max(scene.height, scene.width) / 16)
    try:
        moved = reproject(to_map([frame], scene.georef), scene.georef.crs_wkt or "", crs)
    except InputError:
        return None
    per_degree = units_per_degree(parse_crs(crs))
    if per_degree is not None and leaves_the_map(shapely.transform(moved, lambda xy: xy / per_degree))[0]:
        return None
    west, south, east, north = moved[0].bounds
    margin = 0.02 * max(east - west, north - south)
    return shapely.box(west - margin, south - margin, east + margin, north + margin)


def off_the_scene(
    option: str, path: Path, given: np.ndarray, crs: str | None, scene: Scene, *, what: str, pixel_coords: bool
) -> OffTheSceneError:
    """The error for a file of which nothing lies on a scene; it says where both lie.

    Args:
        option: the option with its file, which begins the message.
        given: object [N], geometries in the file's CRS, None among them.
        what: the geometries are, in a word.
        pixel_coords: they are in pixels of the scene's file.
    """
    message = f"{option}: does not overlap {scene.path}"
    if pixel_coords:
        x0, y0, x1, y1 = shapely.total_bounds(given)
        size = f"{scene.native_width} x {scene.native_height} px"
        return OffTheSceneError(
            f"{message}: pixels {x0:g} to {x1:g} and {y0:g} to {y1:g} of {size}",
            "pixels count from the top left corner",
        )
    places = [place for place in lay_over(path, given, crs, scene) if place is not None]
    if not places:
        return OffTheSceneError(message, "check the coordinate reference system of the file")
    where, hint = extents_apart(scene, list(to_map(places, scene.georef)), what)
    return OffTheSceneError(f"{message}: {where}", hint)
