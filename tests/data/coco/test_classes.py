"""Names that classes can have, and those that are refused."""

from __future__ import annotations

import pytest

from rsprompter_cli.data.coco.classes import unsound_name


@pytest.mark.parametrize(
    "names", [("car",), ("storage tank", "größe", "船", "می‌خواهم"), ("a.b", "[x]", "'q'"), ("car", "Car")]
)
def test_names_in_any_language_are_sound(names: tuple[str, ...]) -> None:
    assert unsound_name(names) is None


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("car", ""), "class 2 has no name"),
        ((" \t",), "class 1 has no name"),
        (("car", "boat", "car"), "classes 1 and 3 are both named 'car'"),
        (("\x1b[2Jcar",), r"class 1, '\x1b[2Jcar', has a control character in its name"),
        (("car", "two\nlines"), r"class 2, 'two\nlines', has a control character in its name"),
        (("\udcff",), r"class 1, '\udcff', has a control character in its name"),
        (("\u2028x",), r"class 1, '\u2028x', has a control character in its name"),
        (("x" * 500 + "\x07",), f"class 1, '{'x' * 117}...', has a control character in its name"),
    ],
)
def test_other_names_are_told_by_their_place(names: tuple[str, ...], told: str) -> None:
    assert unsound_name(names) == told
