"""Folders of pictures and labels that become a set: what lies in them, and how it gets into the set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from rsprompter_cli.data.images import unsafe_reason
from rsprompter_cli.documents import is_unicode
from rsprompter_cli.errors import InputError, OutputError, shorten, why_unreadable
from rsprompter_cli.io.atomic import reason_of

PICTURES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp"})


def list_files(folder: Path, suffixes: Collection[str], *, without: Path | None = None) -> tuple[list[Path], int]:
    """The files with one of these endings in a folder and below it, and how many others there are.

    What begins with a dot is no part of a set: such files are counted, such folders not entered.

    Args:
        folder: where to look.
        suffixes: lower case, with the dot.
        without: a folder in it that is left out.

    Returns:
        Paths relative to the folder, by name; the number of other files.

    Raises:
        InputError: no folder, a link that leads out of it, or a name that no set can hold.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    root, left_out = folder.resolve(), None if without is None else without.resolve()
    found: list[Path] = []
    others = 0
    for above, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            path = Path(above, name)
            if path.is_symlink():
                raise InputError(f"{path}: is a link to a folder, which is not followed", "give the folder itself")
            if path.resolve() == left_out:
                folders.remove(name)
        for name in names:
            if name.startswith(".") or Path(name).suffix.lower() not in suffixes:
                others += 1
                continue
            path = Path(above, name)
            check_inside(path, root)
            found.append(path.relative_to(folder))
            _check_name(path, found[-1])
    return sorted(found, key=lambda path: path.as_posix()), others


def check_inside(path: Path, root: Path) -> None:
    """Raise InputError when a file is a link that leads out of a folder, or to nothing.

    Args:
        path: the file.
        root: the folder, resolved.
    """
    real = path.resolve()
    if not real.is_relative_to(root):
        raise InputError(f"{path} is a link to {real}, outside {root}", "copy the file into the folder")
    if not real.is_file():
        raise InputError(f"{path}: is not a regular file")


def place_picture(source: Path, target: Path, *, link: bool) -> None:
    """Copy a picture into a set, or with `link` give its file a second name there.

    Raises:
        OutputError: the file system makes no such link.
    """
    if not link:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise OutputError(
            f"{source}: cannot be hard-linked into the set: {reason_of(error)}",
            "omit --link to copy the images",
        ) from error


def _check_name(path: Path, relative: Path) -> None:
    name = relative.as_posix()
    reason = unsafe_reason(name) if is_unicode(name) else "is not UTF-8"
    if reason:
        raise InputError(f"{shorten(ascii(str(path)))}: its name {reason}", "rename it")


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename}: {why_unreadable(error)}") from error
