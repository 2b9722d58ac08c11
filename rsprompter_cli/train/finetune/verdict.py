"""Whether a fit made its model better, as far as the held-back labels can tell, and what would help; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rsprompter_cli.errors import plural
from rsprompter_cli.train.finetune.schedule import FEW_HELD_BACK, Figures

_ENOUGH_LABELS = 200
"""With a quarter of them held back the standard error of F1 is about 0.07; beyond, labels are not the first remedy."""

_WHOLE_SCENE = 0.9
"""Share of a scene from which all of it counts as labelled, see docs/decisions/0012."""


class Outcome(StrEnum):
    """How the fitted model compares with the one that the fit started from."""

    BETTER = "better"
    NOT_CLEARLY_BETTER = "not clearly better"
    WORSE = "worse"
    NOT_COMPARABLE = "not comparable"
    NOTHING_FOUND = "nothing found"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a fit.

    f1_before: of the starting model, None when it has other classes. f1_after: of the fitted model.
    standard_error: of F1 on so many labels, the larger of the two models'.
    labels_held_back: on which both were measured.
    would_help: what may lead to a better model, or to a clearer answer.
    """

    outcome: Outcome
    f1_before: float | None
    f1_after: float
    standard_error: float
    labels_held_back: int
    would_help: tuple[str, ...]

    def sentence(self) -> str:
        """The outcome, the figures and how far they can be trusted."""
        labels = plural(self.labels_held_back, "held-back label")
        doubt = "; too few labels for a reliable answer" if self.labels_held_back < FEW_HELD_BACK else ""
        if self.outcome is Outcome.NOTHING_FOUND:
            return f"{self.outcome}: no model finds any of the {labels}{doubt}"
        if self.f1_before is None:
            return (
                f"{self.outcome}: F1 {self.f1_after:.3f} on {labels}; the starting model has other classes, "
                f"so there is no F1 before{doubt}"
            )
        figures = f"F1 {self.f1_before:.3f} before, {self.f1_after:.3f} after"
        change = f"{abs(round(self.f1_after, 3) - round(self.f1_before, 3)):.3f}"  # of the figures as they are shown
        noise = f"the noise of {labels} (standard error {self.standard_error:.3f})"
        if self.outcome is Outcome.NOT_CLEARLY_BETTER:
            return f"{self.outcome}: {figures}; the difference of {change} is within {noise}{doubt}"
        kind = "gain" if self.outcome is Outcome.BETTER else "loss"
        return f"{self.outcome}: {figures}; the {kind} of {change} exceeds {noise}{doubt}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "would_help": list(self.would_help), "sentence": self.sentence()}


def judge(
    start: Figures | None,
    fitted: Figures,
    *,
    labels: Mapping[str, int],
    short_of_time: bool = False,
    complete: bool = True,
    scenes: int = 2,
) -> Verdict:
    """Compare the two models of a fit.

    Args:
        start: None when that model has other classes.
        labels: by split, those of `val` were held back.
        short_of_time: more minutes would have trained on more tiles or for more epochs.
        complete: whether all ground of the scenes was used, as with --complete.
        scenes: how many were given.
    """
    held_back = labels.get("val", 0)
    both = [fitted] if start is None else [start, fitted]
    error = max(one.standard_error(held_back) for one in both)
    if not any(one.f1 for one in both):
        outcome = Outcome.NOTHING_FOUND
    elif start is None:
        outcome = Outcome.NOT_COMPARABLE
    elif not fitted.holds_against(start, labels=held_back):
        outcome = Outcome.WORSE
        error = start.standard_error(held_back)
    else:
        outcome = Outcome.BETTER if fitted.f1 - start.f1 > error else Outcome.NOT_CLEARLY_BETTER
    helps = []
    if sum(labels.values()) < _ENOUGH_LABELS or outcome is not Outcome.BETTER:
        helps.append(f"more labels (now {sum(labels.values()):,})")
    if short_of_time or outcome in (Outcome.WORSE, Outcome.NOTHING_FOUND):
        helps.append("more --minutes")
    if not complete:
        helps.append("--complete, if every object of the scenes is labelled")
    if scenes == 1:
        helps.append("labels from other regions")
    return Verdict(outcome, None if start is None else start.f1, fitted.f1, round(error, 4), held_back, tuple(helps))


def is_complete(plan: Mapping[str, Any], *, complete: bool) -> bool:
    """Whether a fit used all ground of its scenes as labelled.

    Args:
        plan: `FitPlan.as_dict`. complete: --complete was given.
    """
    return complete or all(scene["labelled_share"] >= _WHOLE_SCENE for scene in plan["scenes"])
