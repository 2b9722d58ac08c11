"""COCO instances back to the map, by the georeference that each image entry carries.

Every instance is one feature, named with its image. Where tiles overlap, an object that several of
them show comes several times: joining is the business of `rsp predict`, which knows the windows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely

from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.data.coco.georef import read_place
from rsprompter_cli.data.coco.problems import EntryError, shown_value
from rsprompter_cli.data.coco.read import CocoFile, read_coco
from rsprompter_cli.data.coco.rle import Rle, Segmentation, parse_segmentation
from rsprompter_cli.data.coco.spellings import whole_or_none
from rsprompter_cli.data.convert.rings import check_crossings, rle_polygon
from rsprompter_cli.data.output_folder import Outcome, write_by_path
from rsprompter_cli.documents import read_large_json
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.crs import geodesic_area, to_lonlat, to_map
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.vector.write import (
    OBJECT_ATTRIBUTES,
    Feature,
    check_vector_suffix,
    try_vector_output,
    write_features,
)
from rsprompter_cli.structures import Georef, Progress

logger = logging.getLogger(__name__)

ATTRIBUTES: Mapping[str, type] = {**OBJECT_ATTRIBUTES, "image": str}
"""As of found objects, and the file name of the image; `score` is absent for ground truth."""

WGS84 = "EPSG:4326"


@dataclass(frozen=True, slots=True)
class _Instance:
    """One object of a COCO file or of a results list; id is that of the annotation, or the place from 1."""

    id: int
    image: CocoImage
    class_name: str
    segmentation: Segmentation
    score: float | None


@dataclass(frozen=True, slots=True)
class Coco2VectorReport:
    """What a conversion did; crowds and instances under the score are left out."""

    out: Path
    outcome: Outcome
    features: int
    left_out: int


def convert_coco(
    path: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    score: float = 0.0,
    pixel_coords: bool = False,
    crowds_are_objects: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Coco2VectorReport:
    """Write the instances of a COCO file, or of a list of detection results, as a vector file.

    RLE becomes the outline of its pixels, polygons stay as they are. The CRS is that of the images
    where they agree, else WGS84.

    Args:
        path: a COCO file, or a JSON list of results with image_id, category_id, segmentation, score.
        out: its extension names the format.
        images: the COCO file whose images and categories a results list refers to.
        score: instances with a lower score are left out; those without a score stay.
        pixel_coords: write pixels of each image (y down) instead of map coordinates.
        crowds_are_objects: annotations with iscrowd 1 are written like the others.
        on_progress: called with (instances done, instances in all).

    Raises:
        InputError: not COCO, faulty, or an image without georeference.
        OutputError: the output cannot be written, or exists with other content and `overwrite` is not given.
    """
    out = Path(out)
    check_vector_suffix(out)
    try_vector_output(out, ATTRIBUTES)
    if not 0 <= score <= 1:
        raise UsageError(f"--score {score}: must be from 0 to 1")
    instances, crowds = _read_instances(
        Path(path), None if images is None else Path(images), crowds_are_objects=crowds_are_objects
    )
    kept = [i for i in instances if i.score is None or i.score >= score]
    georefs: dict[int, Georef] = {}
    if not pixel_coords:
        georefs = {i.image.id: read_place(i.image, Path(images or path)) for i in kept}
    systems = {georef.crs_wkt for georef in georefs.values()}
    if len(systems) > 1:
        logger.info("the images have %d coordinate reference systems, so the output is in WGS84", len(systems))
    crs = next(iter(systems)) if len(systems) == 1 else (None if pixel_coords else WGS84)

    def features() -> Iterator[Feature]:
        for done, instance in enumerate(kept, start=1):
            feature = _feature(instance, georefs.get(instance.image.id), crs)
            if feature is not None:
                yield feature
            if on_progress is not None:
                on_progress(done, len(kept))

    written, outcome = write_by_path(
        out, lambda target: write_features(target, features(), crs, attributes=ATTRIBUTES), overwrite=overwrite
    )
    return Coco2VectorReport(out, outcome, written, len(instances) + crowds - written)


def _read_instances(path: Path, images: Path | None, *, crowds_are_objects: bool) -> tuple[list[_Instance], int]:
    """The instances of either kind of file and the number of crowds, which are not objects."""
    document = read_large_json(path)
    if isinstance(document, list):
        if images is None:
            raise UsageError(f"{path} is a list of results", "pass --images with the COCO file of its images")
        return _read_results(document, path, read_coco(images)), 0
    if images is not None:
        raise UsageError(f"{path} contains its own images", "omit --images")
    coco = read_coco(path, crowds_are_objects=crowds_are_objects)
    raw_scores = {whole_or_none(raw, "id"): raw.get("score") for raw in document["annotations"]}
    by_id = {image.id: image for image in coco.images}
    names = {category.id: category.name for category in coco.categories}
    objects = [annotation for annotation in coco.annotations if not annotation.iscrowd]
    instances = [
        _Instance(a.id, by_id[a.image_id], names[a.category_id], a.segmentation, _score(raw_scores[a.id], path, a.id))
        for a in objects
    ]
    return instances, len(coco.annotations) - len(objects)


def _read_results(results: list[Any], path: Path, coco: CocoFile) -> list[_Instance]:
    by_id = {image.id: image for image in coco.images}
    names = {category.id: category.name for category in coco.categories}
    instances = []
    for place, result in enumerate(results, start=1):
        if not isinstance(result, dict):
            raise InputError(f"{path}: result {place} is not an object")
        image_id, category_id = whole_or_none(result, "image_id"), whole_or_none(result, "category_id")
        image = None if image_id is None else by_id.get(image_id)
        name = None if category_id is None else names.get(category_id)
        if image is None or name is None:
            key = "image_id" if image is None else "category_id"
            raise InputError(
                f"{path}: result {place} has the {key} {shown_value(result.get(key))}, which is not in {coco.path}"
            )
        try:
            segmentation = parse_segmentation(result.get("segmentation"), image.height, image.width)
        except EntryError as error:
            raise InputError(f"{path}: result {place} {error.text}") from error
        instances.append(_Instance(place, image, name, segmentation, _score(result.get("score"), path, place)))
    return instances


def _score(value: object, path: Path, place: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(
            f"{path}: instance {place} has the score {shown_value(value)}, which is not a number from 0 to 1"
        )
    return float(value)


def _feature(instance: _Instance, georef: Georef | None, crs: str | None) -> Feature | None:
    """The instance on the map, or in pixels without a georeference; None when nothing of it has area."""
    try:
        polygon = _polygon(instance.segmentation)
    except EntryError as error:
        raise InputError(f"{instance.image.file_name}: instance {instance.id}: {error.text}") from error
    if polygon is None:
        return None
    area = None
    if georef is not None and georef.crs_wkt is not None:
        (placed,) = to_map([polygon], georef)
        (degrees,) = to_lonlat([placed], georef.crs_wkt)
        area = round(geodesic_area(degrees), 1)
        polygon = placed if crs == georef.crs_wkt else degrees
    score = None if instance.score is None else round(instance.score, 4)
    values = (instance.id, instance.class_name, score, area, instance.image.file_name)
    return Feature(polygon, dict(zip(ATTRIBUTES, values, strict=True)))


def _polygon(segmentation: Segmentation) -> Any:
    """The outline in pixels of the image."""
    if isinstance(segmentation, Rle):
        return rle_polygon(segmentation)
    if len(segmentation) > 1 or not shapely.Polygon(segmentation[0]).is_valid:
        check_crossings(*segmentation)
    return polygon_parts(shapely.union_all([polygon_parts(shapely.Polygon(ring)) for ring in segmentation]))
