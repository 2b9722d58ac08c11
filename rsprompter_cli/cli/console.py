"""The two streams a person reads: messages, errors and progress on stderr, results on stdout.

Everything for stderr passes through `write_message`, so that a message never lands inside a progress display.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, TextIO

from rsprompter_cli.io.interrupt import deferred_interrupt

if TYPE_CHECKING:
    from rich.console import Console

output_lock = threading.RLock()
"""Held while something is written to the terminal on stderr.

rich decides what to erase before it writes, so a message and a frame of the display made at one time would be glued.
"""

_COMMAND = re.compile(r"[a-z ]+: rsp ")
"""How a line begins that gives a command to type."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of the text behind them."""


class _State:
    """What the options before the command ask for."""

    quiet = False


def set_quiet(quiet: bool) -> None:
    """Keep messages and progress from stderr; errors still go there."""
    _State.quiet = quiet


def is_quiet() -> bool:
    """Whether `-q` was given."""
    return _State.quiet


@cache
def stderr_console() -> Console:
    """The rich console for messages, errors and progress; it follows `sys.stderr` where that is replaced."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def stdout_console() -> Console:
    """The rich console for tables and help; it follows `sys.stdout` where that is replaced."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream, which may be closed or replaced, is a terminal."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def is_animated() -> bool:
    """Whether stderr is a terminal that can move its cursor, and progress is wanted there."""
    return (
        not _State.quiet and is_terminal(sys.stderr) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    )


def without_control(text: str) -> str:
    """Text in which no terminal finds a command: control characters except newline and tab are spelled out."""
    return _CONTROL.sub(_spelled_out, text)


def _spelled_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def write_message(text: str, *, label: str = "", style: str = "") -> None:
    """Write a message to stderr, above the progress display where one is shown.

    Args:
        text: one line or several.
        label: comes first, for instance `"warning:"`.
        style: rich's name of the label's colour, shown where the terminal has colours.
    """
    text = without_control(text)
    if not is_terminal(sys.stderr) or _forked():
        stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        with suppress(OSError, ValueError):  # a stream that is full or closed stops no work
            print(f"{label} {text}" if label else text, file=stream, flush=True)
        return
    from rich.text import Text

    with deferred_interrupt(), output_lock, suppress(OSError, ValueError):
        if label:
            stderr_console().print(Text.assemble((label, style), f" {text}"), overflow="fold")
            return
        for line in text.split("\n"):
            # A command is broken by the terminal alone, so that it can be copied in one piece.
            whole = _COMMAND.match(line) is not None
            stderr_console().print(Text(line), overflow=None if whole else "fold", soft_wrap=whole)


def print_result(text: str = "") -> None:
    """Write text for people, or a path, to stdout.

    In a terminal control characters are spelled out, and long lines are wrapped between words.
    """
    if not is_terminal(sys.stdout):
        print(text, flush=True)
        return
    import textwrap

    width = stdout_console().width
    for line in without_control(text).split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        wrapped = textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            replace_whitespace=False,
            break_long_words=False,  # a path can be copied whole
            break_on_hyphens=False,
        )
        print("\n".join(wrapped), flush=True)


def print_message(text: str) -> None:
    """Write the closing message of a command to stderr, unless `-q` was given."""
    if not _State.quiet:
        write_message(text)


_PID = os.getpid()


def _forked() -> bool:
    """Whether this is a forked child, for which the lock of the parent's console may be held for ever."""
    return os.getpid() != _PID
