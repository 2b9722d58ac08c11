"""Grouping categories are left out, under one rule for all splits of a set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.data.coco.read import parse_coco, read_coco
from rsprompter_cli.errors import InputError
from tests.make.coco_sets import make_set, read_document, write_document

ROOT = {"id": 0, "name": "town", "supercategory": "none"}


def _write(root: Path, categories: list[dict[str, Any]], *splits: str, keep: bool = True) -> None:
    """Splits of a set with these categories; annotations of `make_set` are of the categories 10 and 20."""
    for split in splits or ("train", "val"):
        if not (root / "annotations" / f"instances_{split}.json").exists():
            make_set(root, split=split)
        document = read_document(root, split)
        document["categories"] = categories
        document["annotations"] = document["annotations"] if keep else []
        write_document(root, document, split)


def _classes(root: Path) -> list[tuple[str, ...]]:
    files = [root / "annotations" / f"instances_{split}.json" for split in ("train", "val")]
    return [read_coco(file).class_names for file in files]


@pytest.mark.parametrize("name", ["town", "house", " house "])
def test_the_root_of_an_export_is_no_class(tmp_path: Path, name: str) -> None:
    house = {"id": 10, "name": "house", "supercategory": name}
    tank = {"id": 20, "name": "tank", "supercategory": name}
    _write(tmp_path, [{**ROOT, "name": name}, house, tank])
    coco, problems = parse_coco(tmp_path / "annotations" / "instances_train.json")
    assert coco.class_names == ("house", "tank")
    assert coco.labels == {10: 0, 20: 1}
    assert [problem.kind for problem in problems] == ["category-group"]
    assert problems[0].message.startswith(f"category 0 ({name.strip()!r}) is the supercategory of others")
    assert _classes(tmp_path) == [("house", "tank")] * 2


def test_groups_of_groups_are_left_out(tmp_path: Path) -> None:
    _write(
        tmp_path,
        [
            ROOT,
            {"id": 1, "name": "building", "supercategory": "town"},
            {"id": 10, "name": "house", "supercategory": "building"},
            {"id": 20, "name": "tank", "supercategory": "town"},
        ],
    )
    assert _classes(tmp_path) == [("house", "tank")] * 2


def test_an_unused_class_stays(tmp_path: Path) -> None:
    _write(
        tmp_path,
        [{"id": 5, "name": "crane"}, {"id": 10, "name": "house"}, {"id": 20, "name": "tank", "supercategory": "tank"}],
    )
    assert _classes(tmp_path) == [("crane", "house", "tank")] * 2


def test_a_group_that_owns_something_in_one_split_is_a_class_in_all(tmp_path: Path) -> None:
    house = {"id": 10, "name": "house", "supercategory": "town"}
    _write(tmp_path, [ROOT, house, {"id": 20, "name": "tank", "supercategory": "town"}])
    document = read_document(tmp_path, "val")
    document["annotations"][0]["category_id"] = 0
    write_document(tmp_path, document, "val")
    assert _classes(tmp_path) == [("town", "house", "tank")] * 2


def test_a_split_without_annotations_leaves_out_the_same(tmp_path: Path) -> None:
    categories = [
        {"id": 10, "name": "house"},
        {"id": 20, "name": "tank", "supercategory": "house"},
        {**ROOT, "id": 30, "supercategory": "town"},
        {"id": 40, "name": "mill", "supercategory": "town"},
    ]
    _write(tmp_path, categories, "train")
    _write(tmp_path, categories, "val", keep=False)
    # house is the supercategory of tank and owns objects in train only.
    assert _classes(tmp_path) == [("house", "tank", "mill")] * 2


def test_ids_as_text_and_faulty_neighbours_do_not_matter(tmp_path: Path) -> None:
    house = {"id": "10", "name": "house", "supercategory": "town"}
    _write(tmp_path, [{**ROOT, "id": "0"}, house, {"id": "20", "name": "tank", "supercategory": None}])
    (tmp_path / "annotations" / "instances_val.json").write_text("{", encoding="utf-8")
    assert read_coco(tmp_path / "annotations" / "instances_train.json").class_names == ("house", "tank")


def test_a_class_of_the_model_is_no_group(tmp_path: Path) -> None:
    house = {"id": 10, "name": "house", "supercategory": "town"}
    _write(tmp_path, [ROOT, house, {"id": 20, "name": "tank"}])
    path = tmp_path / "annotations" / "instances_val.json"
    assert read_coco(path, known_classes=("town", "house", "tank")).class_names == ("town", "house", "tank")
    assert read_coco(path, known_classes=("house", "tank")).class_names == ("house", "tank")


def test_other_name_clashes_have_a_way_out(tmp_path: Path) -> None:
    _write(tmp_path, [{"id": 5, "name": "house"}, {"id": 10, "name": "house"}, {"id": 20, "name": "tank"}])
    with pytest.raises(InputError, match=r"categories 5 and 10 are both named 'house'.*or remove category 5"):
        read_coco(tmp_path / "annotations" / "instances_train.json")


@pytest.mark.parametrize(
    ("name", "words"), [("  ", "empty name"), (7, "the name 7, which is not text"), (None, "no name")]
)
def test_a_category_without_a_name(tmp_path: Path, name: object, words: str) -> None:
    _write(tmp_path, [{"id": 10, "name": "house"}, {"id": 20, "name": name}])
    with pytest.raises(InputError, match=rf"category 20 has .*{words}; name the class in the file"):
        read_coco(tmp_path / "annotations" / "instances_train.json")
