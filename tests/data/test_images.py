"""Where files are looked for, and that nothing outside the data folder is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rsprompter_cli.data.images import (
    annotation_files,
    find_annotations,
    image_folders,
    locate,
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
