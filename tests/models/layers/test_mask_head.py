"""The convolutional mask head: its targets, its loss, and its answers pasted into the image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rsprompter_cli.models.layers import mask_head
from rsprompter_cli.models.layers.mask_head import FcnMaskHead, class_masks, mask_loss, mask_targets, paste_masks
from rsprompter_cli.models.masks import paste

FULL = torch.full((1, 28, 28), 0.9)


def _pasted(boxes: list[list[float]], size: tuple[int, int], probabilities: Tensor = FULL) -> Tensor:
    box = torch.tensor(boxes)
    return paste(paste_masks(probabilities.expand(len(box), 28, 28), box, size))


def test_the_head_answers_twice_as_finely_and_for_every_class() -> None:
    head = FcnMaskHead(channels=8, num_classes=3)
    assert head(torch.randn(2, 8, 14, 14)).shape == (2, 3, 28, 28)
    assert [type(layer) for layer in head.convs] == [nn.Conv2d] * 4
    none = head(torch.zeros(0, 8, 14, 14))
    assert none.shape == (0, 3, 28, 28)


def test_each_object_learns_from_the_mask_of_its_own_class() -> None:
    logits = torch.zeros(2, 3, 28, 28, requires_grad=True)
    loss = mask_loss(logits, torch.tensor([2, 0]), torch.ones(2, 28, 28))
    assert float(loss.detach()) == pytest.approx(0.6931472)
    loss.backward()
    assert logits.grad is not None
    touched = logits.grad.flatten(2).abs().sum(2) > 0
    assert touched.tolist() == [[False, False, True], [True, False, False]]


def test_no_positive_gives_a_loss_of_zero_that_reaches_every_weight() -> None:
    head = FcnMaskHead(channels=4, num_classes=2)
    loss = mask_loss(head(torch.zeros(0, 4, 14, 14)), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(one.grad is not None and float(one.grad.abs().max()) == 0 for one in head.parameters())


def test_targets_are_the_mask_inside_the_box() -> None:
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[1, :, 14:] = True
    boxes = torch.tensor([[0.0, 0.0, 28.0, 28.0], [14.0, 3.0, 30.0, 20.0], [0.0, 0.0, 28.0, 28.0]])
    targets = mask_targets(masks, boxes, torch.tensor([1, 1, 0]), 64)
    assert targets.dtype == torch.float32
    assert bool((targets[0, :, :14] == 0).all())
    assert bool((targets[0, :, 14:] == 1).all())
    assert bool((targets[1] == 1).all())
    assert bool((targets[2] == 0).all())


def test_a_mask_without_its_padding_gives_the_targets_of_the_padded_one() -> None:
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(3, 20, 26, generator=generator) > 0.5
    padded = nn.functional.pad(masks, (0, 6, 0, 12))
    boxes = torch.tensor([[20.0, 15.0, 26.0, 20.0], [0.0, 0.0, 26.0, 20.0], [25.9, 3.0, 26.0, 20.0]])
    objects = torch.tensor([0, 1, 2])
    assert torch.equal(mask_targets(masks, boxes, objects, 32), mask_targets(padded, boxes, objects, 32))
    assert torch.equal(mask_targets(padded, boxes, objects, 32), mask_targets(padded, boxes, objects, 64))


def test_targets_do_not_depend_on_how_many_masks_are_worked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    masks = torch.rand(5, 30, 30, generator=generator) > 0.5
    corner = torch.rand(9, 2, generator=generator) * 14
    boxes = torch.cat([corner, corner + 3 + corner.flip(1)], dim=1)
    objects = torch.tensor([4, 0, 3, 3, 1, 2, 0, 4, 1])
    whole = mask_targets(masks, boxes, objects, 32)
    monkeypatch.setattr(mask_head, "_PIXELS_AT_ONCE", 2 * 30 * 30)
    assert torch.equal(mask_targets(masks, boxes, objects, 32), whole)


def test_no_positives_and_no_objects_have_no_targets() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert mask_targets(torch.zeros(0, 9, 9, dtype=torch.bool), torch.zeros(0, 4), none, 32).shape == (0, 28, 28)
    assert mask_targets(torch.ones(2, 9, 9, dtype=torch.bool), torch.zeros(0, 4), none, 32).shape == (0, 28, 28)


def test_a_full_mask_fills_its_box() -> None:
    (mask,) = _pasted([[3.0, 5.0, 20.0, 15.0]], (30, 40))
    wanted = torch.zeros(30, 40, dtype=torch.bool)
    # Towards the border .9 fades to nothing, but at the centre of the outermost pixels it is above one half.
    wanted[5:15, 3:20] = True
    assert torch.equal(mask, wanted)


def test_half_a_mask_fills_half_its_box() -> None:
    left = torch.zeros(1, 28, 28)
    left[:, :, :14] = 1
    (mask,) = _pasted([[10.0, 0.0, 38.0, 28.0]], (28, 40), left)
    assert mask.any(dim=0).nonzero().squeeze(1).tolist() == list(range(10, 24))


@pytest.mark.parametrize(
    "box",
    [
        [41.0, 2.0, 60.0, 20.0],  # in the padding to the right
        [2.0, 31.0, 20.0, 60.0],  # below
        [50.0, 50.0, 60.0, 60.0],
        [40.0, 0.0, 40.0, 20.0],  # without width, at the border
        [5.5, 0.0, 5.5, 20.0],
        [5.0, 7.0, 30.0, 7.0],
        [-20.0, -20.0, -3.0, -4.0],
    ],
)
def test_a_box_that_holds_no_pixel_has_an_empty_mask(box: list[float]) -> None:
    masks = _pasted([box, [3.0, 5.0, 20.0, 15.0]], (30, 40))
    assert masks.shape == (2, 30, 40)
    assert not bool(masks[0].any())
    assert bool(masks[1].any())


def test_no_detections_no_masks() -> None:
    assert paste(paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (30, 40))).shape == (0, 30, 40)


def test_class_masks_choose_by_label() -> None:
    logits = torch.arange(12.0).reshape(3, 4, 1, 1)
    assert class_masks(logits, torch.tensor([3, 0, 1])).flatten().tolist() == [3, 4, 9]


@settings(max_examples=40, deadline=None)
@given(
    corner=st.tuples(st.floats(-30, 60, width=32), st.floats(-30, 60, width=32)),
    extent=st.tuples(st.floats(0.5, 70, width=32), st.floats(0.5, 70, width=32)),
    seed=st.integers(0, 10**6),
)
def test_a_patch_holds_all_that_pasting_over_the_whole_image_would(
    corner: tuple[float, float], extent: tuple[float, float], seed: int
) -> None:
    mask = torch.rand(28, 28, generator=torch.Generator().manual_seed(seed))
    box = torch.tensor([*corner, corner[0] + extent[0], corner[1] + extent[1]])
    rows, columns = 33, 47
    x = (torch.arange(columns) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(rows) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    whole = nn.functional.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    ours = paste(paste_masks(mask[None], box[None], (rows, columns)))[0]
    clear = (whole - 0.5).abs() > 1e-5
    assert torch.equal(ours & clear, (whole >= 0.5) & clear)
