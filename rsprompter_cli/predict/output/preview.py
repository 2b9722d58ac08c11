"""The objects of a scene on a map that any browser shows, kept small while they pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from rsprompter_cli.draw.preview import MapColumns, MapPicture, fewer_vertices, map_page
from rsprompter_cli.errors import UsageError, plural
from rsprompter_cli.geo.crs import to_lonlat, to_map
from rsprompter_cli.geo.windows import Window
from rsprompter_cli.io.atomic import refuse_existing, write_text
from rsprompter_cli.predict.output.postprocess import FoundObject, OutputOptions

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene
    from rsprompter_cli.predict.aoi import AreaOfInterest

MOST_OBJECTS = 100_000
"""On a map; of more every second, fourth, ... is shown, and the map says so."""

PICTURE_SIDE = 2048
"""Longest side of the picture, pixels."""

_GRID = 9
"""Control points along a side, between which the place under the cursor is found."""

_AROUND_AREA = 0.1
"""Share of an area of interest that the picture shows beyond its sides."""

_NODATA = 128


def claim_preview(path: str | Path | None, inputs: Sequence[str | Path], *, overwrite: bool) -> None:
    """Raise an error for a map that has another extension than .html, or that may not be written."""
    if path is None:
        return
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--preview {path}: must be an .html file", "for example --preview map.html")
    refuse_existing(path, overwrite=overwrite, inputs=inputs)


class MapPreview:
    """Gathers what a map shows of the objects on their way into a file."""

    def __init__(self, scene: Scene, options: OutputOptions, class_names: Sequence[str]) -> None:
        """Nothing has passed yet."""
        self._scene, self._on_earth, self._class_names = scene, options.on_earth(scene.frame), class_names
        self._kept: list[FoundObject] = []
        self._places: list[int] = []
        self._dropped: list[int] = []
        self._labels: Counter[int] = Counter()
        self._stride = 1

    def watch(self, objects: Iterable[FoundObject]) -> Iterator[FoundObject]:
        """The same objects."""
        for place, found in enumerate(objects):
            self._labels[found.label] += 1
            if place % self._stride == 0:
                self._kept.append(replace(found, polygon=fewer_vertices(found.polygon)))
                self._places.append(place)
                if len(self._kept) > MOST_OBJECTS:
                    self._kept, self._places = self._kept[::2], self._places[::2]
                    self._stride *= 2
            yield found

    def on_dropped(self, place: int) -> None:
        """An object, counted from 0, is not in the file after all."""
        self._dropped.append(place)

    def write(self, path: str | Path, *, area: AreaOfInterest | None, out_name: str) -> None:
        """Write the page, atomically.

        Args:
            area: what was looked at, shown alone; None for the whole scene.
            out_name: of the file that the objects are in.
        """
        picture = self._picture(None if area is None else area.polygon.bounds)
        gone = np.sort(np.array(self._dropped, dtype=np.int64))
        there = [i for i, lost in enumerate(np.isin(self._places, gone).tolist()) if not lost]
        kept = [self._kept[i] for i in there]
        places = np.array([self._places[i] for i in there], dtype=np.int64)
        total = sum(self._labels.values()) - len(gone)
        if self._stride == 1:
            self._labels = Counter(found.label for found in kept)
        about = f"{plural(total, 'object')} in {out_name}"
        if self._stride > 1:
            about += f"; 1 in {self._stride:,} is shown"
        from rsprompter_cli.models.zero_shot.everything import (
            CLASS_NAME,  # imports torch, which the check above does without
        )

        page = map_page(
            # Ids count what the file holds.
            self._columns(kept, places + 1 - np.searchsorted(gone, places)),
            picture,
            title=self._scene.name,
            about=about,
            classes=[(name, self._labels[label]) for label, name in enumerate(self._class_names)],
            area=None if area is None else area.polygon,
            colour_each=tuple(self._class_names) == (CLASS_NAME,),
        )
        write_text(path, page)

    def _columns(self, kept: Sequence[FoundObject], ids: np.ndarray) -> MapColumns:
        polygons = np.empty(len(kept), dtype=object)
        polygons[:] = [found.polygon for found in kept]
        with_quality = any(found.quality is not None for found in kept)
        quality = [np.nan if found.quality is None else found.quality for found in kept]
        return MapColumns(
            polygons,
            ids,
            np.array([found.label for found in kept], dtype=np.int64),
            np.array([found.score for found in kept], dtype=np.float64),
            np.array([found.area for found in kept], dtype=np.float64),
            np.array([found.perimeter for found in kept], dtype=np.float64),
            np.array([found.n_windows for found in kept], dtype=np.int64),
            np.array(quality, dtype=np.float64) if with_quality else None,
        )

    def _picture(self, bounds: tuple[float, float, float, float] | None) -> MapPicture:
        """The scene, or what lies around bounds in it, as it is read for the model but coarser."""
        scene = self._scene
        x0, y0, x1, y1 = bounds or (0, 0, scene.width, scene.height)
        margin = 0 if bounds is None else _AROUND_AREA * max(x1 - x0, y1 - y0)
        x0, y0 = max(0.0, x0 - margin), max(0.0, y0 - margin)
        x1, y1 = min(float(scene.width), x1 + margin), min(float(scene.height), y1 + margin)
        shrink = max(1.0, max(x1 - x0, y1 - y0) / PICTURE_SIDE)
        height, width = max(1, round(scene.height / shrink)), max(1, round(scene.width / shrink))
        per_col, per_row = scene.width / width, scene.height / height
        left, top = int(x0 / per_col), int(y0 / per_row)
        right, bottom = min(width, int(np.ceil(x1 / per_col))), min(height, int(np.ceil(y1 / per_row)))
        with scene.coarser(height, width) as read:
            tile = read(Window(0, 0, top, left, max(1, bottom - top), max(1, right - left)))
        pixels = np.clip(np.rint(tile.pixels), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        if tile.valid is not None:
            pixels[~tile.valid] = _NODATA
        frame = (left * per_col, top * per_row, pixels.shape[1] * per_col, pixels.shape[0] * per_row)
        metres = sum(scene.working_gsd) / 2 if self._on_earth and scene.working_gsd else None
        return MapPicture(pixels, *frame, grid=self._grid(*frame) if self._on_earth else None, metres=metres)

    def _grid(self, x: float, y: float, width: float, height: float) -> list[list[tuple[float, float]]]:
        """Longitude and latitude of control points, without a jump at the antimeridian."""
        columns, rows = np.meshgrid(np.linspace(x, x + width, _GRID), np.linspace(y, y + height, _GRID))
        points = shapely.points(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        georef = self._scene.georef
        lonlat = shapely.get_coordinates(to_lonlat(to_map(points, georef), georef.crs_wkt or ""))
        lonlat[:, 0] = np.unwrap(np.unwrap(lonlat[:, 0].reshape(_GRID, _GRID), period=360, axis=0), period=360).ravel()
        return [[(lon, lat) for lon, lat in row] for row in np.round(lonlat, 7).reshape(_GRID, _GRID, 2).tolist()]
