"""Where files are looked for, and that nothing outside the data folder is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rsprompter_cli.data.images import (
    annotation_files,
    find_annotations,
    find_image,
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


@pytest.mark.parametrize("folder", ["pictures", "images", "imgs", "imgs/val/image"])
def test_every_usual_folder_is_tried(tmp_path: Path, folder: str) -> None:
    picture = _touch(tmp_path / folder / "sub" / "a.png")
    assert find_image(tmp_path, "sub/a.png", image_folders("val", "pictures")) == picture


def test_the_presets_folder_may_name_the_split() -> None:
    assert image_folders("val", "{split}/img")[0] == "val/img"
    assert image_folders("val", "images") == ("images", "imgs", "imgs/val/image")


def test_a_missing_picture_lists_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'a\.png' was not found") as caught:
        find_image(tmp_path, "a.png", image_folders("val", "pictures"))
    for folder in ("pictures", "images", "imgs", "imgs/val/image"):
        assert str(tmp_path / folder / "a.png") in caught.value.message


def test_a_picture_in_two_folders_is_refused(tmp_path: Path) -> None:
    first, second = _touch(tmp_path / "images" / "a.png"), _touch(tmp_path / "imgs" / "a.png")
    with pytest.raises(InputError, match="in 2 folders") as caught:
        find_image(tmp_path, "a.png", image_folders("val"))
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "/a.png", "C:a.png", "..\\a.png", "\\a.png", " ", "a\0b", "a" * 5000]
)
def test_unsafe_names(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "a.png")
    assert unsafe_reason(name)
    with pytest.raises(InputError, match="file_name"):
        find_image(tmp_path / "data", name, image_folders("val"))


def test_a_name_no_file_can_have_is_no_picture(tmp_path: Path) -> None:
    _touch(tmp_path / "images/a.png")
    with pytest.raises(InputError, match="cannot be looked for"):
        find_image(tmp_path, "a" * 500, image_folders("val"))


@pytest.mark.parametrize("name", ["a.png", "sub/a..b.png", "...png", "ä ö.png"])
def test_safe_names(name: str) -> None:
    assert unsafe_reason(name) is None


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_may_not_leave_the_data_folder(tmp_path: Path) -> None:
    secret = _touch(tmp_path / "secret.png")
    root = tmp_path / "data"
    inside = _touch(root / "store" / "b.png")
    (root / "images").mkdir()
    (root / "images" / "a.png").symlink_to(secret)
    (root / "images" / "b.png").symlink_to(inside)
    with pytest.raises(InputError, match="outside"):
        find_image(root, "a.png", image_folders("val"))
    assert find_image(root, "b.png", image_folders("val")) == root / "images" / "b.png"
    (root / "imgs").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="outside"):
        find_image(root, "secret.png", image_folders("val"))
