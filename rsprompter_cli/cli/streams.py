"""The standard streams of the program, in whatever state they are handed over."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from rsprompter_cli.cli.console import is_terminal
from rsprompter_cli.cli.output import print_error
from rsprompter_cli.errors import OutputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a write for which there is no room."""


def run_again_in_utf8(arguments: Sequence[str]) -> None:
    """Replace this process by the same command in Python's UTF-8 mode where the locale has another encoding.

    GDAL takes names in UTF-8 only, so under LC_ALL=C a file named in Cyrillic could not be opened. What is printed
    keeps the encoding of the locale.

    Args:
        arguments: of Python, without the program itself, as in `sys.orig_argv[1:]`.
    """
    encoding = sys.getfilesystemencoding().lower().replace("-", "")
    if os.name != "posix" or encoding == "utf8" or sys.flags.utf8_mode or not sys.executable:
        return
    shown = "ascii" if sys.stdout is None else sys.stdout.encoding
    os.environ.setdefault("PYTHONIOENCODING", f"{shown}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"  # for processes that are started later
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *arguments])  # noqa: S606


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable: none is closed, and any text can be written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file that is opened, perhaps an output, would be the stream.
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        _allow_any_text(stream)


def _allow_any_text(stream: TextIO) -> None:
    """Write what the encoding lacks as an escape, except that bytes of names go into a pipe as they are."""
    with suppress(AttributeError, ValueError, OSError):
        utf8 = stream.encoding.lower().replace("-", "") == "utf8"
        own_bytes = utf8 and stream is sys.stdout and not is_terminal(stream)
        stream.reconfigure(errors="surrogateescape" if own_bytes else "backslashreplace")  # type: ignore[attr-defined]


def finish_streams(exit_code: int) -> int:
    """Write what is still buffered; the exit code, that of an OutputError if stdout cannot be written.

    Python would try the same at exit, and complain.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
    except (OSError, ValueError) as error:
        discard(sys.stdout)
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        exit_code = exit_code or print_error(f"stdout cannot be written: {reason}", exit_code=OutputError.exit_code)
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(sys.stderr)
    return exit_code


def discard(stream: TextIO) -> None:
    """Drop what is buffered for a stream, and all that comes after."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
