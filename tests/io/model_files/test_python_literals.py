"""Literals of a text: what is read, what is not, and texts that are made to hurt their reader."""

from __future__ import annotations

import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import pytest

from rsprompter_cli.io.model_files.python_literals import MAX_NESTING, UNREAD, LiteralsError, read_literals


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2.5e-3", -0.0025),
        ("'a' \"b\"", "ab"),
        (r"r'\d'", r"\d"),
        ("'''two\nlines'''", "two\nlines"),
        ("[\n    1,\n    2,  # a comment\n]", [1, 2]),
        ("(1, )", (1,)),
        ("dict(a=1, b=dict(c=[dict(d=None)]))", {"a": 1, "b": {"c": [{"d": None}]}}),
        ("{'a-b': dict(\n    c=1), 3: True}", {"a-b": {"c": 1}, 3: True}),
        ("range(1, 13, 2)", [1, 3, 5, 7, 9, 11]),
        ("0.485 * 255", 123.675),
        ("32 + 1 - 3 // 2", 32),
        ("[1.0] * earlier + [0.1]", [1.0, 1.0, 0.1]),
        ("names[1]", "y"),
        ("table['a']", 5),
        ("'a' + names[0]", "ax"),
        ("tuple([1, 2])", (1, 2)),
        ("1 \\\n + 1", 2),
    ],
)
def test_what_mmengine_prints_is_read(text: str, value: Any) -> None:
    before = "earlier = 2\nnames = ['x', 'y']\ntable = dict(a=5)\n"
    found = read_literals(f"{before}value = {text}\nafter = 7\n")
    assert (found["value"], found["after"]) == (value, 7)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "open('x')", "[x for x in (1, 2)]", "lambda: 1", "f'{1}'", "b'x'", "1 if True else 2",
        "unknown", "10 ** 10", "1 << 3", "not 1", "(a := 1)", "{1, 2}", "{**{}}", "dict(**{})", "dict([1])", "1 / 0",
        "1e999", "9" * 500, "9" * 5000, "2 ** 2 ** 99", "'a' * 3", "range(10 ** 9)", "range(1, 2, 0)", "names[7]",
        "[1][0:1]", "int('3')", "().__class__", "1j", "...", "[1] + (2,)", "9223372036854775808",
        "range(99999999999)",
    ],
)  # fmt: skip
def test_anything_else_is_left_unread_where_it_stands(text: str) -> None:
    found = read_literals(f"names = [1]\nvalue = dict(a=1, b=[{text}])\nother = 1\n")
    assert found["value"] == {"a": 1, "b": [UNREAD]}
    assert found["other"] == 1


@pytest.mark.parametrize(
    "text", ["value", "import os", "value: int = 1", "if 1:\n    value = 1", "a.b = 1", "value += 1"]
)
def test_other_statements_are_left_out(text: str) -> None:
    assert "value" not in read_literals(text)


HOSTILE = {
    "brackets": "a = " + "[" * 1_000_000,
    "closed": "a = " + "[" * 300 + "]" * 300,
    "minus": "a = " + "-" * 1_900_000 + "1",
    "not": "a = " + "not " * 400_000 + "1",
    "lambda": "a = " + "lambda:" * 200_000 + "1",
    "sums": "a = " + "1+" * 900_000 + "1",
    "powers": "a = " + "9**" * 40 + "9",
    "calls": "a = f" + "()" * 500_000,
    "attributes": "a = b" + ".c" * 500_000,
    "conditions": "a = " + "1 if 1 else " * 100_000 + "1",
    "branches": "if 1:\n a = 1\n" + "elif 1:\n a = 1\n" * 90_000,
    "digits": "a = " + "9" * 1_900_000,
    "items": "a = [" + "1," * 900_000 + "]",
    "copies": "a = [0] * 10000000000",
    "doubling": "a = [1]\n" + "a = a + a\n" * 100,
    "text doubling": "a = 'x'\n" + "a = a + a\n" * 100,
    "shared": "a0 = [1]\n" + "".join(f"a{n} = [a{n - 1}, a{n - 1}]\n" for n in range(1, 5000)),
    "open text": "a = '''" + "x\n" * 500_000,
    "quotes": "a = " + "'" * 1_000_001,
    "continued": "a = 1 \\" + "\n\\" * 500_000,
    "too long": "a = '" + "x" * 2_000_000 + "'",
    "long in bytes": "a = '" + "\u20ac" * 700_000 + "'",
    "surrogate": "a = '\ud800'",
    "null": "a = 1\0",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_texts_end_soon_with_an_answer(case: str) -> None:
    began = time.process_time()
    with suppress(LiteralsError):
        found = read_literals(HOSTILE[case])
        assert set(found) <= {"a"} | {f"a{n}" for n in range(5000)}
    assert time.process_time() - began < 30


def test_the_deepest_text_is_read_on_a_small_stack() -> None:
    """Where 100 levels are allowed they are read, whatever thread does it."""
    texts = {
        "lists": "a = " + "[" * (MAX_NESTING - 1) + "1" + "]" * (MAX_NESTING - 1),
        "tables": "a = " + "dict(b=" * (MAX_NESTING - 1) + "1" + ")" * (MAX_NESTING - 1),
        "sums": "a = " + "1+" * (MAX_NESTING - 1) + "1",
    }
    found: dict[str, Any] = {}
    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(
            target=lambda: found.update({name: read_literals(text) for name, text in texts.items()})
        )
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert found["sums"] == {"a": MAX_NESTING}
    depth, value = 0, found["tables"]["a"]
    while isinstance(value, dict):
        depth, value = depth + 1, value["b"]
    assert (depth, value) == (MAX_NESTING - 1, 1)
    with pytest.raises(LiteralsError, match="nested"):
        read_literals("a = " + "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1))


def test_odd_escapes_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_literals(r"a = '\d'") == {"a": r"\d"}
