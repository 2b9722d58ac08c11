"""Matching and point losses, on cases solved by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsprompter_cli.models.layers.query_decoder import QueryOutput
from rsprompter_cli.models.layers.query_losses import (
    Match,
    QueryCriterion,
    assign,
    dice,
    matching_cost,
    named_by_layer,
    sample_maps,
    sample_masks,
)
from rsprompter_cli.models.training_context import training_step
from rsprompter_cli.structures import Target


def _criterion(**changes: float) -> QueryCriterion:
    values = {"num_classes": 3, "points": 64, "oversample": 3.0, "importance": 0.75, "side": 16} | changes
    return QueryCriterion(**values)  # type: ignore[arg-type]


def _target(labels: list[int], boxes: list[tuple[int, int, int, int]], side: int = 16) -> Target:
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels).long(), masks)


def test_the_hungarian_method_takes_the_least_sum_not_the_least_first() -> None:
    # Greedily query 0 takes object 0 (1) and query 1 must pay 9; together 2 + 3 is less.
    cost = torch.tensor([[1.0, 2.0], [3.0, 9.0], [8.0, 8.0]])
    match = assign(cost)
    assert match.queries.tolist() == [0, 1]
    assert match.objects.tolist() == [1, 0]


def test_more_objects_than_queries_leave_some_unanswered() -> None:
    match = assign(torch.tensor([[5.0, 1.0, 7.0], [2.0, 4.0, 9.0]]))
    assert list(zip(match.queries.tolist(), match.objects.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_broken_numbers_do_not_stop_the_search() -> None:
    match = assign(torch.tensor([[float("nan"), float("inf")], [0.0, 1.0]]))
    assert sorted(match.objects.tolist()) == [0, 1]


def test_no_objects_match_nothing() -> None:
    match = assign(torch.zeros(4, 0))
    assert match.queries.shape == match.objects.shape == (0,)
    assert match.queries.dtype == torch.int64


def test_matching_cost_by_hand() -> None:
    classes = torch.tensor([[math.log(2.0), 0.0, 0.0]])  # probabilities 1/2, 1/4, 1/4
    points = torch.tensor([[0.0, 0.0]])  # probability 1/2 at both points
    masks = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    cost = matching_cost(classes, points, torch.tensor([0, 1]), masks)
    entropy = math.log(2)
    first = 2 * -0.5 + 5 * entropy + 5 * (1 - (2 * 0.5 + 1) / (1 + 1 + 1))
    second = 2 * -0.25 + 5 * entropy + 5 * (1 - (2 * 1.0 + 1) / (1 + 2 + 1))
    torch.testing.assert_close(cost, torch.tensor([[first, second]]))


def test_queries_get_the_objects_whose_masks_they_have() -> None:
    target = _target([0, 0], [(0, 0, 8, 16), (8, 0, 16, 16)])
    features = torch.where(torch.arange(16) < 8, 6.0, -6.0).expand(1, 1, 16, 16)
    output = QueryOutput(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.tensor([[[-1.0], [0.0], [1.0]]]))
    (match,) = _criterion().match(output, features, [target])
    assert match.queries.tolist() == [0, 2]
    assert match.objects.tolist() == [1, 0]


def test_the_class_decides_between_equal_masks() -> None:
    target = _target([2], [(0, 0, 16, 16)])
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, 2] = 3.0
    output = QueryOutput(torch.zeros(1, 3, 4), logits, torch.zeros(1, 3, 1))
    (match,) = _criterion().match(output, torch.ones(1, 1, 4, 4), [target])
    assert match.queries.tolist() == [1]


def test_class_loss_by_hand() -> None:
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    match = Match(torch.tensor([1]), torch.tensor([0]))
    loss = _criterion().class_loss(logits, [_target([2], [(0, 0, 4, 4)])], [match])
    chance = logits[0].log_softmax(-1)
    expected = -2 * (chance[1, 2] + 0.1 * (chance[0, 3] + chance[2, 3])) / (1 + 0.1 + 0.1)
    torch.testing.assert_close(loss, expected)


def test_dice_by_hand() -> None:
    share, truth = torch.tensor([[0.5, 0.5, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    torch.testing.assert_close(dice(share, truth), torch.tensor([1 - (2 * 1.5 + 1) / (2 + 2 + 1)]))


def test_normalisers_of_mask_and_dice() -> None:
    """Cross entropy is a plain mean; dice is divided by objects per image, at least one for each image."""
    criterion = _criterion()
    targets = [_target([0, 1], [(0, 0, 16, 16), (0, 0, 16, 16)]), _target([], [])]
    none = torch.zeros(0, dtype=torch.long)
    matches = [Match(torch.tensor([0, 3]), torch.tensor([0, 1])), Match(none, none)]
    losses = criterion.mask_losses({"": torch.zeros(2, 4, 4)}, targets, matches)
    # Logits of 0 say 1/2 everywhere, whatever the target.
    assert float(losses["loss_mask"]) == pytest.approx(5 * math.log(2), rel=1e-5)
    seen: list[float] = []

    def spy(value: Tensor) -> Tensor:
        seen.append(float(value))
        return value * 2

    with training_step([5, 6], spy):
        doubled = criterion.mask_losses({"": torch.zeros(2, 4, 4)}, targets, matches)
    with training_step([5, 6], lambda value: value):
        again = criterion.mask_losses({"": torch.zeros(2, 4, 4)}, targets, matches)
    assert seen == [2.0, 3.0]
    for name in ("loss_dice", "loss_mask"):
        assert float(doubled[name]) == pytest.approx(float(again[name]) / 2)


def test_nothing_matched_is_zero_with_a_gradient() -> None:
    none = torch.zeros(0, dtype=torch.long)
    logits = torch.zeros(3, 4, 4, requires_grad=True)
    losses = _criterion().mask_losses({"": logits[none], "_plus": logits[none]}, [_target([], [])], [Match(none, none)])
    assert set(losses) == {"loss_mask", "loss_dice", "loss_mask_plus", "loss_dice_plus"}
    total = torch.stack(list(losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert float(total.detach()) == 0


def test_the_points_kept_are_the_most_uncertain_of_those_drawn() -> None:
    criterion = _criterion(points=40)
    logits = torch.randn(2, 16, 16)
    drawn = torch.rand(2, 120, 2)
    rest = torch.rand(2, 10, 2)
    answers = iter([drawn, rest])
    points = criterion.uncertain_points(logits, [0, 0], lambda images, shape, device: next(answers))
    assert torch.equal(points[:, 30:], rest)
    doubt = sample_maps(logits, drawn).abs().sort(dim=1).values
    kept = sample_maps(logits, points[:, :30]).abs().sort(dim=1).values
    assert torch.equal(kept, doubt[:, :30])


def test_one_draw_of_points_serves_fine_and_coarse_masks() -> None:
    asked: list[tuple[int, ...]] = []

    def draw(images: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
        asked.append((len(images), *shape))
        return torch.rand((len(images), *shape), generator=torch.Generator().manual_seed(1))

    match = [Match(torch.tensor([0]), torch.tensor([0]))]
    target = [_target([0], [(2, 2, 9, 12)])]
    sharp = torch.randn(1, 16, 16)
    both = _criterion(points=40).mask_losses({"": sharp, "_plus": sharp}, target, match, draw)
    assert asked == [(1, 120, 2), (1, 10, 2)]
    assert float(both["loss_mask"]) == float(both["loss_mask_plus"])
    assert float(both["loss_dice"]) == float(both["loss_dice_plus"])
    other = _criterion(points=40).mask_losses({"": sharp, "_plus": -sharp}, target, match, draw)
    assert float(other["loss_mask"]) == float(both["loss_mask"])
    assert float(other["loss_mask_plus"]) != float(both["loss_mask_plus"])


def test_all_points_random_or_all_kept() -> None:
    logits = torch.randn(2, 8, 8)
    assert _criterion(importance=0.0).uncertain_points(logits, [0, 1]).shape == (2, 64, 2)
    assert _criterion(importance=1.0, oversample=1.0).uncertain_points(logits, [0, 1]).shape == (2, 64, 2)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 20), columns=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_reading_masks_equals_reading_padded_floats(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(3, rows, columns, generator=generator) < 0.5
    chosen = torch.tensor([2, 0, 0, 1])
    points = torch.rand(4, 50, 2, generator=generator)
    padded = F.pad(masks.float(), (0, 20 - columns, 0, 20 - rows))[chosen]
    torch.testing.assert_close(sample_masks(masks, chosen, points, 20), sample_maps(padded, points), atol=2e-5, rtol=0)


def test_reading_no_masks_and_no_maps() -> None:
    none = torch.zeros(0, dtype=torch.long)
    masks = torch.zeros(0, 5, 5, dtype=torch.bool)
    assert sample_masks(masks, none, torch.rand(1, 7, 2), 5).shape == (0, 7)
    assert sample_maps(torch.zeros(0, 5, 5), torch.zeros(0, 7, 2)).shape == (0, 7)


def test_losses_are_named_by_output() -> None:
    parts = [{"loss_cls": torch.tensor(float(index))} for index in range(3)]
    named = named_by_layer(parts)
    assert {name: float(value) for name, value in named.items()} == {"loss_cls": 2, "d0.loss_cls": 0, "d1.loss_cls": 1}
