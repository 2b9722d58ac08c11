"""The one reader of COCO instance files. Classes come from the file and from nowhere else."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from rsprompter_cli.data.images import unsafe_reason
from rsprompter_cli.data.problems import EntryError, Problem
from rsprompter_cli.data.rle import (
    MAX_PIXELS,
    Segmentation,
    allowed_overshoot,
    overshoot,
    parse_segmentation,
    to_rle,
)
from rsprompter_cli.errors import InputError, shorten
from rsprompter_cli.geo.class_values import trimmed


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of `images`; sizes in pixels, `extra` holds the keys that are not ours."""

    id: int
    file_name: str
    height: int
    width: int
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class CocoAnnotation:
    """One object.

    id: as in the file; may be 0, so metrics must number anew.
    bbox: x, y, width, height in pixels, as in the file.
    area: pixels, from the file, or of the mask where the file says none.
    iscrowd: a group that is no training target and that evaluation ignores.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    segmentation: Segmentation


@dataclass(frozen=True, slots=True)
class CocoCategory:
    """One class."""

    id: int
    name: str


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A checked COCO file: everything in it is sound and every reference is resolved.

    categories: by ascending id, so that two files of one set agree whatever their order.
    """

    path: Path
    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]
    categories: tuple[CocoCategory, ...]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names by 0-based label."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def labels(self) -> Mapping[int, int]:
        """Category id of the file to 0-based label."""
        return {category.id: label for label, category in enumerate(self.categories)}

    @cached_property
    def by_image(self) -> Mapping[int, tuple[CocoAnnotation, ...]]:
        """Image id to its objects in file order; images without objects have an empty tuple."""
        groups: dict[int, list[CocoAnnotation]] = {image.id: [] for image in self.images}
        for annotation in self.annotations:
            groups[annotation.image_id].append(annotation)
        return {image_id: tuple(group) for image_id, group in groups.items()}


def read_coco(path: str | Path) -> CocoFile:
    """Read a COCO instance file, refusing one with any fault.

    Raises:
        InputError: unreadable, not JSON, not COCO, or faulty; the message has the first fault
            and the number of the others.
    """
    coco, problems = parse_coco(path)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(f"{path}: {errors[0].message}{more}", f"rsp data check {path} lists every problem")
    return coco


def parse_coco(path: str | Path) -> tuple[CocoFile, list[Problem]]:
    """The sound part of a COCO file, and a problem for each entry that was left out.

    Raises:
        InputError: unreadable, not JSON, or without the lists that make a COCO file.
    """
    document = read_document(path)
    problems: list[Problem] = []
    categories = _unique(document["categories"], _parse_category, "category", problems)
    names: dict[str, int] = {}
    for category in categories.values():
        if names.setdefault(category.name, category.id) != category.id:
            text = f"categories {names[category.name]} and {category.id} are both named {category.name!r}"
            problems.append(Problem("error", "category-name-twice", text))
    images = _unique(document["images"], _parse_image, "image", problems)
    if not document["images"]:
        problems.append(Problem("error", "no-images", "the list of images is empty"))
    annotations = _parse_annotations(document, images, categories, problems)
    coco = CocoFile(
        path=Path(path),
        images=tuple(images.values()),
        annotations=annotations,
        categories=tuple(sorted(categories.values(), key=lambda category: category.id)),
    )
    return coco, problems


_COCO_WAY_OUT = "give a COCO file or its data folder; rsp convert makes them"


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON of a COCO file with its three lists present, their entries not yet looked at.

    Raises:
        InputError: unreadable, empty, not JSON, or a list is missing.
    """
    if os.path.isdir(path):
        raise InputError(f"{path}: cannot be read: a folder", "name one of the .json files in its annotations/")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}", _COCO_WAY_OUT) from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty", "a COCO file is a JSON object with images and annotations")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}", "a COCO file is a JSON object") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a JSON {type(document).__name__}, not a COCO object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise InputError(f"{path}: has no list {key!r}", "is it a COCO instance file?")
    return document


def require_usable(coco: CocoFile) -> None:
    """Refuse a training set from which nothing could be learned, before a model is built.

    Raises:
        InputError: no annotation that is an object (not a crowd) and covers a pixel.
    """
    from pycocotools import mask as coco_mask

    sizes = {image.id: (image.height, image.width) for image in coco.images}
    for annotation in coco.annotations:
        if not annotation.iscrowd:
            rle = to_rle(annotation.segmentation, *sizes[annotation.image_id])
            if coco_mask.area(rle.as_dict()) > 0:
                return
    crowds = sum(annotation.iscrowd for annotation in coco.annotations)
    found = f"{len(coco.images)} images, {len(coco.annotations)} annotations, {crowds} of them crowds"
    raise InputError(
        f"{coco.path}: no usable object to train on ({found})",
        f"rsp data check {coco.path} says what is wrong with each",
    )


def labels_for(coco: CocoFile, class_names: tuple[str, ...] | list[str]) -> dict[int, int]:
    """Category id of the file to the label that a model of `class_names` gives it, matched by name.

    Raises:
        InputError: a category with objects that the model does not know.
    """
    known = {name: label for label, name in enumerate(class_names)}
    used = {annotation.category_id for annotation in coco.annotations}
    strangers = [c.name for c in coco.categories if c.name not in known and c.id in used]
    if strangers:
        raise InputError(
            f"{coco.path}: the model does not know the classes {strangers}",
            f"it knows {list(class_names)}; rename the categories of the file",
        )
    return {category.id: known[category.name] for category in coco.categories if category.name in known}


_Entry = TypeVar("_Entry", CocoImage, CocoCategory)


def _unique(
    entries: list[Any], parse: Callable[[Mapping[str, Any]], _Entry], noun: str, problems: list[Problem]
) -> dict[int, _Entry]:
    """Entries by id in file order; each faulty or repeated one becomes a problem."""
    parsed: dict[int, _Entry] = {}
    for place, raw in enumerate(entries):
        shown = raw.get("id") if isinstance(raw, dict) else None
        name = f"{noun} {shown!r}" if shown is not None else f"{noun} at place {place}"
        try:
            entry = parse(_object(raw))
            if entry.id in parsed:
                raise EntryError(f"{noun}-id-twice", "has an id that is used twice")
        except EntryError as fault:
            image_id = shown if noun == "image" and type(shown) is int else None
            problems.append(Problem("error", fault.kind, f"{name} {fault.text}", image_id=image_id))
        else:
            parsed[entry.id] = entry
    return parsed


def _parse_category(raw: Mapping[str, Any]) -> CocoCategory:
    given = raw.get("name")
    name = trimmed(given) if isinstance(given, str) else ""
    if not name:
        raise EntryError("category-name", "has no name")
    return CocoCategory(id=_integer(raw, "id"), name=name)


def _parse_image(raw: Mapping[str, Any]) -> CocoImage:
    file_name = raw.get("file_name")
    if not isinstance(file_name, str):
        raise EntryError("file-name", "has no file_name")
    reason = unsafe_reason(file_name)
    if reason:
        raise EntryError("file-name", f"has a file_name that {reason}: {shorten(file_name)!r}")
    height, width = _integer(raw, "height"), _integer(raw, "width")
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise EntryError("image-size", f"({file_name}) has the impossible size {width} x {height}")
    extra = {key: value for key, value in raw.items() if key not in ("id", "file_name", "height", "width")}
    return CocoImage(_integer(raw, "id"), file_name, height, width, extra)


def _parse_annotations(
    document: Mapping[str, Any],
    images: Mapping[int, CocoImage],
    categories: Mapping[int, CocoCategory],
    problems: list[Problem],
) -> tuple[CocoAnnotation, ...]:
    # An object on a faulty image is left out without a word: the image has its own.
    faulty_images = {raw.get("id") for raw in document["images"] if _has_plain_id(raw)} - images.keys()
    parsed: dict[int, CocoAnnotation] = {}
    for place, raw in enumerate(document["annotations"]):
        shown = raw.get("id") if isinstance(raw, dict) else None
        if isinstance(raw, dict) and _has_plain_id({"id": raw.get("image_id")}) and raw["image_id"] in faulty_images:
            continue
        try:
            annotation = _parse_annotation(_object(raw), images, categories)
            if annotation.id in parsed:
                raise EntryError("annotation-id-twice", "has an id that is used twice")
        except EntryError as fault:
            problems.append(_annotation_problem("error", fault, shown, place, raw, images))
        else:
            parsed[annotation.id] = annotation
    return tuple(parsed.values())


def _parse_annotation(
    raw: Mapping[str, Any], images: Mapping[int, CocoImage], categories: Mapping[int, CocoCategory]
) -> CocoAnnotation:
    annotation_id, image_id, category_id = (_integer(raw, key) for key in ("id", "image_id", "category_id"))
    if image_id not in images:
        raise EntryError("image-unknown", f"refers to image {image_id}, which is not in the file")
    if category_id not in categories:
        raise EntryError("category-unknown", f"refers to category {category_id}, which is not in the file")
    image = images[image_id]
    if raw.get("iscrowd", 0) not in (0, 1):
        raise EntryError("iscrowd", f"has iscrowd {raw.get('iscrowd')!r}, neither 0 nor 1")
    bbox = _parse_bbox(raw.get("bbox"), image)
    segmentation = parse_segmentation(raw.get("segmentation"), image.height, image.width)
    return CocoAnnotation(
        id=annotation_id,
        image_id=image_id,
        category_id=category_id,
        bbox=bbox,
        area=_parse_area(raw.get("area"), segmentation, image),
        iscrowd=bool(raw.get("iscrowd", 0)),
        segmentation=segmentation,
    )


def _parse_bbox(value: object, image: CocoImage) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(number) for number in value):
        raise EntryError("bbox", "has no bbox of four finite numbers x, y, width, height")
    x, y, w, h = (float(number) for number in value)
    if w <= 0 or h <= 0:
        raise EntryError("bbox-empty", f"has a bbox of width {w:g} and height {h:g}")
    excess = overshoot((x, y, x + w, y + h), image.height, image.width)
    if excess > allowed_overshoot(image.height, image.width):
        text = f"has a bbox that leaves the {image.width} x {image.height} image by {excess:.6g} pixels: {value}"
        raise EntryError("bbox-outside", text + " (x, y, width, height?)")
    return x, y, w, h


def _parse_area(value: object, segmentation: Segmentation, image: CocoImage) -> float:
    if value is None:
        from pycocotools import mask as coco_mask

        return float(coco_mask.area(to_rle(segmentation, image.height, image.width).as_dict()))
    if not _is_number(value) or value < 0:
        raise EntryError("area", f"has the impossible area {value!r}")
    return float(value)


def _annotation_problem(
    severity: Any, fault: EntryError, shown: Any, place: int, raw: Any, images: Mapping[int, CocoImage]
) -> Problem:
    name = f"annotation {shown!r}" if shown is not None else f"annotation at place {place}"
    image_id = raw.get("image_id") if isinstance(raw, dict) else None
    image_id = image_id if type(image_id) is int else None
    image = None if image_id is None else images.get(image_id)
    where = "" if image is None else f" (image {image.id}, {image.file_name})"
    plain = shown if type(shown) is int else None
    return Problem(severity, fault.kind, f"{name}{where}: {fault.text}", plain, image_id)


def _object(raw: object) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise EntryError("entry-type", f"is a {type(raw).__name__}, not an object")
    return raw


def _integer(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    # Tables exported from data frames write whole numbers as 512.0.
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if type(value) is not int:
        raise EntryError(
            "not-an-integer", f"has {key} {value!r}, not a whole number" if key in raw else f"has no {key}"
        )
    return value


def _is_number(value: object) -> TypeGuard[float]:
    # bool is an int to Python, NaN compares false, and a whole number may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _has_plain_id(raw: object) -> bool:
    return isinstance(raw, dict) and type(raw.get("id")) in (int, float)
