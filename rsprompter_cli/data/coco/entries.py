"""The entries of a COCO file, checked one by one; each faulty one becomes a problem that names its id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar

from rsprompter_cli.data.coco.problems import EntryError, Problem, Problems, shown_value
from rsprompter_cli.data.coco.rle import (
    MAX_PIXELS,
    MAX_SIDE,
    Segmentation,
    allowed_overshoot,
    outline_length,
    overshoot,
    to_rle,
)
from rsprompter_cli.data.coco.spellings import REPAIRS, Note, read_segmentation, to_number, to_whole, whole_or_none
from rsprompter_cli.data.pictures import PictureFinder, picture_names, refused_reason
from rsprompter_cli.documents import is_unicode
from rsprompter_cli.errors import InputError, plural, shorten
from rsprompter_cli.geo.vector.class_values import trimmed


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of `images`; sizes in pixels, `extra` holds the keys that are not ours."""

    id: int
    file_name: str
    height: int
    width: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that its picture may have, for `PictureFinder.find`."""
        return picture_names({**self.extra, "file_name": self.file_name})


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


_MAX_FAULTS = 100_000
"""Faulty entries of a list after which the rest of it is not read."""

_FREE_OUTLINE, _OUTLINE_PER_ANNOTATION = 100_000_000, 2_000
"""Pixels of outline that a file may have: so many, and more for each annotation. Those of COCO have 500 each."""

_MAX_NAME = 1_000
_MAX_FILE_NAME = 4_096

_Entry = TypeVar("_Entry", CocoImage, CocoCategory)
_Parse = Callable[[Mapping[str, Any], Note], _Entry]


class _Repaired:
    """The entries of one kind of value that was read although it is written in another way."""

    def __init__(self, first: Problem) -> None:
        self.first, self.count = first, 0


class EntryReader:
    """Reads the three lists of a COCO file and collects the problems of all their entries.

    Args:
        finder: of the file's pictures, asked for the sizes that the file does not state.
        crowds_are_objects: annotations with iscrowd 1 are objects like the others.
    """

    def __init__(self, finder: PictureFinder, *, crowds_are_objects: bool = False) -> None:
        self.problems = Problems()
        self._outline_left = _FREE_OUTLINE
        self._finder = finder
        self._crowds_are_objects = crowds_are_objects
        self._repaired: dict[tuple[str, str], _Repaired] = {}

    def categories(self, entries: list[Any], groups: Collection[int]) -> dict[int, CocoCategory]:
        """The categories by id in file order, without those that only name a group of others."""
        found = self._unique(entries, _parse_category, "category")
        for category in [found.pop(one) for one in sorted(found.keys() & groups)]:
            text = (
                f"category {category.id} ({category.name!r}) is the supercategory of others and has no annotation in "
                "any split, so it is not used as a class"
            )
            self.problems.add(Problem("warning", "category-group", text))
        return found

    def images(self, entries: list[Any]) -> dict[int, CocoImage]:
        """The images by id in file order."""
        found = self._unique(entries, self._parse_image, "image")
        if not entries:
            self.problems.add(Problem("error", "no-images", "the list of images is empty"))
        return found

    def annotations(
        self,
        document: Mapping[str, Any],
        images: Mapping[int, CocoImage],
        categories: Mapping[int, CocoCategory],
    ) -> tuple[CocoAnnotation, ...]:
        """The annotations in file order."""
        # An annotation on a faulty image is left out without a problem of its own: the image has one.
        faulty_images = {whole_or_none(raw, "id") for raw in document["images"]} - images.keys() - {None}
        parsed: dict[int, CocoAnnotation] = {}
        without_mask: list[Problem] = []
        faults = 0
        self._outline_left = _FREE_OUTLINE + _OUTLINE_PER_ANNOTATION * len(document["annotations"])
        for place, raw in enumerate(document["annotations"]):
            if whole_or_none(raw, "image_id") in faulty_images:
                continue
            kinds: list[str] = []
            shown = raw.get("id") if isinstance(raw, dict) else None
            try:
                annotation = self._parse_annotation(_object(raw), images, categories, kinds.append)
                if annotation.id in parsed:
                    raise EntryError(
                        "annotation-id-twice", "has the id of another annotation; renumber the annotations"
                    )
            except EntryError as fault:
                faults += 1
                problem = _annotation_problem(fault, shown, place, raw, images)
                if fault.kind == "no-segmentation":
                    without_mask.append(problem)
                else:
                    self.problems.add(problem)
                if faults >= _MAX_FAULTS:
                    self._stop("annotation", len(document["annotations"]) - place - 1)
                    break
            else:
                parsed[annotation.id] = annotation
                if kinds:
                    name = _annotation_name(shown, place, images.get(annotation.image_id))
                    self._note(kinds, Problem("warning", "", name, annotation.id, annotation.image_id), "annotation")
        self._add_without_mask(without_mask, len(document["annotations"]))
        return tuple(parsed.values())

    def finish(self) -> list[Problem]:
        """All problems, with one warning for each kind of nonstandard value that was read."""
        for (noun, kind), repaired in self._repaired.items():
            count, first = repaired.count, repaired.first
            have = plural(count, f"{noun} has", f"{_plural(noun)} have")
            text = f"{have} {REPAIRS[kind]}; the first is {first.message}"
            self.problems.add(Problem("warning", kind, text, first.annotation_id, first.image_id))
        self._repaired.clear()
        return self.problems.listed()

    def _note(self, kinds: list[str], entry: Problem, noun: str) -> None:
        for kind in dict.fromkeys(kinds):
            self._repaired.setdefault((noun, kind), _Repaired(entry)).count += 1

    def _stop(self, noun: str, left: int) -> None:
        text = f"{_MAX_FAULTS:,} {_plural(noun)} are faulty; the {left:,} after them are not read"
        self.problems.add(Problem("error", f"{noun}s-not-read", text))

    def _add_without_mask(self, found: list[Problem], total: int) -> None:
        """One error for all annotations that have a box only."""
        if len(found) < 2:
            self.problems.add(*found)
            return
        first = found[0]
        text = (
            f"{len(found):,} of {total:,} annotations have no segmentation, the first is {first.message}; draw masks "
            "in the labelling tool and export again, or remove these annotations"
        )
        self.problems.add(Problem("error", first.kind, text, first.annotation_id, first.image_id))

    def _unique(self, entries: list[Any], parse: _Parse[_Entry], noun: str) -> dict[int, _Entry]:
        """Entries by id in file order; each faulty or repeated one becomes a problem."""
        parsed: dict[int, _Entry] = {}
        faults = 0
        for place, raw in enumerate(entries):
            shown = raw.get("id") if isinstance(raw, dict) else None
            name = f"{noun} {shown_value(shown)}" if shown is not None else f"{noun} at place {place}"
            kinds: list[str] = []
            image_id = shown if noun == "image" and type(shown) is int else None
            try:
                entry = parse(_object(raw), kinds.append)
                if entry.id in parsed:
                    raise EntryError(f"{noun}-id-twice", f"has the id of another {noun}")
            except EntryError as fault:
                self.problems.add(Problem("error", fault.kind, f"{name} {fault.text}", image_id=image_id))
                faults += 1
                if faults >= _MAX_FAULTS:
                    self._stop(noun, len(entries) - place - 1)
                    break
            else:
                parsed[entry.id] = entry
                self._note(kinds, Problem("warning", "", name, image_id=image_id), noun)
        return parsed

    def _parse_image(self, raw: Mapping[str, Any], note: Note) -> CocoImage:
        names = picture_names(raw)
        if not names:
            raise EntryError("file-name", "has no file_name")
        for name in names:
            if len(name) > _MAX_FILE_NAME or not is_unicode(name):
                raise EntryError("file-name", f"has a file_name that is no name of a file: {shown_value(name)}")
            reason = refused_reason(name)
            if reason:
                text = f"has a file_name that {reason}: {shorten(name)!r}; give it relative to the image folder"
                raise EntryError("file-name", text)
        if raw.get("height") in (None, "") or raw.get("width") in (None, ""):
            height, width = self._size_of_picture(names)
            note("image-size-missing")
        else:
            height, width = to_whole(raw, "height", note), to_whole(raw, "width", note)
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
            raise EntryError("image-size", f"({shorten(names[0])}) has the invalid size {width} x {height}")
        extra = {key: value for key, value in raw.items() if key not in ("id", "file_name", "height", "width")}
        return CocoImage(to_whole(raw, "id", note), names[0], height, width, extra)

    def _size_of_picture(self, names: tuple[str, ...]) -> tuple[int, int]:
        from rsprompter_cli.geo.raster.image import picture_size

        try:
            return picture_size(self._finder.find(names))
        except InputError as error:
            text = f"has no width and height, and they cannot be read from the image file: {error}"
            raise EntryError("image-size-missing", text) from error

    def _parse_annotation(
        self,
        raw: Mapping[str, Any],
        images: Mapping[int, CocoImage],
        categories: Mapping[int, CocoCategory],
        note: Note,
    ) -> CocoAnnotation:
        annotation_id, image_id, category_id = (to_whole(raw, key, note) for key in ("id", "image_id", "category_id"))
        if image_id not in images:
            raise EntryError("image-unknown", f"refers to image {image_id}, which is not in the file")
        if category_id not in categories:
            raise EntryError("category-unknown", f"refers to category {category_id}, which is not in the file")
        image = images[image_id]
        crowd = to_number(raw.get("iscrowd"), note) or 0
        if crowd not in (0, 1):
            raise EntryError("iscrowd", f"has iscrowd {shown_value(raw.get('iscrowd'))}, which is neither 0 nor 1")
        bbox = _parse_bbox(raw.get("bbox"), image, note)
        segmentation = read_segmentation(raw.get("segmentation"), image.height, image.width, note)
        self._outline_left -= outline_length(segmentation)
        if self._outline_left < 0:
            raise EntryError("polygon-length", "has more outline than a file of so many annotations can have")
        return CocoAnnotation(
            id=annotation_id,
            image_id=image_id,
            category_id=category_id,
            bbox=bbox,
            area=_parse_area(to_number(raw.get("area"), note), segmentation, image),
            iscrowd=bool(crowd) and not self._crowds_are_objects,
            segmentation=segmentation,
        )


def may_name_class(text: str) -> bool:
    """Whether a text is not too long for the name of a class, and can be written as UTF-8."""
    return len(text) <= _MAX_NAME and is_unicode(text)


def _parse_category(raw: Mapping[str, Any], note: Note) -> CocoCategory:
    name = raw.get("name")
    if not isinstance(name, str):
        fault = f"has the name {shown_value(name)}, which is not text" if name is not None else "has no name"
        raise EntryError("category-name", f"{fault}; name the class in the file")
    if not trimmed(name):
        raise EntryError("category-name", "has an empty name; name the class in the file")
    if not may_name_class(name):
        raise EntryError("category-name", f"has the name {shown_value(name)}, which is too long or not valid Unicode")
    return CocoCategory(id=to_whole(raw, "id", note), name=trimmed(name))


def _parse_bbox(value: object, image: CocoImage, note: Note) -> tuple[float, float, float, float]:
    numbers = [to_number(number, note) for number in value] if isinstance(value, list) else []
    if len(numbers) != 4 or not all(is_number(number) for number in numbers):
        raise EntryError("bbox", f"has no bbox of four finite numbers x, y, width, height: {shown_value(value)}")
    x, y, w, h = (float(number) for number in numbers if is_number(number))
    if w <= 0 or h <= 0:
        raise EntryError("bbox-empty", f"has a bbox of width {w:g} and height {h:g}")
    excess = overshoot((x, y, x + w, y + h), image.height, image.width)
    if excess > allowed_overshoot(image.height, image.width):
        text = f"has a bbox that extends {excess:.6g} pixels beyond the {image.width} x {image.height} image"
        raise EntryError("bbox-outside", f"{text}: {shown_value(value)} (expected x, y, width, height)")
    return x, y, w, h


def _parse_area(value: object, segmentation: Segmentation, image: CocoImage) -> float:
    if value is None:
        from pycocotools import mask as coco_mask

        return float(coco_mask.area(to_rle(segmentation, image.height, image.width).as_dict()))
    if not is_number(value) or value < 0:
        raise EntryError(
            "area", f"has the invalid area {shown_value(value)}; without this key, the area is that of the mask"
        )
    return float(value)


def _annotation_name(shown: object, place: int, image: CocoImage | None) -> str:
    name = f"annotation {shown_value(shown)}" if shown is not None else f"annotation at place {place}"
    return name if image is None else f"{name} (image {image.id}, {shorten(image.file_name)})"


def _annotation_problem(
    fault: EntryError, shown: Any, place: int, raw: Any, images: Mapping[int, CocoImage]
) -> Problem:
    image_id = whole_or_none(raw, "image_id")
    name = _annotation_name(shown, place, None if image_id is None else images.get(image_id))
    return Problem("error", fault.kind, f"{name}: {fault.text}", shown if type(shown) is int else None, image_id)


def _object(raw: object) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise EntryError("entry-type", f"is of type {type(raw).__name__}, not an object")
    return raw


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON file is a finite number."""
    # bool is an int to Python, NaN compares false, and a whole number may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _plural(noun: str) -> str:
    return "categories" if noun == "category" else f"{noun}s"
