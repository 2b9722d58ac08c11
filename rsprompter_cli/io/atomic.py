"""Writing files so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from rsprompter_cli.errors import OutputError

_LOOKS, _PAUSE = 5, 0.05
"""How often and after how many seconds a reader looks again for a folder whose replacement is under way."""

_KEPT = 40
"""Characters of a name that its temporary names keep: of 4 bytes each they leave room for what is added."""

_PROBE = 4096
"""Bytes that are written to find out whether there is room."""

_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free disk space, or write to another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you can write to"),
    errno.ENAMETOOLONG: "shorten the name",
}

_NUMBER = re.compile(r"(?:os error|errno) (\d+)")
"""The number of a system error in the message of a library."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_COMPANIONS = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file that it writes, and cannot remove while the disk is full."""

_LONGEST_NAME = 255
"""Bytes of a file name, on the file systems in use."""


@contextmanager
def atomic_path(path: str | Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` to write to; on success it is flushed and takes its place.

    The temporary name keeps the extension, because GDAL chooses its driver by it. On any error
    it is removed and `path` is as before.

    Args:
        flush: wait until the content is on the disk, so that a power cut leaves the old file or the new one.
    """
    path = Path(path)
    temporary = temporary_beside(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if flush:
            _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        for name in (temporary.name, *(temporary.name + companion for companion in _COMPANIONS)):
            with suppress(OSError):
                temporary.with_name(name).unlink()
    if flush:
        flush_folder(path.parent)


@contextmanager
def atomic_paths(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """As `atomic_path` for several files of one folder, of which either all are written or none.

    Only a rename that fails after others have succeeded leaves some of them.
    """
    temporary = [temporary_beside(path, path.suffix) for path in paths]
    folders = {path.parent for path in paths}
    missing = [folder for folder in folders if not folder.exists()]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        yield temporary
        for one in temporary:
            _flush(one)
        for one, path in zip(temporary, paths, strict=True):
            os.replace(one, path)
    except OSError as error:
        raise not_written(paths[0].parent, error) from error
    finally:
        for one in temporary:
            with suppress(OSError):
                one.unlink()
        for folder in missing:
            with suppress(OSError):  # one that holds files stays
                folder.rmdir()
    for folder in folders:
        flush_folder(folder)


def not_written(path: str | Path, error: Exception) -> OutputError:
    """The error that reports a failed write, with a way out where one is known.

    Args:
        path: of the file or folder, as the user knows it.
        error: an OSError, or what a library raised in its place.
    """
    number = _system_error(error)
    return OutputError(f"{path}: cannot be written: {reason_of(error)}", _WAYS_OUT.get(number or 0, ""))


def reason_of(error: Exception) -> str:
    """Why a write failed, in the words of the system where the error has its number."""
    number = _system_error(error)
    return str(error) if number is None else os.strerror(number)


def _system_error(error: Exception) -> int | None:
    """Number of the system error that a library met."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1]) if found else errno.ENOSPC if "is full" in str(error) else None


def write_bytes(path: str | Path, content: bytes) -> None:
    """`content` as the whole of `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """`content` as UTF-8 with unix line ends, atomically."""
    write_bytes(path, content.encode())


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill; on success it takes the place of `path`.

    A folder cannot be replaced in one step, so an existing one is first moved aside, and moved
    back if the new one cannot take its place. A crash between the two steps leaves the old one
    under `.NAME.old`: readers find it there by `complete_folder`, the next writer puts it back.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            # A file with a second name was there before, and may be one that must not be opened for writing.
            if file.is_file() and file.stat().st_nlink == 1:
                _flush(file)
        flush_folder(temporary)
        recover_folder(path)
        if path.exists():
            os.replace(path, aside)
        try:
            os.replace(temporary, path)
        except OSError:
            recover_folder(path)
            raise
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    flush_folder(path.parent)


def complete_folder(path: str | Path) -> Path:
    """Where the folder called `path` can be read; changes nothing, since its writer may be at work.

    That is `path`, or `.NAME.old` when a writer was killed between its two renames. A living one
    needs but a moment between them, which is waited for.
    """
    path = Path(path)
    aside = _aside(path)
    for _ in range(_LOOKS):
        if os.path.exists(path) or not os.path.isdir(aside):  # also false of a name that is too long
            return path
        time.sleep(_PAUSE)
    return aside


def recover_folder(path: str | Path) -> None:
    """Finish or undo an `atomic_folder` that was killed between its two renames; for the folder's only writer."""
    path = Path(path)
    aside = _aside(path)
    if not aside.exists():
        return
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(aside, path)


def refuse_existing(
    path: str | Path, *, overwrite: bool, folder: bool = False, inputs: Sequence[str | Path] = ()
) -> None:
    """Refuse an output before the work for it is done.

    Args:
        path: of a file, or with `folder` of a folder.
        overwrite: it may exist.
        inputs: files and folders that are read for it, which are never replaced.

    Raises:
        OutputError: it has no name or one with control characters, exists and may not be replaced, is an input, lies
            in one that is a folder or holds one, is a folder instead of a file or the reverse, a pipe or a device, or
            could not be written.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise OutputError(f"the output {str(path)!r} has no name", "add one")
    if _CONTROL.search(str(path)):
        # Where it is named in a message, a line break would begin another line.
        raise OutputError(f"the output {str(path)!r} has control characters in its name", "choose another name")
    check_writable(path)
    if path.is_dir() and not folder:
        raise OutputError(f"{path} is a folder", "give a file in it")
    if folder and path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file", "give a folder")
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise OutputError(f"{path} is not a regular file", "give another path")
    if path.exists():
        _refuse_inputs(path, inputs)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} already exists", "pass --overwrite to replace it")


def _refuse_inputs(path: Path, inputs: Sequence[str | Path]) -> None:
    output = path.resolve()
    for given in map(Path, inputs):
        if not given.exists():
            continue
        one = given.resolve()
        if path.samefile(given):
            raise OutputError(f"{path} is the input", "choose another output")
        if one in output.parents:
            raise OutputError(f"{path} is a part of the input {given}", "choose another output")
        if output in one.parents:
            raise OutputError(f"{path} contains the input {given}", "choose another output")


def check_writable(path: str | Path) -> None:
    """Raise OutputError when `path` could not be written, found out by trying; nothing is left behind.

    Folders on the way to it may be missing: the nearest one that is there must let a file be made in it.
    """
    path = Path(path)
    above = next((folder for folder in path.parents if os.path.lexists(folder)), path.parent)
    if above.exists() and not above.is_dir():
        raise OutputError(f"{path}: cannot be written: {above} is not a folder", "choose a path in an existing folder")
    probe = above / temporary_beside(path, path.suffix).name
    try:
        for name in path.relative_to(above).parts:
            with suppress(FileNotFoundError):
                (above / name).lstat()  # fails on a name that is too long
        with probe.open("xb") as file:
            file.write(bytes(_PROBE))  # a name may still find room on a full disk
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def free_bytes(folder: str | Path) -> int:
    """Room on the disk of a folder, which may still be missing."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """A new name in the folder of `path`, for what is to become `path`; not too long where that of `path` is not."""
    return path.with_name(f".{path.stem[:_KEPT]}.{secrets.token_hex(4)}.tmp{suffix}")


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed have left; for its only writer.

    Of a long name nothing is, for its temporary names may be those of another one.
    """
    if len(path.stem) > _KEPT:
        return
    companions = "|".join(_COMPANIONS)
    mark = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}\.tmp({re.escape(path.suffix)}(?:{companions})?)?")
    with suppress(OSError):
        for one in path.parent.iterdir():
            found = mark.fullmatch(one.name)
            if found is None or (found[1] is None and path.suffix != ".shp"):  # only Shapefiles are written in a folder
                continue
            if one.is_dir():
                shutil.rmtree(one, ignore_errors=True)
            else:
                one.unlink()


def open_hidden(path: Path, mode: str) -> IO[bytes]:
    """Open a file of ours in binary mode; a symbolic link in its place, which others may have put there, is refused.

    Raises:
        OutputError: it is a link.
        OSError: it cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    refuse_link(path)
    return cast("IO[bytes]", open(path, mode, opener=opener))


def refuse_link(path: Path) -> None:
    """Raise OutputError for a symbolic link in the place of a file of ours."""
    if path.is_symlink():
        raise OutputError(f"{path}: is a symbolic link", "delete it")


def hidden_beside(path: Path, suffix: str) -> Path:
    """The lasting hidden name of something that belongs to `path`; not too long where that of `path` is not."""
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{path.name[:_KEPT]}.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}{suffix}"
    return path.with_name(name)


def _aside(path: Path) -> Path:
    return hidden_beside(path, ".old")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Bring the names of the files in a folder to the disk."""
    # Windows cannot open a folder; its file system journals renames itself.
    if os.name == "nt":
        return
    # Some file systems (FUSE, network shares) cannot flush a folder; the file is in its place by now.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
