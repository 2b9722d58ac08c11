"""Everything that can be wrong with a COCO set, found before a model is built, and collected."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from rsprompter_cli.data.coco.entries import CocoAnnotation, CocoImage
from rsprompter_cli.data.coco.problems import Problem, Problems, Report
from rsprompter_cli.data.coco.read import CocoFile, crowd_problems, parse_coco, require_usable
from rsprompter_cli.data.coco.rle import Rle, Segmentation, bounds, overshoot, to_rle
from rsprompter_cli.data.images import annotation_files, root_of, unsafe_reason
from rsprompter_cli.data.pictures import PictureFinder
from rsprompter_cli.data.sized_picture import read_sized_pixels
from rsprompter_cli.errors import InputError, plural, shorten, some
from rsprompter_cli.structures import Progress

Box = tuple[float, float, float, float]

# Rounding moves a border by up to a pixel; that is not worth a line.
_SILENT_OVERSHOOT = 1.0
# Below this IoU a box and a mask do not describe one object: hand-drawn boxes around
# hand-drawn outlines stay above .6 in the sets we read.
_SAME_OBJECT_IOU = 0.5


def check_set(
    source: str | Path,
    *,
    image_folder: str | None = None,
    read_pictures: bool = True,
    crowds_are_objects: bool = False,
    on_picture: Progress | None = None,
) -> list[Report]:
    """Check a data folder (each split that it has, and the splits against each other) or one COCO file.

    Args: as of `check_coco`.

    Raises:
        InputError: no annotation file, or one that cannot be read as COCO at all.
    """
    root = Path(source) if os.path.isdir(source) else None
    reports = [
        check_coco(
            file,
            root=root,
            image_folder=image_folder,
            read_pictures=read_pictures,
            crowds_are_objects=crowds_are_objects,
            on_picture=on_picture,
        )
        for file in annotation_files(source)
    ]
    for other in range(1, len(reports)):
        reports[other] = _with_foreign_classes(reports[0], reports[other])
    return reports


def check_coco(
    path: str | Path,
    *,
    root: str | Path | None = None,
    image_folder: str | None = None,
    read_pictures: bool = True,
    crowds_are_objects: bool = False,
    on_picture: Progress | None = None,
) -> Report:
    """Check one COCO file and its pictures.

    Args:
        path: the annotation file.
        root: the data folder; None: the one that the file lies in.
        image_folder: the preset's image folder, may contain {split}.
        read_pictures: also decode each picture, which finds damaged ones and wrong sizes.
        crowds_are_objects: annotations with iscrowd 1 are objects like the others.
        on_picture: progress.

    Raises:
        InputError: the file cannot be read as COCO at all.
    """
    folder = root_of(path) if root is None else Path(root)
    coco, problems = parse_coco(path, crowds_are_objects=crowds_are_objects, root=folder, image_folder=image_folder)
    problems += crowd_problems(coco)
    problems += _check_objects(coco)
    problems += _check_copies(coco)
    problems += _check_categories(coco)
    problems += _check_usable(coco)
    finder = PictureFinder(folder, path, image_folder=image_folder)
    problems += _check_pictures(coco, finder, read_pictures=read_pictures, on_picture=on_picture)
    crowds = sum(annotation.iscrowd for annotation in coco.annotations)
    return Report(
        file=str(path),
        problems=tuple(problems),
        images=len(coco.images),
        objects=len(coco.annotations) - crowds,
        classes=coco.class_names,
        crowds=crowds,
    )


def require_boxes(coco: CocoFile) -> str | None:
    """Refuse annotated boxes that cannot be trained on; `read_coco` has refused missing, empty and outlying ones.

    Returns:
        a warning when some boxes do not match their masks, else None.

    Raises:
        InputError: most boxes are x1, y1, x2, y2.
    """
    fits = [_fit(annotation) for annotation in coco.annotations if not annotation.iscrowd]
    if text := _most_are_corners(sum(corners for _, corners in fits), len(fits)):
        raise InputError(f"{coco.path}: {text}", "convert the boxes, or pass --set train.boxes=masks")
    apart = sum(iou < _SAME_OBJECT_IOU for iou, _ in fits)
    if not apart:
        return None
    disagree = "does not match its mask" if apart == 1 else "do not match their masks"
    return (
        f"{coco.path}: {apart:,} of {plural(len(fits), 'box', 'boxes')} {disagree} (IoU below {_SAME_OBJECT_IOU:g}), "
        f"and train.boxes=annotations trains on boxes; rsp data check {coco.path} lists them"
    )


def _fit(annotation: CocoAnnotation) -> tuple[float, bool]:
    """IoU of an object's box and its mask's bounds, and whether the box would fit them as x1, y1, x2, y2 only."""
    x, y, w, h = annotation.bbox
    outline = bounds(annotation.segmentation)
    iou = _iou((x, y, x + w, y + h), outline)
    return iou, iou < _SAME_OBJECT_IOU < _iou(annotation.bbox, outline)


def _most_are_corners(corners: int, count: int) -> str | None:
    if corners <= count / 2:
        return None
    boxes, match = plural(count, "box", "boxes"), "matches its mask" if corners == 1 else "match their masks"
    return f"{corners:,} of {boxes} {match} only as x1, y1, x2, y2; COCO boxes are x, y, width, height"


def _check_objects(coco: CocoFile) -> list[Problem]:
    """Boxes and masks that are valid but do not match."""
    images = {image.id: image for image in coco.images}
    problems = Problems()
    as_corners = 0
    for annotation in coco.annotations:
        image = images[annotation.image_id]
        found, corners = _check_object(annotation, image)
        problems.add(*found)
        as_corners += corners
    if text := _most_are_corners(as_corners, len(coco.annotations)):
        problems.add(Problem("error", "bbox-corners", text))
    return problems.listed()


def _check_object(annotation: CocoAnnotation, image: CocoImage) -> tuple[list[Problem], bool]:
    """The warnings of one object, and whether its box would fit its mask as x1, y1, x2, y2."""
    found: list[tuple[str, str]] = []
    x, y, w, h = annotation.bbox
    box, outline = (x, y, x + w, y + h), bounds(annotation.segmentation)
    for kind, what, value in (("bbox-overshoot", "bbox", box), ("polygon-overshoot", "polygon", outline)):
        excess = overshoot(value, image.height, image.width)
        if excess > _SILENT_OVERSHOOT:
            found.append((kind, f"{what} extends {excess:.3g} pixels beyond the image; it is clipped"))
    from pycocotools import mask as coco_mask

    pixels = int(coco_mask.area(to_rle(annotation.segmentation, image.height, image.width).as_dict()))
    fits, corners = _fit(annotation)
    if pixels == 0:
        found.append(("no-pixel", "mask is too small to cover a pixel; it is not a training target"))
    elif fits < _SAME_OBJECT_IOU:
        bbox, bound = [round(value, 2) for value in box], [round(value, 2) for value in outline]
        found.append(
            ("bbox-mask", f"bbox {bbox} and mask bounds {bound} (x1, y1, x2, y2) do not match: IoU {fits:.2f}")
        )
    if pixels >= 16 and not annotation.iscrowd and not 0.5 <= annotation.area / pixels <= 2:
        found.append(("area", f"area is {annotation.area:g}, but the mask covers {plural(pixels, 'pixel')}"))
    where = f"annotation {annotation.id} (image {image.id}, {image.file_name})"
    problems = [Problem("warning", kind, f"{where}: {text}", annotation.id, image.id) for kind, text in found]
    return problems, corners


def _check_copies(coco: CocoFile) -> list[Problem]:
    """Annotations that repeat another of their image and class number by number: one line for all of them."""
    known: dict[tuple[int, int, bytes], int] = {}
    copies: list[tuple[CocoAnnotation, int]] = []
    for annotation in coco.annotations:
        key = (annotation.image_id, annotation.category_id, _geometry_bytes(annotation.segmentation))
        first = known.setdefault(key, annotation.id)
        if first != annotation.id:
            copies.append((annotation, first))
    if not copies:
        return []
    copy, first = copies[0]
    count, total = len(copies), plural(len(coco.annotations), "annotation")
    are = "is an exact copy of another" if count == 1 else "are exact copies of others"
    text = (
        f"{count:,} of {total} {are} (same image, class and geometry), the first of them {copy.id}, a copy of {first}: "
        "an object is trained on twice, and one of the two counts as missed"
    )
    return [Problem("warning", "annotation-copy", text, copy.id, copy.image_id)]


def _geometry_bytes(segmentation: Segmentation) -> bytes:
    if isinstance(segmentation, Rle):
        return segmentation.counts
    return b"|".join(ring.tobytes() for ring in segmentation)


def _check_categories(coco: CocoFile) -> list[Problem]:
    used = Counter(annotation.category_id for annotation in coco.annotations)
    problems = Problems()
    for category in coco.categories:
        if not used[category.id]:
            text = f"category {category.id} ({category.name!r}) has no objects"
            problems.add(Problem("warning", "category-unused", text))
    return problems.listed()


def _check_usable(coco: CocoFile) -> list[Problem]:
    try:
        require_usable(coco)
    except InputError as error:
        return [Problem("error", "no-object", error.message.removeprefix(f"{coco.path}: "))]
    return []


def _check_pictures(
    coco: CocoFile, finder: PictureFinder, *, read_pictures: bool, on_picture: Progress | None
) -> list[Problem]:
    """Pictures that are missing, doubled, outside the root, damaged or of another size."""
    problems = Problems()
    entries: dict[str, list[int]] = defaultdict(list)
    for done, image in enumerate(coco.images, start=1):
        entries[image.file_name].append(image.id)
        try:
            path = finder.find(image.names)
            if read_pictures:
                read_sized_pixels(path, image)
        except InputError as error:
            text = f"image {image.id} ({shorten(image.file_name)}): {error}"
            kind = "picture" if unsafe_reason(image.file_name) is None else "file-name"
            problems.add(Problem("error", kind, text, image_id=image.id))
        if on_picture:
            on_picture(done, len(coco.images))
    finder.announce()
    for file_name, ids in entries.items():
        if len(ids) > 1:
            text = f"images {some(map(str, ids), 20)} have the same file_name {shorten(file_name)}"
            problems.add(Problem("warning", "picture-twice", text, image_id=ids[0]))
    return problems.listed()


def _with_foreign_classes(first: Report, other: Report) -> Report:
    """`other` with an error for each class that `first`, the split to train on, does not have."""
    strangers = [name for name in other.classes if name not in first.classes]
    problems = [
        Problem("error", "class-foreign", f"class {name!r} is not in {first.file}, so models will not be trained on it")
        for name in strangers
    ]
    return replace(other, problems=other.problems + tuple(problems))


def _iou(a: Box, b: Box) -> float:
    """Intersection over union of two xyxy boxes; 0 when either is turned inside out."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)
