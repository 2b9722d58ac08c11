"""COCO to YOLO, and there and back again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from rsprompter_cli.data.check import check_set
from rsprompter_cli.data.coco.read import CocoFile, read_coco
from rsprompter_cli.data.coco.rle import Rle, parse_segmentation, to_rle
from rsprompter_cli.data.convert.coco2yolo import convert_to_yolo, outline
from rsprompter_cli.data.convert.rings import coco_fields
from rsprompter_cli.data.convert.yolo2coco import convert_from_yolo
from rsprompter_cli.data.convert.yolo_labels import Label, label_line, read_labels
from rsprompter_cli.errors import InputError, OutputError
from tests.make.coco_sets import make_set, read_document, write_document


def masks(coco: CocoFile) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """(class, RLE) of the objects of each picture, by its name without folders."""
    names = {category.id: category.name for category in coco.categories}
    return {
        Path(image.file_name).name: [
            (names[a.category_id], to_rle(a.segmentation, image.height, image.width).as_dict())
            for a in coco.by_image[image.id]
        ]
        for image in coco.images
    }


def iou(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(coco_mask.iou([one], [other], [0])[0, 0])


def there_and_back(segmentation: Any, height: int, width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The mask of a segmentation before and after it was a line of a label."""
    parsed = parse_segmentation(segmentation, height, width)
    ring, _ = outline(parsed, height, width)
    assert ring is not None
    (label,) = read_labels(label_line(3, ring, height, width))
    assert isinstance(label, Label)
    assert (label.class_index, label.is_box) == (3, False)
    again = parse_segmentation(
        coco_fields([label.ring * (width, height)], height, width)["segmentation"], height, width
    )
    return to_rle(parsed, height, width).as_dict(), to_rle(again, height, width).as_dict()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.2, 1)), min_size=3, max_size=12),
    st.integers(40, 4000),
    st.integers(40, 4000),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_simple_polygons_keep_their_mask(
    spokes: list[tuple[float, float]], height: int, width: int, decimals: int
) -> None:
    # A star around the middle never crosses itself.
    turns = np.sort(np.array([turn for turn, _ in spokes])) + np.arange(len(spokes))
    angles = 2 * np.pi * turns / len(spokes)
    reach = np.array([length for _, length in spokes]) * 0.48
    ring = np.stack([(0.5 + reach * np.cos(angles)) * width, (0.5 + reach * np.sin(angles)) * height], axis=1)
    ring = np.round(ring, decimals)
    if shapely.Polygon(ring).area < 20:
        return
    before, after = there_and_back([ring.ravel().tolist()], height, width)
    assert iou(before, after) >= 0.99


@given(st.integers(0, 10_000), st.integers(4, 30), st.integers(4, 30), st.floats(0.2, 0.9))
@settings(max_examples=50, deadline=None)
def test_run_lengths_keep_every_pixel(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[1, 1] = True
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    before, after = there_and_back({"size": [height, width], "counts": rle["counts"].decode()}, height, width)
    assert iou(before, after) == 1


def test_several_polygons_keep_their_area() -> None:
    parts = [[5, 5, 30, 5, 30, 30, 5, 30], [40.5, 8, 60, 8.25, 52, 44], [20, 20, 36, 20, 36, 36, 20, 36]]
    before, after = there_and_back(parts, 64, 64)
    assert iou(before, after) >= 0.99


def test_what_leaves_the_picture_is_cut_off() -> None:
    before, after = there_and_back([[-1.5, 5, 30, 5, 30, 30, -1.5, 30]], 64, 64)
    assert iou(before, after) == 1


def test_an_outline_that_crosses_itself_is_passed_on() -> None:
    before, after = there_and_back([[5, 5, 50, 50, 50, 5, 5, 50]], 64, 64)
    assert iou(before, after) == 1


@pytest.mark.parametrize("link", [False, True])
def test_a_set_there_and_back(tmp_path: Path, link: bool) -> None:
    for split, seed in (("train", 0), ("val", 1)):
        make_set(tmp_path / "coco", split=split, seed=seed)
    report = convert_to_yolo(tmp_path / "coco", tmp_path / "yolo", link=link)
    assert (report.outcome, report.splits, report.joined) == ("written", {"train": (4, 9), "val": (4, 9)}, 0)
    assert (tmp_path / "yolo/data.yaml").read_text().splitlines()[1:] == [
        "train: images/train", "val: images/val", "names:", "  0: house", "  1: tank",
    ]  # fmt: skip
    # Without objects, but not forgotten.
    assert (tmp_path / "yolo/labels/val/val_3.txt").read_bytes() == b""
    picture = tmp_path / "yolo/images/val/val_0.png"
    assert picture.samefile(tmp_path / "coco/images/val_0.png") == link
    assert convert_to_yolo(tmp_path / "coco", tmp_path / "yolo", link=link).outcome == "unchanged"
    back = convert_from_yolo(tmp_path / "yolo", tmp_path / "back", link=link)
    assert back.splits == report.splits
    assert [r.problems for r in check_set(tmp_path / "back")] == [(), ()]
    for split in ("train", "val"):
        name = f"annotations/instances_{split}.json"
        before, after = masks(read_coco(tmp_path / "coco" / name)), masks(read_coco(tmp_path / "back" / name))
        assert before.keys() == after.keys()
        for image, objects in before.items():
            assert [name for name, _ in objects] == [name for name, _ in after[image]]
            for (_, one), (_, other) in zip(objects, after[image], strict=True):
                assert iou(one, other) == 1
    # And from there the same labels again.
    convert_to_yolo(tmp_path / "back", tmp_path / "again")
    for label in (tmp_path / "yolo").rglob("*.txt"):
        assert label.read_bytes() == (tmp_path / "again" / label.relative_to(tmp_path / "yolo")).read_bytes()


def test_real_polygons_keep_their_mask(shared: Path) -> None:
    coco = read_coco(shared / "data/nwpu/annotations/NWPU_instances_val.json")
    sizes = {image.id: (image.height, image.width) for image in coco.images}
    for annotation in coco.annotations:
        assert not isinstance(annotation.segmentation, Rle)
        before, after = there_and_back(
            [ring.ravel().tolist() for ring in annotation.segmentation], *sizes[annotation.image_id]
        )
        assert iou(before, after) >= 0.99


def test_crowds_and_what_has_no_area_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_set(tmp_path / "coco")
    document = read_document(tmp_path / "coco")
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][2]["segmentation"] = [[-1, 5, 0, 5, 0, 9, -1, 9]]
    write_document(tmp_path / "coco", document)
    logging.getLogger("rsprompter_cli").propagate = True
    report = convert_to_yolo(tmp_path / "coco", tmp_path / "yolo")
    assert report.splits == {"train": (4, 7)}
    assert [len(names) for names in report.left_out.values()] == [1, 1]
    assert any("annotation 1 (train_0.png)" in message for message in caplog.messages)
    assert any("no val split" in message for message in caplog.messages)


def test_class_names_that_yaml_would_misread(tmp_path: Path) -> None:
    names = ("no", "π #\u2028'\": 2")
    make_set(tmp_path / "coco", classes=names)
    convert_to_yolo(tmp_path / "coco", tmp_path / "yolo")
    assert convert_from_yolo(tmp_path / "yolo", tmp_path / "back").classes == list(names)


def test_folders_in_picture_names(tmp_path: Path) -> None:
    make_set(tmp_path / "coco", count=3)
    document = read_document(tmp_path / "coco")
    for image, name in zip(document["images"], ["train/a.png", "images/b.png", "deep/c.png"], strict=True):
        target = tmp_path / "coco/images" / name
        target.parent.mkdir(exist_ok=True)
        (tmp_path / "coco/images" / image["file_name"]).rename(target)
        image["file_name"] = name
    write_document(tmp_path / "coco", document)
    convert_to_yolo(tmp_path / "coco", tmp_path / "yolo")
    labels = sorted(path.relative_to(tmp_path / "yolo").as_posix() for path in (tmp_path / "yolo").rglob("*.txt"))
    assert labels == ["labels/train/a.txt", "labels/train/b.txt", "labels/train/deep/c.txt"]
    assert convert_from_yolo(tmp_path / "yolo", tmp_path / "back").splits == {"train": (3, 6)}


def test_two_pictures_with_one_label(tmp_path: Path) -> None:
    make_set(tmp_path / "coco", count=2)
    document = read_document(tmp_path / "coco")
    document["images"][1]["file_name"] = "train_0.jpg"
    (tmp_path / "coco/images/train_1.png").rename(tmp_path / "coco/images/train_0.jpg")
    write_document(tmp_path / "coco", document)
    with pytest.raises(InputError, match=r"train_0\.png and .*train_0\.jpg would share the label file train_0\.txt"):
        convert_to_yolo(tmp_path / "coco", tmp_path / "yolo")


def test_pictures_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    make_set(tmp_path / "coco")
    Image.new("RGB", (10, 10)).save(tmp_path / "coco/images/train_2.png")
    with pytest.raises(InputError, match=r"train_2\.png is 10 x 10 px, its entry \(image 3\) has 64 x 48 px"):
        convert_to_yolo(tmp_path / "coco", tmp_path / "yolo")
    (tmp_path / "coco/images/train_0.png").unlink()
    with pytest.raises(InputError, match=r"train_0\.png"):
        convert_to_yolo(tmp_path / "coco", tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()


def test_what_may_be_replaced(tmp_path: Path) -> None:
    make_set(tmp_path / "coco")
    yolo = tmp_path / "yolo"
    convert_to_yolo(tmp_path / "coco", yolo)
    (yolo / "labels/train.cache").write_bytes(b"made by training")
    assert convert_to_yolo(tmp_path / "coco", yolo).outcome == "unchanged"
    document = read_document(tmp_path / "coco")
    document["annotations"].pop()
    write_document(tmp_path / "coco", document)
    with pytest.raises(OutputError, match="--overwrite"):
        convert_to_yolo(tmp_path / "coco", yolo)
    assert convert_to_yolo(tmp_path / "coco", yolo, overwrite=True).outcome == "written"
    (yolo / "best.pt").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"contains best\.pt"):
        convert_to_yolo(tmp_path / "coco", yolo, overwrite=True)
    for out in (tmp_path / "coco", tmp_path / "coco/images/yolo"):
        with pytest.raises(OutputError, match="input"):
            convert_to_yolo(tmp_path / "coco", out, overwrite=True)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is a file"):
        convert_to_yolo(tmp_path / "coco", tmp_path / "file", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/data.yaml").write_text("names: [mine]")
    with pytest.raises(OutputError, match=r"contains data\.yaml"):
        convert_to_yolo(tmp_path / "coco", tmp_path / "other", overwrite=True)


def test_a_lone_file_whose_name_says_no_split_trains(tmp_path: Path) -> None:
    make_set(tmp_path / "coco")
    file = tmp_path / "coco/annotations/instances_train.json"
    file.rename(file.with_name("instances_default.json"))
    report = convert_to_yolo(file.with_name("instances_default.json"), tmp_path / "yolo")
    assert report.splits == {"train": (4, 9)}
