"""A whole run: the model, the data and how it is trained."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from rsprompter_cli.config.frozen import Frozen
from rsprompter_cli.config.models import ModelConfig, TrainedSamConfig
from rsprompter_cli.config.numbers import Count, Steps, StepsOrNone, Text


class DataConfig(Frozen):
    """Where the pictures of a COCO set lie."""

    root: Text = Field("data/WHU", description="default of --data")
    image_folder: Text | None = Field(
        None, description="image folder below the root, may contain {split}; None: images, imgs, imgs/{split}/image"
    )
    val_split: Text = "val"
    crowds_are_objects: bool = Field(
        False, description="annotations with iscrowd 1 are objects like the others, as some labelling tools write them"
    )


class AugmentConfig(Frozen):
    """Training augmentation: large-scale jitter as in the original, plus what aerial pictures allow."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    vertical_flip: float = Field(0.0, ge=0, le=1)
    rotate90: bool = False
    scale: tuple[float, float] = Field((0.1, 2.0), description="range of the resize, 1 = fits the image size")
    brightness: float = Field(0.0, ge=0, le=1, description="largest relative change")
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)
    coarsen: float = Field(
        1.0,
        ge=1,
        le=8,
        description="half the images lose detail, as if their pixels were up to this many times larger; 1: none",
    )
    eight_bit: bool = Field(
        False, description="round augmented images to 8 bits, as samdet was trained; false: they stay float32"
    )


class TrainConfig(Frozen):
    """Optimisation and bookkeeping of a run."""

    epochs: Steps = 300
    lr: float = Field(2e-4, gt=0, le=1000)
    batch_size: Count = Field(2, description="images per process and step")
    accumulate: Count = Field(1, description="steps whose gradients are summed before the optimizer moves")
    weight_decay: float = Field(0.05, ge=0, le=1000)
    warmup_steps: StepsOrNone = Field(50, description="linear warm-up from a thousandth of the rate, optimizer steps")
    clip_grad: float | None = Field(None, gt=0, le=1e9, description="largest norm of the gradient; None: not clipped")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    eval_every: Steps = Field(3, description="epochs between evaluations")
    save_minutes: float = Field(
        10.0, gt=0, le=1e6, description="minutes between checkpoints, besides those at evaluations"
    )
    pictures_every: StepsOrNone = Field(
        10, description="epochs between images of detections on the validation split; 0: none"
    )
    wandb: str | None = Field(None, description="Weights & Biases project to log to; None: no logging there")
    normalise: Literal["all-ranks", "each-rank"] = Field(
        "all-ranks",
        description="counts that normalise the losses: of all processes together, or of each process alone",
    )
    sync_bn: bool = Field(False, description="batch norm over the batches of all processes; GPUs only")
    zero_stage: Literal[0, 2, 3] = Field(
        0, description="DeepSpeed ZeRO stage: 2 shards the optimizer state, 3 the weights too; 0: no DeepSpeed"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    workers: int = Field(2, ge=0, le=4096, description="processes that read and augment images")
    cache_views: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="frozen encoder: augmented views per image whose encoder maps are cached on disk; 0: none",
    )
    cache_folder: Text | None = Field(None, description="folder for those maps; None: the run folder")
    boxes: Literal["masks", "annotations"] = Field(
        "masks",
        description="boxes to train on: the bounds of the augmented masks, or the boxes of the annotation file",
    )
    augment: AugmentConfig = AugmentConfig()


class Config(Frozen):
    """A whole run."""

    name: str = Field(max_length=200, description="names the run folder runs/NAME")
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        low, high = self.train.augment.scale
        if not 0.01 <= low <= high <= 100:
            raise ValueError("train.augment.scale: two ascending numbers from 0.01 to 100")
        if self.train.wandb is not None and not re.fullmatch(r"[^/\\#?%:]{1,128}", self.train.wandb):
            raise ValueError("train.wandb: must be a project name without any of / \\ # ? % :")
        frozen = isinstance(self.model, TrainedSamConfig) and self.model.encoder == "frozen"
        if self.train.cache_views and not frozen:
            raise ValueError("train.cache_views: only models whose model.encoder is frozen keep maps; set it to 0")
        return self
