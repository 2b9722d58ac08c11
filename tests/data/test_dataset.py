"""Items, their order of chance, and workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.coco.rle import to_rle
from rsprompter_cli.data.dataset import CocoDataset, pack, unpack
from rsprompter_cli.errors import InputError
from rsprompter_cli.structures import Batch, Target
from tests.make.coco_sets import make_set, read_document, write_document
from tests.make.transforms import transform_with

JITTER = transform_with(image_size=32, flip=0.5, rotate90=True, scale=(0.5, 2.0), brightness=0.3)


def _same(a: Target, b: Target) -> bool:
    return torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) and torch.equal(a.masks, b.masks)


def test_an_item_is_the_picture_and_its_objects(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path, first_id=0))
    dataset = CocoDataset(coco, tmp_path)
    assert len(dataset) == 4
    for index, entry in enumerate(coco.images):
        image, target, image_id = dataset[index]
        assert image_id == entry.id
        assert image.dtype == torch.uint8
        assert np.array_equal(image.permute(1, 2, 0), Image.open(tmp_path / "images" / entry.file_name))
        assert (target.boxes.dtype, target.labels.dtype, target.masks.dtype) == (torch.float32, torch.int64, torch.bool)
        objects = coco.by_image[entry.id]
        assert target.labels.tolist() == [coco.labels[o.category_id] for o in objects]
        for mask, box, annotation in zip(target.masks, target.boxes.tolist(), objects, strict=True):
            expected = coco_mask.decode(to_rle(annotation.segmentation, 48, 64).as_dict())
            assert np.array_equal(mask, expected.astype(bool))
            x, y, w, h = annotation.bbox
            assert box == [x, y, x + w, y + h]


def test_an_image_without_objects_is_kept(tmp_path: Path) -> None:
    _, target, _ = CocoDataset(read_coco(make_set(tmp_path)), tmp_path, transform=JITTER)[3]
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.masks.shape[0] == 0
    assert target.masks.ndim == 3


def test_crowds_and_specks_are_no_targets(tmp_path: Path) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][1]["segmentation"] = [[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]]
    dataset = CocoDataset(read_coco(write_document(tmp_path, document)), tmp_path)
    assert [len(dataset[index][1].labels) for index in range(4)] == [1, 3, 3, 0]


def _with_boxes(root: Path, boxes: list[list[float]]) -> CocoDataset:
    """One picture of 64 x 48 whose objects are stated to have other boxes than their masks."""
    make_set(root)
    document = read_document(root)
    first = [one for one in document["annotations"] if one["image_id"] == document["images"][0]["id"]]
    assert len(first) >= len(boxes)
    for one, box in zip(first, boxes, strict=False):
        one["bbox"] = box
    document["annotations"] = first[: len(boxes)]
    return CocoDataset(read_coco(write_document(root, document)), root, boxes="annotations")


def test_annotated_boxes_are_targets_where_asked_for(tmp_path: Path) -> None:
    dataset = _with_boxes(tmp_path, [[1.25, 2.5, 10, 20.5], [-1, 40, 30, 9.5]])
    # The second leaves the picture by a pixel to the left and by one and a half below: it is cut off there.
    assert dataset[0][1].boxes.tolist() == [[1.25, 2.5, 11.25, 23], [0, 40, 29, 48]]
    bounds = CocoDataset(dataset.coco, tmp_path)[0][1]
    assert torch.equal(bounds.masks, dataset[0][1].masks)
    assert not torch.equal(bounds.boxes, dataset[0][1].boxes)
    dataset.transform = transform_with(image_size=128, flip=1.0)
    assert dataset[0][1].boxes.tolist() == [[105.5, 5, 125.5, 46], [70, 80, 128, 96]]


def test_an_object_stays_while_its_mask_has_a_pixel_and_its_box_an_area(tmp_path: Path) -> None:
    dataset = _with_boxes(tmp_path, [[0, 0, 2, 2], [0, 0, 64, 48], [-1.5, 3, 1, 1]])
    assert len(dataset[0][1].labels) == 2
    dataset.transform = transform_with(image_size=16, scale=(4, 4))
    kept = set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        target = dataset[0][1]
        assert len(target.boxes) == len(target.labels) == len(target.masks)
        assert bool((target.boxes[:, 2:] > target.boxes[:, :2]).all())
        assert bool(target.masks.flatten(1).any(dim=1).all())
        kept.add(len(target.labels))
    assert {0, 1} <= kept


def test_a_models_classes_rule(tmp_path: Path) -> None:
    dataset = CocoDataset(read_coco(make_set(tmp_path)), tmp_path, labels={10: 5, 20: 2})
    assert dataset[0][1].labels.tolist() == [5, 2, 5]


def test_chance_comes_from_seed_epoch_and_index(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path))

    def draw(seed: int, epoch: int, index: int) -> tuple[torch.Tensor, Target, int]:
        dataset = CocoDataset(coco, tmp_path, transform=JITTER, seed=seed)
        dataset.set_epoch(epoch)
        return dataset[index]

    one, again = draw(1, 2, 0), draw(1, 2, 0)
    assert torch.equal(one[0], again[0])
    assert _same(one[1], again[1])
    for other in (draw(2, 2, 0), draw(1, 3, 0)):
        assert not torch.equal(one[0], other[0])


def test_workers_that_stay_draw_what_one_process_draws(tmp_path: Path) -> None:
    dataset = CocoDataset(read_coco(make_set(tmp_path)), tmp_path, transform=JITTER)
    alone = DataLoader(dataset, batch_size=2, collate_fn=pack)
    helped = DataLoader(
        dataset,
        batch_size=2,
        collate_fn=pack,
        num_workers=1,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for expected, batch in zip(map(unpack, alone), map(unpack, helped), strict=True):
            assert isinstance(batch, Batch)
            assert batch.image_ids == expected.image_ids
            assert all(torch.equal(a, b) for a, b in zip(batch.images, expected.images, strict=True))
            assert all(_same(a, b) for a, b in zip(batch.targets, expected.targets, strict=True))


def test_a_missing_picture_stops_before_any_work(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path))
    (tmp_path / "images" / "train_2.png").unlink()
    with pytest.raises(InputError, match=r"train_2\.png"):
        CocoDataset(coco, tmp_path)


def test_the_wrong_picture_is_named(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path))
    Image.new("RGB", (48, 64)).save(tmp_path / "images" / "train_2.png")
    with pytest.raises(InputError, match=r"train_2\.png is 48 x 64") as caught:
        CocoDataset(coco, tmp_path)[2]
    assert "EXIF" in caught.value.hint


def test_the_presets_folder_and_the_split_of_the_name(tmp_path: Path) -> None:
    path = make_set(tmp_path, split="val", count=1)
    (tmp_path / "imgs" / "val").mkdir(parents=True)
    (tmp_path / "images").rename(tmp_path / "imgs" / "val" / "image")
    assert len(CocoDataset(read_coco(path), tmp_path)) == 1
    (tmp_path / "imgs" / "val" / "image").rename(tmp_path / "pictures_val")
    assert len(CocoDataset(read_coco(path), tmp_path, image_folder="pictures_{split}")) == 1


def test_published_photographs(shared: Path) -> None:
    coco = read_coco(shared / "data/nwpu/annotations/NWPU_instances_val.json")
    dataset = CocoDataset(coco, shared / "data/nwpu", transform=JITTER)
    for index in range(3):
        image, target, _ = dataset[index]
        assert max(image.shape[1:]) <= 32
        assert target.masks.shape[1:] == image.shape[1:]
