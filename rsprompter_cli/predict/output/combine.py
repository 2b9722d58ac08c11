"""Several scenes in one file: the parts that each scene left, streamed one after the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely

from rsprompter_cli.documents import json_or_none
from rsprompter_cli.errors import OutputError
from rsprompter_cli.geo.antimeridian import within_the_map
from rsprompter_cli.geo.crs import parse_crs, to_lonlat
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.target_crs import WGS84
from rsprompter_cli.geo.vector.tables import WrittenParquet
from rsprompter_cli.geo.vector.write import (
    FOUND_ATTRIBUTES,
    FOUND_WITH_QUALITY,
    GEOJSON_SUFFIXES,
    Feature,
    write_features,
)
from rsprompter_cli.io.atomic import atomic_path

SOURCE = "source"
"""The attribute that says which scene an object is of."""

VECTOR_PART = ".parquet"
COCO_PART = ".json"

_ANNOTATIONS = ', "annotations": ['
_LONGEST_LINE = 64 << 20
"""Characters; a line is one object."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """What one scene left.

    path: of a GeoParquet or COCO file that this program has written.
    source: what the scene is called in the merged file.
    """

    path: Path
    source: str


def write_merged_layer(out: Path, parts: Sequence[Part]) -> int:
    """Write the objects of scenes as one layer, in the order of the scenes; memory does not grow with them.

    GeoJSON is in longitude and latitude. The other formats are in the CRS that all parts have, or, if they have
    several, in EPSG:4326, which a warning says.

    Args:
        out: with one of the suffixes of vector files.
        parts: GeoParquet files of found objects.

    Returns:
        Objects written.
    """
    systems = list(dict.fromkeys(WrittenParquet(part.path).crs_wkt for part in parts))
    crs = systems[0] if systems else None
    if not all(_same(crs, other) for other in systems[1:]):
        if out.suffix.lower() not in GEOJSON_SUFFIXES:
            _log.warning(
                "%s: the scenes have %d coordinate reference systems, so the output is in %s", out, len(systems), WGS84
            )
        crs = str(parse_crs(WGS84).to_wkt())
    with_quality = any("quality" in WrittenParquet(part.path).columns for part in parts[:1])
    attributes = {**(FOUND_WITH_QUALITY if with_quality else FOUND_ATTRIBUTES), SOURCE: str}
    return write_features(out, _features(parts, crs), crs, attributes=attributes)


def _features(parts: Sequence[Part], crs: str | None) -> Iterator[Feature]:
    for part in parts:
        file = WrittenParquet(part.path)
        own = file.crs_wkt
        for geometries, rows in file.read():
            placed = geometries if own is None or _same(own, crs) else _in_degrees(geometries, own)
            for geometry, row in zip(placed, rows, strict=True):
                yield Feature(geometry, {**row, "id": None, SOURCE: part.source})


def _in_degrees(geometries: np.ndarray, crs: str) -> np.ndarray:
    moved = within_the_map(to_lonlat(geometries, crs))
    for index in np.flatnonzero(~shapely.is_valid(moved)):
        moved[index] = polygon_parts(moved[index]) or moved[index]
    return moved


def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or bool(parse_crs(one).equals(parse_crs(other), ignore_axis_order=True))


def write_merged_coco(out: Path, parts: Sequence[Part], categories: Sequence[Mapping[str, Any]]) -> int:
    """Write the objects of pictures as one COCO file, in the order of the pictures; memory does not grow with them.

    Args:
        parts: COCO files of one image each, as `write_coco` writes them; `source` becomes the `file_name`.
        categories: of the file.

    Returns:
        Annotations written.
    """
    number = 0
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"images": [')
        for place, part in enumerate(parts, start=1):
            with part.path.open(encoding="utf-8") as lines:
                image = {**_image(lines, part.path), "id": place, "file_name": part.source}
            file.write(("\n" if place == 1 else ",\n") + json.dumps(image, allow_nan=False))
        file.write('],\n"categories": ' + json.dumps(list(categories)) + ',\n"annotations": [')
        for place, part in enumerate(parts, start=1):
            with part.path.open(encoding="utf-8") as lines:
                _image(lines, part.path)
                for found in _annotations(lines, part.path):
                    number += 1
                    annotation = {**found, "id": number, "image_id": place}
                    file.write(("\n" if number == 1 else ",\n") + json.dumps(annotation, allow_nan=False))
        file.write("]}\n")
    return number


def _image(lines: IO[str], path: Path) -> dict[str, Any]:
    """The image of a part, read from the line before its annotations."""
    head, found, _ = lines.readline(_LONGEST_LINE).rpartition(_ANNOTATIONS)
    table = json_or_none(head + "}") if found else None
    images = table.get("images") if isinstance(table, dict) else None
    if not isinstance(images, list) or not images or not isinstance(images[0], dict):
        raise _damaged(path)
    return images[0]


def _annotations(lines: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    """The annotations of a part, each from its line."""
    while line := lines.readline(_LONGEST_LINE):
        text = line.rstrip("\n")
        annotation = json_or_none(text[:-1] if text.endswith(",") else text.removesuffix("]}"))
        if not isinstance(annotation, dict):
            raise _damaged(path)
        yield annotation


def _damaged(path: Path) -> OutputError:
    return OutputError(f"{path}: damaged since it was written", "delete its folder to start over")
