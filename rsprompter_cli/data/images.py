"""Where the annotation files and pictures of a data set lie, and nothing outside its folder.

The rule for `--data DIR`: the annotations of a split are `DIR/annotations/*{split}.json`, else the JSON file of
`DIR/{split}/` as Roboflow writes it, else `DIR/*{split}.json`. A split may be spelled `valid` or `validation` for val,
and a year may follow (`train2017`). One file that names no split is the train split. A picture is looked for in the
preset's image folder, then in `images/`, `imgs/` and `imgs/{split}/image`, and then as `pictures.py` says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from rsprompter_cli.errors import InputError, shorten, some
from rsprompter_cli.io.atomic import reason_of

SPLITS = ("train", "val", "test")
SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""How the names of files and folders may spell a split, any case."""
MAX_NAME = 1000
"""Bytes of a file_name; systems stop at 4096 for a whole path, some at 1024."""
IMAGE_FOLDERS = ("images", "imgs", "imgs/{split}/image")

_NAMED = re.compile(r"(training|train|validation|valid|val|testing|test)[-_]?(\d{4})?$", re.IGNORECASE)
_NO_INSTANCES = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")
"""First words of the names of files that stand beside COCO's instance files."""
_EXPORTS = re.compile(r"coco|instances|annotations|^result|^labels", re.IGNORECASE)
"""What the names of exported COCO files have in them."""


def unsafe_reason(file_name: str) -> str | None:
    """Why a `file_name` may not be looked up below a data folder; None when it may.

    Both kinds of path are tried on every system, so that a file is refused or taken alike.
    """
    if not file_name.strip() or "\0" in file_name:
        return "is empty or contains a null character"
    if len(file_name.encode(errors="replace")) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    windows, posix = PureWindowsPath(file_name), PurePosixPath(file_name)
    if posix.is_absolute() or windows.drive or windows.root:
        return "is an absolute path"
    if ".." in posix.parts or ".." in windows.parts:
        return "leaves its folder with '..'"
    return None


def split_word(word: str) -> str:
    """A split as `SPLITS` spells it: valid is val, train2017 is train; any other word as it is."""
    match = _NAMED.fullmatch(word)
    return _canonical(match.group(1)) if match else word


def _canonical(spelling: str) -> str:
    return next(split for split, spellings in SPELLINGS.items() if spelling.lower() in spellings)


def find_annotations(root: str | Path, split: str) -> Path:
    """The one annotation file of a split.

    Raises:
        InputError: no such folder, no such file, or several.
    """
    root = Path(root)
    if not os.path.isdir(root):
        what = "a file, not a folder" if os.path.exists(root) else "no such folder"
        raise InputError(f"{root}: {what}", "pass the folder of your COCO data set with --data")
    found = next((files for files in _candidates(root, split) if files), [])
    if len(found) > 1:
        folder = found[0].parent if len({path.parent for path in found}) == 1 else root
        names = ", ".join(path.relative_to(folder).as_posix() for path in found)
        kind = f"end in {split}.json" if found[0].stem.endswith(split) else f"match the {split} split"
        raise InputError(f"{folder}: {len(found)} files {kind}: {names}", "keep only one of them in this folder")
    if found:
        return found[0]
    lone = _lone_file(root)
    if lone is not None and split_word(split) == "train":
        return lone
    raise _none_found(root, split, lone)


def _none_found(root: Path, split: str, lone: Path | None) -> InputError:
    if lone is not None:
        return InputError(
            f"{lone}: is the only annotation file in {root}, which has no {split} split",
            f"rsp data split {lone} divides it into a train and a val split",
        )
    there = [path.relative_to(root).as_posix() for path in _json_files(root)]
    folder = root / "annotations" if (root / "annotations").is_dir() else root
    listed = [name.removeprefix("annotations/") if folder != root else name for name in there]
    text = f"{folder}: contains no file ending in {split}.json (found {some(listed) or 'no .json file'})"
    if root.name == "annotations":
        return InputError(text, f"give its parent folder, {root.parent}")
    if len(there) == 1 and split_word(split) != "train":
        return InputError(text, how_to_cut(root / there[0]))
    if len(there) > 1 and not list_splits(root):
        return InputError(text, "give one of the files, or rename them to end in train.json and val.json")
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and any(_candidates(path, split))]
    if below:
        return InputError(text, f"did you mean {some(map(str, below))}?")
    return InputError(
        text,
        "rsp convert creates COCO files, rsp data split divides one in two; choose another existing split with "
        "--set data.val_split=val in training, with --split val in rsp eval",
    )


def how_to_cut(file: Path) -> str:
    """The way to a second split for a set with one file, which `rsp data split` would write over."""
    if file.parent.name != "annotations":
        return f"rsp data split {file} divides it into a train and a val split"
    whole = file.with_name("instances_all.json")
    return f"rename {file} to {whole.name}; rsp data split {whole} then divides it into a train and a val split"


def _candidates(root: Path, split: str) -> Iterator[list[Path]]:
    """The files that could be the annotations of a split, by place: the first place that has any decides."""
    folder, wanted = root / "annotations", split_word(split)
    yield _sound(folder.glob(f"*{split}.json"))
    yield [path for path in _sound(folder.glob("*.json")) if _split_of_stem(path.stem) == wanted]
    yield [
        main
        for below in _folders(root)
        if split_word(below.name) == wanted
        for main in (_main_file(below) or _main_file(below / "annotations"),)
        if main is not None
    ]
    if root.name != "annotations":
        yield [path for path in _sound(root.glob("*.json")) if _split_of_stem(path.stem) == wanted]


def _sound(paths: Iterator[Path]) -> list[Path]:
    """Files that may hold instances, sorted; hidden ones and those of COCO's other tasks left out."""
    return sorted(p for p in paths if not p.name.startswith((".", *_NO_INSTANCES)) and p.is_file())


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir())


def _main_file(folder: Path) -> Path | None:
    """The annotation file of a folder of pictures: the only JSON file, or the only one named as exporters do."""
    files = _sound(folder.glob("*.json"))
    named = [path for path in files if _EXPORTS.search(path.stem)]
    return next((group[0] for group in (files, named) if len(group) == 1), None)


def _lone_file(root: Path) -> Path | None:
    """The only annotation file of a set whose file names no split."""
    if next((True for split in SPLITS for files in _candidates(root, split) if files), False):
        return None
    files = _sound((root / "annotations").glob("*.json"))
    if root.name == "annotations":
        return None
    return files[0] if len(files) == 1 else _main_file(root) if not files else None


def _json_files(root: Path) -> list[Path]:
    """The JSON files in the places where annotation files are looked for."""
    places = [root / "annotations", root]
    places += [path for path in _folders(root) if split_word(path.name) in SPLITS]
    return [path for place in places for path in _sound(place.glob("*.json"))]


def annotation_files(source: str | Path) -> list[Path]:
    """The annotation files of a data folder, one per split that it has; a file stands for itself.

    Raises:
        InputError: no annotation file, or several for one split.
    """
    source = Path(source)
    if not os.path.isdir(source):
        _require_there(source)
        return [source]
    # Without any split, the error of the first one says what was looked for.
    return [find_annotations(source, split) for split in list_splits(source) or SPLITS[:1]]


def other_splits(path: str | Path) -> list[Path]:
    """The annotation files of the other splits of the set that an annotation file belongs to."""
    root = root_of(path)
    try:
        files = annotation_files(root)
    except (InputError, OSError):
        return []
    own = Path(path).resolve()
    return [file for file in files if file.resolve() != own] if own in [file.resolve() for file in files] else []


def locate(source: str | Path, split: str) -> tuple[Path, Path]:
    """The annotation file of a data folder's split, or of a file itself; and the data folder.

    Raises:
        InputError: no annotation file, or several for the split.
    """
    source = Path(source)
    if os.path.isdir(source):
        return find_annotations(source, split), source
    _require_there(source)
    return source, root_of(source)


def _require_there(source: Path) -> None:
    if not os.path.exists(source):
        raise InputError(
            f"{source}: no such file or folder", "give a COCO file or its data folder; rsp convert creates them"
        )


def list_splits(root: str | Path) -> list[str]:
    """The splits of `SPLITS` that have an annotation file below `root`, in that order."""
    root = Path(root)
    return [split for split in SPLITS if any(files for files in _candidates(root, split))]


def _split_of_stem(stem: str) -> str | None:
    match = _NAMED.search(stem)
    return _canonical(match.group(1)) if match else None


def split_of(path: str | Path) -> str:
    """The split that an annotation file's name ends in, or else its folder's; its whole stem where neither has one."""
    path = Path(path)
    parent = path.resolve().parent
    folder = parent.parent if parent.name == "annotations" else parent
    above = split_word(folder.name)
    return _split_of_stem(path.stem) or (above if above in SPLITS else path.stem)


def root_of(path: str | Path) -> Path:
    """The data folder that an annotation file belongs to.

    That is the folder above `annotations/`, the one above a folder of pictures that is named as a split
    (`train/_annotations.coco.json`), else the file's own.
    """
    folder = Path(path).resolve().parent
    if folder.name == "annotations":
        return folder.parent
    is_part = split_word(folder.name) in SPLITS and not _split_of_stem(Path(path).stem)
    has_images = any((folder / name).is_dir() for name in ("images", "imgs", "annotations"))
    return folder.parent if is_part and not has_images else folder


def image_folders(split: str, image_folder: str | None = None) -> tuple[str, ...]:
    """The folders below the data folder to look in, in order; `image_folder` may contain {split}."""
    patterns = ((image_folder,) if image_folder else ()) + IMAGE_FOLDERS
    return tuple(dict.fromkeys(pattern.replace("{split}", split) for pattern in patterns))


def find_exact(root: str | Path, file_name: str, folders: Sequence[str]) -> Path | None:
    """The one picture `file_name` in one of `folders` below `root`; None when it is in none.

    Raises:
        InputError: a link that leads out of `root`, or two pictures.
    """
    root = Path(root)
    tried = [root / folder / file_name for folder in folders]
    try:
        found = {path.resolve(): path for path in reversed(tried) if path.is_file()}
    except OSError as error:
        raise InputError(f"image file {shorten(file_name)!r} cannot be searched for: {reason_of(error)}") from error
    if len(found) > 1:
        listed = ", ".join(map(str, found.values()))
        raise InputError(f"image file {file_name!r} is in {len(found)} folders: {listed}", "keep only one of them")
    for real, path in found.items():
        require_inside(root, path, real)
        return path
    return None


def require_inside(root: Path, path: Path, real: Path) -> None:
    """Raise InputError when a picture below `root` is a link to a file outside it."""
    if not real.is_relative_to(root.resolve()):
        raise InputError(f"{path} is a link to {real}, outside {root}", "copy the image into the data folder")
