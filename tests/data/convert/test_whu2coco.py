"""The WHU building set to COCO."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rsprompter_cli.data.convert.whu2coco import convert_whu
from rsprompter_cli.errors import InputError, OutputError, UsageError
from tests.make.whu import make_buildings, make_whu


@pytest.fixture
def whu(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    labels = {split: [make_buildings(rng, 64, 4, 9) for _ in range(2)] for split in ("train", "val", "test")}
    return make_whu(tmp_path / "WHU", labels)


def content(path: Path) -> Any:
    """Everything of a COCO file but ids and order."""
    document = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    instances = sorted(
        (names[a["image_id"]], json.dumps(a["segmentation"], sort_keys=True), a["area"], a["bbox"], a["category_id"])
        for a in document["annotations"]
    )
    images = sorted((i["file_name"], i["height"], i["width"], i["segm_file"]) for i in document["images"])
    return instances, images, document["categories"]


def test_reference_set(shared: Path, tmp_path: Path) -> None:
    report = convert_whu(shared / "data" / "whu", tmp_path)
    assert (report.images, report.instances) == (6, 14)
    for split in ("train", "val", "test"):
        name = f"WHU_building_{split}.json"
        assert content(tmp_path / name) == content(shared / "data" / "whu" / "expected_annotations" / name)


def test_fabricated_set(whu: Path) -> None:
    report = convert_whu(whu)
    assert report.outcome == "written"
    assert (report.images, report.skipped) == (6, 0)
    document = json.loads((whu / "annotations" / "WHU_building_val.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["0.tif", "1.tif"]
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for image in document["images"]:
        label = np.asarray(Image.open(whu / "imgs/val/label" / image["file_name"])) > 0
        mine = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        assert mine
        union = sum(coco_mask.decode(a["segmentation"]).astype(int) for a in mine)
        assert np.array_equal(union, label.astype(int))


def test_image_without_buildings_is_kept(tmp_path: Path) -> None:
    make_whu(tmp_path, {"test": [np.zeros((8, 8), np.uint8)]})
    report = convert_whu(tmp_path, splits=["test"])
    assert (report.images, report.instances) == (1, 0)


def test_labels_of_one_bit_and_of_zero_and_one(tmp_path: Path) -> None:
    label = make_buildings(np.random.default_rng(0), 64, 4, 9)
    make_whu(tmp_path, {"train": [label] * 3})
    folder = tmp_path / "imgs/train/label"
    Image.fromarray(label // 255).save(folder / "1.tif")
    # Photometric interpretation 0: white is stored as 0, as in the files of the set itself.
    Image.fromarray(label > 0).save(folder / "2.tif", tiffinfo={262: 0})
    convert_whu(tmp_path, splits=["train"])
    instances, _, _ = content(tmp_path / "annotations" / "WHU_building_train.json")
    by_image = {name: [item[1:] for item in instances if item[0] == name] for name in ("0.tif", "1.tif", "2.tif")}
    assert by_image["0.tif"] == by_image["1.tif"] == by_image["2.tif"] != []


def test_same_bytes_for_any_number_of_workers(whu: Path, tmp_path: Path) -> None:
    convert_whu(whu, tmp_path / "one", workers=1)
    convert_whu(whu, tmp_path / "two", workers=2)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_second_run(whu: Path) -> None:
    first = convert_whu(whu)
    assert convert_whu(whu).outcome == "unchanged"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(whu / "imgs/test/label/0.tif")
    before = [file.read_bytes() for file in first.files]
    with pytest.raises(OutputError, match="WHU_building_test"):
        convert_whu(whu)
    assert [file.read_bytes() for file in first.files] == before
    assert convert_whu(whu, overwrite=True).outcome == "written"
    assert [file.read_bytes() for file in first.files] != before


def break_pairs(whu: Path) -> dict[str, str]:
    """Break every pair but one; the words each message must hold."""
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(whu / "imgs/train/label/0.tif")
    (whu / "imgs/train/label/1.tif").unlink()
    Image.fromarray(np.zeros((64, 60), np.uint8)).save(whu / "imgs/val/label/0.tif")
    data = (whu / "imgs/val/label/1.tif").read_bytes()
    (whu / "imgs/val/label/1.tif").write_bytes(data[: len(data) // 2])
    (whu / "imgs/test/image/0.tif").unlink()
    return {
        "train/label/0.tif": "not a binary label, it contains 7",
        "train/image/1.tif": "has no label",
        "val/label/0.tif": "has 60 x 64 px, its image 0.tif has 64 x 64 px",
        "val/label/1.tif": "",
        "test/label/0.tif": "has no image",
    }


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_an_image_that_is_cut_short_is_found(tmp_path: Path, suffix: str) -> None:
    make_whu(tmp_path, {"train": [np.zeros((64, 64), np.uint8)] * 2}, suffix)
    image = tmp_path / "imgs/train/image" / f"1{suffix}"
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(InputError, match=f"1 of 2 .*1{suffix}"):
        convert_whu(tmp_path, splits=["train"])


def test_all_broken_pairs_are_named_and_nothing_is_written(whu: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = break_pairs(whu)
    # The command line turns propagation off, which caplog needs.
    logging.getLogger("rsprompter_cli").propagate = True
    with pytest.raises(InputError, match="5 of 6 image and label pairs"):
        convert_whu(whu)
    for name, word in words.items():
        assert any(name in message and word in message for message in caplog.messages), name
    assert not (whu / "annotations").exists()


def test_broken_pairs_can_be_left_out(whu: Path) -> None:
    break_pairs(whu)
    report = convert_whu(whu, skip_bad=True)
    assert (report.images, len(report.bad)) == (1, 5)
    assert len(report.files) == 3


def test_nothing_is_written_when_every_pair_is_broken(tmp_path: Path) -> None:
    make_whu(tmp_path, {"train": [np.full((8, 8), 9, np.uint8)]})
    with pytest.raises(InputError, match=r"all image and label pairs \(1\)"):
        convert_whu(tmp_path, splits=["train"], skip_bad=True)


def test_other_files_are_counted(whu: Path) -> None:
    (whu / "imgs/train/image/Thumbs.db").write_bytes(b"x")
    (whu / "imgs/train/label/notes.txt").write_text("x")
    # A format that the raster door does not read.
    for kind in ("image", "label"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(whu / "imgs/train" / kind / "9.bmp")
    report = convert_whu(whu)
    assert (report.skipped, report.images) == (4, 6)


def test_missing_folder_and_bad_options(whu: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        convert_whu(whu / "elsewhere")
    with pytest.raises(UsageError, match="workers"):
        convert_whu(whu, workers=0)
    for file in (whu / "imgs/val/image").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="contains no images"):
        convert_whu(whu)
