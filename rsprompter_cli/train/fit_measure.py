"""What a fit finds out before it trains: how good the model is that it starts from, and how long things take here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.evaluate.coco import evaluate_model
from rsprompter_cli.evaluate.scores import CocoMetrics
from rsprompter_cli.models.encoder_cache import EncoderCache
from rsprompter_cli.models.precision import autocast
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.engine import Engine
from rsprompter_cli.train.facts import WindowClock
from rsprompter_cli.train.fit_plan import Figures, Timing
from rsprompter_cli.train.optim import build_optimizer
from rsprompter_cli.train.order import EpochLoader
from rsprompter_cli.train.setup import Setup

_PROBES = 3
"""Batches that are timed; the first is left out, for it pays for what is set up once."""


@dataclass(frozen=True)
class StartFigures:
    """A model on the held-back tiles before it is fitted.

    metrics: by COCO name. speed: entries of a checkpoint's provenance.
    """

    figures: Figures
    metrics: dict[str, float]
    speed: dict[str, Any]


def figures_of(metrics: CocoMetrics) -> Figures:
    """The few figures that a fit is judged by."""
    mask = metrics.mask
    return Figures(metrics.f1, mask["AP50"] or 0.0, mask["AP"] or 0.0, metrics.score_threshold)


def keep_maps(setup: Setup, folder: Path, device: torch.device, dtype: torch.dtype) -> EncoderCache | None:
    """Let a model with a frozen encoder keep its maps; None for another, which has none to keep."""
    if getattr(setup.config.model, "encoder", None) != "frozen":
        return None
    cache = EncoderCache(folder, setup.model.get_submodule("encoder"), device=device, dtype=dtype)
    setup.model.encoder_cache = cache  # type: ignore[assignment]
    return cache


def evaluate_start(
    setup: Setup,
    cache: EncoderCache | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_evaluation: Callable[[int, int], None],
) -> StartFigures:
    """Evaluate the model that a fit starts from on the held-back tiles."""
    clock = WindowClock(setup.val_data.coco.images, setup.meta.image_size, cache)

    def progress(done: int, total: int) -> None:
        clock.count(done)
        on_evaluation(done, total)

    metrics = evaluate_model(
        setup.model,
        setup.val_data,
        batch=setup.config.train.batch_size,
        device=device,
        dtype=dtype,
        on_progress=progress,
    ).metrics
    per_window = clock.seconds_per_window()
    speed: dict[str, Any] = {}
    if per_window is not None:
        speed = {"seconds_per_window": round(per_window, 4), "seconds_per_window_on": device.type}
    return StartFigures(figures_of(metrics), metrics.flat(), speed)


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
        first = _seconds_of_step(engine, batch)
        second = min(first, _seconds_of_step(engine, batch)) if cache is not None else first
        steps.append((first / len(batch.images), second / len(batch.images)))
        if len(steps) == _PROBES or time.monotonic() - began > seconds:
            break
    setup.model.eval()
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
