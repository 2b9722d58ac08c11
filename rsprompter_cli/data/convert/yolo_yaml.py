"""`data.yaml` of a YOLO set: its classes and where its splits lie. Nothing in it is executed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from rsprompter_cli.data.coco.entries import may_name_class
from rsprompter_cli.data.coco.problems import shown_value
from rsprompter_cli.data.images import SPLITS
from rsprompter_cli.documents import read_content
from rsprompter_cli.errors import InputError, plural, shorten

logger = logging.getLogger(__name__)

MARK = "# Written by rsp convert coco2yolo; paths are relative to this file.\n"

_MAX_BYTES = 1 << 20
"""Of a data.yaml: 1000 classes take 20 KB."""

_MAX_SIZE = 4 * _MAX_BYTES
"""Of the values together, in characters: a file without aliases has fewer."""


@dataclass(frozen=True, slots=True)
class YoloSet:
    """A YOLO set as its file describes it.

    root: the folder that holds all of it, resolved.
    names: class names by index, in order of the index.
    splits: per split the folders of pictures, or text files that list them; all inside the root.
    """

    file: Path
    root: Path
    names: dict[int, str]
    splits: dict[str, list[Path]]


def yaml_text(classes: Sequence[str], splits: Sequence[str]) -> str:
    """The data.yaml of a set with pictures in `images/{split}`."""
    content = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(classes))}
    return MARK + yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=2**31)


def read_yolo(path: Path, root: Path | None = None) -> YoloSet:
    """Read a data.yaml, or the one of a folder.

    Args:
        path: the file, or the folder that holds one file ending in .yaml or .yml.
        root: the folder that the paths in it start from. None: what its `path` says, within its own folder.

    Raises:
        InputError: it is missing, damaged, not that of a YOLO set, or its paths lead out of the root.
    """
    file = _find(path)
    document = _parse(file)
    if "kpt_shape" in document:
        raise InputError(f"{file}: is a keypoint data set (kpt_shape), which has no outlines")
    base = _root(file, document, root)
    splits = {}
    for split in SPLITS:
        entry = document.get(split)
        if entry:
            texts = entry if isinstance(entry, list) else [entry]
            splits[split] = [_inside(base, text, f"{file}: {split}") for text in texts]
    if not splits:
        raise InputError(f"{file}: has none of {', '.join(SPLITS)}", "give the folder of images of each split")
    return YoloSet(file, base, _names(file, document), splits)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder", "give the data.yaml of a YOLO set, or its folder")
    found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(
            f"{path}: contains {plural(len(found), 'YAML file')} ({names})", "give the data.yaml of the data set"
        )
    return found[0]


def _parse(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; scalars stay text, so that a class called `no` keeps its name."""
    try:
        content = read_content(file, max_bytes=_MAX_BYTES)
        # BaseLoader makes text, lists and mappings of anything, and nothing else. The one in C crashes on deep nesting.
        document = yaml.load(content, Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{file}: is not the data.yaml of a YOLO set", "it must have names: and train:")
    _check_values(file, [document.get(name) for name in ("path", "names", "nc", *SPLITS)])
    return document


def _check_values(file: Path, values: list[Any]) -> None:
    """Raise InputError for too many values: a list that names another by an alias has those of both."""
    size, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        size += 1 + (len(value) if isinstance(value, str) else len(inner))
        if size > _MAX_SIZE:
            raise InputError(
                f"{file}: its aliases stand for too many values", "write them out, without aliases (*name)"
            )
        waiting += inner


def _root(file: Path, document: Mapping[str, Any], root: Path | None) -> Path:
    if root is not None:
        if not root.is_dir():
            raise InputError(f"--root {root}: no such folder")
        return root.resolve()
    own = file.resolve().parent
    text = document.get("path") or "."
    base = (own / text).resolve() if isinstance(text, str) and _may_be_path(text) else None
    if base is None or not base.is_relative_to(own) or not os.path.isdir(base):
        raise InputError(
            f"{file}: path: {shorten(repr(text))} is not a folder in {own}",
            "pass the folder of the data set with --root",
        )
    return base


def _inside(root: Path, text: object, where: str) -> Path:
    """A folder or list of pictures named in a data.yaml.

    Raises:
        InputError: there is none, or it lies outside the root.
    """
    if not isinstance(text, str) or not text.strip() or not _may_be_path(text):
        raise InputError(f"{where}: {shorten(repr(text))} is not a path")
    path = (root / text).resolve()
    if not path.is_relative_to(root) and text.startswith("../"):
        # Exports write `../train/images` for what lies beside data.yaml; training reads them so, too.
        path = (root / text[3:]).resolve()
        logger.info("%s: %s is read as %s", where, text, text[3:])
    if not path.is_relative_to(root):
        raise InputError(
            f"{where}: {shorten(repr(text))} is outside {root}", "pass the folder of the data set with --root"
        )
    if not os.path.exists(path):  # also false of a name that is too long
        raise InputError(f"{where}: {shorten(str(path))}: no such folder", "correct or delete the line")
    return path


def _may_be_path(text: str) -> bool:
    """Whether the system takes a text as the name of a file."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _names(file: Path, document: Mapping[str, Any]) -> dict[int, str]:
    """Class names by index."""
    entry = document.get("names")
    pairs = (
        list(entry.items()) if isinstance(entry, dict) else list(enumerate(entry if isinstance(entry, list) else ()))
    )
    names: dict[int, str] = {}
    for index, name in pairs:
        if not isinstance(name, str) or not name.strip() or not (str(index).isascii() and str(index).isdigit()):
            raise InputError(
                f"{file}: names: {shorten(repr(index))}: {shorten(repr(name))} is not a class",
                "give a name to each index from 0",
            )
        if not may_name_class(name):
            raise InputError(
                f"{file}: names: {shorten(repr(index))}: {shown_value(name)} is too long or not valid Unicode"
            )
        names[int(str(index)[:9])] = name.strip()
    if not names:
        raise InputError(f"{file}: has no names", "list the classes, for example names: [building, road]")
    if len(names) < len(pairs) or len(set(names.values())) < len(names):
        raise InputError(f"{file}: names: duplicate index or name")
    count = document.get("nc")
    if count is not None and str(count) != str(len(names)):
        raise InputError(f"{file}: nc is {shorten(str(count))}, but there are {plural(len(names), 'name')}")
    return dict(sorted(names.items()))


def name_in_set(path: Path, root: Path) -> str:
    """What a picture of a YOLO set is called in a COCO set: its path without the folders named `images`."""
    relative = PurePosixPath(path.relative_to(root).as_posix())
    return PurePosixPath(*[part for part in relative.parts[:-1] if part != "images"], relative.name).as_posix()
