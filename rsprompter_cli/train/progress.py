"""The progress reports and the result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, for a progress line.

    losses: by name, mean over the pictures of the step. eta: seconds to the end of the last epoch.
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

    def details(self) -> str:
        """The text of a progress display beside the count of steps."""
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**20:.0f} MiB"
        return (
            f"epoch {self.epoch + 1}/{self.epochs}, loss {sum(self.losses.values()):.3f}, lr {self.rate:.1e}, "
            f"{self.images_per_second:.2f} images/s{memory}"
        )

    def describe(self) -> str:
        """One line for the log: epoch, step, losses, learning rate, speed, time left."""
        parts = " ".join(f"{name} {value:.3f}" for name, value in main_losses(self.losses).items())
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**20:.0f} MiB"
        return (
            f"epoch {self.epoch + 1}/{self.epochs} step {self.step}/{self.steps}: "
            f"loss {sum(self.losses.values()):.3f} ({parts}), lr {self.rate:.1e}, "
            f"{self.images_per_second:.2f} images/s{memory}, {timedelta(seconds=round(self.eta))} left"
        )


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    finished: all epochs are done; otherwise `--resume` continues. interrupted: a signal ended it.
    best: checkpoint of the best evaluation, None before the first; metrics: of the last evaluation.
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

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def main_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """The losses to show, by short names; those of a decoder's earlier outputs, dozens of them, as one."""
    own = {name.removeprefix("loss_"): value for name, value in losses.items() if "." not in name}
    earlier = [value for name, value in losses.items() if "." in name]
    return own | ({"earlier outputs": sum(earlier)} if earlier else {})


def mean_losses(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each loss over some steps."""
    return {name: sum(values[name] for values in losses) / len(losses) for name in losses[-1]}
