"""Starts `rsp` commands as forks of one process, so that PyTorch is loaded once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Ran:
    """A command that has ended.

    exit_code: of the program, negative for a signal. stdout, stderr: what it wrote. writes: those into its folder, as
    "CALL PATH", where they were counted.
    """

    exit_code: int
    stdout: str
    stderr: str
    writes: list[str]


class Server:
    """The forking process; started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    @property
    def answers(self) -> int:
        """File descriptor that becomes readable when the command has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def begin(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str],
        terminal: str | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        encoding: str = "utf-8",
        pause: float = 0.0,
        fails: tuple[int, int] | None = None,
        closed: Sequence[int] = (),
    ) -> int:
        """Begin `rsp ARGUMENTS` in a folder.

        Args:
            environment: all variables.
            terminal: name of the pseudo-terminal of the standard streams; None: they are /dev/null.
            stdout, stderr: files for them instead.
            encoding: of the streams.
            closed: numbers of standard streams that are closed.
            pause: seconds slept after each update of a bar.
            fails: first and last number of the writes into the folder that find the disk full, from 1 on; None: they
                are not counted.

        Returns:
            the process id.
        """
        request = {
            "arguments": list(arguments), "folder": str(folder), "environment": dict(environment), "terminal": terminal,
            "stdout": None if stdout is None else str(stdout), "stderr": None if stderr is None else str(stderr),
            "encoding": encoding, "pause": pause, "fails": fails,
            "closed": list(closed),
        }  # fmt: skip
        process = self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self._read_line())

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end of the command: its exit code and the writes that were counted."""
        writes: list[str] = json.loads(self._read_line())
        return int(self._read_line()), writes

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        stdout: Path | None = None,
        stderr: Path | None = None,
        **more: Any,
    ) -> Ran:
        """Run `rsp ARGUMENTS` in a folder without a terminal.

        Args:
            environment: added to ours.
            stdout, stderr: where they go instead of files that are read.
            more: see `begin`.
        """
        read_out, read_err = stdout is None, stderr is None
        stdout, stderr = stdout or folder.parent / "stdout.txt", stderr or folder.parent / "stderr.txt"
        own = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.begin(arguments, folder, environment=own, stdout=stdout, stderr=stderr, **more)
        code, writes = self.end()
        texts = [
            path.read_text(encoding="utf-8", errors="surrogateescape") if read else ""
            for path, read in ((stdout, read_out), (stderr, read_err))
        ]
        return Ran(code, *texts, writes)

    def _start(self) -> subprocess.Popen[bytes]:
        """The process, with the libraries loaded."""
        if self._process is None:
            environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.make.forking_server"],
                cwd=ROOT, env=environment, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert self._read_line() == "ready"
        return self._process

    def _read_line(self) -> str:
        """A line of what the process answers; byte by byte, so that `select` knows of the next one."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            byte = self._process.stdout.read(1)
            assert byte, f"the forking process ended after {line!r}"
            line += byte
        return line.decode().strip()
