"""Everything a run needs before its first step: data, model with first weights, checkpoint metadata; loader, engine."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsprompter_cli.config import Config, SamclsConfig
from rsprompter_cli.data.check import require_boxes
from rsprompter_cli.data.coco.document import read_document
from rsprompter_cli.data.coco.read import CocoFile, read_coco, require_usable, warn_of_crowds
from rsprompter_cli.data.colours import NO_CHOICE, stored_colours
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.data.images import find_annotations
from rsprompter_cli.data.transforms import train_transform
from rsprompter_cli.errors import InputError, TrainingError, UsageError, plural
from rsprompter_cli.evaluate.coco import match_classes
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta, read_checkpoint
from rsprompter_cli.io.program import code_commit, package_versions
from rsprompter_cli.models.architectures.samcls import SamCls
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.trainable import moved_parameters
from rsprompter_cli.train.dataloader import EpochLoader
from rsprompter_cli.train.distributed.ddp import Engine, TrainEngine, share_norms
from rsprompter_cli.train.distributed.processes import Ranks
from rsprompter_cli.train.feature_caches import keep_automatic_masks, keep_encoder_maps
from rsprompter_cli.train.initial_weights import Start, choose_start, load_start
from rsprompter_cli.train.interrupts import explain_out_of_memory
from rsprompter_cli.train.run_folder import AUTOMASKS, ENCODER_MAPS
from rsprompter_cli.train.state import RunState

_log = logging.getLogger(__name__)

_FREE_KEYS = (
    "name",
    "data.root",
    "data.image_folder",
    "data.val_split",
    "train.workers",
    "train.eval_every",
    "train.save_minutes",
    "train.pictures_every",
    "train.wandb",
    "train.precision",
    "train.cache_folder",
    "train.zero_stage",
)
"""Settings that a resumed run may change: its numbers do not come from them (the arithmetic is compared itself)."""

_LATER_DEFAULTS = (("data.crowds_are_objects", False),)
"""Settings that runs of earlier versions did not have, with the value that stands for how those ran."""


@dataclass(frozen=True, eq=False)
class Setup:
    """What `train` works with.

    config: as given, with everything that was looked up filled in.
    meta: of the checkpoints to come, without metrics.
    """

    config: Config
    model: nn.Module
    train_data: CocoDataset
    val_data: CocoDataset
    meta: CheckpointMeta


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def prepare(config: Config, data: str | Path, *, load_from: str | Path | None, random_sam: bool) -> Setup:
    """Read and check the data first, since that is cheap, then build the model.

    Args:
        load_from: checkpoint folder to take the weights from, None to start from SAM's.
        random_sam: without `load_from`, start SAM from random weights.

    Raises:
        InputError: faulty data, nothing in it to train on, or classes that differ between its files.
        CheckpointError: SAM's or the ResNet's weights or `load_from` are missing or do not fit.
        DownloadError: the ResNet's weights cannot be fetched.
    """
    train_file, val_file = read_splits(config, data)
    names = train_file.class_names
    val_labels = match_classes(val_file, names)
    checkpoint = None if load_from is None else read_checkpoint(load_from)
    start = choose_start(config.model, checkpoint=checkpoint, random_sam=random_sam)
    config = config.model_copy(update={"model": start.model})
    image_size = int(start.model.image_size or 0)
    folder, seed = config.data.image_folder, config.train.seed
    # SAM-cls keeps the masks of pictures as they are, and augments the crops it makes of them.
    whole = isinstance(start.model, SamclsConfig)
    transform = None if whole else train_transform(image_size=image_size, **config.train.augment.model_dump())
    train_data = CocoDataset(
        train_file,
        data,
        image_folder=folder,
        split="train",
        transform=transform,
        seed=seed,
        boxes=config.train.boxes,
    )
    val_data = CocoDataset(val_file, data, image_folder=folder, split=config.data.val_split, labels=val_labels)
    model = build_model(start.model, num_classes=len(names))
    load_start(model, start, names)
    info = _info(train_file)
    bands, scale = stored_colours(info, train_file.path)
    meta = CheckpointMeta(
        class_names=names,
        category_ids=tuple(category.id for category in train_file.categories),
        image_size=image_size,
        gsd_range=_gsd_range(info, train_file.path),
        bands=bands,
        scaling=scale or NO_CHOICE,
        sam=start.sam,
        versions=package_versions(),
        git_commit=code_commit(),
        provenance=_provenance(config, start, train_file, val_file),
    )
    return Setup(config, model, train_data, val_data, meta)


def with_validation_set(setup: Setup, data: str | Path) -> Setup:
    """The same with the validation set as it is in `data` now."""
    options = setup.config.data
    names = setup.meta.class_names
    file = read_coco(
        find_annotations(data, options.val_split),
        known_classes=names,
        crowds_are_objects=options.crowds_are_objects,
        root=data,
        image_folder=options.image_folder,
    )
    labels = match_classes(file, names)
    val_data = CocoDataset(file, data, image_folder=options.image_folder, split=options.val_split, labels=labels)
    return replace(setup, val_data=val_data)


def read_splits(config: Config, data: str | Path) -> tuple[CocoFile, CocoFile]:
    """The training and the validation file of a set; crowds are warned of.

    Raises:
        InputError: a faulty file, or nothing to train on.
    """
    options: dict[str, Any] = {
        "crowds_are_objects": config.data.crowds_are_objects,
        "root": data,
        "image_folder": config.data.image_folder,
    }
    train_file = read_coco(find_annotations(data, "train"), **options)
    require_usable(train_file)
    if config.train.boxes == "annotations" and (warning := require_boxes(train_file)):
        _log.warning("%s", warning)
    val_path = find_annotations(data, config.data.val_split)
    val_file = read_coco(val_path, known_classes=train_file.class_names, **options)
    for file in (train_file, val_file):
        warn_of_crowds(file)
    return train_file, val_file


def run_identity(setup: Setup, dtype: torch.dtype) -> dict[str, str]:
    """The facts that decide a run's numbers, by name: settings, data, arithmetic."""
    flat = {
        key: repr(value)
        for key, value in _flatten(setup.config.model_dump(mode="json"), "")
        if key not in _FREE_KEYS and (key, value) not in _LATER_DEFAULTS
    }
    path = setup.train_data.coco.path
    return flat | {"training annotations": f"sha256 {_sha256(path)[:12]}", "arithmetic": str(dtype)}


def _flatten(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _provenance(config: Config, start: Start, train_file: CocoFile, val_file: CocoFile) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run": config.name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "train": _data_facts(train_file),
        "val": _data_facts(val_file),
    }
    if start.checkpoint is not None:
        facts["load_from"] = start.checkpoint.name
    if start.backbone is not None:
        facts["backbone"] = start.backbone.facts()
    return facts


def _data_facts(coco: CocoFile) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "file": coco.path.name,
        "sha256": _sha256(coco.path),
        "images": len(coco.images),
        "objects": sum(not annotation.iscrowd for annotation in coco.annotations),
    }
    told = {key: value for key, value in _info(coco).items() if isinstance(value, str) and value}
    return facts | ({"info": told} if told else {})


def _info(coco: CocoFile) -> Mapping[str, Any]:
    info = read_document(coco.path).get("info")
    return info if isinstance(info, Mapping) else {}


def _gsd_range(info: Mapping[str, Any], path: Path) -> tuple[float, float] | None:
    """Metres per pixel on the ground that the file's `info.gsd_range` states, low and high."""
    value = info.get("gsd_range")
    if value is None:
        return None
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
    if not is_pair or not 0 < value[0] <= value[1] < float("inf"):
        raise InputError(f"{path}: info.gsd_range is {value!r}, not two ascending numbers of metres per pixel")
    return float(value[0]), float(value[1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


_BETAS = (0.9, 0.999)
_WARMUP_START = 1e-3
_COSINE_FLOOR = 1e-3


def build_optimizer(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the parameters that train and that a loss may reach; the others get no optimizer state.

    Weight decay applies to all of them, norms and biases included, as in the original.

    Raises:
        TrainingError: nothing trains.
    """
    parameters = list(moved_parameters(model))
    if not parameters:
        raise TrainingError("no parameter of the model trains", "set model.encoder or model.decoder to train")
    return torch.optim.AdamW(parameters, lr=lr, betas=_BETAS, weight_decay=weight_decay)


def rate_factor(step: int, epoch: int, *, epochs: int, warmup_steps: int) -> float:
    """What the base rate is multiplied by: linear warm-up per step times cosine per epoch.

    Args:
        step: optimizer steps done so far; the warm-up goes from a thousandth at step 0 to one at
            step `warmup_steps - 1`, as MMEngine's LinearLR counts.
        epoch: from 0; the first two epochs run at the full rate (CosineAnnealingLR, begin=1).
        epochs: length of the whole run.
    """
    warmup = 1.0
    if step < warmup_steps - 1:
        warmup = _WARMUP_START + (1 - _WARMUP_START) * step / (warmup_steps - 1)
    cosine = (1 + math.cos(math.pi * max(epoch - 1, 0) / epochs)) / 2
    return warmup * (_COSINE_FLOOR + (1 - _COSINE_FLOOR) * cosine)
