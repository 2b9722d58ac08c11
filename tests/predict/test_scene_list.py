"""Which scenes arguments mean, and what their outputs are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsprompter_cli.errors import InputError
from rsprompter_cli.predict.scene_list import common_names, list_scenes, means_many, output_names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.tif", "b.PNG", "notes.md", ".hidden.tif", "deep/a.tif", "deep/c.vrt", "odd[1].tif", "empty/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_a_pattern_and_a_list(here: Path) -> None:
    assert list_scenes(["."]) == ["./a.tif", "./b.PNG", "./odd[1].tif"]
    assert list_scenes(["deep"], allow_vrt=True) == ["deep/a.tif", "deep/c.vrt"]
    assert list_scenes(["**/a.tif"]) == ["a.tif", "deep/a.tif"]
    assert list_scenes(["odd[1].tif"]) == ["odd[1].tif"]  # a file of that name is no pattern
    (here / "list.txt").write_bytes(b"\xef\xbb\xbf# ours\r\n\r\n deep \r\nnot there.tif\r\n*.tif\r\n")
    expected = ["deep/a.tif", "not there.tif", "a.tif", "odd[1].tif"]
    assert list_scenes(["list.txt"]) == list_scenes(["@list.txt"]) == expected


def test_a_scene_that_is_named_twice_is_one(here: Path) -> None:
    assert list_scenes(["a.tif", ".", str(here / "a.tif")])[0] == "a.tif"
    assert len(list_scenes(["a.tif", ".", str(here / "a.tif")])) == 3


def test_one_file_is_one_scene(here: Path) -> None:
    assert not means_many(["a.tif"])
    assert not means_many(["odd[1].tif"])
    assert not means_many(["https://example.com/a[1].tif?x=*"])
    for sources in (["a.tif", "b.PNG"], ["deep"], ["*.tif"], ["list.txt"], ["@list"]):
        assert means_many(sources)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("empty", "contains no rasters"),
        ("*.jp2", "matches no raster"),
        ("@nowhere", "nowhere: no such list"),
        ("blank.txt", "an empty list"),
        ("binary.txt", "not UTF-8 text"),
        ("nested.txt", "lists cannot be nested"),
        ("far.txt", "--remote"),
        ("@deep", "cannot be read"),
    ],
)
def test_what_names_no_scene_is_one_line(here: Path, source: str, said: str) -> None:
    (here / "blank.txt").write_text("\n# nothing\n")
    (here / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (here / "nested.txt").write_text("a.tif\nblank.txt\n")
    (here / "far.txt").write_text("https://example.com/a.tif\n")
    with pytest.raises(InputError) as caught:
        list_scenes([source])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_files_of_which_none_exists(here: Path) -> None:
    names = [f"n{number}.tif" for number in range(5000)]
    with pytest.raises(InputError, match=r"^none of 5,000 scenes exists: n0\.tif, "):
        list_scenes(names)
    assert len(list_scenes([*names, "a.tif"])) == 5001


def test_names_grow_until_they_differ(here: Path) -> None:
    assert output_names(["x/a.tif", "y/b.tif"]) == ["a", "b"]
    assert output_names(["x/a.tif", "y/A.tif", "y/b.tif"]) == ["x_a", "y_A", "b"]
    assert output_names(["p/a.tif", "p/a.png"]) == ["p_a_tif", "p_a_png"]
    assert output_names(["https://h/one/a.tif?k=1", "s3://b/two/a.tif"]) == ["one_a", "two_a"]
    assert common_names(["deep/a.tif", "a.tif", "https://h/a.tif"]) == ["deep/a.tif", "a.tif", "https://h/a.tif"]


parts = st.text(st.sampled_from("aA_.b:* é"), min_size=1, max_size=4).filter(lambda text: set(text) - {"."})
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)


@given(st.lists(paths, max_size=12, unique_by=lambda path: path))
def test_no_two_scenes_have_one_name(scenes: list[str]) -> None:
    names = output_names(scenes)
    assert len({name.casefold() for name in names}) == len(scenes)
    assert all(name and not set(name) & set('/\\:*?"') and name[0] != "." for name in names)
