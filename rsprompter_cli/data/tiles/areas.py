"""Chosen ground of scenes to a COCO set of tiles: `vector2coco` for who knows which ground trains and which validates.

A set as `vector2coco` writes it; what lies outside the ground is blank, as nodata is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import shapely
from PIL import Image

from rsprompter_cli.data.coco.georef import mean_gsd
from rsprompter_cli.data.coco.write import SplitDocument
from rsprompter_cli.data.colours import colour_info
from rsprompter_cli.data.defaults import MIN_VISIBLE
from rsprompter_cli.data.output_folder import fill_folder
from rsprompter_cli.data.tiles.split import Split
from rsprompter_cli.data.tiles.tiles import (
    MIN_PIXELS,
    SLIVER_RULE,
    cut_tiles,
    image_entry,
    tile_windows,
    write_annotations,
)
from rsprompter_cli.errors import InputError, some
from rsprompter_cli.geo.crs import to_pixels
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.raster.source import NOTHING_STATED, Stated
from rsprompter_cli.geo.windows import Window

Progress = Callable[[int, int], None]


class TileCount(NamedTuple):
    """What the tiles of a split hold; labels: footprints that show in one of them, each once."""

    images: int
    instances: int
    labels: int


_EMPTY_SHARE = 0.25
"""A tile without an object is kept when this part of it is known to be without one."""


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
                    found = _tile_area(area, scene, filling.folder / "images", documents[area.split], tile, on_progress)
                    shown[area.split].update((area.stem, footprint) for footprint in found)
                    if area.split == "train":
                        resolutions.add(_mean_gsd(scene))
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


def _tile_area(
    area: TiledArea, scene: Scene, images: Path, document: SplitDocument, tile: int, on_progress: Progress
) -> set[int]:
    """Write the tiles of one area of an open scene and enter them in the document of its split; what shows there."""
    shown: set[int] = set()
    gsd = _mean_gsd(scene)
    ground = to_pixels([area.ground], scene.georef)[0]
    polygons = to_pixels(area.polygons, scene.georef)
    windows = area_windows(ground, scene.height, scene.width, tile=tile, overlap=area.overlap)
    cut = cut_tiles(scene, polygons, windows, min_visible=MIN_VISIBLE, ground=ground)
    for done, (window, one) in enumerate(zip(windows, cut, strict=True), start=1):
        on_progress(done, len(windows))
        if one is None or not (one.pieces or _known_share(window, ground) >= _EMPTY_SHARE):
            continue
        name = f"{area.split}_{area.stem}_{gsd:.3f}m_x{window.left}_y{window.top}.png"
        Image.fromarray(one.pixels).save(images / name)
        document.images.append(image_entry(len(document.images) + 1, name, area.stem, gsd, one))
        for piece in one.pieces:
            shown.add(piece.footprint)
            document.annotations.append((len(document.images), area.classes[piece.footprint], piece.fields))
    return shown


def _mean_gsd(scene: Scene) -> float:
    if scene.working_gsd is None:
        raise InputError(f"{scene.path}: has no ground resolution")
    return mean_gsd(scene.working_gsd)


def _known_share(window: Window, ground: Any) -> float:
    box = shapely.box(*window.box)
    return float(box.intersection(ground).area / box.area)
