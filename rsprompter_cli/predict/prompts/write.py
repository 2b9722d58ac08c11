"""What becomes of answered prompts: features with the attributes of their prompts, a COCO file or a picture."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import Geometry

from rsprompter_cli.geo.target_crs import WGS84
from rsprompter_cli.geo.vector.geojson import prepare
from rsprompter_cli.geo.vector.write import GEOJSON_SUFFIXES, Feature, try_vector_output, write_features
from rsprompter_cli.io.atomic import write_text
from rsprompter_cli.models.zero_shot.prompted import CLASS_NAME
from rsprompter_cli.predict.output.coco import coco_annotation, coco_head
from rsprompter_cli.predict.output.postprocess import FoundObject, OutputOptions
from rsprompter_cli.predict.output.write import OutputKind, output_crs, place_polygons, write_output
from rsprompter_cli.predict.prompts.read import PromptFile, id_column

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene

KEPT_BESIDE = "prompt_"
"""Put before the name of a prompt's attribute that the output has a use of its own for."""

SHAPEFILE_NAME = 10
"""Bytes that an attribute's name may have in a Shapefile."""

_log = logging.getLogger(__name__)

_ADDED = ("score", "area_m2")
_GEOMETRY_NAMES = ("geometry", "geom")


@dataclass(frozen=True, eq=False, slots=True)
class AnsweredPrompt:
    """A prompt with its polygon, on its way out; row: of its feature in the file, from 0."""

    row: int
    found: FoundObject


def write_answers(
    out: Path,
    kind: OutputKind,
    answers: Sequence[AnsweredPrompt],
    asked: PromptFile,
    scene: Scene,
    options: OutputOptions,
    *,
    on_dropped: Callable[[int], None],
) -> None:
    """Write answered prompts in the family of `out`, atomically.

    Args:
        answers: in output order.
        on_dropped: told the place, from 0, of each answer that is too small for the format.
    """
    objects = [answer.found for answer in answers]
    if kind is OutputKind.OVERLAY:
        write_output(out, kind, objects, scene.frame, options, scene=scene, class_names=[CLASS_NAME], category_ids=[1])
        return
    names = output_names(asked, out.suffix.lower())
    cut = [name for name in names.values() if out.suffix.lower() == ".shp" and len(name.encode()) > SHAPEFILE_NAME]
    if cut:
        _log.warning("%s: a Shapefile truncates attribute names to %d bytes: %s", out, SHAPEFILE_NAME, ", ".join(cut))
    kept = [{new: asked.columns[old][answer.row] for old, new in names.items()} for answer in answers]
    if kind is OutputKind.COCO:
        annotations = [
            {**coco_annotation(number, found, scene.frame, category_id=1), "attributes": values}
            for number, (found, values) in enumerate(zip(objects, kept, strict=True), start=1)
        ]
        head = coco_head(scene.frame, class_names=[CLASS_NAME], category_ids=[1])
        write_text(out, json.dumps({**head, "annotations": annotations}) + "\n")
        return
    own_id = id_column(asked.columns)
    on_earth = options.on_earth(scene.frame)
    target = output_crs(scene.frame, options)
    crs = None if target is None else target.wkt
    placed: Sequence[Geometry | None] = place_polygons(objects, scene.frame, target)
    if out.suffix.lower() in GEOJSON_SUFFIXES:
        placed, crs = _unsplit(placed, crs), None if crs is None else WGS84
    places = [place for place, geometry in enumerate(placed) if geometry is not None]
    for place in set(range(len(placed))) - set(places):
        on_dropped(place)
    features = [
        Feature(
            placed[place],
            {
                **({} if own_id else {"id": answers[place].row + 1}),
                **kept[place],
                "score": round(objects[place].score, 4),
                "area_m2": round(objects[place].area, 1) if on_earth else None,
            },
        )
        for place in places
    ]
    attributes = _attributes(asked, names)
    write_features(out, features, crs, attributes=attributes, on_dropped=lambda number: on_dropped(places[number]))


def try_answers(out: Path, kind: OutputKind, asked: PromptFile) -> None:
    """Raise OutputError when the output could not hold the attributes of the prompts, before a SAM is asked."""
    if kind is OutputKind.VECTOR:
        try_vector_output(out, _attributes(asked, output_names(asked, out.suffix.lower())))


def _attributes(asked: PromptFile, names: Mapping[str, str]) -> Mapping[str, type]:
    """Attributes of a vector file of answers.

    Args:
        names: see `output_names`.
    """
    return {
        **({} if id_column(asked.columns) else {"id": int}),
        **{new: asked.types[old] for old, new in names.items()},
        "score": float,
        "area_m2": float,
    }


def _unsplit(geometries: Sequence[Geometry], crs: str | None) -> list[Geometry | None]:
    """Geometries as GeoJSON has them, of a polygon that rounding splits at narrow places the largest piece.

    None stands for one that rounding leaves without area.
    """
    array = np.empty(len(geometries), dtype=object)
    array[:] = list(geometries)
    whole: list[Geometry | None] = []
    for before, after in zip(array, prepare(array, crs), strict=True):
        pieces = shapely.get_parts(after)
        # What the antimeridian cuts has to stay in pieces.
        at_the_end = crs is not None and len(pieces) > 0 and max(-after.bounds[0], after.bounds[2]) >= 180
        if len(pieces) < 2 or before.geom_type == "MultiPolygon" or at_the_end:
            whole.append(after)
        else:
            whole.append(max(pieces, key=lambda piece: piece.area))
    return whole


def output_names(asked: PromptFile, suffix: str) -> dict[str, str]:
    """The name in the output of each attribute of the prompts, which it keeps where nothing else has it.

    Formats differ in whether the case of letters tells names apart, so here it never does.
    """
    taken = {*_ADDED, *_GEOMETRY_NAMES}
    if suffix == ".gpkg":
        taken.add("fid")  # a column of its own there
    if id_column(asked.columns) is None:
        taken.add("id")
    own = {name.casefold() for name in asked.columns}
    names: dict[str, str] = {}
    for name in asked.columns:
        new = name
        while new.casefold() in taken or (new != name and new.casefold() in own):
            new = KEPT_BESIDE + new
        taken.add(new.casefold())
        names[name] = new
    return names
