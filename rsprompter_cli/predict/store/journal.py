"""What a run has found so far, kept beside its output, so that a run that was killed goes on where it was.

The journal holds the instances of every window that is done, as the model gave them; joining them again is
cheap. It is one file that only grows: a line that says what run it is of, then records, each with its length
and a checksum. A record that was being written when the power went is cut off and its windows are done again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rsprompter_cli.documents import json_or_none
from rsprompter_cli.errors import ChangedInputError, InputError, OutputError, plural, shorten
from rsprompter_cli.geo.stitch.instances import Instance
from rsprompter_cli.io.atomic import flush_folder, hidden_beside, not_written, open_hidden
from rsprompter_cli.io.lock import OutputLock
from rsprompter_cli.predict.store.records import pack_instances, unpack_instances

_log = logging.getLogger(__name__)

_MAGIC = b"rsp journal 1\n"
_RECORD = struct.Struct("<QQI")
"""Bytes of the content, windows done with it, checksum of both and of the content."""

_LONGEST_LINE = 64 << 20
"""Bytes of the line that says what run a journal is of; an area of interest has most of them."""

_FLUSH_SECONDS = 1.0
"""A window that took longer than this is on the disk before the next one is."""


class Journal:
    """The journal of one run; use it as a context manager.

    windows_done: of the row-major order, those that need no model any more.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, overwrite: bool, alone: bool = False) -> None:
        """Find the journal of an earlier run, if there is one.

        Args:
            out: the output it is kept beside.
            identity: JSON values that tell the run from any other one, by what they are of: "input", "model", ...
            overwrite: a journal of another run may be given up.
            alone: it is all that the run keeps: messages tell how to resume, and it goes if the input is damaged.

        Raises:
            OutputError: another run is at work on this output, or left a journal and `overwrite` is not set.
        """
        self.path = journal_path(out)
        self.windows_done = 0
        self._out, self._alone = out, alone
        self._identity = json.loads(json.dumps(identity))
        self._waiting: list[bytes] = []
        self._flushed = time.monotonic()
        self._file: IO[bytes] | None = None
        self._holds_windows = False
        self._lock = OutputLock(out, shown=out)
        try:
            self._end = self._find(overwrite=overwrite)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an interruption or a fault, bring what is known to the disk and say where it is.

        A run that failed before it had anything worth keeping leaves nothing, nor does one whose input is
        damaged: it would fail again at the same place.
        """
        try:
            refused = isinstance(error, InputError) and not isinstance(error, ChangedInputError)
            if self._alone and refused and "address" not in self._identity["input"]:
                self.remove()
            if error is not None and (self._file is not None or kind in (KeyboardInterrupt, ChangedInputError)):
                self.flush()
            if self._alone and error is not None and self.windows_done and self.path.exists():
                text = "%s keeps the %s done so far: run the same command again to resume"
                _log.info(text, self.path, plural(self.windows_done, "window"))
        finally:
            if self._file is not None:
                with suppress(OSError):  # of a full disk: what it could not hold is done again
                    self._file.close()
            self._lock.release()

    def add(self, instances: Sequence[Instance], *, windows_done: int) -> None:
        """Note what the next windows hold.

        Args:
            instances: theirs.
            windows_done: windows of the row-major order that are done with them.

        Raises:
            OutputError: it cannot be written.
        """
        content = pack_instances(instances)
        self._waiting.append(_record(content, windows_done) + content)
        self.windows_done = windows_done
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring all that was added to the disk."""
        if not self._waiting:
            return
        try:
            new = self._file is None
            if self._file is None:
                self._file = self._open()
            self._file.write(b"".join(self._waiting))
            self._file.flush()
            os.fsync(self._file.fileno())
            if new:
                flush_folder(self.path.parent)
        except OSError as error:
            if self._end == 0 and not self._holds_windows:
                self._forget()  # a file that holds nothing
            raise not_written(self.path, error) from error
        self._waiting = []
        self._holds_windows = True
        self._flushed = time.monotonic()

    def complete(self) -> None:
        """All windows are done: the journal itself becomes the output, in one step.

        Raises:
            OutputError: it cannot be written.
        """
        self._waiting = self._waiting or [b""]  # of no windows there is a journal too
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
        try:
            os.replace(self.path, self._out)
        except OSError as error:
            raise not_written(self._out, error) from error
        flush_folder(self._out.parent)

    def remove(self) -> None:
        """The output is complete: forget all."""
        self._waiting = []
        self._forget()

    def _forget(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk, which cannot take what is not needed any more
                self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)

    def _find(self, *, overwrite: bool) -> int:
        """Look for the journal of an earlier run; returns where its good records end, 0 when there is none."""
        try:
            file = open_hidden(self.path, "rb")
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read: {error.strerror or error}", "delete it") from error
        with file:
            found = _read_identity(file)
            if found != self._identity:
                if found is None and _is_torn(file):
                    return 0
                if found is None:
                    raise OutputError(f"{self.path} exists and is not a journal of rsp", "move or delete it")
                reason = f"belongs to a run with {identity_difference(found, self._identity)}"
                if not overwrite:
                    way_out = "resume with the command that started it, or pass --overwrite to start over"
                    raise OutputError(f"{self.path} {reason}", way_out)
                _log.warning("%s %s: starting over", self.path, reason)
                return 0
            end = file.tell()
            while (record := _read_record(file)) is not None:
                self.windows_done, _ = record
                end = file.tell()
        if self._alone and self.windows_done:
            _log.info("%s: resuming after %s", self._out, plural(self.windows_done, "window"))
        return end

    def _open(self) -> IO[bytes]:
        """The file to append to, cut off after the last good record."""
        file = open_hidden(self.path, "r+b" if self._end else "wb")
        if self._end:
            file.truncate(self._end)
            file.seek(self._end)
        else:
            file.write(_MAGIC + json.dumps(self._identity, sort_keys=True).encode() + b"\n")
        return file


def journal_path(out: Path) -> Path:
    """Where the journal of an output lies."""
    return hidden_beside(out, ".journal")


def journal_identity(path: Path) -> dict[str, Any] | None:
    """What run a journal, or a finished one, is of; None when it is no journal.

    Raises:
        OSError: it cannot be read.
    """
    with _open_regular(path) as file:
        return _read_identity(file)


def _open_regular(path: Path) -> IO[bytes]:
    """Raises OSError: it cannot be read, or is a pipe or device, which may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.open("rb")


def refuse_other_file(out: Path) -> None:
    """Refuse an output in the place of whose journal lies something else.

    Raises:
        OutputError: it cannot be read or is no journal.
    """
    path = journal_path(out)
    try:
        with open_hidden(path, "rb") as file:
            if _read_identity(file) is None and not _is_torn(file):
                raise OutputError(f"{path} exists and is not a journal of rsp", "move or delete it")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}", "delete it") from error


def count_windows(path: Path) -> int:
    """How many windows a journal holds, by the heads of its records; what a record says is not read."""
    done = 0
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _read_identity(file)
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            length, windows_done, _ = _RECORD.unpack(head)
            # Zeros after the last record, of any number, are none.
            if length > size - file.tell() or (not length and _record(b"", windows_done) != head):
                break
            file.seek(length, os.SEEK_CUR)
            done = windows_done
    return done


def intact_windows(path: Path) -> int:
    """How many windows a journal holds that may end in a torn or damaged record; all records are read."""
    done = 0
    with _open_regular(path) as file:
        if _read_identity(file) is None:
            return 0
        while (record := _read_record(file)) is not None:
            done, _ = record
    return done


def read_windows(path: Path, *, stop: int | None = None) -> Iterator[tuple[int, list[Instance]]]:
    """The instances of a journal as they were added, each time with the windows done with them.

    Args:
        stop: windows of it to read; None: all, of a finished one.

    Raises:
        InputError: it is damaged.
    """
    with _open_regular(path) as file:
        _read_identity(file)
        end, done = os.fstat(file.fileno()).st_size, 0
        while file.tell() < end if stop is None else done < stop:
            record = _read_record(file)
            if record is None:
                raise InputError(f"{path}: damaged at byte {file.tell()}", "delete it and predict its shard again")
            try:
                instances = unpack_instances(record[1])
            except ValueError as error:
                raise InputError(f"{path}: damaged: {error}", "delete it and predict its shard again") from error
            done = record[0]
            yield done, instances


def _read_identity(file: IO[bytes]) -> dict[str, Any] | None:
    """What run a journal is of, the file then standing at its first record; None when it is no journal."""
    if file.read(len(_MAGIC)) != _MAGIC:
        return None
    line = file.readline(_LONGEST_LINE)
    found = json_or_none(line) if line.endswith(b"\n") else None
    # Who reads it asks for what it is of: a table each.
    if not isinstance(found, dict):
        return None
    return found if all(isinstance(found.get(part), dict) for part in ("input", "settings")) else None


def _is_torn(file: IO[bytes]) -> bool:
    """Whether a file may be a journal whose first line was being written when the process was killed."""
    file.seek(0)
    start = file.read(len(_MAGIC) + _LONGEST_LINE)
    return start.startswith(_MAGIC[: len(start)]) and b"\n" not in start[len(_MAGIC) :]


def _record(content: bytes, windows_done: int) -> bytes:
    check = zlib.crc32(content, zlib.crc32(struct.pack("<QQ", len(content), windows_done)))
    return _RECORD.pack(len(content), windows_done, check)


def _read_record(file: IO[bytes]) -> tuple[int, bytes] | None:
    """Windows done and content of the next record; None where no whole and undamaged one follows."""
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    size, windows_done, _ = _RECORD.unpack(head)
    left = os.fstat(file.fileno()).st_size - file.tell()
    content = file.read(size) if size <= left else b""
    return (windows_done, content) if _record(content, windows_done) == head else None


def identity_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What another run had that this one has not, in words."""
    words = []
    for name in sorted(found.keys() | wanted.keys()):
        theirs, ours = found.get(name), wanted.get(name)
        if theirs == ours:
            continue
        if not isinstance(theirs, dict) or not isinstance(ours, dict):
            words.append(_KINDS.get(name, "a different {}").format(name, theirs, ours))
            continue
        keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
        if name == "input" and set(keys) <= {"size", "place"}:
            words.append("the scene at another resolution or with other bounds")
        elif name == "settings":
            words += [
                f"{key} {_short(theirs.get(key))} instead of {_short(ours.get(key))}"
                for key in keys
                if key != "extent" or found.get("input") == wanted.get("input")  # it follows from the resolution
            ]
        else:
            words.append(f"a different {name}")
    return ", ".join(words)


_KINDS = {"kind of model": "a {1} model instead of a {2} one"}


def _short(value: Any) -> str:
    return shorten(json.dumps(value), 60)
