"""Which anchors the proposals' losses see: all of the padded square, or as the original's pad_shape limits them."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.models.image_transform import anchor_areas
from rsprompter_cli.models.layers.rpn import RegionProposals, RpnOutput
from rsprompter_cli.structures import Size, Target
from tests.make.tiny_models import (
    build_seeded,
    tiny_model_config,
    tiny_samdet_config,
    tiny_samseg_maskrcnn_config,
)

STRIDES = (4, 8, 16, 32, 64)
SCALES = (4.0, 8.0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # No picture fills the square, nor do all of them together: the square for each.
        ([(64, 128), (96, 128)], [(128, 128)] * 2),
        ([(96, 128)], [(128, 128)]),
        ([(1, 1)], [(128, 128)]),
        # One fills it: each its own size, rounded up to multiples of 32.
        ([(128, 128), (65, 32)], [(128, 128), (96, 32)]),
        # It need not fill it to the last pixel, nor need it be one picture.
        ([(97, 100), (1, 64)], [(128, 128), (32, 64)]),
        ([(20, 128), (128, 33)], [(32, 128), (128, 64)]),
        ([(20, 128), (96, 33)], [(128, 128)] * 2),
    ],
)
def test_areas_of_a_batch(sizes: list[Size], expected: list[Size]) -> None:
    assert anchor_areas(sizes, 128) == expected


def test_a_square_that_is_no_multiple_of_32_is_not_left() -> None:
    assert anchor_areas([(80, 80), (10, 70)], 80) == [(80, 80), (32, 80)]


def _overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _deltas(anchor: list[float], box: list[float]) -> list[float]:
    sides = [anchor[2] - anchor[0], anchor[3] - anchor[1]]
    new = [box[2] - box[0], box[3] - box[1]]
    moved = [(box[i] + box[i + 2] - anchor[i] - anchor[i + 2]) / 2 / sides[i] for i in (0, 1)]
    return moved + [math.log(new[i] / sides[i]) for i in (0, 1)]


def _reference(output: RpnOutput, boxes: list[Tensor], areas: list[Size]) -> tuple[float, float]:
    """The two losses anchor by anchor, every positive and every negative counted."""
    class_sum = box_sum = 0.0
    counted = 0
    for image, (objects, (area_rows, area_columns)) in enumerate(zip(boxes, areas, strict=True)):
        anchors: list[tuple[list[float], float, list[float]]] = []
        for level, stride in enumerate(STRIDES):
            logits, offsets = output.logits[level][image], output.offsets[level][image]
            for row, column in product(range(logits.shape[1]), range(logits.shape[2])):
                if row * stride >= area_rows or column * stride >= area_columns:
                    continue
                for place, (ratio, scale) in enumerate(product((0.5, 1.0, 2.0), SCALES)):
                    half = [0.5 * stride * scale / math.sqrt(ratio), 0.5 * stride * scale * math.sqrt(ratio)]
                    x, y = column * stride, row * stride
                    anchor = [x - half[0], y - half[1], x + half[0], y + half[1]]
                    told = offsets[4 * place : 4 * place + 4, row, column].tolist()
                    anchors.append((anchor, float(logits[place, row, column]), told))
        truth = objects.tolist()
        table = [[_overlap(anchor, box) for box in truth] for anchor, _, _ in anchors]
        owner = [max(range(len(truth)), key=line.__getitem__) if truth and max(line) >= 0.7 else None for line in table]
        low = [not truth or max(line) < 0.3 for line in table]
        for number in range(len(truth)):
            best = max(line[number] for line in table)
            for place, line in enumerate(table):
                if best >= 0.3 and abs(line[number] - best) < 1e-7:
                    owner[place] = number
        positives = [place for place, number in enumerate(owner) if number is not None]
        negatives = [place for place, number in enumerate(owner) if number is None and low[place]]
        counted += max(len(positives), 1) + max(len(negatives), 1)
        for place in positives + negatives:
            sign = -1 if owner[place] is not None else 1
            class_sum += math.log1p(math.exp(sign * anchors[place][1]))
        for place in positives:
            anchor, _, told = anchors[place]
            number = owner[place]
            assert number is not None
            for got, wanted in zip(told, _deltas(anchor, truth[number]), strict=True):
                away = abs(got - wanted)
                box_sum += 0.5 * away**2 if away < 1 else away - 0.5
    return class_sum / counted, box_sum / counted


def test_losses_are_those_of_the_anchors_within_each_area() -> None:
    side = 128
    head = RegionProposals(
        channels=8,
        anchor_scales=SCALES,
        nms_pre_train=10,
        nms_pre_test=10,
        max_proposals=10,
        nms_iou=0.7,
        samples=10**6,
    )
    draw = torch.Generator().manual_seed(3)
    shapes = [side // stride for stride in STRIDES]
    output = RpnOutput(
        [torch.randn(3, 6, size, size, generator=draw) for size in shapes],
        [torch.randn(3, 24, size, size, generator=draw) for size in shapes],
    )
    # The last object of the second picture is best met by anchors that stand in the padding.
    boxes = [
        torch.tensor([[3.0, 5, 40, 33], [60, 70, 127, 120]]),
        torch.tensor([[2.0, 2, 30, 25], [10, 40, 58, 64]]),
        torch.zeros(0, 4),
    ]
    areas = anchor_areas([(128, 120), (64, 50), (33, 90)], side)
    assert areas == [(128, 128), (64, 64), (64, 96)]
    for limits in (areas, [(side, side)] * 3):
        given = None if limits is not areas else areas
        object_loss, box_loss = head.losses(output, boxes, given)
        expected = _reference(output, boxes, limits)
        assert float(object_loss.sum()) == pytest.approx(expected[0], rel=1e-5)
        assert float(box_loss.sum()) == pytest.approx(expected[1], rel=1e-5)
    limited, whole = _reference(output, boxes, areas), _reference(output, boxes, [(side, side)] * 3)
    assert abs(limited[0] - whole[0]) > 1e-3
    assert abs(limited[1] - whole[1]) > 1e-3


@pytest.mark.parametrize("make", [tiny_model_config, tiny_samseg_maskrcnn_config, tiny_samdet_config])
def test_models_limit_anchors_only_where_asked_and_where_a_batch_fills_the_square(make: Any) -> None:
    rpn = make().rpn.model_copy(update={"samples": 10**6})
    square, original = (
        build_seeded(make(rpn=rpn.model_copy(update={"anchor_area": area}))) for area in ("square", "original")
    )
    side = original.image_size

    def loss(model: Any, sizes: list[Size]) -> float:
        model.train()
        draw = torch.Generator().manual_seed(1)
        images = [torch.rand(3, *size, generator=draw) * 255 for size in sizes]
        targets = []
        for rows, columns in sizes:
            masks = torch.zeros(1, rows, columns, dtype=torch.bool)
            masks[:, 2:20, 3:24] = True
            targets.append(Target(torch.tensor([[3.0, 2, 24, 20]]), torch.zeros(1, dtype=torch.int64), masks))
        return float(model(images, targets)["loss_rpn_cls"].detach())

    assert square.rpn.anchor_area == make().rpn.anchor_area == "square"
    filled, loose = [(side, side // 2), (30, 40)], [(side, side // 2), (30, 30)]
    assert loss(original, filled) != loss(square, filled)
    assert loss(original, loose) == loss(square, loose)
    whole = [(side, side), (side, side)]
    assert loss(original, whole) == loss(square, whole)
