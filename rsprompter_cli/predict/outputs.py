"""What becomes of the joined objects: vector features, a COCO file or a picture, by extension."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely import Geometry, box, centroid, get_coordinates, get_parts, intersection, transform
from shapely.affinity import scale

from rsprompter_cli.data.image_place import mean_gsd, place_entry
from rsprompter_cli.data.polygon_rle import polygon_rle
from rsprompter_cli.draw.overlays import draw_instances
from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.gsd import ground_steps
from rsprompter_cli.geo.lonlat import areas_m2, to_map
from rsprompter_cli.geo.polygons import polygon_parts, simplify
from rsprompter_cli.geo.regularize import regularize
from rsprompter_cli.geo.tables import written_files
from rsprompter_cli.geo.vector import (
    OBJECT_ATTRIBUTES,
    QUALITY_ATTRIBUTES,
    VECTOR_SUFFIXES,
    Feature,
    object_feature,
    write_features,
)
from rsprompter_cli.io.atomic import atomic_path, refuse_existing, write_text

if TYPE_CHECKING:
    from rsprompter_cli.geo.merge import JoinedInstance
    from rsprompter_cli.geo.raster import Scene


_log = logging.getLogger(__name__)


class OutputKind(Enum):
    """The three families of output."""

    VECTOR = "vector"
    COCO = "coco"
    OVERLAY = "overlay"


_SHORTEST_WALL = 2.0
"""Working-grid pixels: a mask's outline wavers by about one to either side."""

_BLOCK = 4096
"""Objects that are finished and placed at once: as many as make numpy's calls cheap for each."""

OVERLAY_SIDE = 2048
"""Longest side of an overlay picture, pixels."""

_KINDS = {
    **dict.fromkeys(VECTOR_SUFFIXES, OutputKind.VECTOR),
    ".json": OutputKind.COCO,
    ".png": OutputKind.OVERLAY,
    ".jpg": OutputKind.OVERLAY,
}


def output_kind(path: Path) -> OutputKind:
    """The family of an output by its extension.

    Raises:
        UsageError: an extension that names no known format.
    """
    if path.suffix == "" and path.name in ("", ".."):  # what an empty text becomes as a path, too
        raise UsageError("--out names no file", "for instance --out buildings.geojson")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"--out {path}: unknown extension {path.suffix!r}", "known: " + " ".join(_KINDS))
    return kind


def claim_output(out: str | Path | None, inputs: Sequence[str | Path], *, overwrite: bool) -> OutputKind | None:
    """The family of an output that may be written; None for none.

    Args:
        inputs: files that it must not replace.

    Raises:
        UsageError: an extension that names no known format.
        OutputError: a file of it exists and may not be replaced, or is an input.
    """
    if out is None:
        return None
    kind = output_kind(Path(out))
    for path in written_files(Path(out)):
        refuse_existing(path, overwrite=overwrite, inputs=inputs)
    return kind


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How objects are written.

    pixel_coords: vector features in pixels of the file, for pictures that lie nowhere on earth.
    regularize: square corners for buildings, where the outline stays nearly the same; done before `simplify` and
        `min_area`.
    simplify: largest distance a simplified outline may move, metres (pixels off the earth).
    min_area: smallest area kept, square metres (square pixels off the earth).
    """

    pixel_coords: bool = False
    regularize: bool = False
    simplify: float = 0.0
    min_area: float = 0.0

    def on_earth(self, scene: Scene) -> bool:
        """Whether objects of a scene get a place on the earth and areas in square metres."""
        return scene.georef.on_earth and not self.pixel_coords


@dataclass(frozen=True, eq=False)
class FoundObject:
    """A joined object on its way out.

    polygon: in working-grid pixels.
    area: square metres, or square pixels of the file off the earth; NaN when it cannot be measured.
    quality: the model's own estimate of the mask's IoU, 0..1, or None when it gives none.
    """

    polygon: Geometry
    label: int
    score: float
    area: float
    quality: float | None = None


def finish_objects(objects: Sequence[JoinedInstance], scene: Scene, options: OutputOptions) -> list[FoundObject]:
    """Square and simplify the joined objects, measure them and drop those under the smallest area.

    An object whose area cannot be measured is kept, with NaN, and counted in a warning.
    """
    on_earth = options.on_earth(scene)
    metres = sum(scene.working_gsd) / 2 if on_earth and scene.working_gsd else 1.0
    polygons = [one.polygon for one in objects]
    if options.regularize:
        polygons = _squared(polygons, scene)
    if options.simplify:
        polygons = [simplify(polygon, options.simplify / metres) for polygon in polygons]
    if on_earth:
        areas = [math.nan if area is None else area for area in areas_m2(polygons, scene.georef)]
    else:
        areas = [polygon.area * _pixels_per_cell(scene) for polygon in polygons]
    unknown = sum(math.isnan(area) for area in areas)
    if unknown:
        _log.warning("%s: %d objects whose area cannot be measured are written without it", scene.name, unknown)
    return [
        FoundObject(polygon, one.label, one.score, area, one.quality)
        for polygon, one, area in zip(polygons, objects, areas, strict=True)
        if math.isnan(area) or area >= options.min_area
    ]


def finish_in_blocks(objects: Iterable[JoinedInstance], scene: Scene, options: OutputOptions) -> Iterator[FoundObject]:
    """`finish_objects` for objects that come one by one; memory does not grow with them."""
    stream = iter(objects)
    while block := list(islice(stream, _BLOCK)):
        yield from finish_objects(block, scene, options)


def _squared(polygons: Sequence[Geometry], scene: Scene) -> list[Geometry]:
    """Polygons in working-grid pixels with corners that are square on the ground, inside the scene.

    Off the earth corners are square in the picture.
    """
    if not polygons:
        return []
    steps = np.broadcast_to(np.eye(2), (len(polygons), 2, 2))
    if scene.georef.on_earth:
        steps = ground_steps(scene.georef, get_coordinates(centroid(polygons)))
    whole = box(0, 0, scene.width, scene.height)
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


def write_output(
    out: Path,
    kind: OutputKind,
    objects: Iterable[FoundObject],
    scene: Scene,
    options: OutputOptions,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    with_quality: bool = False,
) -> int:
    """Write objects in the family of `out`, atomically; into vector files one by one, in memory that does not grow.

    Args:
        objects: in output order; ids count from 1.
        class_names, category_ids: by label.
        with_quality: vector files have a column for the quality of each mask, which every object then has.

    Returns:
        Objects that were written: a format may have no numbers for the very small.
    """
    if kind is OutputKind.VECTOR:
        return _write_vector(out, objects, scene, options, class_names, with_quality=with_quality)
    found = list(objects)
    if kind is OutputKind.COCO:
        document = coco_document(found, scene, class_names=class_names, category_ids=category_ids)
        write_text(out, json.dumps(document, allow_nan=False) + "\n")
    else:
        _write_overlay(out, found, scene, class_names)
    return len(found)


def _write_vector(
    out: Path,
    objects: Iterable[FoundObject],
    scene: Scene,
    options: OutputOptions,
    class_names: Sequence[str],
    *,
    with_quality: bool,
) -> int:
    on_earth = options.on_earth(scene)

    def features() -> Iterator[Feature]:
        stream = iter(objects)
        while block := list(islice(stream, _BLOCK)):
            for geometry, found in zip(place_polygons(block, scene, options), block, strict=True):
                yield object_feature(
                    geometry,
                    class_name=class_names[found.label],
                    score=found.score,
                    area_m2=found.area if on_earth else None,
                    quality=found.quality if with_quality else None,
                )

    attributes = QUALITY_ATTRIBUTES if with_quality else OBJECT_ATTRIBUTES
    return write_features(out, features(), scene.georef.crs_wkt if on_earth else None, attributes=attributes)


def place_polygons(objects: Sequence[FoundObject], scene: Scene, options: OutputOptions) -> list[Geometry]:
    """The polygons of objects as vector files have them: in map coordinates, or in pixels of the scene's file."""
    geometries = [found.polygon for found in objects]
    if options.on_earth(scene):
        return list(to_map(geometries, scene.georef))
    return _in_file_pixels(geometries, scene)


def coco_document(
    objects: Sequence[FoundObject], scene: Scene, *, class_names: Sequence[str], category_ids: Sequence[int]
) -> dict[str, Any]:
    """A COCO file of one image, in pixels of the file; ids from 1, annotations carry a `score` (and `quality`).

    The image entry says where a scene on the earth lies, so that `coco2vector` finds back to the map.
    """
    polygons = _in_file_pixels([found.polygon for found in objects], scene)
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": int(category_ids[found.label]),
            "score": round(found.score, 4),
            **({} if found.quality is None else {"quality": round(found.quality, 4)}),
            "iscrowd": 0,
            **_coco_shape(polygon, scene.native_height, scene.native_width),
        }
        for number, (polygon, found) in enumerate(zip(polygons, objects, strict=True), start=1)
    ]
    names = [{"id": int(i), "name": name} for i, name in zip(category_ids, class_names, strict=True)]
    image = {"id": 1, "file_name": scene.name, "width": scene.native_width, "height": scene.native_height}
    if scene.native_georef.on_earth and scene.gsd is not None:
        image |= place_entry(scene.native_georef, mean_gsd(scene.gsd))
    return {"images": [image], "annotations": annotations, "categories": names}


def _coco_shape(polygon: Geometry, height: int, width: int) -> dict[str, Any]:
    """`segmentation`, `bbox` and `area`: polygons, or RLE where there are holes, which COCO polygons lack."""
    x0, y0, x1, y1 = polygon.bounds
    fields: dict[str, Any] = {"bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)], "area": round(polygon.area, 2)}
    parts = list(get_parts(polygon))
    if any(part.interiors for part in parts):
        return {**fields, "segmentation": polygon_rle(polygon, height, width)}
    rings = [np.round(get_coordinates(part.exterior)[:-1], 2) for part in parts]
    return {**fields, "segmentation": [ring.ravel().tolist() for ring in rings]}


def _write_overlay(out: Path, objects: Sequence[FoundObject], scene: Scene, class_names: Sequence[str]) -> None:
    preview = scene.preview(OVERLAY_SIDE)
    factor = (preview.shape[1] / scene.width, preview.shape[0] / scene.height)
    shapes = [scale(found.polygon, *factor, origin=(0, 0)) for found in objects]
    picture = draw_instances(
        preview, shapes, [found.label for found in objects], [found.score for found in objects], class_names
    )
    with atomic_path(out) as temporary:
        picture.convert("RGB").save(temporary)


def _in_file_pixels(geometries: Sequence[Geometry], scene: Scene) -> list[Geometry]:
    fx, fy = scene.native_width / scene.width, scene.native_height / scene.height
    if fx == 1 and fy == 1:
        return list(geometries)
    return [scale(geometry, fx, fy, origin=(0, 0)) for geometry in geometries]


def _pixels_per_cell(scene: Scene) -> float:
    return (scene.native_width / scene.width) * (scene.native_height / scene.height)
