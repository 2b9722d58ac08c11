"""Which scenes of a run are done, kept on the disk, so that the same command goes on after the last of them.

A text of one JSON value a line, which only grows: what run it is of, then a line when a scene begins and one when its
output is there. What is being written when the power goes is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rsprompter_cli.documents import json_or_none
from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import flush_folder, not_written, open_hidden
from rsprompter_cli.io.lock import OutputLock
from rsprompter_cli.predict.store.journal import identity_difference

_KIND = "rsp scenes 1"

_LONGEST_LINE = 64 << 20

WHOLE = ""
"""Stands for the merged file of all scenes; no scene is called so."""


class Manifest:
    """The scenes of one run; use it as a context manager.

    ended: the earlier run that it is of came to its end, and no scene failed.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, overwrite: bool, shown: str | Path) -> None:
        """Find the manifest of an earlier run, if there is one, and lock it.

        Args:
            path: where it lies.
            identity: JSON values that tell the run from any other one.
            overwrite: that of another run that was stopped may be given up, and one that ended begins anew.
            shown: the output, for messages.

        Raises:
            OutputError: another run is at work on it, or was stopped and `overwrite` is not set.
        """
        self.path, self.ended = path, False
        self._identity = json.loads(json.dumps(identity))
        self._done: dict[str, dict[str, Any]] = {}
        self._begun: dict[str, str] = {}  # names of outputs by scene
        self._file: IO[bytes] | None = None
        self._lock = OutputLock(path, shown=shown)
        try:
            self._end = self._find(overwrite=overwrite, shown=shown)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close and unlock it; it stays where it is."""
        if self._file is not None:
            with suppress(OSError):  # a full disk: what it could not take was reported when it was written
                self._file.close()
            self._file = None
        self._lock.release()

    def owns(self, scene: str, out: Path) -> bool:
        """Whether what lies in the place of an output was made by this run, and not changed since.

        Args:
            scene: it is of, or `WHOLE`.
            out: its place.
        """
        if self._begun.get(scene) != out.name:
            return False
        done = self._done.get(scene)
        return done is None or _state(out) in (None, done["file"])

    def kept(self, scene: str, out: Path, facts: Callable[[], Mapping[str, Any] | None]) -> dict[str, Any] | None:
        """What `finish` was told of a scene whose output is still there as it was made; None to make it again.

        Args:
            out: its output.
            facts: gives those of its file, as it is now; only asked where they decide.
        """
        done = self._done.get(scene)
        if done is None or done["out"] != out.name or done["file"] != _state(out):
            return None
        found: dict[str, Any] = done["result"]
        return found if done["facts"] == json.loads(json.dumps(facts())) else None

    def begin(self, scene: str, out: Path) -> None:
        """The output of a scene, or of `WHOLE`, is next, and its place is free or may be taken."""
        if scene in self._done or self._begun.get(scene) != out.name:
            line = {"begin": scene, "out": out.name}
            self._take(line)
            self._write(line)

    def finish(self, scene: str, out: Path, facts: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """The output of a scene is there; `result` is what `kept` then gives."""
        file = _state(out)
        self._write({"done": scene, "out": out.name, "facts": facts, "file": file, "result": result})

    def end(self) -> None:
        """All scenes are done."""
        self._write({"end": True})

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            new = self._file is None
            if self._file is None:
                self._file = open_hidden(self.path, "r+b" if self._end else "wb")
                self._file.truncate(self._end)
                self._file.seek(self._end)
                if not self._end:
                    self._file.write(json.dumps({"kind": _KIND, "run": self._identity}).encode() + b"\n")
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            if new:
                flush_folder(self.path.parent)
        except OSError as error:
            raise not_written(self.path, error) from error

    def _find(self, *, overwrite: bool, shown: str | Path) -> int:
        """Read that of an earlier run; returns where its good lines end, 0 to start anew."""
        try:
            with open_hidden(self.path, "rb") as file:
                first = _line(file)
                if first is None and _is_torn(file):
                    return 0
                if first is None or first.get("kind") != _KIND or not isinstance(first.get("run"), dict):
                    raise OutputError(f"{self.path} exists and is not a record of rsp", "move or delete it")
                end = file.tell()
                while (line := _line(file)) is not None:
                    end = file.tell()
                    self._take(line)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read: {error.strerror or error}", "delete it") from error
        if first["run"] != self._identity and not self.ended and not overwrite:
            raise OutputError(
                f"{shown} was started by a run with {identity_difference(first['run'], self._identity)}",
                "resume with the command that started it, name another output, or pass --overwrite to start over",
            )
        if first["run"] != self._identity or (self.ended and overwrite):
            self._done, self._begun, self.ended = {}, {}, False
            return 0
        return end

    def _take(self, line: Mapping[str, Any]) -> None:
        self.ended = "end" in line
        if "begin" in line:
            self._begun[line["begin"]] = line.get("out", "")
            self._done.pop(line["begin"], None)
        elif "done" in line:
            self._done[line["done"]] = dict(line)


def _state(path: Path) -> list[int] | None:
    """What tells a file from what it was before; None where there is none."""
    try:
        there = path.stat()
    except OSError:
        return None
    return [there.st_size, there.st_mtime_ns]


def _is_torn(file: IO[bytes]) -> bool:
    """Whether a file may be a manifest whose first line was being written when the process was killed."""
    file.seek(0)
    head = json.dumps({"kind": _KIND})[:-1].encode()
    start = file.read(len(head))
    return head.startswith(start)


def _line(file: IO[bytes]) -> dict[str, Any] | None:
    """The next whole line; None where none follows."""
    text = file.readline(_LONGEST_LINE)
    value = json_or_none(text) if text.endswith(b"\n") else None
    return value if isinstance(value, dict) and _is_line(value) else None


def _is_line(value: Mapping[str, Any]) -> bool:
    """Whether a table has what a manifest's lines have; it is cut off after the last that has."""
    if "begin" in value:
        return isinstance(value["begin"], str) and isinstance(value.get("out", ""), str)
    if "done" in value:
        known = {"facts", "file", "result"} <= value.keys() and isinstance(value["result"], dict)
        return known and isinstance(value["done"], str) and isinstance(value.get("out"), str)
    return True
