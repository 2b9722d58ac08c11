"""The order of training pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.train.dataloader import EpochBatches, EpochLoader, picture_seeds
from tests.make.coco_sets import make_set
from tests.make.transforms import transform_with


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), size=st.integers(1, 9), epoch=st.integers(0, 5), start=st.integers(0, 6))
def test_an_epoch_holds_every_picture_once_and_may_start_in_its_middle(
    length: int, size: int, epoch: int, start: int
) -> None:
    batches = EpochBatches(length, size, seed=7)
    start = min(start, len(batches.sizes()))
    done = sum(batches.sizes()[:start])
    batches.begin(epoch)
    whole = list(batches)
    assert sorted(index for batch in whole for index in batch) == list(range(length))
    assert [len(batch) for batch in whole] == batches.sizes()
    batches.begin(epoch, done)
    assert list(batches) == whole[start:]
    assert len(batches) == len(whole) - start


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), size=st.integers(1, 5), ranks=st.integers(1, 5), done=st.integers(0, 40))
def test_ranks_share_an_epoch_without_duplicates_and_in_one_order(
    length: int, size: int, ranks: int, done: int
) -> None:
    alone = EpochBatches(length, size * ranks, seed=7)
    alone.begin(3, min(done, length))
    parts = [EpochBatches(length, size, seed=7, rank=rank, ranks=ranks) for rank in range(ranks)]
    for part in parts:
        part.begin(3, min(done, length))
    for number, (whole, *own) in enumerate(zip(alone, *parts, strict=True)):
        counted = [part.own(len(whole)) for part in parts]
        assert sum(counted) == len(whole) == parts[0].sizes(min(done, length))[number]
        # What a rank is lent does not count, and is a picture of the same batch.
        pairs = list(zip(own, counted, strict=True))
        assert [index for batch, count in pairs for index in batch[:count]] == whole
        assert all(len(batch) == max(count, 1) and set(batch) <= set(whole) for batch, count in pairs)


def test_a_picture_has_its_own_seed_in_each_epoch() -> None:
    seeds = [*picture_seeds(0, 1, [5, 6]), *picture_seeds(0, 2, [5, 6]), *picture_seeds(1, 1, [5, 6])]
    assert len(set(seeds)) == len(seeds)
    assert picture_seeds(0, 1, [6]) == seeds[1:2]
    assert all(0 <= seed < 2**63 for seed in [*seeds, *picture_seeds(2**62, 0, [-7])])


def test_epochs_and_seeds_shuffle_differently() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = EpochBatches(50, 50, seed=seed)
        batches.begin(epoch)
        return list(batches)

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order(0, 1) == orders[1]


def _loader(root: Path, workers: int, context: str | None = None) -> EpochLoader:
    coco = read_coco(root / "annotations" / "instances_train.json")
    transform = transform_with(image_size=64, flip=0.5, scale=(0.5, 1.5), brightness=0.2)
    dataset = CocoDataset(coco, root, transform=transform, seed=3)
    return EpochLoader(dataset, batch_size=2, seed=3, workers=workers, context=context)


def test_spawned_workers_give_the_same_pictures_and_leave_the_generator_alone(tmp_path: Path) -> None:
    make_set(tmp_path, count=5)
    here, spawned = _loader(tmp_path, 0), _loader(tmp_path, 1, "spawn")
    before = torch.random.get_rng_state()
    pictures = []
    for epoch in range(2):
        for a, b in zip(here.epoch(epoch), spawned.epoch(epoch), strict=True):
            assert a.image_ids == b.image_ids
            assert all(map(torch.equal, a.images, b.images))
            assert all(torch.equal(x.masks, y.masks) for x, y in zip(a.targets, b.targets, strict=True))
            pictures += list(zip(a.image_ids, a.images, strict=True))
    assert torch.equal(before, torch.random.get_rng_state())
    # Each epoch draws its augmentation anew.
    first = [image for image_id, image in pictures if image_id == 1]
    assert len(first) == 2
    assert first[0].shape != first[1].shape or not torch.equal(first[0], first[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory is a GPU's")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_run_on_a_gpu_lie_in_pinned_memory(tmp_path: Path, workers: int) -> None:
    make_set(tmp_path, count=3)
    torch.cuda.init()
    for batch in _loader(tmp_path, workers).epoch(0):
        assert all(image.is_pinned() for image in batch.images)
        assert all(target.masks.is_pinned() for target in batch.targets if len(target.labels))
