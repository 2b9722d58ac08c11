"""The parts of a run, put together from its settings: engine, loader, what SAM's answers are kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.models.architectures.samcls import SamCls
from rsprompter_cli.train.dataloader import EpochLoader
from rsprompter_cli.train.distributed.ddp import Engine, TrainEngine, share_norms
from rsprompter_cli.train.distributed.processes import Ranks
from rsprompter_cli.train.feature_caches import keep_automatic_masks, keep_encoder_maps
from rsprompter_cli.train.interrupts import explain_out_of_memory
from rsprompter_cli.train.run_folder import AUTOMASKS, ENCODER_MAPS
from rsprompter_cli.train.setup import Setup, build_optimizer
from rsprompter_cli.train.state import RunState


def require_pictures(ranks: Ranks, setup: Setup) -> None:
    """Raise InputError when some rank would never get a picture."""
    pictures, batch = len(setup.train_data), setup.config.train.batch_size
    if pictures <= (ranks.count - 1) * batch:
        raise InputError(
            f"{setup.train_data.coco.path}: too few images ({pictures}) for {ranks.count} processes "
            f"at train.batch_size={batch}: some processes would get none",
            f"start at most {plural(-(-pictures // batch), 'process', 'processes')}, or lower train.batch_size",
        )


def enable_feature_cache(setup: Setup, out: Path, *, device: Any, dtype: Any) -> None:
    """Let the model keep what SAM answers on disk, in `out` unless train.cache_folder names another place.

    Raises:
        OutputError: the disk is too small.
    """
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


def build_loader(setup: Setup, ranks: Ranks) -> EpochLoader:
    """The training pictures of this rank."""
    options = setup.config.train
    return EpochLoader(
        setup.train_data,
        batch_size=options.batch_size,
        seed=options.seed,
        workers=options.workers,
        views=options.cache_views,
        rank=ranks.rank,
        ranks=ranks.count,
    )


def build_engine(
    setup: Setup, state: RunState | None, ranks: Ranks, *, device: torch.device, dtype: torch.dtype
) -> TrainEngine:
    """The engine that the settings ask for, as it was where the run stopped."""
    options = setup.config.train
    if options.sync_bn:
        share_norms(setup.model, ranks, device)
    optimizer = build_optimizer(setup.model, lr=options.lr, weight_decay=options.weight_decay)
    shared: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "clip_grad": options.clip_grad,
        "ranks": ranks,
        "mean": ranks.mean if options.normalise == "all-ranks" else None,
    }
    if options.zero_stage:
        if ranks.place is None:
            raise UsageError("train.zero_stage needs a distributed launch", "use --gpus N or torchrun")
        from rsprompter_cli.train.distributed.deepspeed import DeepSpeedEngine

        saved = None if state is None else state.engine
        return DeepSpeedEngine(setup.model, optimizer, stage=options.zero_stage, state=saved, **shared)
    engine = Engine(setup.model, optimizer, **shared)
    if state is not None:
        engine.restore(state.engine)
    return engine
