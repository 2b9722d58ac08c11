"""The last steps of a joined object: chosen, squared, simplified, cut and measured, in a stream."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from shapely import Geometry, box, centroid, get_coordinates, intersection, transform

from rsprompter_cli.errors import UsageError, did_you_mean, plural
from rsprompter_cli.geo.crs import measures_m
from rsprompter_cli.geo.geometry import polygon_parts, simplify
from rsprompter_cli.geo.raster.resolution import ground_steps
from rsprompter_cli.geo.regularize import regularize
from rsprompter_cli.geo.vector.class_values import class_name_of

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.frame import SceneFrame
    from rsprompter_cli.geo.stitch.joiner import JoinedInstance
    from rsprompter_cli.predict.aoi import AreaOfInterest

AT_ONCE = 1024
"""Objects that are finished, and written, in one go: what memory holds of them, however many there are."""

_SHORTEST_WALL = 2.0
"""Working-grid pixels: a mask's outline wavers by about one to either side."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Which objects are written, and how.

    classes: names of the classes kept; None: all.
    aoi: a vector file whose polygons say where objects are looked for; None: everywhere.
    layer: name of the layer of `aoi`, or of a file of prompts; needed where that file has several.
    aoi_cut: objects on its border are cut there; else they stay whole.
    crs: of the output where its format allows one, as in EPSG:32633; None: the scene's (GeoJSON: WGS84).
    pixel_coords: vector features in pixels of the file, for pictures that lie nowhere on earth.
    regularize: square corners for buildings, where the outline stays nearly the same; done before `simplify`, then the
        cut and `min_area`.
    simplify: largest distance a simplified outline may move, metres (pixels off the earth).
    min_area: smallest area kept, square metres (square pixels off the earth).
    """

    classes: tuple[str, ...] | None = None
    aoi: str | None = None
    aoi_cut: bool = False
    crs: str | None = None
    pixel_coords: bool = False
    regularize: bool = False
    simplify: float = 0.0
    min_area: float = 0.0
    layer: str | None = None

    def on_earth(self, frame: SceneFrame) -> bool:
        """Whether objects of a scene get a place on the earth and areas in square metres."""
        return frame.georef.on_earth and not self.pixel_coords

    def check(self) -> None:
        """Raise UsageError for a value that is out of range, or that means nothing without another."""
        for name, value in (("--simplify", self.simplify), ("--min-area", self.min_area)):
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} {value}: must be a finite number, 0 or more")
        if self.classes is not None and not self.classes:
            raise UsageError("--classes names no class", "for example --classes building,tank")
        if self.aoi_cut and self.aoi is None:
            raise UsageError("--aoi-cut requires --aoi", "add --aoi FILE, or omit --aoi-cut")


@dataclass(frozen=True, eq=False)
class FoundObject:
    """A joined object on its way out.

    polygon: in working-grid pixels.
    area: square metres, or square pixels of the file off the earth; NaN when it cannot be measured.
    quality: the model's own estimate of the mask's IoU, 0..1, or None when it gives none.
    perimeter: length of all rings in metres, or pixels of the file off the earth; NaN when it cannot be measured.
    n_windows: windows that saw it.
    """

    polygon: Geometry
    label: int
    score: float
    area: float
    quality: float | None = None
    perimeter: float = math.nan
    n_windows: int = 1


def chosen_labels(classes: Sequence[str] | None, class_names: Sequence[str]) -> frozenset[int] | None:
    """The labels of the classes that a user asks for; None for all.

    Raises:
        UsageError: the model has no class of that name.
    """
    if classes is None:
        return None
    spelled = [class_name_of(name) for name in class_names]
    found = []
    for name in classes:
        if name in class_names:
            found.append(class_names.index(name))
        elif (plain := class_name_of(name)) is not None and plain in spelled:
            found.append(spelled.index(plain))
        else:
            raise UsageError(f"--classes {name}: the model has no such class", did_you_mean(name, class_names))
    return frozenset(found)


def finish_objects(
    objects: Iterable[JoinedInstance],
    frame: SceneFrame,
    options: OutputOptions,
    *,
    labels: frozenset[int] | None = None,
    area: AreaOfInterest | None = None,
    dropped: Counter[str] | None = None,
) -> Iterator[FoundObject]:
    """Choose, square, simplify, cut and measure joined objects as they come; the order stays.

    An object whose area cannot be measured is kept, with NaN, and counted in a warning at the end.

    Args:
        labels: of the classes kept, None for all.
        area: where objects are looked for, None for everywhere.
        dropped: counts what is left out, by the option that says so.
    """
    counts: Counter[str] = Counter() if dropped is None else dropped
    stream = iter(objects)
    unknown = 0
    while batch := list(islice(stream, AT_ONCE)):
        chosen = _choose(batch, labels, area, counts)
        shapes = _shaped([one.polygon for one in chosen], frame, options)
        if area is not None and options.aoi_cut:
            shapes = area.cut(shapes)
            counts["aoi"] += sum(shape is None for shape in shapes)
        kept = [(shape, one) for shape, one in zip(shapes, chosen, strict=True) if shape is not None]
        sizes = _measure([shape for shape, _ in kept], frame, options)
        unknown += sum(math.isnan(size) for size, _ in sizes)
        for (shape, one), (size, around) in zip(kept, sizes, strict=True):
            if size < options.min_area:
                counts["min_area"] += 1
                continue
            windows = len({(key.row, key.col) for key in one.members})
            yield FoundObject(shape, one.label, one.score, size, one.quality, around, windows)
    if unknown:
        _log.warning("%s: the area of %s cannot be measured and is left empty", frame.name, plural(unknown, "object"))
    if area is not None and area.unfinished:
        _log.warning(
            "%s: the windows around %s cut off %s on its border",
            frame.name,
            options.aoi,
            plural(area.unfinished, "object"),
        )


def _choose(
    batch: Sequence[JoinedInstance], labels: frozenset[int] | None, area: AreaOfInterest | None, counts: Counter[str]
) -> list[JoinedInstance]:
    """Those of the classes and the place that were asked for."""
    chosen = [one for one in batch if labels is None or one.label in labels]
    if len(chosen) < len(batch):
        counts["classes"] += len(batch) - len(chosen)
    if area is None or not chosen:
        return chosen
    touching = area.touches([one.polygon for one in chosen])
    if not touching.all():
        counts["aoi"] += int((~touching).sum())
    return [one for one, touches in zip(chosen, touching, strict=True) if touches]


def _shaped(polygons: list[Geometry], frame: SceneFrame, options: OutputOptions) -> list[Geometry | None]:
    if options.regularize:
        polygons = _squared(polygons, frame)
    if options.simplify:
        metres = sum(frame.working_gsd) / 2 if options.on_earth(frame) and frame.working_gsd else 1.0
        polygons = [simplify(polygon, options.simplify / metres) for polygon in polygons]
    return list(polygons)


def _measure(polygons: Sequence[Geometry], frame: SceneFrame, options: OutputOptions) -> list[tuple[float, float]]:
    """Area and perimeter of each polygon, see `FoundObject`."""
    if not polygons:
        return []
    if options.on_earth(frame):
        return measures_m(polygons, frame.georef)
    grown = in_file_pixels(polygons, frame)
    return [(polygon.area, polygon.length) for polygon in grown]


def in_file_pixels(geometries: Sequence[Geometry], frame: SceneFrame) -> list[Geometry]:
    """Geometries of the working grid in pixels of the scene's file."""
    factors = np.array([frame.native_width / frame.width, frame.native_height / frame.height])
    if (factors == 1).all():
        return list(geometries)
    array = np.empty(len(geometries), dtype=object)
    array[:] = list(geometries)
    return list(transform(array, lambda xy: xy * factors))


def _squared(polygons: Sequence[Geometry], frame: SceneFrame) -> list[Geometry]:
    """Polygons in working-grid pixels with corners that are square on the ground, inside the scene.

    Off the earth corners are square in the picture.
    """
    if not polygons:
        return []
    steps = np.broadcast_to(np.eye(2), (len(polygons), 2, 2))
    if frame.georef.on_earth:
        steps = ground_steps(frame.georef, get_coordinates(centroid(polygons)))
    whole = box(0, 0, frame.width, frame.height)
    return [_square(polygon, to_ground, whole) for polygon, to_ground in zip(polygons, steps, strict=True)]


def _square(polygon: Geometry, to_ground: np.ndarray, whole: Geometry) -> Geometry:
    """One polygon; the same object when it stays as it is, as it does where the ground is unknown."""
    pixel_area = abs(np.linalg.det(to_ground))
    if not 0 < pixel_area < math.inf:
        return polygon
    on_ground = transform(polygon, lambda xy: xy @ to_ground)
    found = regularize(on_ground, _SHORTEST_WALL * math.sqrt(pixel_area))
    if found is on_ground:
        return polygon
    back = polygon_parts(transform(found, lambda xy: xy @ np.linalg.inv(to_ground)))
    return back if whole.covers(back) else polygon_parts(intersection(back, whole))
