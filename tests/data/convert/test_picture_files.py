"""What lies in a folder of pictures, and how it gets into a set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rsprompter_cli.data.convert.files import PICTURES, list_files, place_picture
from rsprompter_cli.data.output_folder import check_owned, check_parts, fill_folder
from rsprompter_cli.errors import InputError, OutputError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_pictures_are_found_by_name_and_others_counted(tmp_path: Path) -> None:
    root = fill(tmp_path, "b.PNG", "a.jpg", "sub/c.tif", "notes.txt", "Thumbs.db", ".hidden.png", ".git/d.png", "e.bmp")
    found, others = list_files(root, PICTURES)
    assert [path.as_posix() for path in found] == ["a.jpg", "b.PNG", "sub/c.tif"]
    assert others == 4
    found, _ = list_files(root, PICTURES, without=root / "sub")
    assert [path.as_posix() for path in found] == ["a.jpg", "b.PNG"]
    with pytest.raises(InputError, match="no such folder"):
        list_files(root / "none", PICTURES)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root, outside = fill(tmp_path / "in", "a.png"), fill(tmp_path / "out", "secret.png")
    (root / "inner.png").symlink_to(root / "a.png")
    assert len(list_files(root, PICTURES)[0]) == 2
    (root / "outer.png").symlink_to(outside / "secret.png")
    with pytest.raises(InputError, match=r"outer\.png is a link to .*secret\.png, outside"):
        list_files(root, PICTURES)
    (root / "outer.png").unlink()
    (root / "gone.png").symlink_to(root / "nothing.png")
    with pytest.raises(InputError, match=r"gone\.png: is not a regular file"):
        list_files(root, PICTURES)
    (root / "gone.png").unlink()
    (root / "folder").symlink_to(outside)
    with pytest.raises(InputError, match="link to a folder"):
        list_files(root, PICTURES)


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be there")
@pytest.mark.parametrize("name", [b"C:x.png", b"\xff.png", b"a\\..\\x.png"])
def test_names_that_no_set_can_hold(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    with pytest.raises(InputError, match="its name"):
        list_files(tmp_path, PICTURES)


def test_a_set_of_links_can_be_made_of_pictures_that_must_not_be_written(tmp_path: Path) -> None:
    source = fill(tmp_path, "a.png") / "a.png"
    source.chmod(0o444)
    for _ in range(2):
        with fill_folder(tmp_path / "set", overwrite=False) as filling:
            (filling.folder / "images").mkdir()
            place_picture(source, filling.folder / "images" / "a.png", link=True)
    assert filling.outcome == "unchanged"
    assert (tmp_path / "set/images/a.png").samefile(source)


def test_a_link_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    source = fill(tmp_path, "a.png") / "a.png"
    monkeypatch.setattr("os.link", refuse)
    with (
        pytest.raises(OutputError, match=r"cross-device.*omit --link"),
        fill_folder(tmp_path / "set", overwrite=False) as filling,
    ):
        place_picture(source, filling.folder / "a.png", link=True)
    assert not (tmp_path / "set").exists()


def test_output_and_input_lie_apart(tmp_path: Path) -> None:
    inputs = [tmp_path / "in"]
    check_parts(tmp_path / "out", inputs)
    for out, words in (
        (tmp_path / "in", "is inside"),
        (tmp_path / "in/x/y", "is inside"),
        (tmp_path, "contains the input"),
    ):
        with pytest.raises(OutputError, match=words):
            check_parts(out, inputs)


def test_a_set_with_folders_is_ours_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, "images/train/a.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text('{"images": [{"file_name": "train/a.png"}]}')
    check_owned(tmp_path)
    fill(tmp_path, "images/train/b.png")
    with pytest.raises(OutputError, match=r"contains images/train/b\.png"):
        check_owned(tmp_path)
