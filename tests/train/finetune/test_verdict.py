"""What a fit says of itself."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from rsprompter_cli.train.finetune.schedule import Figures
from rsprompter_cli.train.finetune.verdict import Outcome, Verdict, is_complete, judge

LABELS = {"train": 78, "val": 26}


def figures(f1: float) -> Figures:
    return Figures(f1, f1, f1 / 2, 0.5)


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (0.641, 0.639, Outcome.NOT_CLEARLY_BETTER),
        (0.641, 0.641, Outcome.NOT_CLEARLY_BETTER),
        (0.6, 0.62, Outcome.NOT_CLEARLY_BETTER),
        (0.6, 0.75, Outcome.BETTER),
        (0.0, 0.2, Outcome.BETTER),
        (0.6, 0.4, Outcome.WORSE),
        (0.6, 0.0, Outcome.WORSE),
        (0.0, 0.0, Outcome.NOTHING_FOUND),
        (None, 0.0, Outcome.NOTHING_FOUND),
        (None, 0.5, Outcome.NOT_COMPARABLE),
    ],
)
def test_the_outcome_follows_the_noise_of_the_labels(before: float | None, after: float, outcome: Outcome) -> None:
    start = None if before is None else figures(before)
    verdict = judge(start, figures(after), labels=LABELS)
    assert verdict.outcome is outcome
    assert verdict.sentence().startswith(f"{outcome.value}: ")
    assert "26 held-back labels" in verdict.sentence()
    if start is not None:
        # A model is called worse exactly where it is not written, but where neither finds anything.
        kept = not figures(after).holds_against(start, labels=26)
        assert kept == (outcome in (Outcome.WORSE, Outcome.NOTHING_FOUND))
    assert TypeAdapter(Verdict).validate_python(json.loads(json.dumps(verdict.as_dict()))) == verdict


def test_the_same_gain_is_clear_on_more_labels() -> None:
    start, fitted = figures(0.60), figures(0.65)
    assert judge(start, fitted, labels={"train": 75, "val": 25}).outcome is Outcome.NOT_CLEARLY_BETTER
    assert judge(start, fitted, labels={"train": 750, "val": 250}).outcome is Outcome.BETTER


def test_the_sentence_gives_both_figures_and_their_noise() -> None:
    verdict = judge(figures(0.60), figures(0.62), labels=LABELS)
    assert verdict.sentence() == (
        "not clearly better: F1 0.600 before, 0.620 after; the difference of 0.020 is within the noise of "
        "26 held-back labels (standard error 0.096)"
    )
    lower = judge(figures(0.7714), figures(0.7538), labels=LABELS).sentence()
    assert "F1 0.771 before, 0.754 after; the difference of 0.017 is" in lower
    assert "1 held-back label;" in judge(None, figures(0.0), labels={"train": 9, "val": 1}).sentence()


def test_what_would_help_depends_on_the_run() -> None:
    few = judge(figures(0.6), figures(0.62), labels=LABELS, short_of_time=True, complete=False, scenes=1)
    assert few.would_help == (
        f"more labels (now {sum(LABELS.values())})",
        "more --minutes",
        "--complete, if every object of the scenes is labelled",
        "labels from other regions",
    )
    assert judge(figures(0.5), figures(0.9), labels={"train": 750, "val": 250}).would_help == ()
    assert is_complete({"scenes": [{"labelled_share": 0.4}]}, complete=True)
    assert not is_complete({"scenes": [{"labelled_share": 0.95}, {"labelled_share": 0.4}]}, complete=False)
    assert is_complete({"scenes": [{"labelled_share": 0.95}]}, complete=False)
