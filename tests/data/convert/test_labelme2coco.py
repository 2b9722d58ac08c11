"""Files of labelme to COCO."""

from __future__ import annotations

import base64
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsprompter_cli.data.check import check_set
from rsprompter_cli.data.coco.problems import EntryError
from rsprompter_cli.data.coco.read import CocoFile, read_coco
from rsprompter_cli.data.convert import labelme2coco
from rsprompter_cli.data.convert.labelme2coco import convert_labelme, ring_of
from rsprompter_cli.errors import InputError, OutputError, UsageError
from tests.make.foreign_sets import make_labelme, png, shape, square


def convert(root: Path, **options: Any) -> CocoFile:
    convert_labelme(root, root.parent / "set", split="train", **options)
    (report,) = check_set(root.parent / "set")
    assert report.errors == ()
    return read_coco(root.parent / "set/annotations/instances_train.json")


def test_shapes_with_an_area(tmp_path: Path) -> None:
    shapes = [
        shape(square(10, 20, 30)),
        shape([[90, 60], [50, 70]], "rectangle", "tank"),
        shape([[70, 25], [70, 45]], "circle", " tank "),
        shape([[0, 0], [20, 0], [0, 20]], None),
    ]
    coco = convert(make_labelme(tmp_path / "in", "a", shapes))
    assert coco.class_names == ("house", "tank")
    assert [a.id for a in coco.annotations] == [1, 2, 3, 4]
    polygon, rectangle, circle, old = coco.annotations
    assert (polygon.bbox, polygon.area, polygon.category_id) == ((10, 20, 30, 30), 900, 1)
    assert (rectangle.bbox, rectangle.area, rectangle.category_id) == ((50, 60, 40, 10), 400, 2)
    assert circle.area == pytest.approx(math.pi * 400, rel=0.01)
    assert circle.bbox == pytest.approx((50, 5, 40, 40), abs=0.2)
    assert old.area == pytest.approx(200, abs=20)


def test_shapes_without_one_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [
        shape(square(10, 20, 30)),
        shape([[0, 0], [5, 5]], "line"),
        shape([[0, 0]], "point"),
        shape([[1, 1]], "point"),
        shape([[10, 10], [20, 20], [30, 30]]),
        shape([[5, 5], [5, 30]], "rectangle"),
    ]
    logging.getLogger("rsprompter_cli").propagate = True
    report = convert_labelme(make_labelme(tmp_path / "in", "a", shapes), tmp_path / "set")
    assert report.splits == {"train": (1, 1)}
    assert {reason: len(names) for reason, names in report.left_out.items()} == {
        "shapes of type line": 1, "shapes of type point": 2, "shapes without area in their picture": 2,
    }  # fmt: skip
    assert any("a.json: shape 3 (house)" in message for message in caplog.messages)


def test_a_group_is_one_object(tmp_path: Path) -> None:
    shapes = [
        shape(square(10, 10, 20), group=1),
        shape(square(60, 10, 20), group=2),
        shape(square(20, 20, 20), group=1),
        shape(square(60, 50, 10), "polygon", "tank", group=1),
        shape(square(40, 50, 10), group=None),
        shape(square(0, 50, 10), group=None),
    ]
    coco = convert(make_labelme(tmp_path / "in", "a", shapes))
    assert [(a.category_id, a.area) for a in coco.annotations] == [(1, 700), (1, 400), (2, 100), (1, 100), (1, 100)]
    assert coco.annotations[0].bbox == (10, 10, 30, 30)


def test_order_of_classes(tmp_path: Path) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9)), shape(square(20, 1, 9), label="tank")])
    assert convert(root, classes=["tank", "unused", "house"]).class_names == ("tank", "unused", "house")
    with pytest.raises(InputError, match=r"a\.json: shape 2: its label 'tank' is not in --classes house"):
        convert(root, classes=["house"])
    with pytest.raises(UsageError, match="duplicate name"):
        convert(root, classes=["house", "house"])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (shape([[0, 0], [5, 5]]), r"\(house\): a polygon cannot have 2 points"),
        (shape([[0, 0], [5, 5], [6, 6]], "rectangle"), "a rectangle cannot have 3 points"),
        (shape([[5, 5]], "circle"), "a circle cannot have 1 point"),
        (shape([[5, 5], [5, 5]], "circle"), "a circle cannot have a radius of 0 px"),
        (shape([[0, 0], [math.nan, 5], [9, 0]]), "not pairs of finite numbers"),
        (shape([[0, 0], [math.inf, 5], [9, 0]]), "not pairs of finite numbers"),
        (shape([[0, 0], [10**400, 5], [9, 0]]), "not pairs of finite numbers"),
        (shape([[0, 0], [True, 5], [9, 0]]), "not pairs of finite numbers"),
        (shape([[0, 0, 1], [5, 5, 1], [9, 0, 1]]), "not pairs of finite numbers"),
        (shape("everywhere"), "not pairs of finite numbers"),
        (shape(square(10, 20, 300)), "extends 240 pixels beyond the 100 x 80 image"),
        (shape(square(1, 1, 5), label=""), "has no label"),
        (shape(square(1, 1, 5), label=7), "has no label"),
        ("a shape", "has no label"),
    ],
)
def test_shapes_that_are_wrong_are_named(tmp_path: Path, bad: Any, words: str) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9)), bad])
    with pytest.raises(InputError, match=rf"a\.json: shape 2.*{words}"):
        convert(root)
    assert not (tmp_path / "set").exists()


def test_a_stroke_over_the_rim_is_cut_off(tmp_path: Path) -> None:
    coco = convert(make_labelme(tmp_path / "in", "a", [shape(square(-1.5, 10, 20)), shape(square(97, 77, 4))]))
    assert [a.bbox for a in coco.annotations] == [(0, 10, 18.5, 20), (97, 77, 3, 3)]


@given(st.floats(0.2, 3000), st.floats(0, 5000), st.floats(0, 5000))
def test_circles_keep_their_area(radius: float, x: float, y: float) -> None:
    ring = ring_of("circle", [[x, y], [x + radius * 0.6, y + radius * 0.8]])
    px, py = (ring - (x, y)).T
    area = abs(np.sum(px * np.roll(py, -1) - py * np.roll(px, -1))) / 2
    assert area == pytest.approx(math.pi * radius**2, rel=1e-3)
    middle = (ring + np.roll(ring, 1, axis=0)) / 2 - (x, y)
    assert np.abs(np.hypot(px, py) - radius).max() < 0.1
    assert np.abs(np.hypot(*middle.T) - radius).max() < 0.1


def test_rectangles_of_four_corners() -> None:
    corners = [[0, 0], [3, 1], [2, 4], [-1, 3]]
    assert ring_of("rectangle", corners).tolist() == corners
    with pytest.raises(EntryError):
        ring_of("rectangle", corners[:3])


@pytest.mark.parametrize("path", ["../images/a.png", "..\\images\\a.png", "C:\\home\\me\\a.png", "/home/me/a.png"])
def test_pictures_elsewhere(tmp_path: Path, path: str) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))], imagePath=path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(png())
    with pytest.raises(InputError, match=r"a\.json: imagePath .*--images"):
        convert(root)
    assert convert(root, images=tmp_path / "images").images[0].file_name == "a.png"


def test_pictures_beside_and_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "in"
    make_labelme(root, "train/a", [shape(square(1, 1, 9))])
    make_labelme(root, "val/a", [shape(square(1, 1, 9))], imagePath="..\\pictures\\b.png")
    (root / "pictures").mkdir()
    (root / "pictures/b.png").write_bytes(png())
    names = [image.file_name for image in convert(root).images]
    assert names == ["pictures/b.png", "train/a.png"]


def test_pictures_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))])
    (root / "a.png").write_bytes(png(50, 40))
    with pytest.raises(InputError, match="states 100 x 80 px, its image has 50 x 40 px"):
        convert(root)
    (root / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.json: has no image file; tried .*a\.png"):
        convert(root)
    make_labelme(root, "a", [shape(square(1, 1, 9))], imagePath="")
    with pytest.raises(InputError, match="has no imagePath"):
        convert(root)


def test_two_files_about_one_picture(tmp_path: Path) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))])
    make_labelme(root, "b", [shape(square(1, 1, 9))], imagePath="a.png")
    with pytest.raises(InputError, match=r"a\.json and .*b\.json describe the same image, a\.png"):
        convert(root)


def test_pictures_inside_the_files(tmp_path: Path) -> None:
    data = base64.b64encode(png()).decode()
    root = make_labelme(tmp_path / "in", "sub/a", [shape(square(1, 1, 9))], imagePath="gone.jpg", imageData=data)
    with pytest.raises(InputError, match="--embedded"):
        convert(root)
    assert convert(root, embedded=True).images[0].file_name == "sub/a.png"
    assert (tmp_path / "set/images/sub/a.png").read_bytes() == png()
    for options in ({"images": root}, {"link": True}):
        with pytest.raises(UsageError, match="--embedded"):
            convert(root, embedded=True, **options)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "contains no image"),
        ("%%%", "imageData is damaged"),
        (base64.b64encode(b"GIF89a").decode(), "not PNG, JPEG or TIFF"),
        (base64.b64encode(png()[:80]).decode(), "its imageData: cannot be read"),
    ],
)
def test_pictures_inside_the_files_that_are_none(tmp_path: Path, data: str | None, words: str) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))], imagePath="a.png", imageData=data)
    with pytest.raises(InputError, match=rf"a\.json: .*{words}"):
        convert(root, embedded=True)


def test_files_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelme2coco, "MAX_FILE_BYTES", 100)
    with pytest.raises(InputError, match="more than 100"):
        convert(make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))]))


def test_what_is_no_labelme_file(tmp_path: Path) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))])
    (root / "coco.json").write_text('{"images": []}')
    (root / "list.json").write_text("[]")
    (root / "notes.txt").write_text("x")
    (root / "b.png").write_bytes(png())
    report = convert_labelme(root, tmp_path / "set")
    assert report.skipped == 1
    assert {reason: len(names) for reason, names in report.left_out.items()} == {
        "JSON files that are not labelme's": 2, "pictures without a labelme file": 1,
    }  # fmt: skip
    (root / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.json: is not JSON"):
        convert(root)
    with pytest.raises(InputError, match="contains no labelme files"):
        convert_labelme(tmp_path / "set", tmp_path / "other")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_picture_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))], imagePath="a.png")
    (tmp_path / "secret.png").write_bytes(png())
    (root / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="outside"):
        convert(root)


def test_same_bytes_unchanged_and_never_replaced_unasked(tmp_path: Path) -> None:
    root = make_labelme(tmp_path / "in", "a", [shape(square(1, 1, 9))])
    make_labelme(root, "b", [shape(square(1, 1, 9), label="tank")])
    assert convert_labelme(root, tmp_path / "set").outcome == "written"
    assert convert_labelme(root, tmp_path / "set").outcome == "unchanged"
    make_labelme(root, "b", [shape(square(1, 1, 7), label="tank")])
    with pytest.raises(OutputError, match="--overwrite"):
        convert_labelme(root, tmp_path / "set")
    assert convert_labelme(root, tmp_path / "set", overwrite=True).outcome == "written"
    with pytest.raises(OutputError, match="is inside the input"):
        convert_labelme(root, root / "set")


def test_no_object_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no object"):
        convert(make_labelme(tmp_path / "in", "a", []))
