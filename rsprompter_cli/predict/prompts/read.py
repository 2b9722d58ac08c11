"""A user's prompts: the features of a vector file in the pixels of a scene, with their attributes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from rsprompter_cli.errors import InputError
from rsprompter_cli.geo.raster.georef import why_off_the_map
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.predict.aoi import off_the_scene
from rsprompter_cli.predict.prompts.windows import Miss, Prompt, make_prompt
from rsprompter_cli.predict.scene_coords import from_file_pixels, lay_over

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene


@dataclass(frozen=True, eq=False, slots=True)
class PromptFile:
    """A file of prompts on a scene.

    path: of the file.
    names: what each of its N features is called: its `id` where all have one of their own, else its place, from 1.
    columns: N values by attribute. types: int, float, str or bool by attribute.
    prompts: features that ask for something, in file order.
    misses: by row, from 0, why the others do not.
    """

    path: Path
    names: Sequence[int | str]
    columns: Mapping[str, list[Any]]
    types: Mapping[str, type]
    prompts: list[Prompt]
    misses: dict[int, Miss]

    def __len__(self) -> int:
        return len(self.names)


def require_locatable(source: str | Path, scene: Scene, *, pixel_coords: bool) -> None:
    """Raise InputError for a scene on which prompts in map coordinates have no place."""
    if not pixel_coords and not scene.georef.on_earth:
        raise InputError(
            f"{source}: {why_off_the_map(scene.georef)}, so prompts cannot be located on it",
            "pass --pixel-coords with prompts in pixels of the file, or georeference it first (gdalwarp)",
        )


def read_prompts(path: str | Path, scene: Scene, *, pixel_coords: bool, layer: str | None = None) -> PromptFile:
    """Read the points and boxes of a vector file and lay them over a scene.

    Args:
        path: any format that footprints are read from.
        scene: open, and on the earth unless `pixel_coords`.
        pixel_coords: the file's coordinates are pixels of the scene's file, y down, whatever CRS it names.
        layer: name of the layer, needed where the file has several.

    Raises:
        UsageError: no such layer, or several that could be meant.
        InputError: missing, damaged or foreign file; no CRS; coordinates that do not fit the CRS.
        OffTheSceneError: no point or box lies on the scene.
    """
    opened = open_layer(path, layer=layer)
    with warnings.catch_warnings():
        # GDAL keeps an id for itself, beside the attribute, and complains where it is not unique.
        warnings.filterwarnings("ignore", message="Several features with id")
        batches = list(opened.batches())
    found: list[Any] = [geometry for batch in batches for geometry in batch.geometries]
    columns = {
        name: [_finite(value) for batch in batches for value in batch.columns[name]] for name in opened.attributes
    }
    geometries = np.empty(len(found), dtype=object)
    geometries[:] = [_usable(geometry) for geometry in found]
    if pixel_coords:
        places = from_file_pixels(geometries, scene)
    else:
        places = lay_over(opened.path, geometries, opened.crs_wkt, scene)
    frame = shapely.box(0, 0, scene.width, scene.height)
    if any(geometry is not None for geometry in geometries) and not shapely.intersects(places, frame).any():
        crs = opened.crs_wkt
        raise off_the_scene(
            f"--prompts {path}", opened.path, geometries, crs, scene, what="prompts", pixel_coords=pixel_coords
        )
    prompts: list[Prompt] = []
    misses: dict[int, Miss] = {}
    for row, (geometry, place) in enumerate(zip(geometries, places, strict=True)):
        lost = geometry is not None and place is None
        prompt = Miss.OUTSIDE if lost else make_prompt(place, row, (scene.height, scene.width))
        if isinstance(prompt, Miss):
            misses[row] = prompt
        else:
            prompts.append(prompt)
    return PromptFile(opened.path, _names(columns, len(found)), columns, opened.attributes, prompts, misses)


def id_column(columns: Mapping[str, Sequence[Any]]) -> str | None:
    """The attribute `id`, however its letters are written, where every feature has one."""
    for name, values in columns.items():
        if name.casefold() == "id" and all(value is not None for value in values):
            return name
    return None


def _names(columns: Mapping[str, list[Any]], count: int) -> list[int | str]:
    own = id_column(columns)
    if own is not None and len(set(columns[own])) == count:
        return list(columns[own])
    return list(range(1, count + 1))


def _finite(value: Any) -> Any:
    """A value, but None for a float that is not finite, as which some formats keep gaps."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _usable(geometry: Any) -> Any:
    if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        return None
    return geometry
