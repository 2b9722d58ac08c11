"""Instances from label images equal those of pycocotools, one mask at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from rsprompter_cli.data.convert.components import connected_components, label_image_to_instances

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_instances_equal_pycocotools(mask: np.ndarray) -> None:
    labels, count = connected_components(mask)
    instances = label_image_to_instances(labels, count)
    assert len(instances) == count
    for number, instance in enumerate(instances, start=1):
        rle = coco_mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))
        assert instance["segmentation"] == {"size": list(mask.shape), "counts": rle["counts"].decode()}
        assert instance["bbox"] == coco_mask.toBbox(rle).tolist()
        assert instance["area"] == int(coco_mask.area(rle))


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_area_is_preserved_and_order_is_column_by_column(mask: np.ndarray) -> None:
    labels, count = connected_components(mask)
    instances = label_image_to_instances(labels, count)
    assert sum(instance["area"] for instance in instances) == np.count_nonzero(mask)
    seen = [label for label in dict.fromkeys(labels.ravel(order="F").tolist()) if label]
    assert seen == list(range(1, count + 1))


def test_diagonal_neighbours_are_two() -> None:
    assert connected_components(np.eye(2, dtype=bool))[1] == 2


def test_large_image_runs_do_not_overflow() -> None:
    mask = np.zeros((70_000, 4), bool)
    mask[65_000:, 1:3] = True
    (instance,) = label_image_to_instances(*connected_components(mask))
    assert np.array_equal(coco_mask.decode(instance["segmentation"]).astype(bool), mask)
