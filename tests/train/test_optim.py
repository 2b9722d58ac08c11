"""Schedule, optimizer and the arithmetic of a step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.errors import TrainingError
from rsprompter_cli.models.trainable import is_frozen
from rsprompter_cli.structures import Batch, Target
from rsprompter_cli.train.distributed.ddp import Engine, loss_values, names_of
from rsprompter_cli.train.setup import build_optimizer, rate_factor
from tests.make.boxed import boxed_target, noise_images
from tests.make.tiny_models import TINY_CONFIGS, build_seeded, tiny_model


class Toy(nn.Module):
    """Mean square distance of a learned value from the pictures' first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.0))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor]:
        pixels = torch.stack([image.float().flatten()[0] for image in images])
        return {"loss_a": (0.5 * (self.value - pixels) ** 2).mean(), "loss_b": 0 * self.value}


def _batch(*values: float) -> Batch:
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1, dtype=torch.bool))
    images = [torch.full((3, 1, 1), value) for value in values]
    return Batch(images, [target] * len(values), list(range(len(values))))


def _engine(model: nn.Module, *, lr: float = 0.1, clip: float | None = None) -> Engine:
    optimizer = build_optimizer(model, lr=lr, weight_decay=0.05)
    return Engine(model, optimizer, device=torch.device("cpu"), dtype=torch.float32, clip_grad=clip)


def test_warm_up_rises_linearly_from_a_thousandth_and_is_done_in_fifty_steps() -> None:
    factors = [rate_factor(step, 0, epochs=300, warmup_steps=50) for step in range(60)]
    assert factors[0] == pytest.approx(1e-3)
    assert factors[49:] == pytest.approx([1.0] * 11)
    steps = [b - a for a, b in pairwise(factors[:50])]
    assert steps == pytest.approx([0.999 / 49] * 49)
    assert rate_factor(0, 0, epochs=3, warmup_steps=0) == rate_factor(0, 0, epochs=3, warmup_steps=1) == 1.0


@pytest.mark.parametrize("epoch", [0, 1, 2, 150, 299])
def test_cosine_follows_the_formula_per_epoch(epoch: int) -> None:
    expected = 0.001 + 0.999 * (1 + math.cos(math.pi * max(epoch - 1, 0) / 300)) / 2
    assert rate_factor(1000, epoch, epochs=300, warmup_steps=50) == pytest.approx(expected)


def test_the_schedule_is_that_of_torch_schedulers() -> None:
    # The original's pair: LinearLR per step, CosineAnnealingLR per epoch that starts one epoch late.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-3)
    for epoch in range(10):
        assert rate_factor(99, epoch, epochs=10, warmup_steps=50) == pytest.approx(optimizer.param_groups[0]["lr"])
        if epoch >= 1:
            optimizer.step()
            cosine.step()


def test_only_what_trains_gets_optimizer_state() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05)
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    named = {name for name, parameter in model.named_parameters() if id(parameter) in given}
    # No loss asks SAM how good its masks are, nor for the masks that it gives to one point.
    parts = {name.removeprefix("mask_decoder.decoder.").split(".")[0] for name in trains - named}
    assert parts == {"iou_prediction_head", "output_hypernetworks_mlps"}
    assert not [name for name in trains - named if "mlps.0." in name]
    assert named < trains
    assert is_frozen(model.encoder)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["weight_decay"] == 0.05
    with pytest.raises(TrainingError, match="no parameter"):
        build_optimizer(model.encoder, lr=1e-3, weight_decay=0.05)


def test_a_frozen_encoder_keeps_no_graph() -> None:
    model = tiny_model(num_classes=2).train()
    kept: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _module, _inputs, output: kept.append(output.embedding))
    target = Target(torch.tensor([[4.0, 4, 30, 30]]), torch.tensor([0]), torch.zeros(1, 64, 64, dtype=torch.bool))
    target.masks[0, 4:30, 4:30] = True
    engine = _engine(model)
    losses = engine.forward(Batch([torch.zeros(3, 64, 64, dtype=torch.uint8)], [target], [1]))
    assert sum(losses.values()).requires_grad
    assert not kept[0].requires_grad
    engine.backward(losses, weight=1.0)
    engine.step(1.0)
    # Nothing of the encoder travels with the state either.
    assert not [key for key in engine.state()["changing"] if key.startswith("encoder.")]


def test_accumulated_batches_weigh_by_their_pictures() -> None:
    whole, parts = _engine(Toy()), _engine(Toy())
    whole.backward(whole.forward(_batch(1, 2, 3, 10)), weight=1.0)
    parts.backward(parts.forward(_batch(1, 2, 3)), weight=3 / 4)
    parts.backward(parts.forward(_batch(10)), weight=1 / 4)
    assert parts.model.value.grad.item() == pytest.approx(whole.model.value.grad.item())
    assert whole.step(1.0) == pytest.approx(4.0)
    assert whole.model.value.grad is None


def test_the_gradient_is_clipped_and_its_norm_before_that_is_told() -> None:
    engine = _engine(Toy(), clip=0.5)
    engine.backward(engine.forward(_batch(100)), weight=1.0)
    seen: list[float] = []
    engine.optimizer.register_step_pre_hook(lambda *_: seen.append(engine.model.value.grad.item()))
    assert engine.step(0.25) == pytest.approx(100.0)
    assert seen == [pytest.approx(-0.5, rel=1e-4)]
    assert engine.rate() == pytest.approx(0.025)


def test_losses_become_numbers_in_order() -> None:
    losses = {"b": torch.tensor(2.0, dtype=torch.bfloat16), "a": torch.tensor(1.0)}
    assert list(loss_values(losses).items()) == [("b", 2.0), ("a", 1.0)]


def test_a_state_of_another_model_is_refused() -> None:
    state = _engine(Toy()).state()
    with pytest.raises(TrainingError, match="another model"):
        _engine(nn.Linear(2, 2)).restore(state)


@pytest.mark.parametrize("kind", ["rsprompter-anchor", "rsprompter-query", "samseg-maskrcnn", "samdet"])
def test_a_step_reaches_every_parameter_that_the_optimizer_moves(kind: str) -> None:
    model = build_seeded(TINY_CONFIGS[kind]()).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05)
    engine = Engine(model, optimizer, device=torch.device("cpu"), dtype=torch.float32, clip_grad=None)
    targets = [boxed_target(64, 64, [(4, 4, 30, 30), (30, 20, 60, 60)]), boxed_target(64, 64, [(2, 2, 50, 50)])]
    losses = engine.forward(Batch(noise_images((64, 64), (64, 64)), targets, [1, 2]))
    engine.backward(losses, weight=1.0)
    moved = names_of(model, optimizer)
    # A key's bias moves all logits of a query alike, which no softmax sees.
    assert [name for name, p in moved.items() if p.grad is None and not name.endswith("k_proj.bias")] == []
    engine.step(1.0)
    assert [
        name for name, p in model.named_parameters() if name not in moved and not torch.equal(p, before[name])
    ] == []


def test_a_loss_without_an_object_is_a_gradient_of_zero() -> None:
    model = Toy()
    model.other = nn.Parameter(torch.tensor(1.0))
    engine = _engine(model)
    engine.backward(engine.forward(_batch(0.0)), weight=1.0)
    engine.step(1.0)
    assert float(model.other.detach()) == pytest.approx(1 - 0.1 * 0.05)
