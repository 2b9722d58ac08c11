"""Splitting and counting."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsprompter_cli.data.coco.entries import CocoCategory, CocoImage
from rsprompter_cli.data.coco.read import CocoFile, parse_coco, read_coco
from rsprompter_cli.data.coco.split import choose_val, split_file
from rsprompter_cli.data.coco.stats import coco_stats
from rsprompter_cli.errors import OutputError, UsageError
from tests.make.coco_sets import make_set, read_document, write_document


def _set_of(classes_of_images: list[list[int]]) -> dict[str, Any]:
    """A document whose image i shows one object of each class listed."""
    document: dict[str, Any] = {"info": {"year": 1}, "images": [], "annotations": [], "categories": []}
    document["categories"] = [{"id": c, "name": f"class {c}"} for c in range(4)]
    for image_id, classes in enumerate(classes_of_images):
        document["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": 9, "width": 9})
        for category_id in classes:
            square = [1, 1, 5, 1, 5, 5, 1, 5]
            document["annotations"].append(
                {
                    "id": len(document["annotations"]),
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [1, 1, 4, 4],
                    "segmentation": [square],
                    "note": "kept",
                }
            )
    return document


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=1), min_size=2, max_size=30),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_each_class_is_on_both_sides_where_it_can_be(
    tmp_path_factory: pytest.TempPathFactory, classes: list[list[int]], val: float, seed: int
) -> None:
    coco, _ = parse_coco(write_document(tmp_path_factory.mktemp("set"), _set_of(classes)))
    in_val = choose_val(coco, val=val, seed=seed)
    assert 0 < len(in_val) < len(coco.images)
    assert in_val == choose_val(coco, val=val, seed=seed)
    for category in range(4):
        images = [image_id for image_id, shown in enumerate(classes) if category in shown]
        if len(images) >= 2:
            assert 0 < sum(image_id in in_val for image_id in images) < len(images)


def test_the_share_holds_and_the_seed_chooses(tmp_path: Path) -> None:
    coco, _ = parse_coco(write_document(tmp_path, _set_of([[i % 4] for i in range(200)])))
    assert len(choose_val(coco, val=0.2, seed=0)) == 40
    assert choose_val(coco, val=0.2, seed=0) != choose_val(coco, val=0.2, seed=1)


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    document = _set_of([[i % 4, i % 3] for i in range(40)])
    turned = copy.deepcopy(document)
    turned["images"].reverse()
    turned["annotations"].reverse()
    one = read_coco(write_document(tmp_path / "a", document))
    two = read_coco(write_document(tmp_path / "b", turned))
    assert choose_val(one, val=0.3, seed=4) == choose_val(two, val=0.3, seed=4)


def test_both_files_together_are_the_whole(tmp_path: Path) -> None:
    document = _set_of([[i % 4] for i in range(12)])
    path = tmp_path / "all.json"
    path.write_text(json.dumps(document))
    written = split_file(path, tmp_path, val=0.25)
    parts = {split: read_document(tmp_path, split) for split in ("train", "val")}
    assert written == {split: tmp_path / "annotations" / f"instances_{split}.json" for split in parts}
    for key in ("images", "annotations"):
        together = sorted(parts["train"][key] + parts["val"][key], key=lambda entry: entry["id"])
        assert together == document[key]
    for part in parts.values():
        assert (part["info"], part["categories"]) == (document["info"], document["categories"])
        ids = {image["id"] for image in part["images"]}
        assert {annotation["image_id"] for annotation in part["annotations"]} <= ids
    before = [file.read_bytes() for file in written.values()]
    with pytest.raises(OutputError, match="already exists"):
        split_file(path, tmp_path, val=0.25)
    split_file(path, tmp_path, val=0.25, overwrite=True)
    assert [file.read_bytes() for file in written.values()] == before


def test_groups_stay_together(tmp_path: Path) -> None:
    document = _set_of([[i % 4] for i in range(40)])
    for index, image in enumerate(document["images"]):
        image["scene"] = f"scene {index // 8}"
    coco = read_coco(write_document(tmp_path, document))
    in_val = choose_val(coco, val=0.4, seed=0, group_by="scene")
    assert {image_id // 8 for image_id in in_val}.isdisjoint({i // 8 for i in range(40) if i not in in_val})
    with pytest.raises(UsageError, match="'place'"):
        choose_val(coco, val=0.4, seed=0, group_by="place")


def test_one_picture_under_two_ids_stays_on_one_side() -> None:
    images = tuple(CocoImage(i, f"{i // 2}.png", 9, 9) for i in range(20))
    coco = CocoFile(Path("a.json"), images, (), (CocoCategory(1, "a"),))
    in_val = choose_val(coco, val=0.5, seed=0)
    assert len(in_val) == 10
    assert all((i in in_val) == (i ^ 1 in in_val) for i in range(20))


def test_one_image_cannot_be_cut(tmp_path: Path) -> None:
    path = make_set(tmp_path, count=1)
    with pytest.raises(UsageError, match="cannot be divided"):
        split_file(path, tmp_path / "out")


def test_a_name_that_data_could_not_tell_apart_is_refused(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    other = path.rename(path.with_name("town_train.json"))
    with pytest.raises(OutputError, match=r"town_train\.json also ends in train\.json"):
        split_file(other, tmp_path)
    assert [file.name for file in other.parent.iterdir()] == ["town_train.json"]


def test_a_class_on_one_side_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = _set_of([[0], [0], [0], [1]])
    # The command line switches propagation off; caplog listens at the root.
    logger = logging.getLogger("rsprompter_cli")
    logger.propagate = True
    with caplog.at_level(logging.WARNING):
        split_file(write_document(tmp_path / "in", document), tmp_path / "out")
    assert "'class 1' is only in the train split" in caplog.text
    assert "'class 0'" not in caplog.text


def test_counts(tmp_path: Path) -> None:
    document = _set_of([[0, 0, 1], [0], []])
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][1]["area"] = 1024
    document["annotations"][2]["area"] = 9216.0
    counts = coco_stats(read_coco(write_document(tmp_path, document)))
    assert (counts["images"], counts["images_without_objects"], counts["objects"], counts["crowds"]) == (3, 1, 3, 1)
    assert counts["objects_per_class"] == {"class 0": 2, "class 1": 1, "class 2": 0, "class 3": 0}
    assert counts["objects_per_size"] == {"small": 1, "medium": 1, "large": 1}
    assert counts["objects_per_image"] == {"min": 0, "median": 1.0, "mean": 1.0, "max": 2}
    assert counts["image_sizes"] == {"width": [9, 9], "height": [9, 9]}


def test_counts_of_nothing() -> None:
    counts = coco_stats(CocoFile(Path("a.json"), (), (), ()))
    assert (counts["images"], counts["objects"], counts["images_without_objects"]) == (0, 0, 0)
