"""Instances of connected components equal those of pycocotools, one mask at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage

from rsprompter_cli.data.convert.components import labels_to_instances, mask_to_instances
from rsprompter_cli.errors import InputError

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
@settings(max_examples=300, deadline=None)
def test_instances_equal_pycocotools(mask: np.ndarray) -> None:
    # Labelled turned, scipy also counts column by column.
    turned, count = ndimage.label(np.ascontiguousarray(mask.T))
    labels = turned.T
    instances = mask_to_instances(mask)
    assert len(instances) == count
    for number, instance in enumerate(instances, start=1):
        rle = coco_mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))
        assert instance["segmentation"] == {"size": list(mask.shape), "counts": rle["counts"].decode()}
        assert instance["bbox"] == coco_mask.toBbox(rle).tolist()
        assert instance["area"] == int(coco_mask.area(rle))


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_area_is_preserved(mask: np.ndarray) -> None:
    assert sum(instance["area"] for instance in mask_to_instances(mask)) == np.count_nonzero(mask)


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_connected_by_corners_too(mask: np.ndarray) -> None:
    turned, count = ndimage.label(np.ascontiguousarray(mask.T), structure=np.ones((3, 3)))
    instances = mask_to_instances(mask, connectivity=8)
    assert len(instances) == count
    for number, instance in enumerate(instances, start=1):
        assert np.array_equal(coco_mask.decode(instance["segmentation"]).astype(bool), number == turned.T)


@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4)))
@settings(max_examples=200, deadline=None)
def test_each_value_is_an_instance(labels: np.ndarray) -> None:
    instances = labels_to_instances(labels)
    assert [value for value, _ in instances] == [value for value in np.unique(labels).tolist() if value]
    for value, fields in instances:
        rle = coco_mask.encode(np.asfortranarray(labels == value, dtype=np.uint8))
        assert fields["segmentation"] == {"size": list(labels.shape), "counts": rle["counts"].decode()}
        assert fields["bbox"] == coco_mask.toBbox(rle).tolist()
        assert fields["area"] == int(coco_mask.area(rle))


def test_diagonal_neighbours_are_two() -> None:
    assert len(mask_to_instances(np.eye(2, dtype=bool))) == 2
    assert len(mask_to_instances(np.eye(2, dtype=bool), connectivity=8)) == 1


def test_a_spiral_is_one() -> None:
    spiral = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool)
    assert [instance["area"] for instance in mask_to_instances(spiral)] == [17]


def test_large_image_runs_do_not_overflow() -> None:
    mask = np.zeros((70_000, 4), bool)
    mask[65_000:, 1:3] = True
    (instance,) = mask_to_instances(mask)
    assert np.array_equal(coco_mask.decode(instance["segmentation"]).astype(bool), mask)


def test_noise_is_refused_before_its_instances_are_made() -> None:
    noise = np.random.default_rng(0).random((1600, 1600)) < 0.5
    assert len(mask_to_instances(noise[:300, :300])) > 5000
    with pytest.raises(InputError, match=r"^a\.png: contains 1\d\d,\d\d\d objects, more than 100,000: is it noise\?"):
        mask_to_instances(noise, name="a.png")
    with pytest.raises(InputError, match="more than 100,000"):
        labels_to_instances(np.arange(120_000).reshape(300, 400), name="a.png")


def test_a_label_image_of_endless_changes_is_refused() -> None:
    columns = np.random.default_rng(0).integers(0, 2, (3000, 3000), dtype=np.uint8)
    columns[::2] = 2  # every pixel is a run of its own
    with pytest.raises(InputError, match=r"^a\.tif: its columns change value 6,\d\d\d,\d\d\d times"):
        labels_to_instances(columns, name="a.tif")
