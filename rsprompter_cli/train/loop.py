"""A training run from top to bottom: set up, build, fit, validate.

The run folder holds `last/` and `best/` (complete checkpoints), `state/` (to resume), `log.jsonl`,
`tensorboard/` and `config.toml`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from rsprompter_cli.config import Config, dump_config
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.errors import TrainingError, UsageError
from rsprompter_cli.evaluate.coco import evaluate_model
from rsprompter_cli.io.atomic import write_text
from rsprompter_cli.io.checkpoint import CheckpointMeta, read_checkpoint, write_checkpoint
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.models.samcls import SamCls
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.engine import Engine, loss_values
from rsprompter_cli.train.facts import WindowClock, go_on_from, with_metrics
from rsprompter_cli.train.folder import (
    AUTOMASKS,
    BEST,
    CONFIG_FILE,
    ENCODER_MAPS,
    LAST,
    check_cache_folder,
    check_folder,
    clear_folder,
    only_run,
    recover_checkpoints,
)
from rsprompter_cli.train.guard import StopRequest, explain_out_of_memory, not_finite, require_finite
from rsprompter_cli.train.maps import cache_of, keep_automatic_masks, keep_encoder_maps, remove_maps, require_masks
from rsprompter_cli.train.optim import build_optimizer, rate_factor
from rsprompter_cli.train.order import EpochLoader
from rsprompter_cli.train.progress import StepReport, TrainResult, mean_losses
from rsprompter_cli.train.setup import Setup, prepare, run_identity, seed_everything
from rsprompter_cli.train.state import (
    Cursor,
    RunState,
    load_state,
    random_state,
    require_same_run,
    save_state,
    set_random_state,
)
from rsprompter_cli.train.track import RunLog, Speed

_log = logging.getLogger(__name__)

BEST_BY = "segm_AP"
"""The figure by which the best checkpoint is kept."""

_LOG_EVERY = 10


@dataclass(eq=False)
class _Run:
    """What the functions below share."""

    config: Config
    out: Path
    engine: Engine
    loader: EpochLoader
    val_data: CocoDataset
    meta: CheckpointMeta
    identity: dict[str, str]
    log: RunLog
    stop: StopRequest
    on_step: Callable[[StepReport], None]
    on_evaluation: Callable[[int, int], None]
    speed: Speed = field(default_factory=Speed)
    saved_at: float = field(default_factory=time.monotonic)


class _StoppedError(Exception):
    """Leaves an evaluation when the run should end."""


def train(
    config: Config,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    load_from: str | Path | None = None,
    random_sam: bool = False,
    device: str = "auto",
    minutes: float | None = None,
    on_model: Callable[[nn.Module], None] = lambda _model: None,
    on_step: Callable[[StepReport], None] = lambda _report: None,
    on_evaluation: Callable[[int, int], None] = lambda _done, _all: None,
) -> TrainResult:
    """Train a model on a COCO set.

    Args:
        data: folder with `annotations/*{train,val}.json` and the pictures.
        out: run folder.
        resume: go on from the state in `out`, exactly as if never stopped.
        load_from: checkpoint folder whose weights to start from.
        random_sam: start SAM from random weights instead of downloaded ones.
        minutes: time budget; the run then saves its state and ends.
        on_model: shown the model before the first step; on_step, on_evaluation: progress.

    Raises:
        TrainingError: the loss is not finite, or the state cannot be restored.
        ResourceError: out of memory.
        RspError: bad data, checkpoint, configuration or output folder.
    """
    if minutes is not None and not minutes >= 0:
        raise UsageError(f"--minutes {minutes}: a number, 0 or more")
    out = Path(out)
    where = resolve_device(device)
    dtype = resolve_precision(config.train.precision, where)
    check_cache_folder(config)
    with only_run(out):
        check_folder(out, resume=resume, overwrite=overwrite)
        recover_checkpoints(out)
        seed_everything(config.train.seed)
        state = load_state(out) if resume else None
        # With --resume the state brings every weight that changes; SAM's frozen ones come from `last/`.
        setup = prepare(config, data, load_from=out / LAST if resume else load_from, random_sam=random_sam)
        setup.model.to(where)
        on_model(setup.model)
        identity = run_identity(setup, dtype)
        engine = _build_engine(setup, device=where, dtype=dtype)
        if state is not None:
            require_same_run(out, state, identity)
            engine.restore(state.engine)
        cursor = state.cursor if state is not None else Cursor()
        if cursor.epoch < config.train.epochs:
            _keep_maps(setup, out, device=where, dtype=dtype)
        if state is None:
            clear_folder(out)
        write_text(out / CONFIG_FILE, dump_config(_with_data(setup.config, data)))
        options = setup.config.train
        loader = EpochLoader(
            setup.train_data,
            batch_size=options.batch_size,
            seed=options.seed,
            workers=options.workers,
            views=options.cache_views,
        )
        meta = setup.meta if state is None else go_on_from(setup.meta, read_checkpoint(out / LAST).meta)
        with StopRequest(minutes) as stop, RunLog(out, step=cursor.step) as log:
            run = _Run(
                setup.config, out, engine, loader, setup.val_data, meta, identity, log, stop, on_step, on_evaluation
            )
            log.write("start", step=cursor.step, epoch=cursor.epoch, dtype=str(dtype), device=str(where), resume=resume)
            if state is not None:
                set_random_state(state.random)
            with explain_out_of_memory(setup.config.model, batch_size=options.batch_size, device=where):
                cursor = _fit(run, cursor)
            return _finish(run, cursor)


def _with_data(config: Config, data: str | Path) -> Config:
    """The configuration that resumes the run from any working folder without naming its data."""
    root = str(Path(data).absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def _keep_maps(setup: Setup, out: Path, *, device: Any, dtype: Any) -> None:
    options, image_size = setup.config.train, setup.meta.image_size
    if isinstance(setup.model, SamCls):
        folder = Path(options.cache_folder or out / AUTOMASKS)
        keep_automatic_masks(setup.model, folder, augment=options.augment, device=device, dtype=dtype)
    if not options.cache_views:
        return
    with explain_out_of_memory(setup.config.model, batch_size=1, device=device):
        keep_encoder_maps(
            setup.model,
            Path(options.cache_folder or out / ENCODER_MAPS),
            train_images=len(setup.train_data),
            views=min(options.cache_views, options.epochs),
            val_images=len(setup.val_data),
            image_size=image_size,
            device=device,
            dtype=dtype,
        )


def _build_engine(setup: Setup, *, device: Any, dtype: Any) -> Engine:
    options = setup.config.train
    optimizer = build_optimizer(setup.model, lr=options.lr, weight_decay=options.weight_decay)
    return Engine(setup.model, optimizer, device=device, dtype=dtype, clip_grad=options.clip_grad)


def _fit(run: _Run, cursor: Cursor) -> Cursor:
    """Epoch after epoch until the last one is done or the run should stop; where it stands then."""
    options = run.config.train
    batches = len(run.loader.sizes())
    while cursor.epoch < options.epochs:
        cursor = _train_epoch(run, cursor)
        if run.stop.wanted or cursor.batch < batches:
            return cursor
        require_masks(run.engine.model, sum(run.loader.sizes()))
        last_epoch = cursor.epoch + 1 == options.epochs
        if last_epoch or (cursor.epoch + 1) % options.eval_every == 0:
            try:
                cursor = _validate(run, cursor)
            except _StoppedError:
                return cursor
            cursor = replace(cursor, epoch=cursor.epoch + 1, batch=0)
            _save(run, cursor)
        else:
            cursor = replace(cursor, epoch=cursor.epoch + 1, batch=0)
    return cursor


def _train_epoch(run: _Run, cursor: Cursor) -> Cursor:
    """The rest of an epoch, one optimizer step after the other."""
    options = run.config.train
    sizes = run.loader.sizes()
    batches = run.loader.epoch(cursor.epoch, cursor.batch)
    pending: list[Mapping[str, float]] = []
    seen: list[Mapping[str, float]] = []
    while cursor.batch < len(sizes):
        group = sizes[cursor.batch : cursor.batch + options.accumulate]
        losses, norm = _step(run, batches, group, cursor)
        cursor = replace(
            cursor, batch=cursor.batch + len(group), step=cursor.step + 1, images=cursor.images + sum(group)
        )
        run.speed.count(sum(group))
        pending.append(losses)
        seen.append(losses)
        report = _report(run, cursor, losses, norm)
        run.on_step(report)
        if cursor.step % _LOG_EVERY == 0 or cursor.batch == len(sizes) or run.stop.wanted:
            _write_step(run, report, pending)
            pending = []
        if run.stop.wanted:
            break
        if time.monotonic() - run.saved_at > 60 * options.save_minutes:
            _save(run, cursor)
            run.speed.restart()
    if seen and cursor.batch == len(sizes):
        _log.info("%s", replace(report, losses=mean_losses(seen)).describe())
    return cursor


def _step(run: _Run, batches: Iterator[Batch], group: Sequence[int], cursor: Cursor) -> tuple[dict[str, float], float]:
    """One optimizer step over the batches of a group; each counts by its share of the pictures.

    Returns:
        The losses by name, mean over the pictures, and the norm of the gradient.
    """
    options = run.config.train
    last_good = run.out / LAST if (run.out / LAST).exists() else None
    sums: dict[str, float] = {}
    image_ids: list[int] = []
    for size in group:
        batch = next(batches)
        losses = run.engine.forward(batch)
        values = loss_values(losses)
        require_finite(values, step=cursor.step, epoch=cursor.epoch, image_ids=batch.image_ids, last_good=last_good)
        weight = size / sum(group)
        run.engine.backward(losses, weight=weight)
        image_ids += batch.image_ids
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + weight * value
    factor = rate_factor(cursor.step, cursor.epoch, epochs=options.epochs, warmup_steps=options.warmup_steps)
    try:
        norm = run.engine.step(factor)
    except TrainingError as error:
        raise not_finite(
            error.message, step=cursor.step, epoch=cursor.epoch, image_ids=image_ids, last_good=last_good
        ) from error
    return sums, norm


def _validate(run: _Run, cursor: Cursor) -> Cursor:
    """Evaluate, write what came out, and keep the model when it is the best so far."""
    clock = WindowClock(run.val_data.coco.images, run.meta.image_size, cache_of(run.engine.model))

    def progress(done: int, total: int) -> None:
        clock.count(done)
        run.on_evaluation(done, total)
        if run.stop.wanted:
            raise _StoppedError

    began = time.monotonic()
    evaluation = evaluate_model(
        run.engine.model,
        run.val_data,
        batch=run.config.train.batch_size,
        device=run.engine.device,
        dtype=run.engine.dtype,
        on_progress=progress,
    )
    metrics = evaluation.metrics
    figures = metrics.flat()
    seconds = time.monotonic() - began
    run.speed.restart()
    speed = clock.seconds_per_window()
    run.meta = with_metrics(run.meta, metrics, seconds_per_window=speed, device=run.engine.device.type)
    run.log.write("evaluation", step=cursor.step, epoch=cursor.epoch, seconds=round(seconds, 1), metrics=figures)
    run.log.plot({f"val/{name}": value for name, value in figures.items()}, step=cursor.step)
    score = figures.get(BEST_BY, 0.0)
    better = cursor.best is None or score >= cursor.best
    _log.info(
        "epoch %d: mask AP %.4f, AP50 %.4f, box AP %.4f, F1 %.3f%s",
        cursor.epoch + 1,
        score,
        figures.get("segm_AP50", 0.0),
        figures.get("bbox_AP", 0.0),
        metrics.f1,
        ", the best so far" if better else "",
    )
    if not better:
        return cursor
    cursor = replace(cursor, best=score, best_step=cursor.step)
    _write_checkpoint(run, BEST, cursor, epochs_done=cursor.epoch + 1)
    return cursor


def _save(run: _Run, cursor: Cursor) -> None:
    """`last/`, then the state that goes on from here.

    The state holds all weights that change, so the two need not be of the same moment.
    """
    _write_checkpoint(run, LAST, cursor, epochs_done=cursor.epoch)
    save_state(run.out, RunState(cursor, run.identity, run.engine.state(), random_state()))
    run.saved_at = time.monotonic()


def _finish(run: _Run, cursor: Cursor) -> TrainResult:
    finished = cursor.epoch >= run.config.train.epochs
    if not finished:
        _save(run, cursor)
        _log.warning("stopped in epoch %d, the state is saved: --resume goes on", cursor.epoch + 1)
    elif run.config.train.cache_folder is None:
        remove_maps(run.out / ENCODER_MAPS)
        remove_maps(run.out / AUTOMASKS)
    run.log.write("end" if finished else "stop", step=cursor.step, epoch=cursor.epoch, best=cursor.best)
    best = run.out / BEST
    return TrainResult(
        folder=run.out,
        last=run.out / LAST,
        best=best if best.exists() else None,
        best_score=cursor.best,
        metrics=run.meta.metrics,
        epochs_done=cursor.epoch,
        steps=cursor.step,
        finished=finished,
        interrupted=run.stop.interrupted and not finished,
    )


def _write_checkpoint(run: _Run, name: str, cursor: Cursor, *, epochs_done: int) -> None:
    facts = {"epochs": epochs_done, "steps": cursor.step, "images_seen": cursor.images}
    meta = replace(run.meta, provenance={**run.meta.provenance, **facts})
    write_checkpoint(run.out / name, run.engine.model.state_dict(), run.config, meta)


def _report(run: _Run, cursor: Cursor, losses: Mapping[str, float], norm: float) -> StepReport:
    options = run.config.train
    sizes = run.loader.sizes()
    rate = run.speed.images_per_second()
    left = sum(sizes) * options.epochs - cursor.images
    return StepReport(
        epoch=cursor.epoch,
        epochs=options.epochs,
        step=cursor.step,
        steps=-(-len(sizes) // options.accumulate) * options.epochs,
        losses=losses,
        rate=run.engine.rate(),
        gradient_norm=norm,
        images_per_second=rate,
        memory_bytes=run.engine.memory_bytes(),
        eta=left / rate if rate > 0 else 0.0,
    )


def _write_step(run: _Run, report: StepReport, pending: Sequence[Mapping[str, float]]) -> None:
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
