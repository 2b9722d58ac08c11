"""The one reader of COCO instance files. Classes come from the file and from nowhere else."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rsprompter_cli.data.coco.categories import grouping_ids, owned_ids
from rsprompter_cli.data.coco.document import read_document
from rsprompter_cli.data.coco.entries import CocoAnnotation, CocoCategory, CocoImage, EntryReader
from rsprompter_cli.data.coco.problems import Problem
from rsprompter_cli.data.coco.rle import (
    to_rle,
)
from rsprompter_cli.data.pictures import PictureFinder
from rsprompter_cli.errors import InputError, plural

logger = logging.getLogger(__name__)


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


def read_coco(
    path: str | Path,
    *,
    crowds_are_objects: bool = False,
    known_classes: Collection[str] = (),
    root: str | Path | None = None,
    image_folder: str | None = None,
) -> CocoFile:
    """Read a COCO instance file, refusing one with any fault; what was read in a tolerant way is logged.

    Args:
        path: the annotation file.
        crowds_are_objects: annotations with iscrowd 1 are objects like the others.
        known_classes: of a model; a category of such a name is never taken for the name of a group.
        root, image_folder: where the pictures lie, see `PictureFinder`; only looked for to learn sizes that the
            file does not state.

    Raises:
        InputError: unreadable, not JSON, not COCO, or faulty; the message has the first fault
            and the number of the others.
    """
    coco, problems = parse_coco(
        path, crowds_are_objects=crowds_are_objects, known_classes=known_classes, root=root, image_folder=image_folder
    )
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        others = sum(problem.count for problem in errors) - 1
        more = f" (and {others:,} more)" if others else ""
        raise InputError(f"{path}: {errors[0].message}{more}", f"rsp data check {path} lists every problem")
    for problem in problems:
        logger.warning("%s: %s", path, problem.message)
    return coco


def parse_coco(
    path: str | Path,
    *,
    crowds_are_objects: bool = False,
    known_classes: Collection[str] = (),
    root: str | Path | None = None,
    image_folder: str | None = None,
) -> tuple[CocoFile, list[Problem]]:
    """The sound part of a COCO file, an error for each entry that was left out and a warning for each tolerance.

    Args: as of `read_coco`.

    Raises:
        InputError: unreadable, not JSON, or without the lists that make a COCO file.
    """
    document = read_document(path)
    groups = grouping_ids(document, Path(path), known_classes)
    reader = EntryReader(PictureFinder(root, path, image_folder=image_folder), crowds_are_objects=crowds_are_objects)
    categories = reader.categories(document["categories"], groups)
    used = owned_ids(document)
    names: dict[str, int] = {}
    for category in categories.values():
        first = names.setdefault(category.name, category.id)
        if first != category.id:
            text = f"categories {first} and {category.id} are both named {category.name!r}; rename one of them"
            unused = [one for one in (first, category.id) if one not in used]
            if unused:
                text = f"{text}, or remove category {unused[0]}, which has no annotation"
            reader.problems.add(Problem("error", "category-name-twice", text))
    images = reader.images(document["images"])
    annotations = reader.annotations(document, images, categories)
    coco = CocoFile(
        path=Path(path),
        images=tuple(images.values()),
        annotations=annotations,
        categories=tuple(sorted(categories.values(), key=lambda category: category.id)),
    )
    return coco, reader.finish()


def crowd_problems(coco: CocoFile) -> list[Problem]:
    """Warnings for annotations that are crowds and for classes that have nothing else."""
    crowds = Counter(annotation.category_id for annotation in coco.annotations if annotation.iscrowd)
    if not crowds:
        return []
    objects = Counter(annotation.category_id for annotation in coco.annotations if not annotation.iscrowd)
    count, total = sum(crowds.values()), len(coco.annotations)
    noun, verb = ("annotation", "is") if total == 1 else ("annotations", "are" if count > 1 else "is")
    what = "a crowd (iscrowd 1), not a training target" if count == 1 else "crowds (iscrowd 1), not training targets"
    text = (
        f"{count:,} of {total:,} {noun} {verb} {what}; if they are single objects, such as masks drawn with the brush "
        "of CVAT, pass --crowds-are-objects"
    )
    problems = [Problem("warning", "crowds", text)]
    for category in coco.categories:
        if crowds[category.id] and not objects[category.id]:
            many = plural(crowds[category.id], "crowd")
            text = f"category {category.id} ({category.name!r}) has {many} and no objects"
            problems.append(Problem("warning", "category-only-crowds", text))
    return problems


def warn_of_crowds(coco: CocoFile) -> None:
    """Log what `crowd_problems` finds."""
    for problem in crowd_problems(coco):
        logger.warning("%s: %s", coco.path, problem.message)


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
    way_out = f"rsp data check {coco.path} lists the problem of each"
    if crowds:
        way_out = f"pass --crowds-are-objects if the crowds are single objects; {way_out}"
    images, annotations = plural(len(coco.images), "image"), plural(len(coco.annotations), "annotation")
    found = f"{images}, {annotations}" + (f", of which {plural(crowds, 'crowd')}" if crowds else "")
    raise InputError(f"{coco.path}: no usable object to train on ({found})", way_out)


def labels_for(coco: CocoFile, class_names: tuple[str, ...] | list[str]) -> dict[int, int]:
    """Category id of the file to the label that a model of `class_names` gives it, matched by name.

    Raises:
        InputError: a category with objects that is not a class of the model.
    """
    known = {name: label for label, name in enumerate(class_names)}
    used = {annotation.category_id for annotation in coco.annotations}
    strangers = [c.name for c in coco.categories if c.name not in known and c.id in used]
    if strangers:
        raise InputError(
            f"{coco.path}: contains classes that the model does not have: {', '.join(map(repr, strangers))}",
            f"its classes are {', '.join(map(repr, class_names))}; rename the categories of the file",
        )
    return {category.id: known[category.name] for category in coco.categories if category.name in known}
