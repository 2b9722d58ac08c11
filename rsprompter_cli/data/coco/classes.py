"""Names of classes: what they must be, and those of the data sets that presets are made for."""

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


KNOWN_CLASSES = {
    "whu": ("building",),
    "ssdd": ("ship",),
    "nwpu": (
        "airplane",
        "ship",
        "storage_tank",
        "baseball_diamond",
        "tennis_court",
        "basketball_court",
        "ground_track_field",
        "harbor",
        "bridge",
        "vehicle",
    ),
}


def classes_of_preset(name: str) -> tuple[str, ...] | None:
    """The classes of the data set that stands in a preset's name, or None."""
    return next((KNOWN_CLASSES[word] for word in name.lower().split("-") if word in KNOWN_CLASSES), None)


def classes_of_data_set(name: str | None) -> tuple[str, ...] | None:
    """The classes of a data set by the name of the original's class for it, as WHUInsSegDataset, or None."""
    word = (name or "").lower().removesuffix("inssegdataset")
    return KNOWN_CLASSES.get(word)
