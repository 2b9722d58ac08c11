"""The progress reports and the result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import bytes_words

_COLUMNS = 80
"""Of a terminal; a line of the log is not to be wrapped."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, for a progress line.

    losses: by name, mean over the pictures of the step. eta: seconds to the end of the last epoch.
    limit: seconds until the time limit ends the run, None without one.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: Mapping[str, float]
    rate: float
    gradient_norm: float
    images_per_second: float
    memory_bytes: int | None
    eta: float
    limit: float | None = None

    @property
    def left(self) -> float:
        """Seconds until the run ends: with its last epoch, or at the time limit."""
        return self.eta if self.limit is None else min(self.eta, self.limit)

    def details(self) -> str:
        """The text of a progress display beside the count of steps."""
        return (
            f"epoch {self.epoch + 1}/{self.epochs}, loss {sum(self.losses.values()):.3f}, "
            f"{self.images_per_second:.2f} images/s, {self._learning_rate()}"
        )

    def describe(self) -> str:
        """One line for the log: epoch, step, loss, speed, learning rate and time left.

        The learning rate is left out where the line would be wider than a terminal of 80 columns.
        """
        head = (
            f"epoch {self.epoch + 1}/{self.epochs} step {self.step}/{self.steps}: "
            f"loss {sum(self.losses.values()):.3f}, {self.images_per_second:.2f} images/s"
        )
        seconds = round(self.left)
        clock = str(timedelta(seconds=seconds)).removeprefix("0:").removeprefix("0")  # as in 0:07 or 1:02:03
        limited = self.limit is not None and self.limit < self.eta
        left = "" if not seconds else f", time limit in {clock}" if limited else f", {clock} left"
        whole = f"{head}, {self._learning_rate()}{left}"
        return whole if len(whole) <= _COLUMNS else head + left

    def describe_parts(self) -> str:
        """The parts of the loss, the norm of the gradient and the peak memory, for a detailed log."""
        parts = " ".join(f"{name} {value:.3f}" for name, value in main_losses(self.losses).items())
        memory = "" if self.memory_bytes is None else f", peak memory {bytes_words(self.memory_bytes)}"
        return f"losses: {parts}; gradient norm {self.gradient_norm:.3g}{memory}"

    def _learning_rate(self) -> str:
        return f"learning rate {self.rate:.3g}"


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    finished: all epochs are done; otherwise `--resume` continues. interrupted: a signal ended it.
    best: checkpoint of the best evaluation, None before the first; metrics: of the last evaluation.
    already_finished: the run had ended before it was resumed; nothing was trained or written.
    """

    folder: Path
    last: Path
    best: Path | None
    best_score: float | None
    metrics: Mapping[str, float]
    epochs_done: int
    steps: int
    finished: bool
    interrupted: bool
    already_finished: bool = False

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        del plain["already_finished"]  # about this call; the rest is about the run
        return plain


def steady_eta(measured: float, expected: float, *, done: float) -> float:
    """Seconds to the end of a run, from its speed and from what the whole run was expected to take.

    The first steps are slower than the rest, so the expectation counts for the share of the run that is still to come.

    Args:
        measured: seconds to the end at the present speed. expected: seconds of the whole run.
        done: share of the run.
    """
    return done * measured + (1 - done) * (1 - done) * expected


def main_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """The losses to show, by short names; those of a decoder's earlier outputs, dozens of them, as one."""
    own = {name.removeprefix("loss_"): value for name, value in losses.items() if "." not in name}
    earlier = [value for name, value in losses.items() if "." in name]
    return own | ({"earlier outputs": sum(earlier)} if earlier else {})


def mean_losses(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each loss over some steps."""
    return {name: sum(values[name] for values in losses) / len(losses) for name in losses[-1]}
