"""The errors: one line, a hint, a code of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsprompter_cli.errors import (
    InputError,
    OutputError,
    RspError,
    UsageError,
    area_words,
    bytes_words,
    did_you_mean,
    duration_words,
    length_words,
    nearest_file,
    plural,
    some,
)


def test_message_and_hint_are_one_line_each() -> None:
    error = InputError("scene.tif:\n  cannot be  read", "copy it\nagain")
    assert error.message == "scene.tif: cannot be read"
    assert error.hint == "copy it again"
    assert str(error) == "scene.tif: cannot be read (copy it again)"


def test_a_hint_does_not_put_a_second_bracket_beside_one() -> None:
    assert (
        str(InputError("a run (state.pt is missing)", "omit --resume")) == "a run (state.pt is missing); omit --resume"
    )


def test_the_nearest_file_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "buildings.gpkg").touch()
    assert nearest_file(tmp_path / "buildngs.gpkg") == "did you mean 'buildings.gpkg'?"
    assert nearest_file(tmp_path / "trees.shp") == nearest_file(tmp_path / "nowhere" / "buildings.gpkg") == ""


def test_without_hint_only_the_message_is_said() -> None:
    assert str(OutputError("x already exists")) == "x already exists"


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


@pytest.mark.parametrize(
    ("count", "words", "shown"),
    [
        (0, ("window",), "0 windows"),
        (1, ("window",), "1 window"),
        (2, ("window",), "2 windows"),
        (1204, ("window",), "1,204 windows"),
        (1, ("class", "classes"), "1 class"),
        (3, ("class", "classes"), "3 classes"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, words: tuple[str, ...], shown: str) -> None:
    assert plural(count, *words) == shown


@pytest.mark.parametrize(
    ("metres", "shown"),
    [
        (0.25, "0.25 m"), (1, "1 m"), (850.4, "850 m"), (999.6, "1 km"), (3290, "3.29 km"), (3.29e6, "3,290 km"),
        (12_345_678, "12,300 km"), (0, "0 m"), (float("inf"), "inf m"),
    ],
)  # fmt: skip
def test_lengths_have_a_fitting_unit(metres: float, shown: str) -> None:
    assert length_words(metres) == shown


@pytest.mark.parametrize(
    ("area", "shown"), [(85.54, "85.5 m2"), (32_900, "3.29 ha"), (999_900, "1 km2"), (12.5e6, "12.5 km2")]
)
def test_areas_have_a_fitting_unit(area: float, shown: str) -> None:
    assert area_words(area) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (4_300, "4.3 kB"),
        (999_600, "1 MB"),
        (16 << 20, "16.8 MB"),
        (2.57e9, "2.57 GB"),
    ],
)
def test_sizes_have_a_fitting_decimal_unit(count: float, shown: str) -> None:
    assert bytes_words(count) == shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (90, "1.5 min"), (180, "3 min"), (750, "12 min"), (9000, "2.5 h")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration_words(seconds) == text
