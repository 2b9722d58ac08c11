"""A training run from top to bottom: set up, build, fit, validate.

The run folder holds `last/` and `best/` (complete checkpoints), `state/` (to resume), `log.jsonl`,
`tensorboard/`, `pictures/`, `curves.png`, `config.toml`, `wandb/` for a run logged to Weights & Biases and, with
several processes, `ranks/` with the output of the others.
All processes run this code in step; rank 0 writes the files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import nn

from rsprompter_cli.config import Config, TrainConfig, dump_config
from rsprompter_cli.errors import TrainingError, UsageError, plural
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.atomic import write_text
from rsprompter_cli.io.exchange import stop_file
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.models.precision import resolve_device, resolve_precision
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.dataloader import picture_seeds
from rsprompter_cli.train.distributed.ddp import loss_values
from rsprompter_cli.train.distributed.processes import Ranks, clean_stdout, joined
from rsprompter_cli.train.distributed.rank import find_place
from rsprompter_cli.train.evaluation import StoppedError, go_on_from, save_curves, validate
from rsprompter_cli.train.feature_caches import remove_maps, require_masks
from rsprompter_cli.train.interrupts import STOP_STEP, StopRequest, explain_out_of_memory, not_finite, require_finite
from rsprompter_cli.train.loggers import Board, NoLog, RunLog, TensorBoard, WandbRun, has_ended, require_wandb
from rsprompter_cli.train.run import Run, StepReport, TrainResult, mean_losses, report_step, save, steps_of, write_step
from rsprompter_cli.train.run_folder import (
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
from rsprompter_cli.train.setup import (
    build_engine,
    build_loader,
    enable_feature_cache,
    prepare,
    rate_factor,
    require_pictures,
    run_identity,
    seed_everything,
)
from rsprompter_cli.train.state import (
    Cursor,
    RunState,
    load_state,
    require_fitting,
    require_same_run,
    restoring,
    set_random_state,
)

_log = logging.getLogger(__name__)

_LOG_EVERY = 10
_WORTH_SAVING = 20.0
"""Seconds of training that are saved before an evaluation."""


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
    expected_seconds: float | None = None,
    on_model: Callable[[nn.Module], None] = lambda _model: None,
    on_step: Callable[[StepReport], None] = lambda _report: None,
    on_evaluation: Callable[[int, int], None] = lambda _done, _all: None,
) -> TrainResult:
    """Train a model on a COCO set, in this process or, where a launcher started several, together with the others.

    Args:
        data: folder with `annotations/*{train,val}.json` and the pictures.
        out: run folder.
        resume: continue from the state in `out`, exactly as if never stopped.
        load_from: checkpoint folder whose weights to start from, or "bundled".
        random_sam: start SAM from random weights instead of downloaded ones.
        minutes: time limit; the run then saves its state and ends. Each call takes a step at least, and finishes
            the evaluation that a former one left, so that a resumed run always gets on.
        expected_seconds: of the whole run, as far as known beforehand; makes the first reports of the time left better.
        on_model: shown the model before the first step; on_step, on_evaluation: progress.

    Raises:
        TrainingError: the loss is not finite, the state cannot be restored, or another process ended.
        ResourceError: out of memory.
        RspError: bad data, checkpoint, configuration or output folder.
    """
    if minutes is not None and not minutes >= 0:
        raise UsageError(f"--minutes {minutes}: must be 0 or more")
    out = Path(out)
    kind = resolve_device(device)
    check_cache_folder(config)
    with ExitStack() as until_the_end:
        if config.train.zero_stage:
            until_the_end.enter_context(clean_stdout())
        ranks = until_the_end.enter_context(joined(find_place(), kind))
        where = ranks.device(kind)
        dtype = resolve_precision(config.train.precision, where)
        if ranks.first:
            until_the_end.enter_context(only_run(out))
            check_folder(out, resume=resume, overwrite=overwrite)
            if config.train.wandb:
                require_wandb()
            recover_checkpoints(out)
        ranks.wait()
        seed_everything(config.train.seed)
        state = load_state(out) if resume else None
        announce("loading the model")
        # With --resume the state brings every weight that changes; SAM's frozen ones come from `last/`.
        setup = prepare(config, data, load_from=out / LAST if resume else load_from, random_sam=random_sam)
        require_pictures(ranks, setup)
        identity = run_identity(setup, dtype)
        if state is not None:
            require_same_run(out, state, identity)
            pictures = len(setup.train_data)
            require_fitting(out, state, setup.model, epochs=config.train.epochs, pictures=pictures)
            if state.cursor.epoch >= config.train.epochs and has_ended(out):
                metrics = read_checkpoint(out / LAST).meta.metrics
                return _result(out, state.cursor, config, metrics, epochs=state.cursor.epoch, untouched=True)
        setup.model.to(where)
        on_model(setup.model)
        cursor = state.cursor if state is not None else Cursor()
        if cursor.epoch < config.train.epochs:
            enable_feature_cache(setup, out, device=where, dtype=dtype)
        announce("preparing training")
        engine = build_engine(setup, state, ranks, device=where, dtype=dtype)
        options = setup.config.train
        loader = build_loader(setup, ranks)
        meta = setup.meta if state is None else go_on_from(setup.meta, read_checkpoint(out / LAST).meta)
        if ranks.first:
            if state is None:
                clear_folder(out)
            write_text(out / CONFIG_FILE, dump_config(_with_data(setup.config, data)))
        ranks.wait()
        stop = until_the_end.enter_context(StopRequest(minutes, file=stop_file(), answer=STOP_STEP))
        log = _open_log(setup.config, out, step=cursor.step, resume=resume) if ranks.first else NoLog()
        until_the_end.enter_context(log)
        run = Run(
            setup.config, out, ranks, engine, loader, setup.val_data, meta, identity, log, stop, on_step, on_evaluation
        )
        run.expected_seconds, run.saved = expected_seconds, None if state is None else cursor
        facts = {"dtype": str(dtype), "device": str(where), "ranks": ranks.count, "resume": resume}
        log.write("start", step=cursor.step, epoch=cursor.epoch, **facts)
        with restoring(out):
            _set_chance(state, ranks, seed=options.seed)
        with explain_out_of_memory(setup.config.model, batch_size=options.batch_size, device=where):
            return _run(run, cursor)


def _run(run: Run, cursor: Cursor) -> TrainResult:
    """Train to the end, or until the run should stop."""
    try:
        return _finish(run, _fit(run, cursor))
    except KeyboardInterrupt:
        kept = "no training step is saved yet"
        if run.saved is not None:
            kept = f"--resume continues after step {run.saved.step}, which was saved last"
        _log.info("stopped at once; %s", kept)
        raise


def _open_log(config: Config, out: Path, *, step: int, resume: bool) -> RunLog:
    boards: list[Board] = [WandbRun(out, config, resume=resume)] if config.train.wandb else []
    return RunLog(out, step=step, boards=[*boards, TensorBoard(out, step=step)])


def _set_chance(state: RunState | None, ranks: Ranks, *, seed: int) -> None:
    """Put the generators where the run stopped; a rank that is new gets a seed of its own."""
    if state is not None and ranks.rank < len(state.random):
        set_random_state(state.random[ranks.rank])
    elif ranks.rank > 0:
        seed_everything((seed + ranks.rank) % 2**32)


def _with_data(config: Config, data: str | Path) -> Config:
    """The configuration that resumes the run from any working folder without naming its data."""
    root = str(Path(data).absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def _fit(run: Run, cursor: Cursor) -> Cursor:
    """Epoch after epoch until the last one is done or the run should stop; where it stands then."""
    options = run.config.train
    pictures = sum(run.loader.sizes())
    left_over = _has_evaluation(options, cursor) and cursor.done == pictures
    if cursor.step:
        _log.info("resuming after %s, %s", plural(cursor.step, "step"), _words_on_resuming(run, cursor, left_over))
    steps = plural(steps_of(run), "training step")
    announce(f"running the first of {steps}" if not cursor.step else f"resuming after {cursor.step} of {steps}")
    while cursor.epoch < options.epochs:
        cursor = train_epoch(run, cursor)
        if run.stopping or cursor.done < pictures:
            return cursor
        require_masks(run.engine.model, pictures, run.loader.own_pictures(), run.ranks.all)
        if not _has_evaluation(options, cursor):
            cursor = replace(cursor, epoch=cursor.epoch + 1, done=0)
            continue
        _save_before_evaluation(run, cursor)
        try:
            # Stopped at the limit in every call, an evaluation that is longer than that would never end.
            cursor = validate(run, cursor, to_the_end=left_over)
        except StoppedError:
            return cursor
        left_over = False
        cursor = replace(cursor, epoch=cursor.epoch + 1, done=0)
        save(run, cursor)
        run.stopping = run.ranks.any(run.stop.wanted)
        if run.stopping:
            return cursor
        announce("training")
    return cursor


def _save_before_evaluation(run: Run, cursor: Cursor) -> None:
    """An evaluation may take long, and a kill in it should not cost the training before it."""
    due = run.saved != cursor and time.monotonic() - run.saved_at > _WORTH_SAVING
    if run.ranks.any(due):
        save(run, cursor)


def _has_evaluation(options: TrainConfig, cursor: Cursor) -> bool:
    """Whether the present epoch ends with an evaluation."""
    done = cursor.epoch + 1
    return done == options.epochs or done % options.eval_every == 0


def _words_on_resuming(run: Run, cursor: Cursor, left_over: bool) -> str:
    if not left_over:
        epochs = run.config.train.epochs
        if cursor.done == sum(run.loader.sizes()):
            return f"at the end of epoch {cursor.epoch + 1} of {epochs}"
        return f"{'in' if cursor.done else 'with'} epoch {cursor.epoch + 1} of {epochs}"
    whatever = "" if run.stop.seconds_left is None else ", which is finished even beyond the time limit"
    return f"with the evaluation of epoch {cursor.epoch + 1} of {run.config.train.epochs}{whatever}"


def train_epoch(run: Run, cursor: Cursor) -> Cursor:
    """The rest of an epoch, one optimizer step after the other; where it stands then."""
    options = run.config.train
    sizes = run.loader.sizes(cursor.done)
    batches = run.loader.epoch(cursor.epoch, cursor.done)
    pending: list[Mapping[str, float]] = []
    seen: list[Mapping[str, float]] = []
    for first in range(0, len(sizes), options.accumulate):
        group = sizes[first : first + options.accumulate]
        last = first + len(group) == len(sizes)
        losses, norm = take_step(run, batches, group, cursor)
        losses, save_now = _agree(run, losses)
        cursor = replace(cursor, done=cursor.done + sum(group), step=cursor.step + 1, images=cursor.images + sum(group))
        run.speed.count(sum(group))
        pending.append(losses)
        seen.append(losses)
        report = report_step(run, cursor, losses, norm)
        run.on_step(report)
        run.stopping = run.ranks.any(run.stop.wanted)
        if cursor.step % _LOG_EVERY == 0 or last or run.stopping:
            write_step(run, report, pending)
            pending = []
        if run.stopping:
            break
        if save_now:
            save(run, cursor)
    if seen and last:
        mean = replace(report, losses=mean_losses(seen))
        if run.stopping:
            mean = replace(mean, eta=0.0)  # it stops here
        _log.info("%s", mean.describe())
        _log.debug("%s", mean.describe_parts())
    return cursor


def take_step(
    run: Run, batches: Iterator[Batch], group: Sequence[int], cursor: Cursor
) -> tuple[dict[str, float], float]:
    """One optimizer step over the batches of a group; each counts by its share of the pictures.

    Args:
        group: pictures of each batch, all ranks together.

    Returns:
        This rank's losses by name, whose mean over the ranks is that over the pictures; the norm of the gradient.
    """
    options = run.config.train
    last_good = run.out / LAST if (run.out / LAST).exists() else None
    sums: dict[str, float] = {}
    image_ids: list[int] = []
    for index, size in enumerate(group):
        batch = next(batches)
        own = run.loader.own(size)
        seeds = picture_seeds(options.seed, cursor.epoch, batch.image_ids)
        losses = run.engine.forward(batch, seeds=seeds, counts=own > 0, last=index + 1 == len(group))
        values = loss_values(losses)
        require_finite(values, step=cursor.step, epoch=cursor.epoch, image_ids=batch.image_ids, last_good=last_good)
        if options.normalise == "each-rank":
            # The mean over the ranks follows: a rank counts by its own pictures.
            weight = run.ranks.count * own / sum(group)
        else:
            weight = size / sum(group) if own else 0.0
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


def _agree(run: Run, losses: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    """What the ranks found in a step, in one exchange.

    Returns:
        the losses, mean over the ranks; whether it is time to save, by rank 0's clock.
    """
    due = run.ranks.first and time.monotonic() - run.saved_at > 60 * run.config.train.save_minutes
    *sums, saving = run.ranks.sums([*losses.values(), float(due)])
    means = {name: value / run.ranks.count for name, value in zip(losses, sums, strict=True)}
    return means, saving > 0


def _finish(run: Run, cursor: Cursor) -> TrainResult:
    finished = cursor.epoch >= run.config.train.epochs
    announce("saving the training state")
    interrupted = run.ranks.any(run.stop.interrupted)
    if not finished:
        if run.saved != cursor:
            save(run, cursor)
        why = "stopped" if interrupted else "time limit reached"
        _log.info("%s %s; the state is saved", why, _where(run, cursor))
    elif run.config.train.cache_folder is None and run.ranks.first:
        remove_maps(run.out / ENCODER_MAPS)
        remove_maps(run.out / AUTOMASKS)
    if run.ranks.first:
        save_curves(run.out)
    # Last of all: a run whose log says that it has ended is not looked at again.
    run.log.write("end" if finished else "stop", step=cursor.step, epoch=cursor.epoch, best=cursor.best)
    metrics = run.meta.metrics
    return _result(run.out, cursor, run.config, metrics, epochs=_epochs_done(run, cursor), interrupted=interrupted)


def _epochs_done(run: Run, cursor: Cursor) -> int:
    """Whole epochs, with the evaluation that belongs to the last of them."""
    is_done = cursor.done == sum(run.loader.sizes()) and not _has_evaluation(run.config.train, cursor)
    return cursor.epoch + is_done


def _where(run: Run, cursor: Cursor) -> str:
    """Where a run was stopped, in words."""
    epochs = _epochs_done(run, cursor)
    if epochs and (cursor.done == 0 or epochs > cursor.epoch):
        return f"after epoch {epochs}"
    if cursor.done == sum(run.loader.sizes()):
        return f"before the end of the evaluation of epoch {cursor.epoch + 1}, with which --resume begins"
    return f"in epoch {cursor.epoch + 1}"


def _result(
    out: Path,
    cursor: Cursor,
    config: Config,
    metrics: Mapping[str, float],
    *,
    epochs: int,
    interrupted: bool = False,
    untouched: bool = False,
) -> TrainResult:
    best, finished = out / BEST, cursor.epoch >= config.train.epochs
    return TrainResult(
        folder=out,
        last=out / LAST,
        best=best if best.exists() else None,
        best_score=cursor.best,
        metrics=metrics,
        epochs_done=epochs,
        steps=cursor.step,
        finished=finished,
        interrupted=interrupted and not finished,
        already_finished=untouched,
    )
