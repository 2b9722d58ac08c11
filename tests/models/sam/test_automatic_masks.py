"""Automatic masks: which stay, what they look like, and segment-anything's rules as transformers states them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import SamImageProcessor
from transformers.models.sam import image_processing_sam as reference

from rsprompter_cli.config import AutomaskConfig
from rsprompter_cli.models.builders.sam import build_decoder, build_encoder
from rsprompter_cli.models.builders.samcls import automask_settings, build_asked_decoder
from rsprompter_cli.models.image_transform import ImageMeta, make_meta
from rsprompter_cli.models.masks import inflate, paste
from rsprompter_cli.models.sam.automatic_masks import (
    AutomaskSettings,
    PictureMasks,
    SamSegmenter,
    automatic_masks,
    box_grid,
    crop_boxes,
    is_cut,
    point_grid,
)
from rsprompter_cli.models.sam.mask_patches import Sampler, clean_patch
from rsprompter_cli.structures import LowResMasks, MaskFrame
from tests.make.tiny_models import TINY_TINY_VIT, TINY_VIT

SETTINGS = AutomaskSettings(
    prompts="points",
    points_per_side=4,
    box_sizes=(0.5,),
    min_return_iou=0.8,
    min_predicted_iou=0.5,
    min_stability=0.6,
    stability_offset=1.0,
    box_nms_iou=0.5,
    crop_layers=0,
    crop_nms_iou=0.6,
    min_region_area=0,
    chunk=5,
)
SIDE = 64


class Listed:
    """Answers the first points with given maps [64, 64] and qualities, three to a point, the others with nothing."""

    def __init__(self, masks: Sequence[Tensor], quality: Sequence[float]) -> None:
        self.masks, self.quality = list(masks), list(quality)
        self.points: list[Tensor] = []
        self.largest = 0

    def embed(self, picture: Tensor) -> tuple[Any, ImageMeta]:
        return None, make_meta((SIDE, SIDE), (1.0, 1.0), SIDE)

    def answer(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        self.points.append(points)
        count = 3 * len(points)
        self.largest = max(self.largest, count)
        maps, self.masks = self.masks[:count], self.masks[count:]
        quality, self.quality = self.quality[:count], self.quality[count:]
        nothing = [torch.full((SIDE, SIDE), -9.0)] * (count - len(maps))
        guesses = torch.tensor(quality + [0.0] * len(nothing))
        return torch.stack([*maps, *nothing]).reshape(-1, 3, SIDE, SIDE), guesses.reshape(-1, 3)


class Colours:
    """Answers a point with the pixels of its colour that hang together with it, in each of two ways."""

    def embed(self, picture: Tensor) -> tuple[Any, ImageMeta]:
        height, width = picture.shape[1:]
        side = max(height, width)
        return picture[0], make_meta((height, width), (1.0, 1.0), side)

    def answer(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        side = max(embedding.shape)
        square = torch.full((side, side), -1.0)
        square[: embedding.shape[0], : embedding.shape[1]] = embedding
        at = square[points[:, 1].long(), points[:, 0].long()]
        same = torch.where(square == at[:, None, None], 8.0, -8.0)
        quality = torch.where(at > 0, 0.9, 0.1)
        return torch.stack([same, -same], dim=1), torch.stack([quality, torch.zeros(len(points))], dim=1)


def square(x0: int, y0: int, x1: int, y1: int, inside: float = 5.0) -> Tensor:
    values = torch.full((SIDE, SIDE), -5.0)
    values[y0:y1, x0:x1] = inside
    return values


def masks_of(segmenter: Any, size: int = SIDE, **changes: Any) -> PictureMasks:
    return automatic_masks(torch.zeros(3, size, size), segmenter, replace(SETTINGS, **changes))


def test_of_two_masks_in_one_place_the_better_stays_and_the_best_comes_first() -> None:
    found = masks_of(
        Listed([square(4, 4, 20, 20), square(5, 4, 20, 20), square(30, 30, 40, 50)], [0.7, 0.8, 0.9]),
    )
    assert found.boxes.tolist() == [[30, 30, 40, 50], [5, 4, 20, 20]]
    assert found.quality.tolist() == pytest.approx([0.9, 0.8])
    expected = torch.stack([square(30, 30, 40, 50), square(5, 4, 20, 20)]) > 0
    assert torch.equal(paste(found.masks), expected)
    assert all(values.dtype == torch.float16 for values in found.masks.values)
    # One pixel around each mask, nothing more.
    assert [tuple(values.shape) for values in found.masks.values] == [(22, 12), (18, 17)]


def test_masks_that_are_doubtful_or_unstable_or_empty_go() -> None:
    stable = square(4, 4, 20, 20)
    # 100 pixels over the upper threshold, 100 more over the lower one: stability one half.
    unstable = square(30, 30, 50, 40, inside=0.5)
    unstable[30:40, 30:40] = 5.0
    empty = torch.full((SIDE, SIDE), -0.5)
    segmenter = Listed([stable, unstable, empty, square(50, 50, 60, 60)], [0.5, 0.9, 0.9, 0.49])
    assert masks_of(segmenter).boxes.tolist() == [[4, 4, 20, 20]]
    segmenter = Listed([stable, unstable, empty, square(50, 50, 60, 60)], [0.5, 0.9, 0.9, 0.49])
    assert len(masks_of(segmenter, min_stability=0.5, min_predicted_iou=0.4)) == 3


def test_nothing_found_is_no_masks() -> None:
    found = masks_of(Listed([], []))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert paste(found.masks).shape == (0, SIDE, SIDE)


def test_points_are_asked_a_chunk_at_a_time_and_that_changes_nothing() -> None:
    maps = [square(4 * i, 2, 4 * i + 3, 2 + 3 * i) for i in range(1, 12)]
    quality = [0.5 + 0.03 * i for i in range(11)]
    small, large = Listed(maps, quality), Listed(maps, quality)
    first, second = masks_of(small, chunk=2), masks_of(large, chunk=100)
    assert (small.largest, large.largest) == (6, 48)
    assert torch.equal(torch.cat(small.points), point_grid(4) * SIDE)
    assert torch.equal(paste(first.masks), paste(second.masks))
    assert len(first) == 11


def test_small_holes_are_filled_and_small_islands_removed() -> None:
    values = square(8, 8, 40, 40)
    values[12:15, 12:15] = -5  # 9 pixels
    values[20:25, 20:25] = -5  # 25 pixels
    values[50:53, 50:53] = 5  # 9 pixels
    values[50:55, 8:13] = 5  # 25 pixels
    (mask,) = paste(masks_of(Listed([values], [0.9]), min_region_area=16).masks)
    assert mask[12:15, 12:15].all()
    assert not mask[20:25, 20:25].any()
    assert not mask[50:53, 50:53].any()
    assert mask[50:55, 8:13].all()
    assert torch.equal(paste(masks_of(Listed([values], [0.9])).masks)[0], values > 0)


def test_a_mask_of_small_pieces_keeps_its_largest_and_an_open_bay_is_no_hole() -> None:
    pieces = square(8, 8, 11, 11)
    pieces[30:32, 30:32] = 5
    found = masks_of(Listed([pieces], [0.9]), min_region_area=16)
    assert found.boxes.tolist() == [[8, 8, 11, 11]]
    # The ground left of this mask is 3 pixels of its patch, and goes on outside.
    bay = square(8, 8, 30, 30)
    bay[10:13, 8] = -5
    assert torch.equal(paste(masks_of(Listed([bay], [0.9]), min_region_area=16).masks)[0], bay > 0)
    # In the picture's corner a hole is a hole.
    corner = square(0, 0, 30, 30)
    corner[:2, :2] = -5
    assert paste(masks_of(Listed([corner], [0.9]), min_region_area=16).masks)[0, :30, :30].all()


def test_masks_that_cleaning_makes_alike_are_one_and_the_untouched_stays() -> None:
    whole, speckled = square(8, 8, 30, 30), square(8, 8, 30, 30)
    speckled[60:63, 60:63] = 5
    found = masks_of(Listed([whole, speckled], [0.6, 0.9]), min_region_area=16)
    assert found.quality.tolist() == pytest.approx([0.6])
    assert len(masks_of(Listed([whole, speckled], [0.6, 0.9]))) == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 400), st.integers(40, 400), st.integers(0, 3))
def test_crops_are_those_of_segment_anything(height: int, width: int, layers: int) -> None:
    expected, _ = reference._generate_per_layer_crops(layers, 512 / 1500, (height, width))
    assert [list(box) for box in crop_boxes((height, width), layers)] == expected


def test_crops_of_a_picture_of_a_few_pixels_all_hold_some() -> None:
    for height, width in ((1, 1), (3, 2), (5, 1)):
        assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in crop_boxes((height, width), 3))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_cut_by_a_crop_is_what_segment_anything_says(data: st.DataObject) -> None:
    crop = data.draw(st.sampled_from(crop_boxes((120, 200), 2)))
    x0, x1 = sorted(data.draw(st.lists(st.integers(0, crop[2] - crop[0]), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(data.draw(st.lists(st.integers(0, crop[3] - crop[1]), min_size=2, max_size=2, unique=True)))
    box = (x0 + crop[0], y0 + crop[1], x1 + crop[0], y1 + crop[1])
    inclusive = torch.tensor([[x0, y0, x1 - 1, y1 - 1]])
    assert is_cut(box, crop, (120, 200)) == bool(reference._is_box_near_crop_edge(inclusive, crop, [0, 0, 200, 120]))


def test_the_grid_is_that_of_segment_anything() -> None:
    for per_side in (1, 2, 32):
        torch.testing.assert_close(point_grid(per_side), reference._build_point_grid(per_side))


def test_crops_add_what_the_whole_picture_missed_and_double_nothing() -> None:
    picture = torch.zeros(3, 120, 120)
    picture[:, 30:60, 30:60] = 10  # hit by a point of the whole picture, and whole in a crop
    picture[:, 50:70, 80:100] = 20
    picture[:, 23:26, 95:98] = 30  # between the points of the whole picture
    plain = automatic_masks(picture, Colours(), replace(SETTINGS, points_per_side=6))
    crops = automatic_masks(picture, Colours(), replace(SETTINGS, points_per_side=6, crop_layers=1))
    assert sorted(plain.boxes.tolist()) == [[30, 30, 60, 60], [80, 50, 100, 70]]
    found = crops.boxes.tolist()
    assert [30, 30, 60, 60] in found
    assert [80, 50, 100, 70] in found
    assert len(found) == len({tuple(box) for box in found})
    masks = paste(crops.masks)
    for mask, (x0, y0, x1, y1) in zip(masks, crops.boxes.int().tolist(), strict=True):
        assert bool(mask[y0:y1, x0:x1].all())
        assert int(mask.sum()) == (x1 - x0) * (y1 - y0)
        # A mask cut by a crop would end where the crop does.
        assert (x0, y0, x1, y1) in {(30, 30, 60, 60), (80, 50, 100, 70), (95, 23, 98, 26)}


frames = st.tuples(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 32, 64]), st.sampled_from([1, 2, 4]))


@settings(max_examples=40, deadline=None)
@given(frames, st.integers(0, 2**31), st.floats(-1.5, 1.5))
def test_pieces_of_a_map_are_what_inflating_it_gives(frame: tuple[int, int, int, int], seed: int, level: float) -> None:
    height, width, side, stride = frame
    scale = side / max(height, width)
    meta = make_meta((height, width), (scale, scale), side)
    cells = side // stride
    values = torch.randn(4, cells, cells, generator=torch.Generator().manual_seed(seed))
    values -= level
    sampler = Sampler(meta.frame, (cells, cells), values.device)
    whole = inflate(LowResMasks(values, 0.0, meta.frame))
    for value, mask, bounds in zip(values, whole, sampler.bounds(values > -0.5), strict=True):
        drawn = torch.zeros(height, width, dtype=torch.bool)
        if bounds is not None:
            pixels, (left, top) = sampler.pixels(value, bounds)
            drawn[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels >= 0
        assert int((drawn != mask).sum()) <= 1  # a value at the threshold
        if not mask.any():
            continue
        assert bounds is not None
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1)
        pixels, (left, top) = sampler.restore(*sampler.piece(value, bounds), box)
        drawn = torch.zeros(height, width, dtype=torch.bool)
        drawn[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels >= 0
        assert int((drawn != mask).sum()) <= 0.01 * mask.sum() + 1  # stored in half precision


def test_cleaning_nothing_changes_nothing() -> None:
    values = torch.full((6, 6), 2.0)
    assert clean_patch(values, (0, 0), (6, 6), 16) == (values, False)


@pytest.mark.parametrize("size", [(64, 64), (40, 64)])
def test_a_random_sam_gives_what_transformers_filter_keeps(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    encoder, decoder = build_encoder(TINY_VIT, 64).eval(), build_decoder(TINY_VIT, 4, point_prompts=True).eval()
    segmenter = SamSegmenter(encoder, decoder, 64)
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    embedding, _ = segmenter.embed(picture)
    with torch.no_grad():
        logits, quality = segmenter.answer(embedding, point_grid(6) * torch.tensor([size[1], size[0]]))
    middle = float(quality.median()) + 1e-6  # between two values: the two disagree about equality
    offset = float(logits.std()) * 0.3
    centred = Centred(segmenter, float(logits.median()))
    chosen = replace(
        SETTINGS,
        points_per_side=6,
        min_predicted_iou=middle,
        min_stability=0.3,
        stability_offset=offset,
        box_nms_iou=1.0,
        chunk=7,
    )
    found = automatic_masks(picture, centred, chosen)
    maps = (logits - centred.level).flatten(0, 1)[:, None]
    full = torch.nn.functional.interpolate(maps, (64, 64), mode="bilinear")[:, 0, : size[0], : size[1]]
    rles, scores, boxes = SamImageProcessor().filter_masks(
        full.reshape(-1, 3, *size),
        quality,
        size,
        [0, 0, size[1], size[0]],
        pred_iou_thresh=middle,
        stability_score_thresh=0.3,
        stability_score_offset=offset,
    )
    order = torch.argsort(scores, descending=True)
    assert len(found) == len(order) > 5
    for index, place in enumerate(order.tolist()):
        expected = reference._rle_to_mask(rles[place])
        assert int((paste(found.masks)[index] != expected).sum()) <= 2
        ends = boxes[place].float() + torch.tensor([0.0, 0.0, 1.0, 1.0])
        torch.testing.assert_close(found.boxes[index], ends, atol=1.0, rtol=0)
    torch.testing.assert_close(found.quality, scores[order].clamp(0, 1))


class Centred:
    """A random SAM says yes or no everywhere; with its median as threshold it draws masks."""

    def __init__(self, segmenter: SamSegmenter, level: float) -> None:
        self.segmenter, self.level = segmenter, level

    def embed(self, picture: Tensor) -> tuple[Any, ImageMeta]:
        return self.segmenter.embed(picture)

    def answer(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        logits, quality = self.segmenter.answer(embedding, points)
        return logits - self.level, quality


def test_a_map_that_lies_in_the_padding_is_no_mask() -> None:
    frame = MaskFrame((64, 64), (10, 64), (10, 64))
    sampler = Sampler(frame, (16, 16), torch.device("cpu"))
    values = torch.full((16, 16), -5.0)
    values[10:, :] = 5
    pixels, _ = sampler.pixels(values, (10, 16, 0, 16))
    assert not bool((pixels >= 0).any())


@given(st.integers(1, 90), st.integers(1, 90), st.lists(st.floats(0.05, 1), min_size=1, max_size=3))
def test_boxes_lie_in_the_picture_and_cover_it(height: int, width: int, shares: list[float]) -> None:
    for share in shares:
        boxes = box_grid((height, width), [share])
        assert bool((boxes >= 0).all())
        assert bool((boxes[:, :2] < boxes[:, 2:]).all())
        assert bool((boxes[:, 2:] <= torch.tensor([width, height])).all())
        seen = torch.zeros(height, width, dtype=torch.bool)
        for x0, y0, x1, y1 in boxes.tolist():
            # A pixel counts as covered where its middle is.
            seen[int(np.ceil(y0 - 0.5)) : int(np.ceil(y1 - 0.5)), int(np.ceil(x0 - 0.5)) : int(np.ceil(x1 - 0.5))] = (
                True
            )
        assert bool(seen.all())
    together = box_grid((height, width), shares)
    assert torch.equal(together, torch.cat([box_grid((height, width), [share]) for share in shares]))


class Boxed(Colours):
    """Answers a box with what lies in its middle: of an object all that is in the box, of the ground a blob."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def answer(self, embedding: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(prompts)
        side = max(embedding.shape)
        maps, quality = [], []
        for x0, y0, x1, y1 in prompts.round().int().tolist():
            middle = min((y0 + y1) // 2, embedding.shape[0] - 1), min((x0 + x1) // 2, embedding.shape[1] - 1)
            colour = embedding[middle]
            values = torch.full((side, side), -8.0)
            if colour > 0:
                part = embedding[y0:y1, x0:x1] == colour
                values[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]][part] = 8.0
            else:
                inner_y, inner_x = (y1 - y0) // 4, (x1 - x0) // 4
                values[y0 + inner_y : y1 - inner_y, x0 + inner_x : x1 - inner_x] = 8.0
            maps.append(values)
            quality.append(0.9)
        return torch.stack(maps)[:, None], torch.tensor(quality)[:, None]


def test_of_boxes_only_what_their_own_bounds_give_back_stays() -> None:
    picture = torch.zeros(3, 48, 64)
    picture[0, 8:16, 8:20] = 1  # each smaller than a box, and in the middle of one
    picture[0, 26:40, 40:52] = 2
    segmenter = Boxed()
    chosen = replace(SETTINGS, prompts="boxes", box_sizes=(0.375,), min_return_iou=0.8)
    found = automatic_masks(picture, segmenter, chosen)
    assert sorted(found.boxes.tolist()) == [[8, 8, 20, 16], [40, 26, 52, 40]]
    assert torch.equal(paste(found.masks).any(0), picture[0] > 0)
    # Without asking again the ground comes too.
    assert len(automatic_masks(picture, Boxed(), replace(chosen, min_return_iou=0.0))) > 2


def test_boxes_whose_masks_are_poor_or_empty_are_not_asked_again() -> None:
    class Poor(Boxed):
        def answer(self, embedding: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
            logits, quality = super().answer(embedding, prompts)
            quality[::2] = 0.1
            logits[1::2] = -8.0
            return logits, quality

    segmenter = Poor()
    found = automatic_masks(torch.zeros(3, 64, 64), segmenter, replace(SETTINGS, prompts="boxes", box_sizes=(0.5,)))
    assert len(found) == 0
    assert sum(len(asked) for asked in segmenter.asked) == len(box_grid((64, 64), [0.5]))


def test_a_sam_answers_boxes_with_one_mask_each() -> None:
    torch.manual_seed(3)
    encoder, decoder = build_encoder(TINY_VIT, 64).eval(), build_decoder(TINY_VIT, 4, box_prompts=True).eval()
    segmenter = SamSegmenter(encoder, decoder, 64)
    embedding, _ = segmenter.embed(torch.randint(0, 256, (3, 64, 40), dtype=torch.uint8))
    boxes = box_grid((64, 40), (0.5,))
    logits, quality = segmenter.answer(embedding, boxes)
    assert logits.shape[:2] == quality.shape == (len(boxes), 1)
    assert torch.equal(logits[:, 0], decoder(embedding, decoder.corner_prompts(boxes, 64)))


def test_a_sam_that_knows_boxes_alone_is_asked_with_boxes() -> None:
    chosen = AutomaskConfig()
    assert automask_settings(chosen, TINY_TINY_VIT, 4).prompts == "boxes"
    assert automask_settings(chosen, TINY_VIT, 4).prompts == "points"
    asked = automask_settings(AutomaskConfig(prompts="points"), TINY_TINY_VIT, 4)
    assert asked.prompts == "points"
    for settings_, held, other in (
        (asked, "point_embed", "corner_embed"),
        (replace(asked, prompts="boxes"), "corner_embed", "point_embed"),
    ):
        decoder = build_asked_decoder(TINY_TINY_VIT, settings_)
        assert getattr(decoder, held) is not None
        assert getattr(decoder, other) is None
