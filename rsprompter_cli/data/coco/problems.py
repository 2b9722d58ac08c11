"""What a check found: problems with the ids they belong to, and the report that collects them."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rsprompter_cli.errors import shorten

Severity = Literal["error", "warning"]

MAX_PROBLEMS = 1000
"""Of one kind that are kept; further ones are only counted."""

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
_SHOWN.maxlong, _SHOWN.maxlist, _SHOWN.maxdict, _SHOWN.maxlevel = 40, 8, 4, 3


class EntryError(Exception):
    """One thing wrong with one value; the reader that knows the ids turns it into a `Problem`.

    Args:
        kind: a stable word for programs, such as "polygon-not-finite".
        text: what is wrong, for people.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a report.

    severity: an error stops training and evaluation, a warning does not.
    kind: a stable word for programs.
    message: one line that names the annotation, image or category.
    annotation_id, image_id: as in the file; None where the problem has none.
    count: problems that it stands for.
    """

    severity: Severity
    kind: str
    message: str
    annotation_id: int | None = None
    image_id: int | None = None
    count: int = 1


class Problems:
    """Collects problems: a file may have as many of them as bytes, so only the first of each kind are kept."""

    def __init__(self) -> None:
        self._kept: list[Problem] = []
        self._counts: Counter[tuple[Severity, str]] = Counter()

    def add(self, *problems: Problem) -> None:
        """Keep them, or count them."""
        for problem in problems:
            key = (problem.severity, problem.kind)
            self._counts[key] += problem.count
            if self._counts[key] <= MAX_PROBLEMS:
                self._kept.append(problem)

    def listed(self) -> list[Problem]:
        """Those kept, in the order of their coming, and one for the others of each kind."""
        kept = Counter((problem.severity, problem.kind) for problem in self._kept)
        more = {key: count - kept[key] for key, count in self._counts.items() if count > kept[key]}
        return self._kept + [
            Problem(severity, kind, f"{kind}: {count:,} more of this kind, not listed", count=count)
            for (severity, kind), count in more.items()
        ]


def shown_value(value: object) -> str:
    """A value of a file for messages, cut where it is long or has many parts."""
    return shorten(_SHOWN.repr(value), 200)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything found in one COCO file.

    images, objects, crowds, classes: what was read without fault; a crowd is no object.
    """

    file: str
    problems: tuple[Problem, ...]
    images: int = 0
    objects: int = 0
    classes: tuple[str, ...] = field(default=())
    crowds: int = 0

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that stop training and evaluation."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that do not."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def error_count(self) -> int:
        """How many errors there are, those included that were only counted."""
        return sum(problem.count for problem in self.errors)

    @property
    def warning_count(self) -> int:
        """The same of the warnings."""
        return sum(problem.count for problem in self.warnings)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values, with the first MAX_PROBLEMS problems of each kind."""
        return {
            "file": self.file,
            "images": self.images,
            "objects": self.objects,
            "crowds": self.crowds,
            "classes": list(self.classes),
            "errors": [_as_json(problem) for problem in self.errors],
            "warnings": [_as_json(problem) for problem in self.warnings],
        }

    def lines(self, per_kind: int = 10) -> list[str]:
        """The report for people: errors first, at most `per_kind` lines of one kind."""
        return [*_shortened(self.errors, per_kind), *_shortened(self.warnings, per_kind)]


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "message": problem.message,
        "annotation_id": problem.annotation_id,
        "image_id": problem.image_id,
        **({"count": problem.count} if problem.count > 1 else {}),
    }


def _shortened(problems: Iterable[Problem], per_kind: int) -> list[str]:
    problems = tuple(problems)
    shown: Counter[str] = Counter()
    lines = []
    for problem in problems:
        shown[problem.kind] += problem.count
        if shown[problem.kind] <= per_kind:
            # A file name in it may have line breaks.
            lines.append(f"{problem.severity}: {' '.join(problem.message.split())}")
    for kind, count in shown.items():
        if count > per_kind:
            listed = "all" if count <= MAX_PROBLEMS else f"the first {MAX_PROBLEMS:,}"
            lines.append(f"{problems[0].severity}: {kind}: {count - per_kind:,} more (--json lists {listed})")
    return lines
