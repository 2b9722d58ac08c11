"""Where files are looked for, and that nothing outside the data folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsprompter_cli.data.images import (
    annotation_files,
    find_annotations,
    image_folders,
    locate,
    other_splits,
    root_of,
    split_of,
    unsafe_reason,
)
from rsprompter_cli.errors import InputError


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_file_of_a_split(tmp_path: Path) -> None:
    train = _touch(tmp_path / "annotations" / "WHU_building_train.json")
    val = _touch(tmp_path / "annotations" / "WHU_building_val.json")
    assert find_annotations(tmp_path, "train") == train
    assert annotation_files(tmp_path) == [train, val]
    assert annotation_files(val) == [val]
    assert locate(tmp_path, "val") == (val, tmp_path)
    assert locate(val, "train") == (val, tmp_path.resolve())
    assert (split_of(val), split_of("all.json")) == ("val", "all")


def test_none_or_two_files_of_a_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_annotations(tmp_path / "none", "train")
    _touch(tmp_path / "annotations" / "a_train.json")
    with pytest.raises(InputError, match=r"no file ending in test\.json \(found a_train\.json\)"):
        find_annotations(tmp_path, "test")
    _touch(tmp_path / "annotations" / "b_train.json")
    with pytest.raises(InputError, match=r"a_train\.json, b_train\.json"):
        find_annotations(tmp_path, "train")
    with pytest.raises(InputError, match=r"train\.json"):
        annotation_files(tmp_path / "annotations")


def test_the_folder_of_a_file(tmp_path: Path) -> None:
    assert root_of(tmp_path / "annotations" / "a.json") == tmp_path.resolve()
    assert root_of(tmp_path / "a.json") == tmp_path.resolve()


def test_the_presets_folder_may_name_the_split() -> None:
    assert image_folders("val", "{split}/img")[0] == "val/img"
    assert image_folders("val", "images") == ("images", "imgs", "imgs/val/image")


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "/a.png", "C:a.png", "..\\a.png", "\\a.png", " ", "a\0b", "a" * 5000]
)
def test_unsafe_names(name: str) -> None:
    assert unsafe_reason(name)


@pytest.mark.parametrize("name", ["a.png", "sub/a..b.png", "...png", "ä ö.png"])
def test_safe_names(name: str) -> None:
    assert unsafe_reason(name) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ("train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"),
            ("train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"),
        ),
        (
            ("annotations/instances_train2017.json", "annotations/instances_val2017.json",
             "annotations/captions_train2017.json", "annotations/person_keypoints_val2017.json"),
            ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ),
        (
            ("annotations/instances_Train.json", "annotations/instances_Validation.json"),
            ("annotations/instances_Train.json", "annotations/instances_Validation.json"),
        ),
        (("train.json", "valid.json"), ("train.json", "valid.json")),
        (("train/annotations/instances_default.json", "val/result.json"),
         ("train/annotations/instances_default.json", "val/result.json")),
        (("annotations/instances_default.json",), ("annotations/instances_default.json",)),
        (("result.json",), ("result.json",)),
        (("result.json", "notes.json"), ("result.json",)),
        (("via_export_coco.json", "images/a.json"), ("via_export_coco.json",)),
        (("train/_annotations.coco.json", "annotations/instances_train.json"), ("annotations/instances_train.json",)),
        (("train/_annotations.coco.json", "train/0.json", "train/1.json"), ("train/_annotations.coco.json",)),
        (("annotations/._instances_train.json", "annotations/instances_train.json"),
         ("annotations/instances_train.json",)),
    ],
)  # fmt: skip
def test_layouts_of_exporters(tmp_path: Path, files: tuple[str, ...], expected: tuple[str, ...]) -> None:
    for file in files:
        _touch(tmp_path / file)
    assert [path.relative_to(tmp_path).as_posix() for path in annotation_files(tmp_path)] == list(expected)


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_valid_is_val(tmp_path: Path, word: str) -> None:
    file = _touch(tmp_path / "valid" / "_annotations.coco.json")
    assert find_annotations(tmp_path, word) == file
    assert locate(tmp_path, word) == (file, tmp_path)
    assert (split_of(file), root_of(file)) == ("val", tmp_path.resolve())


def test_a_set_without_val_says_how_to_make_one(tmp_path: Path) -> None:
    lone = _touch(tmp_path / "a" / "result.json")
    with pytest.raises(InputError, match="only annotation file") as caught:
        find_annotations(tmp_path / "a", "val")
    assert f"rsp data split {lone}" in caught.value.hint
    part = _touch(tmp_path / "b" / "train" / "_annotations.coco.json")
    with pytest.raises(InputError, match=r"found train/_annotations\.coco\.json") as caught:
        find_annotations(tmp_path / "b", "val")
    assert f"rsp data split {part}" in caught.value.hint
    named = _touch(tmp_path / "c" / "annotations" / "instances_train.json")
    with pytest.raises(InputError, match=r"found instances_train\.json") as caught:
        find_annotations(tmp_path / "c", "val")
    assert f"rename {named} to instances_all.json" in caught.value.hint


def test_a_set_one_folder_below_is_found(tmp_path: Path) -> None:
    _touch(tmp_path / "data" / "town" / "annotations" / "instances_train.json")
    with pytest.raises(InputError, match=r"contains no file ending in train\.json") as caught:
        find_annotations(tmp_path / "data", "train")
    assert caught.value.hint == f"did you mean {tmp_path / 'data' / 'town'}?"


def test_several_files_of_which_none_names_a_split(tmp_path: Path) -> None:
    for name in ("north.json", "south.json"):
        _touch(tmp_path / name)
    with pytest.raises(InputError, match=r"found north\.json, south\.json") as caught:
        annotation_files(tmp_path)
    assert "give one of the files" in caught.value.hint


def test_the_folder_of_annotations_is_no_data_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "annotations" / "instances_train.json")
    with pytest.raises(InputError, match=r"train\.json") as caught:
        annotation_files(tmp_path / "annotations")
    assert str(tmp_path) in caught.value.hint


def test_other_splits_are_those_of_the_same_set(tmp_path: Path) -> None:
    train = _touch(tmp_path / "train" / "_annotations.coco.json")
    valid = _touch(tmp_path / "valid" / "_annotations.coco.json")
    stray = _touch(tmp_path / "stray.json")
    assert other_splits(train) == [valid]
    assert other_splits(stray) == []
