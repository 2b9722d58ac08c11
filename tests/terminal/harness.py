"""`rsp` on a pseudo-terminal: what a person sees of it, frame by frame, and what is left when it has ended."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyte

from tests.make.forking import ROOT, Server

SIZES = ((80, 24), (120, 40))
"""Columns and rows."""

BAR = re.compile(r"[╸╺⠀-⣿]|\belapsed\b|^[^┏┡┗└┌]*━")
"""What only a progress display draws."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Moment = float | Callable[["Terminal"], bool]
"""Seconds since the start, or what must be seen."""


class Terminal:
    """A terminal emulator that keeps what scrolls off its top, and each picture of its screen.

    Args:
        columns, rows: of the screen.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns = columns
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.frames: list[tuple[float, list[str]]] = []
        self.raw = b""
        self._began = time.monotonic()

    def feed(self, data: bytes) -> None:
        """Show what a program wrote."""
        self.raw += data
        self._stream.feed(data)
        self.frames.append((time.monotonic() - self._began, self.shown()))

    def shown(self) -> list[str]:
        """The lines of the screen down to the last that is not empty."""
        return _trimmed([line.rstrip() for line in self.screen.display])

    def lines(self) -> list[str]:
        """All lines since the start, those that scrolled away too."""
        above = ["".join(row[x].data for x in range(self.columns)).rstrip() for row in self.screen.history.top]
        return _trimmed([*above, *(line.rstrip() for line in self.screen.display)])

    def text(self) -> str:
        """All lines, wrapped ones put together again."""
        found = ""
        for line in self.lines():
            found += line if len(line) >= self.columns else line + "\n"
        return found

    def has_shown(self, pattern: re.Pattern[str]) -> bool:
        """Whether something was on the screen at any time, however short."""
        written = self.raw.decode("utf-8", "replace")
        return any(pattern.search(_ESCAPES.sub("", line)) for line in re.split(r"[\r\n]", written))

    def says(self, message: str) -> bool:
        """Whether a message stands somewhere, whole, however the terminal wrapped it."""
        return "".join(message.split()) in "".join("".join(self.lines()).split())

    @property
    def leftovers(self) -> list[str]:
        """Lines in which something of a progress display was left."""
        return [line for line in self.lines() if BAR.search(line)]


def _trimmed(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    return lines


@dataclass
class Ended:
    """A command that has ended.

    exit_code: of the program. terminal: with what it left. output: what went to stdout where that was a file.
    seconds: it took. first_sign: seconds until it showed anything.
    """

    exit_code: int
    terminal: Terminal
    output: str
    seconds: float
    first_sign: float = field(default=float("inf"))

    def check(self, *, code: int, messages: Sequence[str] = (), last: str | None = None) -> Ended:
        """Assert what holds for every command: its exit code, no traceback, nothing left of a bar, a visible cursor."""
        terminal, everything = self.terminal, self.terminal.text()
        assert self.exit_code == code, everything
        assert "Traceback" not in everything
        assert "internal error" not in everything
        assert terminal.leftovers == [], f"{terminal.leftovers}\n{everything}\n{terminal.raw!r}"
        assert not terminal.screen.cursor.hidden
        lines = terminal.lines()
        # What a terminal shows of a Ctrl-C that came when all was done is not the program's.
        echoed = bool(lines) and lines[-1].endswith("^C")
        assert echoed or terminal.screen.cursor.x == 0, "the prompt would come behind the last line"
        for message in messages:
            assert terminal.says(message), (message, everything)
        if last is not None:
            assert "".join(last.split()) in "".join("".join(terminal.lines()[-3:]).split()), everything
        return self


class TerminalServer(Server):
    """Forks commands that have a pseudo-terminal."""

    def run_in_terminal(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        size: tuple[int, int] = SIZES[0],
        environment: Mapping[str, str | None] | None = None,
        encoding: str = "utf-8",
        stdout: Path | None = None,
        pause: float = 0.0,
        ctrl_c: Sequence[Moment] = (),
        limit: float = 60.0,
    ) -> Ended:
        """Run `rsp ARGUMENTS` in a folder.

        Args:
            environment: variables that differ from ours; None takes one away.
            encoding: of the terminal.
            stdout: a file for stdout; None: the terminal.
            pause: seconds slept after each update of a bar.
            ctrl_c: when Ctrl-C is pressed.
        """
        master, slave = _open_terminal(size)
        began = time.monotonic()
        child = self.begin(
            arguments, folder, environment=_environment(size, environment or {}), terminal=os.ttyname(slave),
            stdout=stdout, encoding=encoding, pause=pause,
        )  # fmt: skip
        terminal = Terminal(*size)

        def has_ended() -> bool:
            return bool(select.select([self.answers], [], [], 0)[0])

        in_time = _watch(master, terminal, ctrl_c, child, has_ended, limit)
        code, _ = self.end()
        seconds = time.monotonic() - began
        _drain(master, terminal)
        os.close(slave)
        os.close(master)
        assert in_time, f"still at work after {limit} s:\n{terminal.text()}"
        return Ended(code, terminal, stdout.read_text() if stdout is not None else "", seconds)


def run_program(
    arguments: Sequence[str], folder: Path, *, size: tuple[int, int] = SIZES[0], ctrl_c: Sequence[Moment] = (),
    limit: float = 120.0,
) -> Ended:  # fmt: skip
    """Run `rsp ARGUMENTS` as a program of its own, from its start."""
    master, slave = _open_terminal(size)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "rsprompter_cli", *arguments],
        cwd=folder, env=_environment(size, {"PYTHONPATH": str(ROOT)}), stdin=slave, stdout=slave, stderr=slave,
        preexec_fn=own_terminal,
    )  # fmt: skip
    terminal = Terminal(*size)
    in_time = _watch(master, terminal, ctrl_c, process.pid, lambda: process.poll() is not None, limit)
    code = process.wait()
    seconds = time.monotonic() - began
    _drain(master, terminal)
    os.close(slave)
    os.close(master)
    assert in_time, f"still at work after {limit} s:\n{terminal.text()}"
    first = next((at for at, lines in terminal.frames if lines), float("inf"))
    return Ended(code, terminal, "", seconds, first)


def _open_terminal(size: tuple[int, int]) -> tuple[int, int]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    # At Ctrl-C the kernel drops what the terminal has not read yet; a busy machine would lose what erases the display.
    attributes = termios.tcgetattr(slave)
    attributes[3] |= termios.NOFLSH
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    return master, slave


def _environment(size: tuple[int, int], changes: Mapping[str, str | None]) -> dict[str, str]:
    own = {
        **os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "COLUMNS": str(size[0]), "LINES": str(size[1]),
    }  # fmt: skip
    for name in ("NO_COLOR", "FORCE_COLOR", "RSP_DEBUG", "RANK", "WORLD_SIZE", "COLUMNS", "LINES", "CI"):
        own.pop(name, None)
    wanted: dict[str, Any] = {**own, **changes}
    return {name: value for name, value in wanted.items() if value is not None}


def _watch(
    master: int, terminal: Terminal, ctrl_c: Sequence[Moment], child: int, has_ended: Callable[[], bool], limit: float
) -> bool:
    """Show what comes until the program has ended; False where it had to be killed at the limit."""
    began, moments = time.monotonic(), list(ctrl_c)
    while not has_ended():
        ready, _, _ = select.select([master], [], [], 0.02)
        if ready:
            terminal.feed(os.read(master, 65536))
        elapsed = time.monotonic() - began
        if moments and (elapsed >= moments[0] if isinstance(moments[0], int | float) else moments[0](terminal)):
            moments.pop(0)
            os.write(master, b"\x03")
        if elapsed > limit:
            os.kill(child, 9)
            return False
    return True


def _drain(master: int, terminal: Terminal) -> None:
    while select.select([master], [], [], 0.05)[0]:
        try:
            data = os.read(master, 65536)
        except OSError:
            return
        if not data:
            return
        terminal.feed(data)
