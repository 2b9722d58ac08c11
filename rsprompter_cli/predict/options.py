"""What a user may say of a prediction, in one value; knows no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rsprompter_cli.errors import UsageError, did_you_mean
from rsprompter_cli.predict.finish import OutputOptions
from rsprompter_cli.predict.reading import Reading

Progress = Callable[[int, int], None]
"""Called with what is done of how many: windows, or prompts."""


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How objects are found and written.

    reading: how the scene is read, and its windows.
    output: how polygons are finished and written.
    score: lowest score kept, 0..1; None: the model's own threshold (a SAM that is asked has none).
    batch: windows per forward pass.
    device, precision: where and in which arithmetic the model runs.
    preview: an .html file to write too: the objects on a map that any browser shows.
    report: a .json file to write too: seconds by stage, counts, warnings, versions and settings.
    overwrite: replace an existing output.
    dry_run: only plan, as without an output, but check that it could be written; the model's weights are not read.
    """

    reading: Reading = field(default_factory=Reading)
    output: OutputOptions = field(default_factory=OutputOptions)
    score: float | None = None
    batch: int = 1
    device: str = "auto"
    precision: str = "auto"
    preview: str | None = None
    report: str | None = None
    overwrite: bool = False
    dry_run: bool = False

    def changed(self, **values: Any) -> PredictOptions:
        """The same but for some values, those of `reading` and `output` by their plain names too: `gsd=0.3`.

        Raises:
            TypeError: a name that none of the three has.
        """
        known = {name for part in (self, self.reading, self.output) for name in _names(part)}
        for name in values.keys() - known:
            raise TypeError(f"there is no option {name!r}: {did_you_mean(name, sorted(known))}")
        options = replace(self, **{name: values[name] for name in _names(self) & values.keys()})
        reading = {name: values[name] for name in _names(self.reading) & values.keys()}
        output = {name: values[name] for name in _names(self.output) & values.keys()}
        return replace(options, reading=replace(options.reading, **reading), output=replace(options.output, **output))

    def check(self) -> None:
        """Raise UsageError for a number that is out of range and that nothing later looks at."""
        if self.score is not None and not 0 <= self.score <= 1:
            raise UsageError(f"--score {self.score}: must be from 0 to 1")
        self.output.check()


def _names(part: PredictOptions | Reading | OutputOptions) -> set[str]:
    return {one.name for one in fields(part)}
