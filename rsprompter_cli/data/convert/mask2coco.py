"""Pictures and masks of them to a COCO set.

A picture and its mask have the same name, folders below the two given ones included, but for their
endings and suffixes. What the values of a mask mean is `kind`: `binary`, `instances` or `classes`. Every
instance is a compressed RLE of exactly its pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsprompter_cli.data.coco.entries import may_name_class
from rsprompter_cli.data.coco.problems import shown_value
from rsprompter_cli.data.convert.components import Connectivity, labels_to_instances, mask_to_instances
from rsprompter_cli.data.convert.files import PICTURES, list_files, place_picture
from rsprompter_cli.data.convert.picture_set import Findings, Picture, SetReport, write_picture_set
from rsprompter_cli.data.convert.picture_split import choose_splits, parse_split
from rsprompter_cli.data.defaults import CLASS_NAME
from rsprompter_cli.data.output_folder import check_owned, check_parts
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.geo.raster.image import read_label, read_picture
from rsprompter_cli.structures import Progress

Kind = Literal["binary", "instances", "classes"]

_WHITE = (1, 255, 65535)
"""What marks the objects of a binary mask, in the sets that are about."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """How masks are read. classes: name by value; for binary and instance masks the one name under 0."""

    kind: Kind
    said: bool
    classes: dict[int, str]
    ignore: tuple[int, ...]
    connectivity: Connectivity
    min_area: int


def convert_masks(
    images: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    kind: Kind | None = None,
    classes: Sequence[str] = (),
    ignore: Sequence[int] = (),
    connectivity: Connectivity = 4,
    min_area: int = 0,
    image_suffix: str = "",
    mask_suffix: str = "",
    split: str | None = None,
    link: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> SetReport:
    """Turn a folder of pictures and a folder of masks into a COCO set.

    Args:
        images: folder of pictures with 8 bits per sample.
        masks: folder of masks of one band; may be the same when the names differ by a suffix.
        out: folder to write; an existing one is replaced only when it holds nothing but such a set.
        kind: `binary`: 0 and one other value, each connected component is an object; `instances`: each
            value but 0 is an object; `classes`: each value but 0 is a class, its components are objects.
            None: `classes` when several classes or values are given, else `binary`.
        classes: one name for binary and instance masks; for `classes` the names of the values 1, 2, ..., or
            `name=value` each.
        ignore: values that are background.
        connectivity: of components, see `mask_to_instances`.
        min_area: objects of fewer pixels are left out.
        image_suffix, mask_suffix: what the stems end in, beyond the name in common.
        split: see `parse_split` and `choose_splits`.
        link: pictures get a second name in the set instead of a copy.
        overwrite: another set in `out` may be replaced.
        on_progress: called with (masks read, masks in all).

    Raises:
        InputError: no pair at all, or a picture or mask that cannot be used; all of these are logged first.
        UsageError: options that contradict each other or are out of range.
        OutputError: `out` holds something else, or another set and `overwrite` is not given.
    """
    images, masks, out = Path(images), Path(masks), Path(out)
    rule = _make_rule(kind, classes, ignore, connectivity, min_area)
    shares = parse_split(split)
    check_parts(out, (images, masks))
    check_owned(out)
    findings = Findings()
    pairs, skipped = _pair(images, masks, image_suffix, mask_suffix, findings)
    pictures: list[Picture] = []
    for done, (name, mask) in enumerate(pairs, start=1):
        try:
            pictures.append(_read_pair(images, name, masks / mask, rule, link, findings))
        except InputError as error:
            findings.faults.append(error)
        if on_progress is not None:
            on_progress(done, len(pairs))
    findings.settle()
    filled = {picture.name for picture in pictures if picture.objects}
    splits = choose_splits([picture.name for picture in pictures], filled, shares, where=images)
    names = list(rule.classes.values())
    description = f"{rule.kind} masks, converted by rsp convert mask2coco"
    outcome, counts = write_picture_set(out, pictures, splits, names, description=description, overwrite=overwrite)
    return SetReport(out, outcome, names, counts, skipped, dict(findings.left_out))


def _read_pair(images: Path, name: Path, mask: Path, rule: _Rule, link: bool, findings: Findings) -> Picture:
    """A picture with the objects of its mask.

    Raises:
        InputError: one of them cannot be used, or they do not fit each other.
    """
    if mask.suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(f"{mask}: JPEG compression changes the values of masks", "use PNG or TIFF")
    height, width = read_picture(images / name).shape[:2]
    values = read_label(mask)
    if values.shape != (height, width):
        raise InputError(
            f"{mask}: has {values.shape[1]} x {values.shape[0]} px, its image {images / name} has "
            f"{width} x {height} px after EXIF rotation"
        )
    objects = []
    for class_name, fields in _objects(mask, _whole_numbers(mask, values), rule):
        if fields["area"] < rule.min_area:
            x, y, *_ = fields["bbox"]
            findings.leave_out("objects under --min-area", f"{mask} at {x:g},{y:g}: {fields['area']} px")
        else:
            objects.append((class_name, fields))
    put: Callable[[Path], None] = functools.partial(place_picture, images / name, link=link)
    return Picture(name.as_posix(), height, width, put, objects)


def _objects(path: Path, values: np.ndarray, rule: _Rule) -> Iterable[tuple[str, dict[str, Any]]]:
    """(class, COCO fields) of the objects of a mask, int [H, W]."""
    if rule.ignore:
        values = np.where(np.isin(values, rule.ignore), 0, values)
    if rule.kind == "instances":
        return [(rule.classes[0], fields) for _, fields in labels_to_instances(values, name=path)]
    found = [int(value) for value in np.unique(values) if value]
    if rule.kind == "binary":
        _check_binary(path, found, rule)
        found_in = functools.partial(mask_to_instances, connectivity=rule.connectivity, name=path)
        return [(rule.classes[0], fields) for fields in found_in(values != 0)]
    strangers = [value for value in found if value not in rule.classes]
    if strangers:
        known = ", ".join(f"{name}={value}" for value, name in rule.classes.items())
        raise InputError(
            f"{path}: contains {_listed(strangers)}, but the classes are {known}",
            "add them to --classes as name=value, or pass background values with --ignore",
        )
    return [
        (name, fields)
        for value, name in rule.classes.items()
        if value in found
        for fields in mask_to_instances(values == value, connectivity=rule.connectivity, name=path)
    ]


def _check_binary(path: Path, found: Sequence[int], rule: _Rule) -> None:
    """Raise InputError when a mask has not two values; unless `binary` was said, they must be usual ones."""
    if len(found) <= 1 and (rule.said or not found or found[0] in _WHITE):
        return
    values = _listed([0, *found])
    if rule.said:
        raise InputError(f"{path}: is not a binary mask, it contains {values}", "pass background values with --ignore")
    raise InputError(
        f"{path}: contains {values}, which may be instances or classes",
        "pass --kind instances if each value is an object, --kind classes with --classes a,b,c if each is a class, "
        "or --kind binary if there should be only two",
    )


def _whole_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """The values of a mask as integers from 0.

    Raises:
        InputError: others.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any() or np.abs(values).max() > 2**31:
            raise InputError(f"{path}: contains fractions or NaN; the values of a mask must be whole numbers")
        values = values.astype(np.int64)
    if values.dtype.kind == "i" and values.min() < 0:
        raise InputError(f"{path}: contains {values.min()}; the values of a mask must be whole numbers from 0")
    return values


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:6])) + (f", ... ({len(values):,} values)" if len(values) > 6 else "")


def _make_rule(
    kind: Kind | None, classes: Sequence[str], ignore: Sequence[int], connectivity: Connectivity, min_area: int
) -> _Rule:
    pairs = [_name_and_value(text) for text in classes]
    names = [name for name, _ in pairs]
    given = [value for _, value in pairs if value is not None]
    if len(set(names)) < len(names) or len(set(given)) < len(given):
        raise UsageError(f"--classes {','.join(classes)}: duplicate name or value")
    if given and len(given) < len(pairs):
        raise UsageError(f"--classes {','.join(classes)}: give a value for all classes or for none")
    several = len(pairs) > 1 or bool(given)
    chosen: Kind = kind or ("classes" if several else "binary")
    if chosen != "classes" and several:
        raise UsageError(f"--kind {chosen} takes one class", "pass --kind classes for several classes or values")
    if chosen == "classes" and not pairs:
        raise UsageError(
            "--kind classes needs --classes", "for example --classes building,road or --classes building=255,road=128"
        )
    if connectivity not in (4, 8):
        raise UsageError(f"--connectivity {connectivity}: must be 4 or 8")
    if min_area < 0 or any(value < 0 for value in ignore):
        raise UsageError("--min-area and --ignore must be at least 0")
    by_value = {value or number: name for number, (name, value) in enumerate(pairs, start=1)}
    if chosen != "classes":
        by_value = {0: names[0] if names else CLASS_NAME}
    return _Rule(chosen, kind is not None, by_value, tuple(ignore), connectivity, min_area)


def _name_and_value(text: str) -> tuple[str, int | None]:
    """`"road=128"` as ("road", 128), `"road"` as ("road", None)."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not name:
        raise UsageError(f"--classes: {text!r} has no name")
    if not may_name_class(name):
        raise UsageError(f"--classes: the name {shown_value(name)} is too long or not valid Unicode")
    if not equals:
        return name, None
    if not (value.isascii() and value.isdigit() and int(value[:9]) > 0 and len(value) < 10):
        raise UsageError(f"--classes {text}: the value of a class must be a whole number from 1", "0 is the background")
    return name, int(value)


def _pair(
    images: Path, masks: Path, image_suffix: str, mask_suffix: str, findings: Findings
) -> tuple[list[tuple[Path, Path]], int]:
    """Pictures and their masks, relative to their folders, by name; and how many files are no pictures."""
    one_folder = images.resolve() == masks.resolve()
    if one_folder and not mask_suffix:
        raise UsageError(
            f"{images} is the folder of images and masks",
            "pass the end of mask names with --mask-suffix, for example _mask",
        )
    pictures, skipped = list_files(images, PICTURES, without=None if one_folder else masks)
    if one_folder:
        labels = [path for path in pictures if path.stem.endswith(mask_suffix)]
        pictures = [path for path in pictures if not path.stem.endswith(mask_suffix)]
    else:
        labels, others = list_files(masks, PICTURES, without=images)
        skipped += others
    if not pictures:
        raise InputError(f"{images}: contains no images", "supported extensions: " + " ".join(sorted(PICTURES)))
    picture_of = _by_key(images, pictures, image_suffix, "pictures whose name does not end in --image-suffix", findings)
    mask_of = _by_key(masks, labels, mask_suffix, "masks whose name does not end in --mask-suffix", findings)
    for key in sorted(picture_of.keys() - mask_of.keys()):
        findings.leave_out("pictures without a mask", images / picture_of[key])
    for key in sorted(mask_of.keys() - picture_of.keys()):
        findings.leave_out("masks without a picture", masks / mask_of[key])
    common = sorted(picture_of.keys() & mask_of.keys())
    if not common:
        shown = f"{images / pictures[0]} and {masks / labels[0]}" if labels else f"{images / pictures[0]} and no mask"
        raise InputError(
            f"no image has a mask of the same name; found {shown}",
            "give image and mask the same name, or pass the end of mask names with --mask-suffix",
        )
    return [(picture_of[key], mask_of[key]) for key in common], skipped


def _by_key(folder: Path, files: Sequence[Path], suffix: str, reason: str, findings: Findings) -> dict[str, Path]:
    """Files by their names without ending and suffix."""
    found: dict[str, Path] = {}
    for path in files:
        stem = path.with_suffix("").as_posix()
        if not stem.endswith(suffix):
            findings.leave_out(reason, folder / path)
            continue
        other = found.setdefault(stem.removesuffix(suffix) if suffix else stem, path)
        if other != path:
            findings.fault(f"{folder / other} and {folder / path}: have the same name")
    return found
