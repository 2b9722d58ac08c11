"""Leaving out weak detections changes nothing about the others, and saves their masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsprompter_cli.models.base import with_score_floor
from rsprompter_cli.structures import LowResMasks
from tests.make.tiny_models import tiny_model


def test_detections_above_the_floor_are_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(seed=3)
    pictures = [torch.randint(0, 256, (3, 60, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        (everything,) = model(pictures)
    scores = everything.scores
    assert len(scores) > 3
    floor = float(scores[len(scores) // 2])
    decoded: list[int] = []
    decoder = model.get_submodule("mask_decoder")
    handle = decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[1].shape[0]))
    with torch.no_grad(), with_score_floor(model, floor):
        (strong,) = model(pictures)
    handle.remove()
    kept = scores >= floor
    assert torch.equal(strong.scores, scores[kept])
    assert torch.equal(strong.boxes, everything.boxes[kept])
    assert torch.equal(strong.labels, everything.labels[kept])
    assert isinstance(strong.masks, LowResMasks)
    assert isinstance(everything.masks, LowResMasks)
    torch.testing.assert_close(strong.masks.values, everything.masks.values[kept], rtol=0, atol=1e-6)
    assert decoded == [int(kept.sum())]
    assert int(kept.sum()) < len(scores)


def test_floor_ends_with_the_block_even_after_an_error() -> None:
    model = tiny_model()
    floors = [block for block in model.modules() if hasattr(block, "score_floor")]
    assert floors
    with with_score_floor(model, 0.5):
        assert all(block.score_floor == 0.5 for block in floors)
    assert all(block.score_floor == 0.0 for block in floors)
    with pytest.raises(KeyError):
        _fail_within(model)
    assert all(block.score_floor == 0.0 for block in floors)


def _fail_within(model: nn.Module) -> None:
    with with_score_floor(model, 0.5):
        raise KeyError


def test_model_without_such_a_block_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    before = set(vars(model))
    with with_score_floor(model, 0.5):
        assert set(vars(model)) == before
