"""What a training would take: everything is built, two steps are run, nothing is kept."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from rsprompter_cli.config import Config
from rsprompter_cli.errors import bytes_words, plural
from rsprompter_cli.evaluate.coco import detect_part
from rsprompter_cli.io.exchange import stop_file
from rsprompter_cli.models.architectures.samcls import SamCls
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.models.trainable import BlockParameters, trainable_table
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.distributed.processes import clean_stdout, joined
from rsprompter_cli.train.distributed.rank import find_place
from rsprompter_cli.train.feature_caches import cache_of
from rsprompter_cli.train.interrupts import StopRequest, explain_out_of_memory
from rsprompter_cli.train.loggers import NoLog, require_wandb
from rsprompter_cli.train.loop import take_step
from rsprompter_cli.train.run import Run
from rsprompter_cli.train.run_folder import check_cache_folder
from rsprompter_cli.train.setup import (
    build_engine,
    build_loader,
    enable_feature_cache,
    prepare,
    require_pictures,
    seed_everything,
)
from rsprompter_cli.train.state import Cursor

_log = logging.getLogger(__name__)

_STEPS = 2
"""The first includes one-time set-up, the last is timed."""


@dataclass(frozen=True)
class DryRun:
    """What a training is made of and how long it would take; seconds are those of the slowest process.

    memory_bytes: largest peak of a process (of its GPU, else of its main memory), None if not available.
    step_images: training images of an optimizer step, all processes together.
    seconds_per_step: with all that a step reads and computes; seconds_per_step_with_maps: with SAM's
        outputs read from disk, None for a run that does not cache them.
    seconds_per_evaluation: of the first one; by one batch of each process and a model that has learned little.
    seconds: of all steps and evaluations.
    """

    engine: str
    processes: int
    device: str
    precision: str
    parameters: int
    trainable: int
    memory_bytes: int | None
    train_images: int
    val_images: int
    step_images: int
    epochs: int
    steps_per_epoch: int
    steps: int
    seconds_per_step: float
    seconds_per_step_with_maps: float | None
    evaluations: int
    seconds_per_evaluation: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def rows(self) -> list[tuple[str, str]]:
        """All of it as a table for people."""
        step = f"{self.seconds_per_step:.2f} s for {plural(self.step_images, 'image')}"
        if self.seconds_per_step_with_maps is not None:
            step += f"; {self.seconds_per_step_with_maps:.2f} s with cached SAM outputs"
        first = _duration(self.seconds_per_evaluation)
        memory = "not available on this system" if self.memory_bytes is None else bytes_words(self.memory_bytes)
        whole = "" if self.processes == 1 else " in each process"
        return [
            ("engine", f"{self.engine}, {self.processes} x {self.device}, {self.precision}"),
            ("parameters", f"{self.parameters:,}"),
            ("trainable", f"{self.trainable:,}"),
            ("peak memory", memory + whole),
            ("step", step),
            (
                "steps",
                f"{self.steps:,} = {plural(self.epochs, 'epoch')} x {self.steps_per_epoch} "
                f"({plural(self.train_images, 'image')})",
            ),
            (
                "evaluations",
                f"{self.evaluations} of {plural(self.val_images, 'image')} each, {first} for the first one",
            ),
            ("total time", f"about {_duration(self.seconds)}"),
        ]


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=max(1, round(seconds))))


def dry_run(
    config: Config,
    *,
    data: str | Path,
    out: str | Path,
    load_from: str | Path | None = None,
    random_sam: bool = False,
    device: str = "auto",
    on_model: Callable[[nn.Module], None] = lambda _model: None,
) -> DryRun:
    """Build all that `train` builds, run two optimizer steps and a batch of the evaluation, and leave nothing.

    Args:
        out: run folder; only the room on its disk is looked at. The rest: as `train`.

    Returns:
        the same in every process.

    Raises:
        KeyboardInterrupt: a signal came.
        RspError: as `train`.
    """
    kind = resolve_device(device)
    check_cache_folder(config)
    with ExitStack() as until_the_end:
        if config.train.zero_stage:
            until_the_end.enter_context(clean_stdout())
        ranks = until_the_end.enter_context(joined(find_place(), kind))
        where = ranks.device(kind)
        if config.train.wandb and ranks.first:
            require_wandb()
        dtype = resolve_precision(config.train.precision, where)
        seed_everything(config.train.seed)
        setup = prepare(config, data, load_from=load_from, random_sam=random_sam)
        require_pictures(ranks, setup)
        setup.model.to(where)
        on_model(setup.model)
        rows = trainable_table(setup.model)  # of what ZeRO-3 shares out a process sees nothing later
        enable_feature_cache(setup, Path(out), device=where, dtype=dtype)
        nowhere = Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="rsp-dry-run-")))
        if (cache := cache_of(setup.model)) is not None:
            cache.folder = nowhere
        engine = build_engine(setup, None, ranks, device=where, dtype=dtype)
        stop = until_the_end.enter_context(StopRequest(file=stop_file()))
        loader, val_data, meta = build_loader(setup, ranks), setup.val_data, setup.meta
        run = Run(
            setup.config, nowhere, ranks, engine, loader, val_data, meta, {}, NoLog(), stop, lambda _: None, _ignore
        )
        with explain_out_of_memory(setup.config.model, batch_size=config.train.batch_size, device=where):
            times = _Times(*_time_steps(run, again=cache is not None), *_time_batch(run, again=cache is not None))
        return _forecast(run, rows, times)


def _ignore(_done: int, _all: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class _Times:
    """Seconds of the slowest process; with maps: where what SAM answers is read, None for a run that keeps none."""

    step: float
    step_with_maps: float | None
    batch: float
    batch_with_maps: float | None


def _forecast(run: Run, rows: Sequence[BlockParameters], times: _Times) -> DryRun:
    """The whole schedule at these speeds."""
    options, ranks, sizes = run.config.train, run.ranks, run.loader.sizes()
    steps = -(-len(sizes) // options.accumulate)
    # SAM-cls keeps the masks of pictures as they are, which is one view of each.
    views = 1 if isinstance(run.engine.model, SamCls) else options.cache_views
    fresh = options.epochs if times.step_with_maps is None else min(views, options.epochs)
    rounds = -(-len(run.val_data) // (options.batch_size * ranks.count))
    evaluations = -(-options.epochs // options.eval_every)
    training = steps * (fresh * times.step + (options.epochs - fresh) * (times.step_with_maps or 0.0))
    evaluating = rounds * (times.batch + (evaluations - 1) * (times.batch_with_maps or times.batch))
    return DryRun(
        engine=_engine_name(options.zero_stage, ranks.count),
        processes=ranks.count,
        device=run.engine.device.type,
        precision=str(run.engine.dtype).removeprefix("torch."),
        parameters=sum(row.trainable + row.frozen for row in rows),
        trainable=sum(row.trainable for row in rows),
        memory_bytes=_largest_memory(run),
        train_images=sum(sizes),
        val_images=len(run.val_data),
        step_images=sum(sizes[: options.accumulate]),
        epochs=options.epochs,
        steps_per_epoch=steps,
        steps=steps * options.epochs,
        seconds_per_step=times.step,
        seconds_per_step_with_maps=times.step_with_maps,
        evaluations=evaluations,
        seconds_per_evaluation=rounds * times.batch,
        seconds=training + evaluating,
    )


def _engine_name(zero_stage: int, processes: int) -> str:
    if zero_stage:
        return f"DeepSpeed ZeRO-{zero_stage}"
    return "DistributedDataParallel" if processes > 1 else "one process"


def _time_steps(run: Run, *, again: bool) -> tuple[float, float | None]:
    """Seconds of the last of the first steps of the run and, where asked for, of the same step `again`."""
    sizes, accumulate = run.loader.sizes(), run.config.train.accumulate
    groups = [sizes[first : first + accumulate] for first in range(0, len(sizes), accumulate)]
    batches: Iterator[Batch] = iter(())
    cursor = Cursor()
    for number in range(_STEPS):
        epoch, place = divmod(number, len(groups))
        if place == 0:
            batches = run.loader.epoch(epoch)
        cursor = Cursor(epoch=epoch, done=sum(map(sum, groups[:place])), step=number)
        seconds = _time_step(run, batches, groups[place], cursor)
    if not again:
        return seconds, None
    batches = run.loader.epoch(cursor.epoch, cursor.done)
    _log.info("timing the step again with cached SAM outputs")
    # As in a run, pictures are read while the step before works.
    return seconds, _time_step(run, chain([next(batches)], batches), groups[place], cursor)


def _time_step(run: Run, batches: Iterator[Batch], group: Sequence[int], cursor: Cursor) -> float:
    began = time.monotonic()
    losses, norm = take_step(run, batches, group, cursor)
    seconds = _largest(run, time.monotonic() - began)
    if run.ranks.any(run.stop.wanted):
        raise KeyboardInterrupt
    _log.info("step %d: loss %.3f, gradient norm %.2f, %.2f s", cursor.step + 1, sum(losses.values()), norm, seconds)
    return seconds


def _time_batch(run: Run, *, again: bool) -> tuple[float, float | None]:
    """Seconds of a batch of the evaluation in each process and, where asked for, of the same one `again`."""
    options, ranks = run.config.train, run.ranks
    batches = -(-len(run.val_data) // options.batch_size)
    seconds = []
    with run.engine.whole():
        for _ in range(1 + again):
            began = time.monotonic()
            detect_part(
                run.engine.model,
                run.val_data,
                batch=options.batch_size,
                device=run.engine.device,
                dtype=run.engine.dtype,
                part=ranks.rank,
                parts=max(batches, ranks.count),
            )
            seconds.append(_largest(run, time.monotonic() - began))
    return seconds[0], seconds[1] if again else None


def _largest(run: Run, value: float) -> float:
    """The largest value of any process, in all of them."""
    values = run.ranks.gather(value)
    return run.ranks.share(max(values) if run.ranks.first else None)


def _largest_memory(run: Run) -> int | None:
    here = run.engine.memory_bytes()
    largest = _largest(run, -1 if here is None else here)
    return None if largest < 0 else int(largest)
