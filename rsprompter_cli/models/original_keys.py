"""How the key names of the original RSPrompter code are written down, and read in both directions.

How to write a table: each row is a pair, the original's name and ours, and stands for itself except that

* `#` is a number, as in `layers.#.`;
* `*` is all the rest of a name, any number of words, and only stands at the end.

Both sides of a row have the same wildcards in the same order, so a row is read from left to right to
import and from right to left to export. The first row that fits a whole name renames it. Rows must not
lead two original names to one of ours; what the original stores in pieces or twice has fields of its own:

* `stacked`: our name -> the original's names of which ours is the concatenation along the first axis;
* `copies`: an original name -> another original name whose tensor it repeats. It must be equal on
  import, where it is dropped, and is written again on export.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

Row = tuple[str, str]
"""The original's name and ours."""

_PLACEHOLDER = re.compile(r"[#*]")


@dataclass(frozen=True)
class KeyTable:
    """The names of one kind of model.

    Attributes:
        rows: pairs of names, see above; those of the encoder and of the neck stand in original_shared.py.
        encoder: prefix of SAM's image encoder in the original.
        stacked: our name of each tensor that the original stores in pieces, and their names.
        copies: original names of tensors that the original stores twice, and the name of the other.
    """

    rows: tuple[Row, ...]
    encoder: str = "backbone.vision_encoder."
    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)


def to_ours(keys: Iterable[str], rows: tuple[Row, ...]) -> dict[str, str]:
    """Our name of each original one; a name that no row fits is left out."""
    return _translated(keys, _renamer(rows))


def to_original(keys: Iterable[str], rows: tuple[Row, ...]) -> dict[str, str]:
    """The original's name of each of ours; a name that no row fits is left out."""
    return _translated(keys, _renamer(tuple((ours, original) for original, ours in rows)))


def _translated(keys: Iterable[str], rename: Callable[[str], str | None]) -> dict[str, str]:
    found = ((key, rename(key)) for key in keys)
    return {key: name for key, name in found if name is not None}


@cache
def _renamer(rows: tuple[Row, ...]) -> Callable[[str], str | None]:
    """A function that renames one key, left side to right side."""
    compiled = [(_pattern(left), _template(right)) for left, right in rows]

    def rename(key: str) -> str | None:
        for pattern, template in compiled:
            match = pattern.fullmatch(key)
            if match:
                return match.expand(template)
        return None

    return rename


def _pattern(name: str) -> re.Pattern[str]:
    wild = {"#": r"(\d+)", "*": "(.+)"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in re.split(r"([#*])", name)))


def _template(name: str) -> str:
    count = iter(range(1, len(name) + 2))
    return _PLACEHOLDER.sub(lambda _: rf"\g<{next(count)}>", name)
