"""Joint augmentation: picture, masks and boxes move together."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rsprompter_cli.config import AugmentConfig
from rsprompter_cli.data import transforms
from rsprompter_cli.data.patches import Patch, draw_target, tight
from rsprompter_cli.data.transforms import TrainTransform, train_transform
from tests.make.transforms import NOTHING, transform_with


def _blobs(rng: np.random.Generator, height: int, width: int, count: int) -> tuple[torch.Tensor, list[Patch]]:
    """A picture that is 255 in its first channel exactly where the first object is, and the objects."""
    patches = []
    for _ in range(count):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        mask = rng.random((int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1)))) < 0.7
        mask[0, 0] = True
        patch = tight(top, left, mask)
        assert patch is not None
        patches.append(patch)
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    image[0] = 255 * draw_target(patches[:1], [0] * len(patches[:1]), height, width).masks.any(0).numpy()
    return torch.from_numpy(image), patches


@st.composite
def _transforms(draw: st.DrawFn) -> TrainTransform:
    low = draw(st.floats(0.1, 1.5))
    return transform_with(
        image_size=draw(st.integers(1, 40)),
        flip=draw(st.sampled_from([0, 0.5, 1])),
        vertical_flip=draw(st.sampled_from([0, 0.5, 1])),
        rotate90=draw(st.booleans()),
        scale=(low, low + draw(st.floats(0, 1))),
        brightness=draw(st.sampled_from([0, 0.3])),
        contrast=draw(st.sampled_from([0, 0.3])),
        saturation=draw(st.sampled_from([0, 0.3])),
        hue=draw(st.sampled_from([0, 0.1])),
        coarsen=draw(st.sampled_from([1, 3])),
        eight_bit=draw(st.booleans()),
    )


@given(_transforms(), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_boxes_are_the_bounds_of_masks(
    transform: TrainTransform, seed: int, height: int, width: int, count: int
) -> None:
    image, patches = _blobs(np.random.default_rng(seed), height, width, count)
    moved_image, moved = transform(image, patches, np.random.default_rng(seed))
    rows, columns = moved_image.shape[1:]
    assert moved_image.dtype == (torch.uint8 if transform.eight_bit else torch.float32)
    assert moved_image.min() >= 0
    assert moved_image.max() <= 255.01
    assert 1 <= rows <= transform.image_size
    assert 1 <= columns <= transform.image_size
    target = draw_target(moved, list(range(count)), rows, columns)
    assert len(target.labels) == len(target.boxes) == len(target.masks)
    assert target.labels.tolist() == [label for label, patch in enumerate(moved) if patch is not None]
    for box, mask in zip(target.boxes, target.masks, strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        assert len(y) > 0
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def _reference(
    image: torch.Tensor, masks: torch.Tensor, transform: TrainTransform, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same steps one after the other on full-size maps: flip, turn, resize, crop."""
    flip, vertical = rng.random() < transform.flip, rng.random() < transform.vertical_flip
    turns = int(rng.integers(4)) * transform.rotate90
    both = [image.float()[None], masks.float()[None]]
    # The flips apply to the turned picture.
    both = [torch.rot90(value, -turns, (2, 3)) for value in both]
    both = [value.flip(3) if flip else value for value in both]
    both = [value.flip(2) if vertical else value for value in both]
    height, width = both[0].shape[2:]
    target = max(1, int(transform.image_size * rng.uniform(*transform.scale)))
    size = [max(1, int(side * (target / max(height, width)) + 0.5)) for side in (height, width)]
    picture = F.interpolate(both[0], size, mode="bilinear", align_corners=False)
    moved = F.interpolate(both[1], size, mode="nearest-exact") if masks.numel() else masks.new_zeros(1, 0, *size)
    top, left = (int(rng.integers(max(side - transform.image_size, 0) + 1)) for side in size)
    window = (..., slice(top, top + transform.image_size), slice(left, left + transform.image_size))
    picture = picture[window][0]
    return ((picture + 0.5).floor().to(torch.uint8) if transform.eight_bit else picture), moved[window][0].bool()


@given(_transforms(), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_it_equals_the_steps_one_by_one(transform: TrainTransform, seed: int, height: int, width: int) -> None:
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "coarsen": 1}
    geometry = TrainTransform(**{**vars(transform), **plain})
    image, patches = _blobs(np.random.default_rng(seed), height, width, 2)
    masks = draw_target(patches, [0, 1], height, width).masks
    picture, moved = geometry(image, patches, np.random.default_rng(seed))
    expected_picture, expected_masks = _reference(image, masks, geometry, np.random.default_rng(seed))
    assert picture.dtype == expected_picture.dtype
    # The reference computes positions in float32, so a value may fall on the other side of a half.
    assert (picture.float() - expected_picture.float()).abs().max() <= (1 if geometry.eight_bit else 0.05)
    rows, columns = picture.shape[1:]
    drawn = torch.stack([draw_target([patch], [0], rows, columns).masks.any(0) for patch in moved])
    differing = (drawn != expected_masks).any(0)
    # Ties of the nearest pixel are decided by rounding noise in the reference: whole rows or columns.
    assert differing.float().mean() <= 0.1


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_a_picture_is_read_bit_for_bit_as_the_formula_says(
    seed: int, height: int, width: int, rows: int, columns: int
) -> None:
    rng = np.random.default_rng(seed)
    turned = bool(rng.integers(2))
    shape = (width, height) if turned else (height, width)
    image = torch.from_numpy(rng.integers(0, 256, (3, *shape), dtype=np.uint8))
    image = image.transpose(1, 2) if turned else image
    axes = []
    for length, count in ((height, rows), (width, columns)):
        # Some lie beyond the edges, as those of the first and last pixel of an enlarged picture do.
        positions = np.sort(rng.uniform(-0.5, length - 0.5, count))
        axes.append(transforms._Axis(positions, length, bool(rng.integers(2))))
    (above, below, down), (left, right, across) = (axis.neighbours() for axis in axes)
    whole = torch.lerp(image[:, above].float(), image[:, below].float(), down[:, None])
    expected = torch.lerp(whole[:, :, left], whole[:, :, right], across)
    assert torch.equal(transforms._bilinear(image, *axes), expected)


def test_masks_lie_where_the_picture_shows_them() -> None:
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:40, 30:60] = 200
    patch = Patch(20, 30, np.ones((20, 30), dtype=bool))
    transform = transform_with(image_size=64, flip=0.5, vertical_flip=0.5, rotate90=True, scale=(0.3, 2.0))
    seen = 0
    for seed in range(60):
        picture, (moved,) = transform(image, [patch], np.random.default_rng(seed))
        if moved is None:
            continue
        mask = draw_target([moved], [0], *picture.shape[1:]).masks[0]
        # Half way up the ramp of the bilinear edge is the mask's edge: off by less than a pixel.
        wrong = (picture[0] >= 100) != mask
        assert wrong.sum() <= 0.5 * (mask.sum().sqrt() * 4 + 4)
        seen += 1
    assert seen > 40


def test_an_object_cropped_away_leaves_no_target() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    corner = Patch(0, 0, np.ones((6, 6), dtype=bool))
    transform = transform_with(image_size=8, scale=(2.5, 2.5))
    counts = set()
    for seed in range(40):
        picture, moved = transform(image, [corner], np.random.default_rng(seed))
        target = draw_target(moved, [3], *picture.shape[1:])
        counts.add(len(target.labels))
        assert target.masks.shape == (len(target.labels), 8, 8)
        assert target.boxes.shape == (len(target.labels), 4)
    assert counts == {0, 1}


def test_all_eight_orientations_appear_and_are_consistent() -> None:
    image = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
    patch = Patch(0, 1, np.ones((1, 2), dtype=bool))
    transform = transform_with(image_size=3, flip=0.5, rotate90=True)
    seen = set()
    for seed in range(100):
        picture, (moved,) = transform(image, [patch], np.random.default_rng(seed))
        assert moved is not None
        mask = draw_target([moved], [0], 3, 3).masks[0]
        assert sorted(picture[0][mask].tolist()) == [1, 2]
        seen.add(tuple(picture[0].flatten().tolist()))
    assert len(seen) == 8


def test_the_original_order_of_sizes() -> None:
    image = torch.zeros(3, 100, 50, dtype=torch.uint8)
    small, _ = transform_with(image_size=64, scale=(0.5, 0.5))(image, [], np.random.default_rng(0))
    large, _ = transform_with(image_size=64, scale=(2.0, 2.0))(image, [], np.random.default_rng(0))
    assert small.shape == (3, 32, 16)
    assert large.shape == (3, 64, 64)


def test_same_seed_same_picture_and_no_change_of_the_input() -> None:
    image, patches = _blobs(np.random.default_rng(1), 20, 30, 3)
    before = image.clone()
    transform = transform_with(image_size=16, flip=0.5, scale=(0.5, 2), brightness=0.4, hue=0.2)
    one, _ = transform(image, patches, np.random.default_rng(5))
    two, _ = pickle.loads(pickle.dumps(transform))(image, patches, np.random.default_rng(5))
    other, _ = transform(image, patches, np.random.default_rng(6))
    assert torch.equal(one, two)
    assert not (one.shape == other.shape and torch.equal(one, other))
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_and_masks_do_not(name: str) -> None:
    image, patches = _blobs(np.random.default_rng(1), 20, 20, 2)
    plain = transform_with(image_size=20)
    coloured = TrainTransform(**{**vars(plain), name: 0.4})
    same, unmoved = plain(image, patches, np.random.default_rng(3))
    picture, moved = coloured(image, patches, np.random.default_rng(3))
    assert torch.equal(same, image)
    assert not torch.equal(picture, image)
    for a, b in zip(unmoved, moved, strict=True):
        assert a is not None
        assert b is not None
        assert a.box == b.box


@given(_transforms(), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_annotated_boxes_follow_every_step(transform: TrainTransform, seed: int, height: int, width: int) -> None:
    numbers = np.random.default_rng(seed)
    image, patches = _blobs(numbers, height, width, 2)
    boxes = np.sort(numbers.uniform(-2, max(height, width) + 2, (4, 2, 2)), axis=1).reshape(4, 4)  # x0, y0, x1, y1
    picture, _, moved = transform.with_boxes(image, patches, boxes, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    flip, vertical = rng.random() < transform.flip, rng.random() < transform.vertical_flip
    turns = int(rng.integers(4)) * transform.rotate90
    corners, rows, columns = boxes.reshape(4, 2, 2), height, width
    for _ in range(turns):  # a quarter turn clockwise: (x, y) goes to (rows - y, x)
        corners = np.stack([rows - corners[..., 1], corners[..., 0]], axis=-1)
        rows, columns = columns, rows
    if flip:
        corners = corners * [-1, 1] + [columns, 0]
    if vertical:
        corners = corners * [1, -1] + [0, rows]
    target = max(1, int(transform.image_size * rng.uniform(*transform.scale)))
    new_rows, new_columns = (max(1, int(side * (target / max(rows, columns)) + 0.5)) for side in (rows, columns))
    top, left = (int(rng.integers(max(side - transform.image_size, 0) + 1)) for side in (new_rows, new_columns))
    corners = corners * [new_columns / columns, new_rows / rows] - [left, top]
    expected = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    np.testing.assert_allclose(moved, np.clip(expected, 0, list(picture.shape[:0:-1]) * 2), atol=1e-9)
    again, _ = transform(image, patches, np.random.default_rng(seed))
    assert torch.equal(again, picture)


def test_boxes_of_bounds_stay_around_the_masks_that_the_picture_shows() -> None:
    image, patch = torch.zeros(3, 60, 80, dtype=torch.uint8), Patch(20, 30, np.ones((20, 30), dtype=bool))
    transform = transform_with(image_size=64, flip=0.5, vertical_flip=0.5, rotate90=True, scale=(0.3, 2.0))
    for seed in range(60):
        _, (moved,), (box,) = transform.with_boxes(image, [patch], np.array([patch.box]), np.random.default_rng(seed))
        if moved is not None:
            # A mask is read at pixel centres: its bounds are those of the box, rounded.
            assert np.abs(box - moved.box).max() <= 0.5 + 1e-6


def _fixed_point(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bilinear resizing of bytes in whole numbers: weights of 11 bits, sums of 22, halves rounded up."""
    weighted = image.astype(np.int64)
    for axis, new in ((1, rows), (2, columns)):
        old = image.shape[axis]
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        first = np.minimum(at.astype(np.int64), max(old - 2, 0))
        weight = np.round((at - first) * 2048).astype(np.int64)
        shape = [-1 if place == axis else 1 for place in range(3)]
        before, after = (np.take(weighted, np.minimum(first + k, old - 1), axis) for k in (0, 1))
        weighted = before * (2048 - weight).reshape(shape) + after * weight.reshape(shape)
    return (weighted + (1 << 21)) >> 22


@pytest.mark.parametrize("size", [(40, 30), (75, 100), (333, 217)])
def test_pictures_of_eight_bits_are_resized_as_in_whole_numbers(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, *size), dtype=np.uint8)
    picture, _ = transform_with(image_size=128, eight_bit=True)(torch.from_numpy(image), [], np.random.default_rng(0))
    difference = picture.numpy().astype(int) - _fixed_point(image, *picture.shape[1:])
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.02


def test_pictures_keep_their_fractions_unless_asked_for_eight_bits() -> None:
    image = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (3, 20, 30), dtype=np.uint8))
    enlarged = {"image_size": 47, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "coarsen": 3}
    for changes in ({"image_size": 47}, enlarged):
        exact, _ = transform_with(**changes)(image, [], np.random.default_rng(4))
        rounded, _ = transform_with(**changes, eight_bit=True)(image, [], np.random.default_rng(4))
        assert (exact.dtype, rounded.dtype) == (torch.float32, torch.uint8)
        assert (exact != exact.round()).float().mean() > 0.5
        # Each step of colour rounds or cuts off once more, and a change of hue enlarges that.
        assert (exact - rounded.float()).abs().max() <= (0.501 if changes is not enlarged else 10)


def test_half_the_pictures_lose_detail_and_masks_stay() -> None:
    rng = np.random.default_rng(1)
    image, patches = _blobs(rng, 24, 32, 2)
    coarse = transform_with(image_size=32, coarsen=4)
    changed = 0
    for seed in range(40):
        picture, moved = coarse(image, patches, np.random.default_rng(seed))
        assert picture.shape == image.shape
        assert [patch.box for patch in moved if patch] == [patch.box for patch in patches]
        if not torch.equal(picture, image):
            changed += 1
            # Neighbours come closer to each other, and the picture as a whole becomes no lighter or darker.
            assert picture.float().diff(dim=2).abs().mean() < image.float().diff(dim=2).abs().mean()
            assert abs(picture.float().mean() - image.float().mean()) < 8
    assert 10 <= changed <= 30


def test_the_configuration_alone_has_defaults() -> None:
    settings_of_run = AugmentConfig().model_dump()
    assert settings_of_run.keys() == NOTHING.keys()
    transform = train_transform(image_size=8, **settings_of_run)
    assert (transform.image_size, transform.flip) == (8, AugmentConfig().flip)
    with pytest.raises(TypeError, match="flip"):
        train_transform(image_size=8)  # type: ignore[call-arg]
