"""What the names of a model's classes must be."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rsprompter_cli.errors import shorten

_REFUSED = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that a terminal obeys, that no file can hold, or that end a line."""


def unsound_name(names: Sequence[str]) -> str | None:
    """What is wrong with the first invalid name, as a message; None where all are valid.

    A name has a visible character, no control characters, and is unique.
    """
    for place, name in enumerate(names, 1):
        shown = repr(shorten(name))
        if not name.strip():
            return f"class {place} has no name"
        if any(unicodedata.category(char) in _REFUSED for char in name):
            return f"class {place}, {shown}, has a control character in its name"
        if name in names[: place - 1]:
            return f"classes {names.index(name) + 1} and {place} are both named {shown}"
    return None
