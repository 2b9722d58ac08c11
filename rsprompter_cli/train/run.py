"""What the parts of a run share, how it is saved, its progress reports and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from rsprompter_cli.config import Config
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.errors import bytes_words
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta, write_checkpoint
from rsprompter_cli.train.dataloader import BatchSource
from rsprompter_cli.train.distributed.ddp import TrainEngine
from rsprompter_cli.train.distributed.processes import Ranks
from rsprompter_cli.train.interrupts import STOP_SAVING, StopRequest
from rsprompter_cli.train.loggers import NoLog, RunLog, Speed
from rsprompter_cli.train.run_folder import LAST
from rsprompter_cli.train.state import Cursor, RunState, random_state, save_state


@dataclass(eq=False)
class Run:
    """A run that is under way, in one of its processes.

    stopping: all ranks agreed to end after this step.
    expected_seconds: of the whole run, from earlier measurements, see `train`; None without any.
    saved: where the run stands in the saved state, None before the first save.
    """

    config: Config
    out: Path
    ranks: Ranks
    engine: TrainEngine
    loader: BatchSource
    val_data: CocoDataset
    meta: CheckpointMeta
    identity: dict[str, str]
    log: RunLog | NoLog
    stop: StopRequest
    on_step: Callable[[StepReport], None]
    on_evaluation: Callable[[int, int], None]
    expected_seconds: float | None = None
    saved: Cursor | None = None
    stopping: bool = False
    speed: Speed = field(default_factory=Speed)
    saved_at: float = field(default_factory=time.monotonic)


def save(run: Run, cursor: Cursor) -> None:
    """`last/`, then the state to resume from.

    The state holds all weights that change, so the two need not be of the same moment.
    """
    with run.stop.answering(STOP_SAVING):
        write_named(run, LAST, cursor, epochs_done=cursor.epoch)
        engine = run.engine.state()
        random = run.ranks.gather(random_state())
        if run.ranks.first:
            save_state(run.out, RunState(cursor, run.identity, engine, random))
        run.ranks.wait()
    run.saved, run.saved_at = cursor, time.monotonic()
    run.speed.restart()


def write_named(run: Run, name: str, cursor: Cursor, *, epochs_done: int) -> None:
    """The checkpoint folder `name` of the run, with the weights of now."""
    facts = {"epochs": epochs_done, "steps": cursor.step, "images_seen": cursor.images}
    meta = replace(run.meta, provenance={**run.meta.provenance, **facts})
    with run.engine.whole():
        if run.ranks.first:
            write_checkpoint(run.out / name, run.engine.model.state_dict(), run.config, meta)


def steps_of(run: Run) -> int:
    """Optimizer steps of the whole run."""
    options = run.config.train
    return -(-len(run.loader.sizes()) // options.accumulate) * options.epochs


def report_step(run: Run, cursor: Cursor, losses: Mapping[str, float], norm: float) -> StepReport:
    """The report of a step, with the time that is left."""
    options = run.config.train
    sizes = run.loader.sizes()
    rate = run.speed.images_per_second()
    images = sum(sizes) * options.epochs
    eta = (images - cursor.images) / rate if rate > 0 else 0.0
    if run.expected_seconds is not None:
        eta = steady_eta(eta, run.expected_seconds, done=cursor.images / images)
    limit = run.stop.seconds_left
    return StepReport(
        epoch=cursor.epoch,
        epochs=options.epochs,
        step=cursor.step,
        steps=steps_of(run),
        losses=losses,
        rate=run.engine.rate(),
        gradient_norm=norm,
        images_per_second=rate,
        memory_bytes=run.engine.memory_bytes(),
        eta=eta,
        limit=None if limit is None else max(limit, 0.0),
    )


def write_step(run: Run, report: StepReport, pending: Sequence[Mapping[str, float]]) -> None:
    """A line of the log with the mean of the losses since the last one."""
    losses = mean_losses(pending)
    total = sum(losses.values())
    run.log.write(
        "step",
        step=report.step,
        epoch=report.epoch,
        loss=total,
        losses=losses,
        lr=report.rate,
        gradient_norm=report.gradient_norm,
        images_per_s=round(report.images_per_second, 3),
        memory_mb=None if report.memory_bytes is None else round(report.memory_bytes / 2**20),
        eta_s=round(report.eta),
    )
    numbers = {f"loss/{name}": value for name, value in losses.items()}
    numbers |= {"loss/total": total, "lr": report.rate, "images_per_s": report.images_per_second}
    run.log.plot(numbers, step=report.step)


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
