"""What all converters promise of their outputs: the same input gives the same bytes, nothing is replaced unasked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rsprompter_cli.documents import read_large_json
from rsprompter_cli.errors import InputError, OutputError
from rsprompter_cli.geo.vector.tables import put_in_place, written_files
from rsprompter_cli.io.atomic import (
    atomic_folder,
    check_writable,
    not_written,
    refuse_existing,
    temporary_beside,
    write_bytes,
)

Outcome = Literal["written", "unchanged"]

DERIVED = "labels/*.cache"
"""What training leaves in a YOLO set: an index of its labels, made anew where it is missing."""

_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """A COCO document as compact JSON: one line per image and annotation, so that diffs can be read.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            body = "[\n" + ",\n".join(_COMPACT.encode(item) for item in value) + "\n]"
        else:
            body = _COMPACT.encode(value)
        parts.append(f"{_COMPACT.encode(key)}: {body}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def write_files(files: Mapping[Path, bytes], *, overwrite: bool) -> Outcome:
    """Write some files, all or none of them refused.

    Files that already hold these bytes are left alone.

    Raises:
        OutputError: one exists with other content and `overwrite` is not given; none is written then.
    """
    pending = {path: content for path, content in files.items() if not _holds(path, content)}
    taken = [path for path in pending if path.exists()]
    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise OutputError(
            f"{taken[0]}{more} already {'exists' if len(taken) == 1 else 'exist'} with other content",
            "pass --overwrite to replace it, or choose another --out",
        )
    for path, content in pending.items():
        write_bytes(path, content)
    return "written" if pending else "unchanged"


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def write_by_path(out: Path, write: Callable[[Path], int], *, overwrite: bool) -> tuple[int, Outcome]:
    """Let `write` make a file (and its companions, as a Shapefile has) and put it in its place.

    Args:
        write: gets a path of the same file name in an empty folder; returns what is counted.

    Raises:
        OutputError: `out` or a companion exists with other content and `overwrite` is not given, or
            it cannot be written.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder", "choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, so that the last step is a rename.
        with tempfile.TemporaryDirectory(prefix=f"{temporary_beside(out).name}.", dir=out.parent) as folder:
            count = write(Path(folder) / out.name)
            made = sorted(Path(folder).iterdir())
            if all(_holds(out.parent / file.name, file.read_bytes()) for file in made):
                return count, "unchanged"
            for path in written_files(out):
                refuse_existing(path, overwrite=overwrite)
            put_in_place(Path(folder), out)
    except OSError as error:
        raise not_written(out, error) from error
    return count, "written"


class Filling:
    """A folder being filled, and afterwards what became of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcome: Outcome = "written"


@contextmanager
def fill_folder(out: Path, *, overwrite: bool) -> Iterator[Filling]:
    """A new folder to fill with a set; it takes the place of `out` when whole.

    When `out` holds the same bytes already it stays as it is and the outcome is "unchanged".

    Raises:
        OutputError: `out` holds another set and `overwrite` is not given.
    """
    filling = None
    try:
        with atomic_folder(out) as folder:
            filling = Filling(folder)
            yield filling
            if _same_files(folder, out):
                raise _UnchangedError
            if out.exists() and any(out.iterdir()) and not overwrite:
                raise OutputError(f"{out} already exists with other content", "pass --overwrite to replace it")
    except _UnchangedError:
        if filling is not None:
            filling.outcome = "unchanged"


def check_owned(out: Path) -> None:
    """Raise OutputError when a folder holds anything but a set that `fill_folder` wrote.

    Replacing it would delete files that are not ours. Also raised when it could not be written.
    """
    check_writable(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} is a file", "choose another --out")
    ours = {Path("images"), Path("annotations")}
    for path in sorted((out / "annotations").glob("instances_*.json")):
        ours.add(path.relative_to(out))
        for name in _image_names(path):
            picture = Path("images") / name
            ours.update([picture, *picture.parents])
    foreign = sorted(path.relative_to(out) for path in out.rglob("*") if path.relative_to(out) not in ours)
    if foreign:
        raise OutputError(f"{out} contains {foreign[0]}, which does not belong to a COCO set", "choose another --out")


def check_parts(out: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputError when a set would be written into a folder that is read for it, or would hold one.

    The next run would read what this one wrote, or find its input replaced.
    """
    output = out.resolve()
    for given in inputs:
        one = given.resolve()
        if output == one or one in output.parents:
            raise OutputError(f"{out} is inside the input {given}", "choose another --out")
        if output in one.parents:
            raise OutputError(f"{out} contains the input {given}", "choose another --out")


class _UnchangedError(Exception):
    """Leaves `atomic_folder` without replacing anything."""


def _image_names(path: Path) -> list[str]:
    try:
        return [str(image["file_name"]) for image in read_large_json(path)["images"]]
    except (InputError, TypeError, KeyError) as error:
        raise OutputError(f"{path}: is not a set that can be replaced: {error}", "choose another --out") from error


def _same_files(new: Path, old: Path) -> bool:
    if not old.is_dir():
        return False
    mine = {path.relative_to(new): path for path in new.rglob("*") if path.is_file()}
    derived = set(old.glob(DERIVED))
    theirs = {path.relative_to(old): path for path in old.rglob("*") if path.is_file() and path not in derived}
    return mine.keys() == theirs.keys() and all(_holds(theirs[name], path.read_bytes()) for name, path in mine.items())
