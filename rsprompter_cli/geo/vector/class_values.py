"""Values of attributes as the names of classes: one spelling, whoever writes or reads them."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np

_UNSEEN = "\\s\x00\u00ad\u180e\u200b-\u200f\u2060\ufeff"
"""Blanks, no-break ones included, and characters of no width: they cannot be seen at the ends of a name."""

_OUTER = re.compile(f"^[{_UNSEEN}]+|[{_UNSEEN}]+$")
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_log = logging.getLogger(__name__)


def class_name_of(value: Any) -> str | None:
    """An attribute's value as the name of a class; None where it is empty or blank.

    Blanks at its ends are removed, line breaks inside become blanks, letters are composed (NFC); 3 and 3.0 are "3".
    """
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # whole numbers with gaps are read as floats
    text = str(value)
    if not (text.isalnum() and text.isascii()):
        text = unicodedata.normalize("NFC", trimmed(_BREAKS.sub(" ", text)))
    return text or None


def trimmed(text: str) -> str:
    """Text without what cannot be seen at its ends."""
    return _OUTER.sub("", text)


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that only differ in the case of letters or in the blanks inside."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.casefold().split()), set()).add(name)
    return [tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1]


def warn_of_look_alikes(where: str, names: Iterable[str]) -> None:
    """Warn of classes that may be one class in different spellings.

    Args:
        where: the file or files, for the message.
    """
    for group in look_alikes(names):
        listed = ", ".join(repr(name) for name in group)
        _log.warning("%s: the classes %s differ only in case or spaces and are kept apart", where, listed)
