"""Chosen ground of scenes to a COCO set of tiles: `vector2coco` for who knows which ground trains and which validates.

A set as `vector2coco` writes it; what lies outside the ground is blank, as nodata is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import shapely

from rsprompter_cli.data.coco.write import SplitDocument
from rsprompter_cli.data.colours import colour_info
from rsprompter_cli.data.defaults import MIN_VISIBLE
from rsprompter_cli.data.output_folder import fill_folder
from rsprompter_cli.data.tiles.split import Split
from rsprompter_cli.data.tiles.tiles import (
    MIN_PIXELS,
    SLIVER_RULE,
    scene_gsd,
    tile_windows,
    write_annotations,
    write_tiles,
)
from rsprompter_cli.errors import InputError, some
from rsprompter_cli.geo.crs import to_pixels
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.raster.source import NOTHING_STATED, Stated
from rsprompter_cli.geo.windows import Window
from rsprompter_cli.structures import Progress


class TileCount(NamedTuple):
    """What the tiles of a split hold; labels: footprints that show in one of them, each once."""

    images: int
    instances: int
    labels: int


@dataclass(frozen=True, eq=False, slots=True)
class Colours:
    """How samples become colours: what was chosen, and what a model knows, as `open_scene` takes them.

    stated: what the user states of all scenes.
    """

    bands: tuple[int, ...] | None = None
    scale: str | None = None
    trained_bands: tuple[int, ...] | None = None
    trained_scale: str | None = None
    stated: Stated = NOTHING_STATED

    def open(self, path: Path, **resolution: Any) -> Scene:
        """Open a scene; `resolution`: gsd, trained_gsd. Pixels as they are (`--native`) are no choice here."""
        return open_scene(
            path,
            bands=self.bands,
            scale=self.scale,
            trained_bands=self.trained_bands,
            trained_scale=self.trained_scale,
            native_offered=False,
            stated=self.stated,
            **resolution,
        )

    def info(self) -> dict[str, Any]:
        """What a model trained on such pictures must know of them."""
        return colour_info(self.bands or self.trained_bands, self.scale or self.trained_scale)


@dataclass(frozen=True, eq=False, slots=True)
class TiledArea:
    """Ground of one scene, at one resolution, for one split.

    stem: names the scene in file names, another for each.
    gsd: metres per pixel.
    ground: polygon in the CRS of the scene.
    polygons, classes: N footprints in that CRS with their classes.
    overlap: share that neighbouring tiles have in common, 0 <= overlap < 0.5.
    """

    scene: Path
    stem: str
    gsd: float
    split: Split
    ground: Any
    polygons: Sequence[Any]
    classes: Sequence[str]
    overlap: float


def area_windows(ground: Any, height: int, width: int, *, tile: int, overlap: float) -> list[Window]:
    """The windows that show some of the ground.

    Args:
        ground: polygon in pixels of the scene.
        height, width: of the scene; windows are smaller than a tile only where the scene is.
    """
    west, north, east, south = ground.bounds
    x0, x1 = _at_least(west, east, tile, width)
    y0, y1 = _at_least(north, south, tile, height)
    shapely.prepare(ground)
    windows = tile_windows((x0, y0, x1, y1), tile, overlap)
    return [window for window in windows if shapely.box(*window.box).intersection(ground).area > 0]


def _at_least(low: float, high: float, side: int, length: int) -> tuple[int, int]:
    """A span in whole pixels, widened to `side` where there is room for it."""
    first, last = max(0, math.floor(low)), min(length, math.ceil(high))
    missing = max(0, side - (last - first))
    first = max(0, min(first - missing // 2, length - side))
    return first, min(length, max(last, first + side))


def tile_areas(
    areas: Sequence[TiledArea],
    out: Path,
    *,
    tile: int,
    colours: Colours,
    overwrite: bool = False,
    on_progress: Progress = lambda _done, _all: None,
) -> dict[str, TileCount]:
    """Write the tiles of all areas as one set.

    Args:
        areas: those of one scene and resolution one after the other.
        out: folder of the set.
        tile: side of a tile in pixels.
        on_progress: called with (windows done, windows in all) of the area at hand.

    Returns:
        Counts by split.

    Raises:
        InputError: a scene cannot be read, or no tile of a split shows an object large enough.
        OutputError: the folder exists and `overwrite` is not given.
    """
    documents: dict[str, SplitDocument] = {"train": SplitDocument(), "val": SplitDocument()}
    shown: dict[str, set[tuple[str, int]]] = {"train": set(), "val": set()}
    resolutions: set[float] = set()
    with fill_folder(out, overwrite=overwrite) as filling:
        (filling.folder / "images").mkdir()
        for (path, gsd), group in itertools.groupby(areas, key=lambda area: (area.scene, area.gsd)):
            with colours.open(path, gsd=gsd) as scene:
                for area in group:
                    ground = to_pixels([area.ground], scene.georef)[0]
                    counts = write_tiles(
                        scene,
                        area.polygons,
                        area.classes,
                        area_windows(ground, scene.height, scene.width, tile=tile, overlap=area.overlap),
                        filling.folder / "images",
                        documents[area.split],
                        stem=area.stem,
                        prefix=f"{area.split}_",
                        min_visible=MIN_VISIBLE,
                        ground=ground,
                        on_progress=on_progress,
                    )
                    shown[area.split].update((area.stem, footprint) for footprint in counts.annotated)
                    if area.split == "train":
                        resolutions.add(scene_gsd(scene))
        _require_objects(areas, documents)
        info = {
            "description": "labelled ground of georeferenced scenes, cut by rsp fit",
            "gsd_range": [min(resolutions), max(resolutions)],
            "tile": tile,
            "min_visible": MIN_VISIBLE,
            "sliver_rule": SLIVER_RULE,
            "scenes": sorted({f"{area.scene.name} ({area.split})" for area in areas}),
            **colours.info(),
        }
        write_annotations(filling.folder / "annotations", documents, info)
    return {
        split: TileCount(len(document.images), len(document.annotations), len(shown[split]))
        for split, document in documents.items()
    }


def _require_objects(areas: Sequence[TiledArea], documents: Mapping[str, SplitDocument]) -> None:
    """Raise InputError for a split without an object."""
    for split, document in documents.items():
        scenes = list(dict.fromkeys(str(area.scene) for area in areas if area.split == split))
        if scenes and not document.annotations:
            which = "training" if split == "train" else "held-back"
            raise InputError(
                f"{some(scenes)}: no {which} tile contains a footprint of {MIN_PIXELS} px or more",
                "footprints on nodata do not count; a finer --gsd enlarges small ones",
            )
