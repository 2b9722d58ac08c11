"""Tables on stdout: plain aligned text when piped, as wide as the terminal at most in a terminal."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsprompter_cli.cli.console import is_terminal, print_message, stdout_console, without_control

if TYPE_CHECKING:
    from rich.console import Console

_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?(%|m|px|s|bytes|kB|MB|GB|TB))?|-")
"""A cell that is aligned on the right: a number, perhaps with a unit, or the mark of a missing one."""

_BREAKABLE = re.compile(r"[/\\]|^\S{25,}$")
"""Words that may be folded: paths and addresses, and names that no table has room for."""

_NARROWEST = 8
"""A folded word keeps at least as many characters in a line."""

_log = logging.getLogger(__name__)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout.

    Piped, it is plain aligned text as wide as needed, so that grep and awk can read it. In a terminal it has the
    width of the terminal at most: cells are wrapped between words, only paths and very long names inside a word, and
    columns of numbers are aligned on the right.
    """
    console = _terminal()
    encoding = _encoding(console)
    texts = [[_printable(str(cell), encoding) for cell in row] for row in rows]
    if console is None:
        widths = [max(len(cell) for cell in column) for column in zip(columns, *texts, strict=True)]
        for row in [list(columns), *texts]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    by_column = list(zip(columns, *texts, strict=True))
    # A table has a border, and a space on both sides of each cell.
    widths = fit_widths(by_column, console.width - 3 * len(columns) - 1)
    for cells, width in zip(by_column, widths, strict=True):
        filled = [cell for cell in cells[1:] if cell]
        numbers = bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)
        # As Text, square brackets are not taken for markup.
        table.add_column(Text(cells[0]), width=width, overflow="fold", justify="right" if numbers else "left")
    for row in texts:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_hanging(start: str, text: str) -> None:
    """A line on stdout that begins with `start`; in a terminal `text` is wrapped beside it, in as many as it needs."""
    console = _terminal()
    shown = _printable(text, _encoding(console))
    if console is None:
        print(start + shown)
        return
    indent = " " * (len(start) if len(start) <= console.width // 2 else 4)
    lines = textwrap.wrap(shown, console.width, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False)
    print("\n".join(lines) or start)


def print_written(*paths: str | Path) -> None:
    """Name files that a command wrote, one a line on stderr."""
    for path in paths:
        _log.info("wrote %s", path)


def print_outcome(outcome: str, path: str | Path, content: str = "") -> None:
    """Name a file or folder on stderr, and whether it was written or was there already.

    Args:
        outcome: "written" or "unchanged".
        content: what is in it.
    """
    name = f"wrote {path}" if outcome == "written" else f"{outcome}: {path}"
    print_message(f"{name}: {content}" if content else name)


def fit_widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of columns that fit into `room` characters together, as wide as their cells where that is possible.

    The widest columns give way first, down to their longest word; where that is not enough, down to the longest
    word that may not be folded; and at last, in a terminal too narrow for its words, evenly.

    Args:
        columns: the cells of each, the header first.
        room: without borders and padding.
    """
    widths = [max(1, _longest(cells)) for cells in columns]
    whole_words = [max((_longest(cell.split()) for cell in cells), default=0) for cells in columns]
    least = [max(_longest(_foldable(word) for word in cell.split()) for cell in cells) for cells in columns]
    for floor in (whole_words, least, [1] * len(columns)):
        while sum(widths) > room:
            excess = [width - low for width, low in zip(widths, floor, strict=True)]
            if max(excess) <= 0:
                break
            widest = max((width for width, more in zip(widths, excess, strict=True) if more > 0))
            # One character at a time off the widest column that can give one.
            place = next(i for i, width in enumerate(widths) if width == widest and excess[i] > 0)
            widths[place] -= 1
    return widths


def _terminal() -> Console | None:
    """The terminal behind stdout; None when it is something else."""
    return stdout_console() if is_terminal(sys.stdout) else None


def _foldable(word: str) -> str:
    """What of a word has to stay in one line."""
    return word[:_NARROWEST] if _BREAKABLE.search(word) else word


def _encoding(console: Console | None) -> str:
    return console.encoding if console is not None else getattr(sys.stdout, "encoding", None) or "utf-8"


def _longest(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max((cell_len(text) for text in texts), default=0)


def _printable(text: str, encoding: str) -> str:
    """Without line breaks and control characters, and with escapes for what the stream cannot encode."""
    shown = without_control(" ".join(text.splitlines())).replace("\t", " ")
    try:
        return shown.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return shown
