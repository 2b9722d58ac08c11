"""The errors: one line, a hint, a code of their own."""

from __future__ import annotations

import pytest

from rsprompter_cli.errors import InputError, OutputError, RspError, UsageError, did_you_mean, some


def test_message_and_hint_are_one_line_each() -> None:
    error = InputError("scene.tif:\n  cannot be  read", "copy it\nagain")
    assert error.message == "scene.tif: cannot be read"
    assert error.hint == "copy it again"
    assert str(error) == "scene.tif: cannot be read (copy it again)"


def test_without_hint_only_the_message_is_said() -> None:
    assert str(OutputError("x exists already")) == "x exists already"


@pytest.mark.parametrize("kind", RspError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_kind_has_a_code_that_shells_can_carry(kind: type[RspError]) -> None:
    assert 2 <= kind.exit_code < 126
    assert isinstance(kind("said"), RspError)


def test_nearest_word_is_offered() -> None:
    assert did_you_mean("lerning", ["learning", "epochs"]) == "did you mean 'learning'?"


def test_without_a_near_word_all_are_listed_sorted() -> None:
    assert did_you_mean("zzz", ["epochs", "batch", "epochs"]) == "known: batch, epochs"
    assert did_you_mean("zzz", []) == ""


def test_usage_error_is_code_two_as_shells_expect() -> None:
    assert UsageError("x").exit_code == 2


def test_many_words_are_a_few_and_a_number() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some("abcdef") == "a, b, c, d and 2 more"
    assert some(["x" * 500]) == "x" * 117 + "..."
