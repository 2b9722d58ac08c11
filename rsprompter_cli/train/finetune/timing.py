"""What a fit finds out before it trains: how good the model is that it starts from, and how long things take here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.data.coco.write import thin_annotations
from rsprompter_cli.data.images import find_annotations
from rsprompter_cli.errors import plural
from rsprompter_cli.evaluate.coco import evaluate_model
from rsprompter_cli.evaluate.scores import CocoMetrics
from rsprompter_cli.io.activity import announce
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.models.sam.encoder_cache import EncoderCache
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.dataloader import EpochLoader
from rsprompter_cli.train.distributed.ddp import Engine
from rsprompter_cli.train.evaluation import WindowClock
from rsprompter_cli.train.finetune.dry_run import SHARE_TO_MEASURE, held_back_in
from rsprompter_cli.train.finetune.record import TILES, Record
from rsprompter_cli.train.finetune.schedule import Figures, Timing
from rsprompter_cli.train.setup import Setup, build_optimizer, with_validation_set

_log = logging.getLogger(__name__)

_MOST_TO_EVALUATE = 2 * SHARE_TO_MEASURE
"""Of the time limit, for evaluating the starting model: a computer slower than its speed says gets fewer tiles."""

_PROBES = 3
"""Batches that are timed; the first is left out, for it pays for what is set up once."""

_MARKS = 3
"""Progress reports after which the time of an evaluation is known: at its start and after two batches."""


@dataclass(frozen=True)
class _StartFigures:
    """A model on the held-back tiles before it is fitted.

    metrics: by COCO name. speed: entries of a checkpoint's provenance.
    """

    figures: Figures
    metrics: dict[str, float]
    speed: dict[str, Any]


class _SlowError(Exception):
    """An evaluation would take longer than it may; `seconds` is what a window takes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.3g} s per window")
        self.seconds = seconds


def figures_of(metrics: CocoMetrics) -> Figures:
    """The few figures that a fit is judged by."""
    mask = metrics.mask
    return Figures(metrics.f1, mask["AP50"] or 0.0, mask["AP"] or 0.0, metrics.score_threshold)


def enable_feature_cache(setup: Setup, folder: Path, device: torch.device, dtype: torch.dtype) -> EncoderCache | None:
    """Let a model with a frozen encoder keep its maps; None for another, which has none to keep."""
    if getattr(setup.config.model, "encoder", None) != "frozen":
        return None
    cache = EncoderCache(folder, setup.model.get_submodule("encoder"), device=device, dtype=dtype)
    setup.model.encoder_cache = cache  # type: ignore[assignment]
    return cache


def evaluate_start(
    record: Record,
    setup: Setup,
    cache: EncoderCache | None,
    run: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_evaluation: Callable[[int, int], None],
) -> Setup:
    """Evaluate the model that the run starts from, on as many held-back tiles as the time limit allows."""
    limit = 60 * _MOST_TO_EVALUATE * record.wishes.budget
    try:
        found = _evaluate(setup, cache, device=device, dtype=dtype, on_evaluation=on_evaluation, seconds=limit)
    except _SlowError as slow:
        limit_held_back(record, run, slow.seconds)
        setup = with_validation_set(setup, run / TILES)
        found = _evaluate(setup, cache, device=device, dtype=dtype, on_evaluation=on_evaluation)
        # Some maps were kept already, so the second attempt says less about the speed than the first.
        found = replace(found, speed=_speed_facts(slow.seconds, device))
    record.start, record.start_metrics, record.speed = found.figures, found.metrics, found.speed
    record.save(run)
    _log.info(
        "before training: F1 %.3f, AP50 %.3f on %s",
        found.figures.f1,
        found.figures.ap50,
        plural(len(setup.val_data), "held-back tile"),
    )
    return setup


def limit_held_back(record: Record, run: Path, per_window: float) -> None:
    """Leave as many held-back tiles as the time limit allows on this computer."""
    allowed = held_back_in(60 * _MOST_TO_EVALUATE * record.wishes.budget, per_window)
    count = record.tiles["val"][0]
    if allowed < count:
        record.tiles["val"][0] = thin_annotations(find_annotations(run / TILES, "val"), allowed)
        record.save(run)
        _log.info(
            "a tile takes %.2g s on this computer: the time limit allows %d of %s",
            per_window,
            allowed,
            plural(count, "held-back tile"),
        )


def _evaluate(
    setup: Setup,
    cache: EncoderCache | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_evaluation: Callable[[int, int], None],
    seconds: float = float("inf"),
) -> _StartFigures:
    """Evaluate the model that a fit starts from on the held-back tiles.

    Args:
        seconds: what it may take.

    Raises:
        _SlowError: after the first tiles, when all of them would take longer than `seconds`.
    """
    clock = WindowClock(setup.val_data.coco.images, setup.meta.image_size, cache)
    marks: list[tuple[int, float]] = []

    def progress(done: int, total: int) -> None:
        clock.count(done)
        on_evaluation(done, total)
        marks.append((done, time.monotonic()))
        if len(marks) == _MARKS:
            # From the second batch on, for the first pays for what is set up once.
            (before, then), (after, now) = marks[1:]
            each = (now - then) / (after - before)
            if each * total > seconds:
                raise _SlowError(each)

    metrics = evaluate_model(
        setup.model,
        setup.val_data,
        batch=setup.config.train.batch_size,
        device=device,
        dtype=dtype,
        on_progress=progress,
    ).metrics
    per_window = clock.seconds_per_window()
    speed = {} if per_window is None else _speed_facts(per_window, device)
    return _StartFigures(figures_of(metrics), metrics.flat(), speed)


def _speed_facts(per_window: float, device: torch.device) -> dict[str, Any]:
    """Entries of a checkpoint's provenance."""
    return {"seconds_per_window": round(per_window, 4), "seconds_per_window_on": device.type}


def measure(
    setup: Setup, cache: EncoderCache | None, *, device: torch.device, dtype: torch.dtype, seconds: float
) -> Timing:
    """Time a few training steps and an evaluated picture; the model is changed by it, and of no further use.

    Args:
        cache: the one of the model's encoder; the maps it gets here are those of the first epoch.
        seconds: after which no further step is timed; one is always.
    """
    options = setup.config.train
    optimizer = build_optimizer(setup.model, lr=options.lr, weight_decay=options.weight_decay)
    engine = Engine(setup.model, optimizer, device=device, dtype=dtype, clip_grad=options.clip_grad)
    loader = EpochLoader(setup.train_data, batch_size=options.batch_size, seed=options.seed, workers=0, views=1)
    setup.model.train()
    began = time.monotonic()
    steps: list[tuple[float, float]] = []
    for batch in loader.epoch(0):
        announce(f"timing training step {len(steps) + 1} of {min(_PROBES, len(loader.sizes()))}")
        first = _seconds_of_step(engine, batch)
        second = min(first, _seconds_of_step(engine, batch)) if cache is not None else first
        steps.append((first / len(batch.images), second / len(batch.images)))
        if len(steps) == _PROBES or time.monotonic() - began > seconds:
            break
    setup.model.eval()
    announce("timing an evaluation")
    evaluations: list[float] = []
    for index in range(min(_PROBES, len(setup.val_data))):
        if evaluations and time.monotonic() - began > seconds:
            break
        evaluations.append(_seconds_of_picture(engine, setup, index, twice=cache is not None))
    warm = steps[1:] or steps
    step = sum(second for _, second in warm) / len(warm)
    encode = 0.0 if cache is None else sum(first for first, _ in warm) / len(warm) - step
    size = 0 if cache is None else cache.measure(setup.model.get_submodule("encoder"), setup.meta.image_size)
    return Timing(encode=encode, step=step, evaluate=sum(evaluations) / len(evaluations), view_bytes=size)


def _seconds_of_step(engine: Engine, batch: Batch) -> float:
    began = time.perf_counter()
    engine.backward(engine.forward(batch), weight=1.0)
    engine.step(1e-6)
    return time.perf_counter() - began


def _seconds_of_picture(engine: Engine, setup: Setup, index: int, *, twice: bool) -> float:
    image = setup.val_data[index][0].to(engine.device)
    began = time.perf_counter()
    for _ in range(1 + twice):
        began = time.perf_counter()
        with torch.no_grad(), autocast(engine.device, engine.dtype):
            setup.model([image], None)
    return time.perf_counter() - began
