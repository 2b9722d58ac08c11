"""Found objects as a COCO file of one image, written as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely import Geometry, get_coordinates, get_parts

from rsprompter_cli.data.coco.encode import polygon_rle
from rsprompter_cli.data.coco.georef import mean_gsd, place_entry
from rsprompter_cli.io.atomic import atomic_path
from rsprompter_cli.predict.output.postprocess import FoundObject, OutputOptions, in_file_pixels

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.frame import SceneFrame


def write_coco(
    out: Path,
    objects: Iterable[FoundObject],
    frame: SceneFrame,
    options: OutputOptions,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
) -> int:
    """Write a COCO file of one image, in pixels of the scene's file, atomically; memory does not grow with it.

    The image entry says where a scene on the earth lies, so that `coco2vector` finds back to the map.

    Returns:
        Annotations written.
    """
    number = 0
    head = coco_head(frame, class_names=class_names, category_ids=category_ids)
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(head, allow_nan=False)[:-1] + ', "annotations": [')
        for number, found in enumerate(objects, start=1):
            annotation = coco_annotation(number, found, frame, category_id=int(category_ids[found.label]))
            annotation["attributes"] = _attributes(found, on_earth=options.on_earth(frame))
            file.write(("\n" if number == 1 else ",\n") + json.dumps(annotation, allow_nan=False))
        file.write("]}\n")
    return number


def coco_head(frame: SceneFrame, *, class_names: Sequence[str], category_ids: Sequence[int]) -> dict[str, Any]:
    """`images` and `categories` of a scene."""
    image = {"id": 1, "file_name": frame.name, "width": frame.native_width, "height": frame.native_height}
    if frame.native_georef.on_earth and frame.gsd is not None:
        image |= place_entry(frame.native_georef, mean_gsd(frame.gsd))
    names = [{"id": int(i), "name": name} for i, name in zip(category_ids, class_names, strict=True)]
    return {"images": [image], "categories": names}


def coco_annotation(number: int, found: FoundObject, frame: SceneFrame, *, category_id: int) -> dict[str, Any]:
    """One object in pixels of the scene's file; it carries a `score` (and `quality`)."""
    (polygon,) = in_file_pixels([found.polygon], frame)
    return {
        "id": number,
        "image_id": 1,
        "category_id": category_id,
        "score": round(found.score, 4),
        **({} if found.quality is None else {"quality": round(found.quality, 4)}),
        "iscrowd": 0,
        **_coco_shape(polygon, frame.native_height, frame.native_width),
    }


def _attributes(found: FoundObject, *, on_earth: bool) -> dict[str, float | int | None]:
    """What vector files have in columns and COCO has no place for."""
    area, around = (None if not on_earth or math.isnan(v) else round(v, 1) for v in (found.area, found.perimeter))
    return {"area_m2": area, "perimeter_m": around, "n_windows": found.n_windows}


def _coco_shape(polygon: Geometry, height: int, width: int) -> dict[str, Any]:
    """`segmentation`, `bbox` and `area`: polygons, or RLE where there are holes, which COCO polygons lack."""
    x0, y0, x1, y1 = polygon.bounds
    fields: dict[str, Any] = {"bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)], "area": round(polygon.area, 2)}
    parts = list(get_parts(polygon))
    if any(part.interiors for part in parts):
        return {**fields, "segmentation": polygon_rle(polygon, height, width)}
    rings = [np.round(get_coordinates(part.exterior)[:-1], 2) for part in parts]
    return {**fields, "segmentation": [ring.ravel().tolist() for ring in rings]}
