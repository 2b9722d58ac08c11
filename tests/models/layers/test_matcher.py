"""Matching priors with objects, and drawing samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from rsprompter_cli.models.layers import matcher
from rsprompter_cli.models.layers.boxes import box_overlaps
from rsprompter_cli.models.layers.matcher import (
    BACKGROUND,
    IGNORED,
    ROI_RULE,
    ROI_RULE_STRICT,
    RPN_RULE,
    MatchRule,
    draw,
    match,
    sample,
)


@pytest.mark.parametrize(
    ("rule", "key"),
    [(RPN_RULE, "gt_inds_rpn"), (ROI_RULE, "gt_inds_rcnn"), (ROI_RULE_STRICT, "gt_inds_rcnn_samdet")],
)
def test_equals_the_recorded_assigner(shared: Path, rule: MatchRule, key: str) -> None:
    recorded = load_file(shared / "parity" / "assign" / "assign.safetensors")
    assert torch.equal(match(recorded["priors"], recorded["gt_boxes"], rule), recorded[key].long())


def _by_loops(priors: Tensor, objects: Tensor, rule: MatchRule) -> list[int]:
    overlaps = box_overlaps(objects, priors)
    result = []
    for prior in range(len(priors)):
        best = float(overlaps[:, prior].max())
        answer = IGNORED
        if best < rule.negative:
            answer = BACKGROUND
        if best >= rule.positive:
            answer = int(overlaps[:, prior].argmax()) + 1
        result.append(answer)
    if rule.low_quality is not None:
        for thing in range(len(objects)):
            best_of = overlaps[thing].max()
            if best_of >= rule.low_quality:
                for prior in range(len(priors)):
                    if overlaps[thing, prior] == best_of:
                        result[prior] = thing + 1
    return result


# Boxes on a coarse grid, so that ties are common.
_BOX = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4), st.integers(1, 4)).map(
    lambda box: [float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])]
)


@given(priors=st.lists(_BOX, min_size=1, max_size=12), objects=st.lists(_BOX, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("rule", [RPN_RULE, ROI_RULE, ROI_RULE_STRICT])
def test_equals_plain_loops_whatever_the_chunk(
    rule: MatchRule, priors: list[list[float]], objects: list[list[float]]
) -> None:
    expected = _by_loops(torch.tensor(priors), torch.tensor(objects), rule)
    whole = match(torch.tensor(priors), torch.tensor(objects), rule).tolist()
    assert whole == expected
    before = matcher._PAIRS_AT_ONCE
    try:
        matcher._PAIRS_AT_ONCE = 1
        assert match(torch.tensor(priors), torch.tensor(objects), rule).tolist() == expected
    finally:
        matcher._PAIRS_AT_ONCE = before


def test_low_quality_matching_takes_every_tie_and_overwrites() -> None:
    # Both priors overlap object 0 by exactly 1/3; the second is also the best of the further object (3/4).
    priors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0]])
    objects = torch.tensor([[2.0, 0.0, 6.0, 4.0]])
    assert match(priors, objects, RPN_RULE).tolist() == [1, 1]
    assert match(priors, objects, ROI_RULE).tolist() == [0, 0]  # 1/3 is under its minimum of .5
    both = torch.tensor([[2.0, 0.0, 6.0, 4.0], [5.0, 0.0, 8.0, 4.0]])
    assert match(priors, both, RPN_RULE).tolist() == [1, 2]


def test_the_strict_rule_lacks_low_quality_matching() -> None:
    # Overlap 2/3 with object 0 and exactly .5 with object 1, whose best it is.
    priors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    objects = torch.tensor([[0.0, 0.0, 10.0, 15.0], [0.0, 0.0, 5.0, 10.0]])
    assert match(priors, objects, ROI_RULE).tolist() == [2]
    assert match(priors, objects, ROI_RULE_STRICT).tolist() == [1]


def test_nothing_to_match() -> None:
    assert match(torch.zeros(3, 4), torch.zeros(0, 4), RPN_RULE).tolist() == [0, 0, 0]
    assert match(torch.zeros(0, 4), torch.ones(2, 4), RPN_RULE).shape == (0,)
    assert match(torch.zeros(2, 4), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), RPN_RULE).tolist() == [0, 0]


def test_samples_keep_the_share_and_fill_with_background() -> None:
    matched = torch.tensor([1] * 50 + [0] * 100 + [-1] * 20)
    positive, negative = sample(matched, 40, 0.25, image=0)
    assert (positive.numel(), negative.numel()) == (10, 30)
    assert len(set(positive.tolist())) == 10
    assert torch.all(matched[positive] > 0)
    assert torch.all(matched[negative] == 0)
    few, many = sample(torch.tensor([1, 0, 0, -1]), 40, 0.25, image=0)
    assert few.tolist() == [0]
    assert many.tolist() == [1, 2]


def test_draws_ask_the_cpu_generator_whatever_the_device_and_only_when_there_is_a_choice() -> None:
    torch.manual_seed(7)
    chosen, after = draw(10, 3, torch.device("cpu"), image=0), torch.rand(1)
    assert len(set(chosen.tolist())) == 3
    torch.manual_seed(7)
    elsewhere = draw(10, 3, torch.device("meta"), image=0)  # stands for a device with a generator of its own
    assert (elsewhere.device.type, elsewhere.shape) == ("meta", (3,))
    assert torch.equal(torch.rand(1), after)
    before = torch.get_rng_state()
    for most in (3, None):
        assert draw(3, most, torch.device("cpu"), image=0).tolist() == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), before)


def test_one_seed_draws_one_sample() -> None:
    matched = torch.tensor([1] * 500 + [0] * 500)
    draws = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        draws.append(torch.cat(sample(matched, 64, 0.5, image=0)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
