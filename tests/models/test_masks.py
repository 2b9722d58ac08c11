"""Inflating low-resolution maps, and the chunked mask loss."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.models import masks
from rsprompter_cli.models.layers import losses
from rsprompter_cli.models.layers.losses import full_frame_mask_loss
from rsprompter_cli.models.masks import inflate, measure_logits
from rsprompter_cli.structures import LowResMasks, MaskFrame


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), count=st.integers(0, 5), logits=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_inflate_equals_one_go_whatever_the_chunk(height: int, width: int, count: int, logits: bool) -> None:
    torch.manual_seed(height * 100 + width)
    values = torch.randn(count, 16, 16)
    threshold = 0.0
    if not logits:
        values, threshold = values.sigmoid(), 0.5
    longest = max(height, width)
    content = (max(height * 64 // longest, 1), max(width * 64 // longest, 1))
    low = LowResMasks(values, threshold, MaskFrame((64, 64), content, (height, width)))
    before = masks._PIXELS_AT_ONCE
    try:
        masks._PIXELS_AT_ONCE = 1
        ours = inflate(low)
    finally:
        masks._PIXELS_AT_ONCE = before
    assert ours.shape == (count, height, width)
    assert ours.dtype == torch.bool
    if count:
        square = F.interpolate(values[:, None], size=(64, 64), mode="bilinear", align_corners=False)
        image = F.interpolate(
            square[:, :, : content[0], : content[1]], size=(height, width), mode="bilinear", align_corners=False
        )
        assert torch.equal(ours, image[:, 0] >= threshold)
        assert torch.equal(ours, inflate(low))


@pytest.mark.parametrize("pixels_at_once", [1, 1 << 30])
def test_chunked_mask_loss_has_the_value_and_gradient_of_the_whole(
    pixels_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_PIXELS_AT_ONCE", pixels_at_once)
    torch.manual_seed(0)
    truth = torch.rand(3, 40, 50) > 0.5
    chosen = torch.tensor([0, 2, 2, 1, 0])
    ours = torch.randn(5, 16, 16, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    loss = full_frame_mask_loss(ours, truth, chosen, 64) / (5 * 64 * 64)
    loss.backward()
    full = F.interpolate(theirs[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    target = F.pad(truth[chosen].float(), (0, 14, 0, 24))
    expected = F.binary_cross_entropy_with_logits(full, target)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-9)  # type: ignore[arg-type]


def test_mask_loss_keeps_nothing_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_PIXELS_AT_ONCE", 2 * 256**2)
    seen: list[weakref.ref[torch.Tensor]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.detach().clone()
        seen.append(weakref.ref(copy))
        return copy

    logits, masks = torch.randn(40, 16, 16, requires_grad=True), torch.ones(1, 256, 256, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = full_frame_mask_loss(logits, masks, torch.zeros(40, dtype=torch.int64), 256)
    kept = [tensor.numel() for reference in seen if (tensor := reference()) is not None]
    assert kept == [logits.numel()]
    assert loss.requires_grad


def test_no_masks_no_loss() -> None:
    logits = torch.zeros(0, 16, 16, requires_grad=True)
    assert float(full_frame_mask_loss(logits, torch.zeros(0, 8, 8, dtype=torch.bool), torch.zeros(0).long(), 64)) == 0


@given(count=st.integers(0, 6), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_measured_logits_are_those_of_the_inflated_masks(count: int, height: int, width: int, seed: int) -> None:
    values = torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(seed))
    values[: count // 3] = -1.0  # empty
    low = LowResMasks(values, 0.0, MaskFrame((32, 32), (min(height, 32), min(width, 32)), (height, width)))
    before = masks._PIXELS_AT_ONCE
    masks._PIXELS_AT_ONCE = 2 * (32 * 32 + height * width)
    try:
        boxes, certainty = measure_logits(low)
    finally:
        masks._PIXELS_AT_ONCE = before
    assert boxes.shape == (count, 4)
    full = F.interpolate(values[:, None], size=(32, 32), mode="bilinear", align_corners=False)
    full = full[:, :, : min(height, 32), : min(width, 32)]
    full = F.interpolate(full, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    for whole, mask, box, sure in zip(full, inflate(low), boxes.tolist(), certainty.tolist(), strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if not mask.any():
            assert box == [0, 0, 0, 0]
            assert sure == 0
            continue
        assert box == [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert sure == pytest.approx(float(whole[mask].sigmoid().mean()), rel=1e-4)
