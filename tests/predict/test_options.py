"""One value for all that a user may say of a prediction."""

from __future__ import annotations

import dataclasses

import pytest

from rsprompter_cli.errors import UsageError
from rsprompter_cli.predict.options import PredictOptions, Reading
from rsprompter_cli.predict.output.write import OutputOptions


def test_an_option_is_changed_by_its_plain_name_wherever_it_lies() -> None:
    options = PredictOptions().changed(score=0.4, gsd=0.3, min_area=10)
    assert options == PredictOptions(Reading(gsd=0.3), OutputOptions(min_area=10), score=0.4)
    assert options.changed(native=True).reading == Reading(gsd=0.3, native=True)
    assert options.changed() == options


def test_a_part_may_be_given_whole_and_then_changed() -> None:
    options = PredictOptions(Reading(gsd=0.3)).changed(reading=Reading(overlap=0.1), native=True)
    assert options.reading == Reading(overlap=0.1, native=True)


def test_an_unknown_option_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(TypeError, match=r"no option 'min_aera'.*min_area"):
        PredictOptions().changed(min_aera=3)


def test_no_two_parts_have_an_option_of_the_same_name() -> None:
    names = [one.name for part in (PredictOptions, Reading, OutputOptions) for one in dataclasses.fields(part)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score": 1.5}, "--score 1.5: must be from 0 to 1"),
        ({"score": float("nan")}, "--score nan"),
        ({"simplify": -1.0}, "--simplify -1.0: must be a finite number, 0 or more"),
        ({"min_area": float("inf")}, "--min-area inf"),
    ],
)
def test_numbers_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PredictOptions().changed(**values).check()
