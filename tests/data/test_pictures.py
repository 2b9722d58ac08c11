"""How the picture of an entry is found below the data folder, whatever tool wrote its name."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from rsprompter_cli.data.pictures import PictureFinder, picture_names, refused_reason
from rsprompter_cli.errors import InputError


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _finder(root: Path, split: str = "val", image_folder: str | None = None) -> PictureFinder:
    return PictureFinder(root, root / "annotations" / f"{split}.json", image_folder=image_folder)


def _find(root: Path, *names: str, image_folder: str | None = None) -> Path:
    return _finder(root, image_folder=image_folder).find(names)


@pytest.mark.parametrize("folder", ["pictures", "images", "imgs", "imgs/val/image"])
def test_every_usual_folder_is_tried(tmp_path: Path, folder: str) -> None:
    picture = _touch(tmp_path / folder / "sub" / "a.png")
    assert _find(tmp_path, "sub/a.png", image_folder="pictures") == picture


def test_a_missing_picture_lists_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'a\.png' was not found") as caught:
        _find(tmp_path, "a.png", image_folder="pictures")
    for folder in ("pictures", "images", "imgs", "imgs/val/image"):
        assert str(tmp_path / folder / "a.png") in caught.value.message


def test_a_picture_in_two_folders_is_refused(tmp_path: Path) -> None:
    first, second = _touch(tmp_path / "images" / "a.png"), _touch(tmp_path / "imgs" / "a.png")
    with pytest.raises(InputError, match="in 2 folders") as caught:
        _find(tmp_path, "a.png")
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message


def test_a_name_no_file_can_have_is_no_picture(tmp_path: Path) -> None:
    _touch(tmp_path / "images/a.png")
    with pytest.raises(InputError, match="cannot be searched for"):
        _find(tmp_path, "a" * 500)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_may_not_leave_the_data_folder(tmp_path: Path) -> None:
    secret = _touch(tmp_path / "secret.png")
    root = tmp_path / "data"
    inside = _touch(root / "store" / "b.png")
    (root / "images").mkdir()
    (root / "images" / "a.png").symlink_to(secret)
    (root / "images" / "b.png").symlink_to(inside)
    with pytest.raises(InputError, match="outside"):
        _find(root, "a.png")
    assert _find(root, "b.png") == root / "images" / "b.png"
    (root / "imgs").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="outside"):
        _find(root, "secret.png")


SPELLINGS = [
    "images/im 0.png",
    "./images/im 0.png",
    ".\\images\\im 0.png",
    "images\\im 0.png",
    "C:\\Users\\me\\set\\images\\im 0.png",
    "c:/Users/me/set/images/im 0.png",
    "\\\\server\\share\\images\\im 0.png",
    "/home/me/set/images/im 0.png",
    "/data/upload/1/im 0.png",
    "/data/upload/1/0a1b2c3d-im 0.png",
    "/data/local-files/?d=images/im 0.png",
    "/data/local-files/?d=images%2Fim%200.png",
    "images/im%200.png",
    "http://host.example/sets/images/im%200.png?size=2",
    "file:///home/me/images/im%200.png",
    "im 0.PNG",
    "other/im 0.Png",
]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_picture_is_found_by_the_end_of_its_name(tmp_path: Path, name: str) -> None:
    picture = _touch(tmp_path / "images" / "im 0.png")
    _touch(tmp_path / "images" / "im 1.png")
    assert _find(tmp_path, name) == picture


def test_longer_agreement_wins_and_equal_agreement_is_refused(tmp_path: Path) -> None:
    north, south = _touch(tmp_path / "a/north/0.png"), _touch(tmp_path / "a/south/0.png")
    assert _find(tmp_path, "/x/north/0.png") == north
    assert _find(tmp_path, "D:\\south\\0.png") == south
    with pytest.raises(InputError, match="matches 2 files") as caught:
        _find(tmp_path, "/x/0.png")
    assert str(north) in caught.value.message
    assert str(south) in caught.value.message
    assert "--image-folder" in caught.value.hint
    assert _find(tmp_path, "/x/0.png", image_folder="a/south") == south


def test_the_folder_of_the_split_decides_between_equals(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        _touch(tmp_path / split / "0.png")
    assert _find(tmp_path, "0.png") == tmp_path / "valid" / "0.png"
    assert _finder(tmp_path, "instances_train").find(["0.png"]) == tmp_path / "train" / "0.png"


def test_pictures_beside_the_annotation_file(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        _touch(tmp_path / split / "0.png")
    finder = PictureFinder(tmp_path, tmp_path / "train" / "_annotations.coco.json")
    assert finder.find(["0.png"]) == tmp_path / "train" / "0.png"


def test_two_entries_never_share_a_picture_by_its_base_name(tmp_path: Path) -> None:
    picture = _touch(tmp_path / "images" / "0.png")
    finder = _finder(tmp_path)
    assert finder.find(["a/0.png"]) == picture
    assert finder.find(["a/0.png"]) == picture
    for name in ("b/0.png", "0.png"):
        with pytest.raises(InputError, match="both match"):
            finder.find([name])


@pytest.mark.parametrize(
    "name",
    [
        "../0.png", "a/../0.png", "..\\0.png", "/a/../0.png", "C:\\a\\..\\0.png", "%2e%2e/0.png", "..%2F0.png",
        "/data/local-files/?d=../0.png", "/data/local-files/?d=..%2F0.png", " ", "a\0b", "a" * 5000,
    ],
)  # fmt: skip
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "data" / "images" / "0.png")
    _touch(tmp_path / "0.png")
    assert refused_reason(name)
    with pytest.raises(InputError, match="file_name"):
        _find(tmp_path / "data", name)


@pytest.mark.parametrize("name", ["/secret.png", "C:\\secret.png", "{}/secret.png", "file://{}/secret.png"])
def test_an_absolute_path_is_never_followed(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "secret.png")
    _touch(tmp_path / "data" / "images" / "0.png")
    with pytest.raises(InputError, match="not found"):
        _find(tmp_path / "data", name.format(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_found_by_its_base_name_may_not_leave(tmp_path: Path) -> None:
    secret = _touch(tmp_path / "secret.png")
    root = tmp_path / "data"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "a.png").symlink_to(secret)
    with pytest.raises(InputError, match="outside"):
        _find(root, "/x/a.png")
    (root / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="not found"):
        _find(root, "/x/secret.png")


def test_other_keys_name_the_picture_when_file_name_leads_nowhere(tmp_path: Path) -> None:
    picture = _touch(tmp_path / "images" / "im0.png")
    entries = [
        {"file_name": "hash.jpg", "extra": {"name": "im0.png"}},
        {"file_name": "x.png", "path": "/datasets/town/im0.png"},
        {"coco_url": "http://host.example/val2017/im0.png"},
        {"file_name": None, "path": "im0.png"},
        {"file_name": "im0.png", "path": "elsewhere/x.png"},
    ]
    for entry in entries:
        assert _find(tmp_path, *picture_names(entry)) == picture, entry
    assert picture_names({"file_name": 3, "extra": ["name"]}) == ()


def test_the_error_lists_what_was_tried_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"files named 'im0\.png' anywhere below") as caught:
        _find(tmp_path, "images\\im0.png")
    assert "--image-folder" in caught.value.hint
    assert "data.image_folder" in caught.value.hint


def test_it_is_told_how_pictures_were_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("0.png", "1.png", "2.png"):
        _touch(tmp_path / "images" / name)
    logging.getLogger("rsprompter_cli").propagate = True
    finder = _finder(tmp_path)
    with caplog.at_level(logging.INFO, logger="rsprompter_cli"):
        for name in ("/x/images/0.png", "/x/images/1.png", "2.png"):
            finder.find([name])
        finder.announce()
        finder.announce()
    assert [record.getMessage() for record in caplog.records] == [
        f"2 images were found by the end of the path: '/x/images/0.png' is {tmp_path / 'images' / '0.png'}"
    ]
