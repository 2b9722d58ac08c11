"""The errors a user can meet: one line, a way out, an exit code.

Library code raises these at the door, where a file, option or id is first read. The command
line prints `message` (and `hint`) on stderr and exits with `exit_code`; the table of codes in
docs/exit-codes.md is generated from this module.
"""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST_MESSAGE = 2000
"""Characters: a message may quote a value of a file, which may have any length."""

_MOST_NAMES = 10_000
"""Names of a folder that are compared with a misspelt one."""

SHOWN = 4
"""Words of a long list that a message names."""


class RspError(Exception):
    """Anything that stops a command for a reason the user can act on.

    Args:
        message: one line that names the file, option or id and what is wrong with it.
        hint: the way out, one line, may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = shorten(" ".join(message.split()), LONGEST_MESSAGE)
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return with_hint(self.message, self.hint)


class UsageError(RspError):
    """A command line or configuration that is invalid: unknown key, bad value, contradicting options."""

    exit_code = 2


class InputError(RspError):
    """A raster, image, COCO or vector file that is missing, damaged or unsuitable."""

    exit_code = 3


class CheckpointError(RspError):
    """Model weights that are missing, damaged, unsafe or do not fit the model."""

    exit_code = 4


class DependencyError(RspError):
    """A package or device that is required and is missing or does not work."""

    exit_code = 5


class DownloadError(RspError):
    """A download that failed, was refused or does not have the promised hash."""

    exit_code = 6


class ChangedInputError(InputError):
    """A file was changed while it was read: what was found before that is right, and is kept."""


class OutputError(RspError):
    """An output that already exists, equals an input or cannot be written."""

    exit_code = 7


class TrainingError(RspError):
    """A training run that cannot continue: the loss is not finite, or its state cannot be restored."""

    exit_code = 8


class ResourceError(RspError):
    """Too little memory or too few processes on this machine, or a process that was killed."""

    exit_code = 9


class PartlyDoneError(RspError):
    """Some of several inputs failed, each with its own error line; the others were processed."""

    exit_code = 10


INTERRUPTED_EXIT_CODE = 130
"""Ctrl-C: 128 + SIGINT, as shells count."""


def with_hint(message: str, hint: str) -> str:
    """A message and its hint on one line; a message that ends with a bracket gets no second one after it."""
    if not hint:
        return message
    return f"{message}; {hint}" if message.endswith(")") else f"{message} ({hint})"


def shorten(word: str, longest: int = 120) -> str:
    """A name or key for messages."""
    return word if len(word) <= longest else word[: longest - 3] + "..."


NOT_UTF8 = "its name is not valid UTF-8"
NOT_UTF8_WAY_OUT = "rename it"


def shown_path(path: str | Path) -> str:
    """A path for messages: relative to the current folder where it lies below it, else as it is."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def some(words: Iterable[str], count: int = SHOWN) -> str:
    """The first `count` of many words for messages, and how many more there are."""
    listed = list(words)
    shown = ", ".join(shorten(word) for word in listed[:count])
    return shown if len(listed) <= count else f"{shown} and {len(listed) - count} more"


def plural(count: int, singular: str, many: str = "") -> str:
    """A count with its noun: `1 window`, `2 windows`, `1,204 windows`.

    Args:
        many: the plural where it is not the singular with an s.
    """
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def length_words(metres: float) -> str:
    """A length for people, to three digits: `0.25 m`, `850 m`, `3.29 km`, `3,290 km`."""
    return _with_unit(metres, ((1000.0, "km"), (1.0, "m")))


def area_words(square_metres: float) -> str:
    """An area for people, to three digits: `85.5 m2`, `3.29 ha`, `12.5 km2`."""
    return _with_unit(square_metres, ((1e6, "km2"), (1e4, "ha"), (1.0, "m2")))


def bytes_words(count: float) -> str:
    """A number of bytes for people, in decimal units to three digits: `0 bytes`, `402 kB`, `16.8 MB`, `2.57 GB`."""
    return _with_unit(count, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes")))


def duration_words(seconds: float) -> str:
    """A duration for people: `20 s`, `12 min`, `2.5 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 10:
        return f"{minutes:.1f}".removesuffix(".0") + " min"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f}".removesuffix(".0") + " h"


def _with_unit(value: float, units: Sequence[tuple[float, str]]) -> str:
    """A value in the first of some descending units that makes it at least 1, else in the last; to three digits."""
    if not math.isfinite(value):
        return f"{value} {units[-1][1]}"
    # Rounded first, so that 999.6 m is 1 km and not 1000 m.
    value = float(f"{value:.3g}")
    size, unit = next((one for one in units if abs(value) >= one[0]), units[-1])
    scaled = value / size
    shown = f"{scaled:,.0f}" if abs(scaled) >= 100 else f"{scaled:.3g}"
    return f"{shown} {unit}"


def did_you_mean(word: str, known: Iterable[str], *, parent: str = "") -> str:
    """A hint naming the known word nearest to `word`, or listing the known ones when none is near.

    Args:
        parent: shown before the known words, which it does not make any nearer: the table of a key, with its dot.
    """
    from difflib import get_close_matches

    names = sorted(set(known))
    near = get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {parent + near[0]!r}?"
    return "known: " + ", ".join(parent + name for name in names) if names else ""


def why_unreadable(fault: Exception) -> str:
    """Of a file, in words: `no such file`, or `cannot be read: Permission denied`."""
    if isinstance(fault, FileNotFoundError):
        return "no such file"
    return f"cannot be read: {getattr(fault, 'strerror', None) or fault}"


def why_no_file(path: str | Path) -> str:
    """What to say of a path at which no regular file is: a pipe, a device and a socket are not missing."""
    return "is not a regular file" if os.path.exists(path) else "no such file"


def nearest_file(path: Path) -> str:
    """A hint that names a file of the folder with nearly that name; empty without one."""
    from difflib import get_close_matches

    try:
        if path.exists():
            return ""
        names = [one.name for one in path.parent.iterdir()][:_MOST_NAMES]
    except OSError:
        return ""
    near = get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else ""
