"""What the parts of a run share, and how it is saved and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rsprompter_cli.config import Config
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.io.checkpoint import CheckpointMeta, write_checkpoint
from rsprompter_cli.train.engine import TrainEngine
from rsprompter_cli.train.folder import LAST
from rsprompter_cli.train.guard import STOP_SAVING, StopRequest
from rsprompter_cli.train.order import BatchSource
from rsprompter_cli.train.progress import StepReport, mean_losses, steady_eta
from rsprompter_cli.train.ranks import Ranks
from rsprompter_cli.train.state import Cursor, RunState, random_state, save_state
from rsprompter_cli.train.track import NoLog, RunLog, Speed


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
