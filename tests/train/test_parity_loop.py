"""The first step of the training loop on the recorded batches: the original's losses and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.config import Config, TrainConfig
from rsprompter_cli.models.image_transform import normalise, pad_batch, restore_pixels
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD
from rsprompter_cli.structures import Batch, Target
from rsprompter_cli.train.distributed.ddp import Engine
from rsprompter_cli.train.distributed.processes import Ranks
from rsprompter_cli.train.interrupts import StopRequest
from rsprompter_cli.train.loggers import NoLog
from rsprompter_cli.train.loop import train_epoch
from rsprompter_cli.train.run import Run, StepReport
from rsprompter_cli.train.setup import build_optimizer
from rsprompter_cli.train.state import Cursor
from tests.make.tiny_models import tiny_meta
from tests.models.parity import Pack, assert_gradients, assert_losses, assert_two_stage_losses
from tests.models.recorded_models import CONFIGS, Recorded, load_recorded, recorded_draws

LIMITS = {"rsprompter_anchor_lora": (1e-4, 3e-3), "samdet": (2e-5, 3e-3)}
"""Of losses and of gradient norms, where they are not 2e-5 and 1e-3."""


class OneBatch:
    """A source of training pictures that holds one batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """The batch."""
        yield self._batch

    def sizes(self, done: int = 0) -> list[int]:
        """Of the batch."""
        return [len(self._batch.images)]

    def own(self, size: int) -> int:
        """All of it."""
        return size

    def own_pictures(self) -> int:
        """All of it."""
        return len(self._batch.images)


def _batch(pack: Pack) -> Batch:
    """The recorded pictures as data give them: on the 0..255 scale, not padded, without whole numbers."""
    images, targets = [], []
    for pixels, target, (rows, columns) in zip(pack.inputs["images"], pack.targets, pack.sizes, strict=True):
        picture = restore_pixels(pixels[:, :rows, :columns], IMAGENET_MEAN, IMAGENET_STD)
        # Nothing is lost on the way that is not lost to rounding.
        assert float((normalise(picture, IMAGENET_MEAN, IMAGENET_STD) - pixels[:, :rows, :columns]).abs().max()) < 1e-5
        images.append(picture)
        targets.append(Target(target.boxes, target.labels, target.masks[:, :rows, :columns]))
    return Batch(images, targets, [1, 2])


def _first_step(one: Recorded, batch: Batch, out: Path) -> tuple[StepReport, dict[str, Tensor]]:
    """What the loop reports of its first step, and the gradients that it made, before they are clipped."""
    options = TrainConfig(epochs=1, batch_size=2, precision="fp32", clip_grad=0.1)
    config = Config(name="recorded", model=one.config, train=options)
    optimizer = build_optimizer(one.model, lr=options.lr, weight_decay=options.weight_decay)
    device = torch.device("cpu")
    engine = Engine(one.model, optimizer, device=device, dtype=torch.float32, clip_grad=options.clip_grad)
    reports: list[StepReport] = []
    gradients: dict[str, Tensor] = {}

    def keep(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradients[name] = parameter.grad.clone()

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(keep, name))
        for name, parameter in one.model.named_parameters()
        if parameter.requires_grad
    ]
    run = Run(
        config=config,
        out=out,
        ranks=Ranks(),
        engine=engine,
        loader=OneBatch(batch),
        val_data=None,  # type: ignore[arg-type]  # an epoch of training does not look at it
        meta=tiny_meta(),
        identity={},
        log=NoLog(),
        stop=StopRequest(None),
        on_step=reports.append,
        on_evaluation=lambda _done, _all: None,
    )
    one.model.train()
    cursor = train_epoch(run, Cursor())
    for handle in handles:
        handle.remove()
    assert (cursor.step, cursor.done) == (1, 2)
    (report,) = reports
    return report, gradients


@pytest.mark.parametrize("variant", CONFIGS)
def test_the_first_step_has_the_recorded_losses_and_gradients(shared: Path, tmp_path: Path, variant: str) -> None:
    one = load_recorded(shared, variant)
    pack, model = one.pack, one.model
    losses_limit, gradients_limit = LIMITS.get(variant, (2e-5, 1e-3))
    batch = _batch(pack)
    by_level = _proposal_losses(model, batch) if hasattr(model, "rpn") else None
    left: list[Tensor] = []
    if by_level is None:
        draw, left = recorded_draws(pack)
        model.losses = partial(model.losses, draw=draw)  # type: ignore[assignment, arg-type]
    report, gradients = _first_step(one, batch, tmp_path)
    assert left == []
    if by_level is None:
        assert_losses(dict(report.losses), pack.meta["losses"], losses_limit)
    else:
        losses = {name: torch.tensor(value, dtype=torch.float64) for name, value in report.losses.items()}
        assert_two_stage_losses(losses, by_level, pack.meta, losses_limit)
    assert sum(report.losses.values()) == pytest.approx(pack.meta["total_loss"], rel=losses_limit)
    for name, parameter in model.named_parameters():
        parameter.grad = gradients.get(name)
    assert_gradients(model, one.names, pack.meta, gradients_limit)
    # The norm by which the loop clips is that of all of them together.
    recorded = sum(norm**2 for norm in pack.meta["grad_norms"].values()) ** 0.5
    assert recorded > 0.1
    assert report.gradient_norm == pytest.approx(recorded, rel=gradients_limit)


def _proposal_losses(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The losses of the proposal network level by level, with the statistics of norms left as they were.

    Of the very tensor that the loop computes them from: the recorded one differs from it by what is rounded on the way
    to the 0..255 scale and back, which shows in the seventh digit of a loss of 1e-4.
    """
    pixels, _ = pad_batch(batch.images, model.image_size, IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    with torch.no_grad():
        output = model.rpn(_levels(model.features(pixels)))
        by_level: tuple[Tensor, Tensor] = model.rpn.losses(output, [target.boxes for target in batch.targets])
    model.load_state_dict(statistics)
    return by_level


def _levels(features: Any) -> Any:
    return features.levels if hasattr(features, "levels") else features
