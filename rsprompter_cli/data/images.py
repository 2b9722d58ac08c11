"""Where the annotation files and pictures of a data set lie, and nothing outside its folder.

The rule for `--data DIR`: `DIR/annotations/*{train,val,test}.json` holds the annotations; a
picture is looked for in the preset's image folder, then in `images/`, `imgs/` and
`imgs/{split}/image`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from rsprompter_cli.errors import InputError, shorten

SPLITS = ("train", "val", "test")
MAX_NAME = 1000
"""Bytes of a file_name; systems stop at 4096 for a whole path, some at 1024."""
IMAGE_FOLDERS = ("images", "imgs", "imgs/{split}/image")


def unsafe_reason(file_name: str) -> str | None:
    """Why a `file_name` may not be looked up below a data folder; None when it may.

    Both kinds of path are tried on every system, so that a file is refused or taken alike.
    """
    if not file_name.strip() or "\0" in file_name:
        return "is empty or holds a NUL"
    if len(file_name.encode(errors="replace")) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    windows, posix = PureWindowsPath(file_name), PurePosixPath(file_name)
    if posix.is_absolute() or windows.drive or windows.root:
        return "is an absolute path"
    if ".." in posix.parts or ".." in windows.parts:
        return "leads out of its folder by '..'"
    return None


def find_annotations(root: str | Path, split: str) -> Path:
    """The one annotation file of a split: `root/annotations/*{split}.json`.

    Raises:
        InputError: no such folder, no such file, or several.
    """
    folder = Path(root) / "annotations"
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder", "pass the folder of your COCO set with --data")
    found = sorted(path for path in folder.glob(f"*{split}.json") if path.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        there = ", ".join(path.name for path in sorted(folder.glob("*.json"))) or "no .json at all"
        raise InputError(
            f"{folder}: no file ending in {split}.json (found {there})",
            "rsp convert makes COCO files, rsp data split cuts one in two; another split that is there is taken with "
            "--set data.val_split=val in training, with --split val in rsp eval",
        )
    names = ", ".join(path.name for path in found)
    raise InputError(f"{folder}: {len(found)} files end in {split}.json: {names}", "keep one of them in this folder")


def annotation_files(source: str | Path) -> list[Path]:
    """The annotation files of a data folder, one per split that it has; a file stands for itself.

    Raises:
        InputError: no annotation file, or several for one split.
    """
    source = Path(source)
    if not os.path.isdir(source):
        return [source]
    # Without any split, the error of the first one says what was looked for.
    return [find_annotations(source, split) for split in list_splits(source) or SPLITS[:1]]


def locate(source: str | Path, split: str) -> tuple[Path, Path]:
    """The annotation file of a data folder's split, or of a file itself; and the data folder.

    Raises:
        InputError: no annotation file, or several for the split.
    """
    source = Path(source)
    return (find_annotations(source, split), source) if os.path.isdir(source) else (source, root_of(source))


def list_splits(root: str | Path) -> list[str]:
    """The splits of `SPLITS` that have an annotation file below `root`, in that order."""
    folder = Path(root) / "annotations"
    return [split for split in SPLITS if any(folder.glob(f"*{split}.json"))]


def split_of(path: str | Path) -> str:
    """The split that an annotation file's name ends in; its whole stem when it ends in none."""
    stem = Path(path).stem
    return next((split for split in SPLITS if stem.endswith(split)), stem)


def root_of(path: str | Path) -> Path:
    """The data folder that an annotation file belongs to: the one above `annotations/`, else its own."""
    folder = Path(path).resolve().parent
    return folder.parent if folder.name == "annotations" else folder


def image_folders(split: str, image_folder: str | None = None) -> tuple[str, ...]:
    """The folders below the data folder to look in, in order; `image_folder` may contain {split}."""
    patterns = ((image_folder,) if image_folder else ()) + IMAGE_FOLDERS
    return tuple(dict.fromkeys(pattern.replace("{split}", split) for pattern in patterns))


def find_image(root: str | Path, file_name: str, folders: Sequence[str]) -> Path:
    """The one picture `file_name` in one of `folders` below `root`.

    Raises:
        InputError: an unsafe name, a link that leads out of `root`, no such picture, or two.
    """
    reason = unsafe_reason(file_name)
    if reason:
        raise InputError(f"file_name {shorten(file_name)!r} {reason}", "name pictures relative to their image folder")
    root = Path(root)
    tried = [root / folder / file_name for folder in folders]
    try:
        found = {path.resolve(): path for path in reversed(tried) if path.is_file()}
    except OSError as error:
        raise InputError(f"picture {shorten(file_name)!r} cannot be looked for: {error.strerror or error}") from error
    if len(found) != 1:
        listed = ", ".join(str(path) for path in (found.values() if found else tried))
        what = f"is in {len(found)} folders" if found else "was not found; tried"
        way_out = "remove one of them" if found else "set data.image_folder to where the pictures lie, below the root"
        raise InputError(f"picture {file_name!r} {what}: {listed}", way_out)
    (real, path), *_ = found.items()
    if not real.is_relative_to(root.resolve()):
        raise InputError(f"{path} is a link to {real}, outside {root}", "copy the picture into the data folder")
    return path
