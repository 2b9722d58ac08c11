"""Chance and normalisers of a training step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.models.training_context import draw, permutation, random_seed, rank_mean, training_step, uniform
from rsprompter_cli.structures import Target
from tests.make.boxed import boxed_target, noise_images
from tests.make.narrow_maskrcnn import narrow_maskrcnn
from tests.make.norms import freeze_norms
from tests.make.tiny_models import TINY_CONFIGS, build_seeded

CPU = torch.device("cpu")


def _draws(seeds: list[int]) -> list[list[object]]:
    """What each picture of a batch draws."""
    with training_step(seeds, lambda value: value):
        rows = uniform([0, 0, *([1] if len(seeds) > 1 else [])], (3,), CPU)
        return [
            [
                draw(100, 5, CPU, image=image).tolist(),
                permutation(7, image=image).tolist(),
                random_seed(image=image),
                rows[: 2 if image == 0 else 3][2 * image :].tolist(),
            ]
            for image in range(len(seeds))
        ]


def test_what_a_picture_draws_depends_on_its_seed_alone() -> None:
    before = torch.get_rng_state()
    together, alone = _draws([11, 22]), _draws([11])
    assert together[0] == alone[0]
    assert together[1] != together[0]
    assert _draws([11, 22]) == together
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_step_chance_is_torchs_own_and_a_count_is_itself() -> None:
    torch.manual_seed(3)
    first = uniform([0, 1], (2,), CPU), draw(50, 4, CPU, image=0)
    torch.manual_seed(3)
    assert torch.equal(first[0], torch.rand(2, 2))
    assert torch.equal(first[1], torch.randperm(50)[:4])
    assert float(rank_mean(5, first[0])) == 5
    assert float(rank_mean(0, first[0])) == 1
    with training_step([1], lambda value: value / 4):
        assert float(rank_mean(1, first[0])) == 0.25
    assert uniform([], (2,), CPU).shape == (0, 2)


SEEDS = [101, 202, 303]
PICTURES = noise_images((64, 64), (50, 64), (64, 40))
TARGETS = [
    boxed_target(64, 64, [(4, 4, 30, 30), (30, 20, 60, 60)]),
    boxed_target(50, 64, []),
    boxed_target(64, 40, [(2, 8, 20, 40)]),
]


def _losses(
    model: nn.Module, chosen: list[int], mean: Callable[[Tensor], Tensor]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of some of the pictures."""
    model.zero_grad()
    targets: list[Target] = [TARGETS[index] for index in chosen]
    with training_step([SEEDS[index] for index in chosen], mean):
        losses = model([PICTURES[index] for index in chosen], targets)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in losses.items()}, gradients


@pytest.mark.parametrize("kind", sorted(TINY_CONFIGS.keys() - {"mask2former"}))
def test_parts_of_a_batch_with_shared_normalisers_add_up_to_the_whole(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if two processes had the pictures; the plain Mask2Former's losses are the library's."""
    narrow_maskrcnn(monkeypatch)
    model = build_seeded(TINY_CONFIGS[kind]()).train()
    freeze_norms(model)
    counts: list[list[Tensor]] = []

    def note(value: Tensor) -> Tensor:
        counts[-1].append(value)
        return value

    for part in ([0, 1], [2]):
        counts.append([])
        _losses(model, part, note)
    # Both come by equally often, though the second has no picture without objects.
    assert len(counts[0]) == len(counts[1]) > 0
    means = [(a + b) / 2 for a, b in zip(*counts, strict=True)]
    whole, whole_gradients = _losses(model, [0, 1, 2], lambda value: value)
    parts = []
    for part in ([0, 1], [2]):
        left = iter(means)
        parts.append(_losses(model, part, lambda _value, left=left: next(left)))
    for name, value in whole.items():
        assert (parts[0][0][name] + parts[1][0][name]) / 2 == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for name, gradient in whole_gradients.items():
        zero = torch.zeros_like(gradient)
        mean = (parts[0][1].get(name, zero) + parts[1][1].get(name, zero)) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-3, atol=1e-5, msg=name)
