"""The parts of an output: which ranges of windows are done, whoever did them, so that any backend goes on with them.

They lie in a hidden folder beside the output until that is there. Each is a journal named by its first window and
the one after its last, as `0-36`, or `.0-36.journal` where it was stopped before it was whole.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from rsprompter_cli.errors import ChangedInputError, InputError, OutputError, plural
from rsprompter_cli.geo.stitch.instances import Instance
from rsprompter_cli.geo.windows import WindowGrid
from rsprompter_cli.io.atomic import hidden_beside, not_written, reason_of, refuse_link
from rsprompter_cli.io.lock import OutputLock
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.store.journal import (
    count_windows,
    identity_difference,
    intact_windows,
    journal_identity,
    journal_path,
    read_windows,
    refuse_other_file,
)
from rsprompter_cli.predict.store.records import check_instances

_log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that workers of a run that was killed get to bring to the disk what they have."""

_NAME = re.compile(r"\.?(\d{1,15})-(\d{1,15})(\.journal)?")
"""Of a part, whole or begun."""

_FORMER_NAME = re.compile(r"\.?\d+-of-\d+(\.journal)?")
"""Of parts as earlier versions named them."""

_MODEL = ("model", "kind of model")
"""Of a head: what only who has loaded the model can say."""


class StoredPart(NamedTuple):
    """A part on the disk; windows: those that are done in it. head: what run it is of."""

    path: Path
    windows: range
    head: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an output.

    folder: where they lie.
    """

    folder: Path

    def path(self, windows: WindowRange) -> Path:
        """Where the part of some windows goes."""
        return self.folder / str(windows)

    def stored(self) -> list[StoredPart]:
        """The parts that hold windows, by position; none has windows of one before it.

        Raises:
            OutputError: one cannot be read, or the folder is a symbolic link.
        """
        refuse_link(self.folder)
        try:
            names = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
            found = [part for path in names if (part := _stored_part(path)) is not None]
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be read: {reason_of(error)}", "delete it") from error
        apart: list[StoredPart] = []
        for part in sorted(found, key=lambda one: (one.windows.start, -one.windows.stop)):
            if part.windows and (not apart or part.windows.start >= apart[-1].windows.stop):
                apart.append(part)
        return apart

    def windows_done(self) -> int:
        """How many windows are done."""
        return sum(len(part.windows) for part in self.stored())

    def missing(self, total: int) -> list[range]:
        """The stretches of `total` windows that no part holds, in order."""
        ends = [0, *(end for part in self.stored() for end in (part.windows.start, part.windows.stop)), total]
        stretches = [range(first, stop) for first, stop in zip(ends[::2], ends[1::2], strict=True)]
        return [stretch for stretch in stretches if stretch]

    def read(
        self, windows: range, grid: WindowGrid, *, classes: int, rated: bool | None = None
    ) -> Iterator[tuple[Sequence[Instance], int]]:
        """The instances of the parts that begin in some windows, record by record.

        Args:
            classes: of the model.
            rated: whether it rates its masks; None: it may.

        Yields:
            Instances, and the position after the last window that they are of.

        Raises:
            OutputError: one is damaged.
        """
        for part in self.stored():
            if part.windows.start not in windows:
                continue
            place = part.windows.start
            try:
                for done, instances in read_windows(part.path, stop=len(part.windows)):
                    following = part.windows.start + done
                    if not place <= following <= min(part.windows.stop, len(grid)):
                        raise ValueError("a record is of other windows than those that follow")
                    check_instances(instances, range(place, following), grid, classes, rated=rated)
                    yield instances, following
                    place = following
            except (ValueError, InputError) as error:
                reason = error.message if isinstance(error, InputError) else f"{part.path}: damaged: {error}"
                raise OutputError(reason, "delete it to start over") from error

    def remove(self) -> None:
        """The output is there: forget all."""
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                path.unlink()
            self.folder.rmdir()


def _stored_part(path: Path) -> StoredPart | None:
    """What a file of the folder holds; None where it is no part.

    Raises:
        OSError: it cannot be read.
    """
    name = _NAME.fullmatch(path.name)
    if name is None or path.is_symlink() or not path.is_file():
        return None
    head = journal_identity(path)
    if head is None:
        return None
    first, stop = int(name[1]), int(name[2])
    done = min(count_windows(path) if name[3] is None else intact_windows(path), stop - first)
    return StoredPart(path, range(first, first + done), head)


def parts_of(out: Path) -> Parts:
    """The parts that an output has, or will have."""
    return Parts(hidden_beside(out, ".shards"))


def split_ranges(missing: Sequence[range], pieces: int) -> list[WindowRange]:
    """About so many ranges of nearly one length that cover some stretches of windows, in order."""
    total = sum(map(len, missing))
    found = []
    for stretch in missing:
        count = max(1, min(len(stretch), round(pieces * len(stretch) / total)))
        ends = [stretch.start + len(stretch) * number // count for number in range(count + 1)]
        found += [WindowRange(first, stop) for first, stop in pairwise(ends)]
    return found


@contextmanager
def open_parts(out: Path, identity: Mapping[str, Any], *, overwrite: bool, address: bool) -> Iterator[Parts]:
    """The parts of an output, which no other run works on meanwhile.

    After a fault or an interruption they stay if they hold windows, and a message tells how to resume. Those of a
    damaged file go, because the run would fail again at the same place.

    Args:
        out: the output.
        identity: of the run, as JSON values; without a model, that of the parts is taken.
        overwrite: parts of another run may be given up.
        address: the scene lies behind an address, which may answer again later.

    Raises:
        OutputError: another run is at work on this output, or left something and `overwrite` is not set.
    """
    lock, parts = OutputLock(out, shown=out), parts_of(out)
    folder = parts.folder
    try:
        refuse_link(folder)
        _refuse_former(out, folder, overwrite=overwrite)
        _wait_for_workers(folder, out)
        _compare(parts, identity, out, overwrite=overwrite)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise not_written(out, error) from error
        try:
            yield parts
        except BaseException as error:
            damaged = isinstance(error, InputError) and not isinstance(error, ChangedInputError) and not address
            done = 0 if damaged else parts.windows_done()
            if not done:
                parts.remove()
            else:
                text = "%s keeps the %s done so far: run the same command again to resume"
                _log.info(text, folder, plural(done, "window"))
            raise
        parts.remove()
    finally:
        with suppress(OSError):
            folder.rmdir()  # when there is nothing in it
        lock.release()


def model_of(parts: Parts) -> dict[str, Any] | None:
    """What the parts say of the model that made them; None where there are none.

    Raises:
        OutputError: they were made by several.
    """
    found = [{name: part.head.get(name) for name in _MODEL} for part in parts.stored()]
    if any(one != found[0] for one in found):
        raise OutputError(f"{parts.folder}: the parts were made by different models", "delete it to start over")
    return found[0] if found else None


def rates_masks(parts: Parts) -> bool:
    """Whether the model that made the parts rates its masks.

    Raises:
        OutputError: they do not say it.
    """
    first = parts.stored()[0]
    scene = first.head.get("scene")
    found = scene.get("quality") if isinstance(scene, dict) else None
    if not isinstance(found, bool):
        raise OutputError(f"{first.path}: damaged header", "delete it to start over")
    return found


def _refuse_former(out: Path, folder: Path, *, overwrite: bool) -> None:
    """See to what a run of an earlier version has left."""
    journal = journal_path(out)
    refuse_other_file(out)
    left = [journal] if journal.is_file() else []
    if folder.is_dir() and any(_FORMER_NAME.fullmatch(path.name) for path in folder.iterdir()):
        left.append(folder)
    for path in left:
        if not overwrite:
            raise OutputError(
                f"{path} was left by an earlier version of rsp, which this one cannot resume",
                "delete it, or pass --overwrite to start over",
            )
        _log.warning("%s was left by an earlier version of rsp: starting over", path)
        if path == folder:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _wait_for_workers(folder: Path, out: Path) -> None:
    """Workers whose run was killed end by themselves, but not before the window that they are at."""
    for path in folder.glob(".*.lock"):
        try:
            with FileLock(path, timeout=PATIENCE):
                pass
        except Timeout as error:
            raise OutputError(
                f"{out}: workers of an earlier run are still writing it", "wait until they have exited"
            ) from error


def _compare(parts: Parts, identity: Mapping[str, Any], out: Path, *, overwrite: bool) -> None:
    """Look what an earlier run has left: go on with it, refuse it or give it up."""
    wanted = json.loads(json.dumps(identity))
    stored = parts.stored()
    for part in stored:
        settings = {name: value for name, value in part.head["settings"].items() if name != "shard"}
        known = {**{name: part.head.get(name) for name in wanted}, "settings": settings}
        if known == wanted:
            continue
        reason = f"belongs to a run with {identity_difference(known, wanted)}"
        if not overwrite:
            way_out = "resume with the command that started it, or pass --overwrite to start over"
            raise OutputError(f"{parts.folder} {reason}", way_out)
        _log.warning("%s %s: starting over", parts.folder, reason)
        parts.remove()
        return
    if stored:
        _log.info("%s: resuming after %s", out, plural(sum(len(part.windows) for part in stored), "window"))
    else:
        parts.remove()  # what was begun when the power went
