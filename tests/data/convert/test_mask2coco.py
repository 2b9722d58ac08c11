"""Pictures and their masks to COCO."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rsprompter_cli.data.check import check_set
from rsprompter_cli.data.coco.read import CocoFile, read_coco
from rsprompter_cli.data.coco.rle import Rle
from rsprompter_cli.data.convert.mask2coco import convert_masks
from rsprompter_cli.errors import InputError, OutputError, UsageError
from tests.make.foreign_sets import buildings, make_pairs


def convert(root: Path, **options: Any) -> CocoFile:
    """Everything in one split, checked."""
    convert_masks(root / "images", root / "masks", root / "set", split="train", **options)
    (report,) = check_set(root / "set")
    assert report.problems == ()
    return read_coco(root / "set/annotations/instances_train.json")


def masks_of(coco: CocoFile) -> list[np.ndarray]:
    found = []
    for annotation in coco.annotations:
        assert isinstance(annotation.segmentation, Rle)
        found.append(coco_mask.decode(annotation.segmentation.as_dict()).astype(bool))
    return found


@pytest.mark.parametrize(("high", "kind"), [(255, "png"), (1, "tif"), (255, "tif")])
def test_binary_masks(tmp_path: Path, high: int, kind: str) -> None:
    mask = np.where(buildings() > 0, high, 0).astype(np.uint8)
    coco = convert(make_pairs(tmp_path, {"a": mask, "b": mask}, kind=kind))
    assert coco.class_names == ("building",)
    assert [image.file_name for image in coco.images] == ["a.png", "b.png"]
    assert [a.id for a in coco.annotations] == list(range(1, 13))
    assert np.array_equal(np.sum(masks_of(coco)[:6], axis=0), mask > 0)


def test_connectivity(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:6, 2:6] = mask[6:12, 6:12] = 255
    make_pairs(tmp_path, {"a": mask})
    assert len(convert(tmp_path).annotations) == 2
    assert len(convert(tmp_path, connectivity=8, overwrite=True).annotations) == 1


def test_instance_masks(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), np.uint16)
    mask[2:6, 2:6] = mask[10:12, 2:6] = 700  # two pieces of one object
    mask[2:6, 6:9] = 3  # touches it
    coco = convert(make_pairs(tmp_path, {"a": mask}, kind="tif"), kind="instances", classes=["roof"])
    assert [a.area for a in coco.annotations] == [12, 24]
    assert np.array_equal(masks_of(coco)[1], mask == 700)
    assert coco.class_names == ("roof",)


def test_class_masks(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[1:5, 1:5] = mask[10:14, 1:5] = 1
    mask[1:5, 5:9] = 2
    make_pairs(tmp_path, {"a": mask})
    coco = convert(tmp_path, classes=["house", "road"])
    assert [(a.category_id, a.area) for a in coco.annotations] == [(1, 16), (1, 16), (2, 16)]
    mask[mask == 2] = 200
    mask[19] = 255
    make_pairs(tmp_path, {"a": mask})
    coco = convert(tmp_path, classes=["road=200", "house=1"], ignore=[255], overwrite=True)
    assert coco.class_names == ("road", "house")
    assert [(a.category_id, a.area) for a in coco.annotations] == [(1, 16), (2, 16), (2, 16)]


def test_palette_masks_hold_indices(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[3:9, 3:9] = 2
    mask[12:14] = 1
    make_pairs(tmp_path, {"a": mask})
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "masks/a.png")
    assert [a.category_id for a in convert(tmp_path, classes=["x", "y"]).annotations] == [1, 2]


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([0, 1, 2], {}, "contains 0, 1, 2, which may be instances or classes .*--kind instances"),
        ([0, 7], {}, "contains 0, 7, which may be"),
        ([0, 1, 2], {"kind": "binary"}, "not a binary mask, it contains 0, 1, 2"),
        ([0, 1, 255], {"classes": ["a", "b"]}, r"contains 255, but the classes are a=1, b=2 .*--ignore"),
    ],
)
def test_values_that_do_not_fit_the_kind(tmp_path: Path, values: list[int], options: Any, words: str) -> None:
    mask = np.array(values, np.uint8).repeat(40).reshape(len(values) * 2, 20)
    make_pairs(tmp_path, {"a": mask})
    with pytest.raises(InputError, match=words):
        convert(tmp_path, **options)
    assert not (tmp_path / "set").exists()


def test_said_to_be_binary_any_value_will_do(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": np.where(buildings() > 0, 38, 0).astype(np.uint8)})
    assert len(convert(tmp_path, kind="binary").annotations) == 6


def test_masks_of_numbers_that_are_no_labels(tmp_path: Path) -> None:
    make_pairs(tmp_path, {name: buildings() for name in "abc"})
    half = np.full((64, 64), 0.5, np.float32)
    for name, mask in (("a", half), ("b", half * np.nan), ("c", (half * -2).astype(np.int32))):
        (tmp_path / f"masks/{name}.png").unlink()
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.tif")
    with pytest.raises(InputError, match=r"3 errors.*masks/a\.tif: contains fractions"):
        convert(tmp_path)


def test_whole_numbers_as_floats(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": (buildings() / 255).astype(np.float32)}, kind="tif")
    assert len(convert(tmp_path).annotations) == 6


def test_suffixes_in_two_folders_and_in_one(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"1": buildings(), "2": buildings()}, image_suffix="_sat", mask_suffix="_mask")
    with pytest.raises(InputError, match=r"no image has a mask of the same name.*--mask-suffix"):
        convert(tmp_path)
    options = {"image_suffix": "_sat", "mask_suffix": "_mask"}
    names = [image.file_name for image in convert(tmp_path, **options).images]
    assert names == ["1_sat.png", "2_sat.png"]
    for mask in (tmp_path / "masks").iterdir():
        mask.rename(tmp_path / "images" / mask.name)
    images = tmp_path / "images"
    with pytest.raises(UsageError, match="--mask-suffix"):
        convert_masks(images, images, tmp_path / "one")
    report = convert_masks(images, images, tmp_path / "one", split="train", **options)
    assert report.splits == {"train": (2, 12)}


def test_masks_in_a_folder_among_the_pictures(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"1": buildings()})
    (tmp_path / "masks").rename(tmp_path / "images/masks")
    report = convert_masks(tmp_path / "images", tmp_path / "images/masks", tmp_path / "set")
    assert report.splits == {"train": (1, 6)}
    assert report.left_out == {}


def test_what_has_no_partner_is_named_and_other_files_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_pairs(tmp_path, {name: buildings() for name in "abc"})
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "images/b.png").unlink()
    (tmp_path / "images/notes.txt").write_text("x")
    (tmp_path / "masks/Thumbs.db").write_bytes(b"x")
    logging.getLogger("rsprompter_cli").propagate = True
    report = convert_masks(tmp_path / "images", tmp_path / "masks", tmp_path / "set")
    assert report.splits == {"train": (1, 6)}
    assert report.skipped == 2
    assert report.left_out == {
        "pictures without a mask": [str(tmp_path / "images/a.png")],
        "masks without a picture": [str(tmp_path / "masks/b.png")],
    }
    assert any("images/a.png" in message for message in caplog.messages)


def test_faults_are_all_named_and_nothing_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_pairs(tmp_path, {name: buildings() for name in "abcde"})
    Image.fromarray(buildings()[:40]).save(tmp_path / "masks/a.png")
    (tmp_path / "masks/b.png").write_bytes((tmp_path / "masks/b.png").read_bytes()[:60])
    (tmp_path / "images/c.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "masks/d.png")
    Image.fromarray(buildings().astype(np.uint16)).save(tmp_path / "images/e.png")
    logging.getLogger("rsprompter_cli").propagate = True
    with pytest.raises(InputError, match="5 errors"):
        convert(tmp_path)
    said = "\n".join(caplog.messages)
    for words in (
        "64 x 40 px, its image",
        "masks/b.png",
        "images/c.png",
        "must have one band, this one has 3",
        "8 bits",
    ):
        assert words in said
    assert not (tmp_path / "set").exists()


def test_masks_that_lost_their_values(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": buildings()}, kind="jpg")
    with pytest.raises(InputError, match=r"masks/a\.jpg: JPEG compression changes the values .*PNG or TIFF"):
        convert(tmp_path)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": buildings()})
    Image.fromarray(buildings()).save(tmp_path / "masks/a.tif")
    with pytest.raises(InputError, match=r"a\.png and .*a\.tif: have the same name"):
        convert(tmp_path)


def test_a_turned_photograph(tmp_path: Path) -> None:
    mask = buildings()[:40]
    make_pairs(tmp_path, {"a": mask})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(np.zeros((64, 40, 3), np.uint8)).save(tmp_path / "images/a.jpg", exif=exif)
    (tmp_path / "images/a.png").unlink()
    assert [(image.height, image.width) for image in convert(tmp_path).images] == [(40, 64)]


def test_small_objects_are_left_out_on_demand(tmp_path: Path) -> None:
    mask = buildings()
    mask[0, 0] = 255
    make_pairs(tmp_path, {"a": mask})
    assert len(convert(tmp_path).annotations) == 7
    report = convert_masks(
        tmp_path / "images", tmp_path / "masks", tmp_path / "set", min_area=4, split="train", overwrite=True
    )
    assert report.splits == {"train": (1, 6)}
    assert list(report.left_out.values()) == [[f"{tmp_path / 'masks/a.png'} at 0,0: 1 px"]]


def test_splits(tmp_path: Path) -> None:
    empty = np.zeros((64, 64), np.uint8)
    make_pairs(tmp_path, {f"{n}": buildings(n) if n % 4 == 0 else empty for n in range(10)})
    arguments = (tmp_path / "images", tmp_path / "masks", tmp_path / "set")
    assert {split: images for split, (images, _) in convert_masks(*arguments).splits.items()} == {"train": 8, "val": 2}
    report = convert_masks(*arguments, split="train=0.4,val=0.3,test=0.3", overwrite=True)
    assert all(instances for _, instances in report.splits.values())
    assert [r.errors for r in check_set(tmp_path / "set")] == [(), (), ()]


def test_splits_by_folders(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"train/a": buildings(1), "val/a": buildings(2)})
    report = convert_masks(tmp_path / "images", tmp_path / "masks", tmp_path / "set")
    assert report.splits == {"train": (1, 6), "val": (1, 6)}
    assert read_coco(tmp_path / "set/annotations/instances_val.json").images[0].file_name == "val/a.png"
    assert [r.problems for r in check_set(tmp_path / "set")] == [(), ()]


def test_same_bytes_unchanged_and_never_replaced_unasked(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": buildings(1), "b": buildings(2)})
    arguments = (tmp_path / "images", tmp_path / "masks", tmp_path / "set")
    assert convert_masks(*arguments).outcome == "written"
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")}
    assert convert_masks(*arguments).outcome == "unchanged"
    convert_masks(*arguments[:2], tmp_path / "again", link=True)
    assert {path.relative_to(tmp_path / "set"): content for path, content in before.items()} == {
        path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.*")
    }
    assert (tmp_path / "again/images/a.png").samefile(tmp_path / "images/a.png")
    Image.fromarray(buildings(3)).save(tmp_path / "masks/a.png")
    with pytest.raises(OutputError, match="--overwrite"):
        convert_masks(*arguments)
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")} == before
    assert convert_masks(*arguments, overwrite=True).outcome == "written"


def test_an_output_among_the_inputs(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": buildings()})
    for out in (tmp_path / "images", tmp_path / "masks/set", tmp_path):
        with pytest.raises(OutputError):
            convert_masks(tmp_path / "images", tmp_path / "masks", out, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        convert_masks(tmp_path / "images", tmp_path / "masks", tmp_path / "mine", overwrite=True)


def test_nothing_to_convert(tmp_path: Path) -> None:
    make_pairs(tmp_path, {"a": np.zeros((8, 8), np.uint8)})
    with pytest.raises(InputError, match="no object"):
        convert(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="contains no images"):
        convert_masks(tmp_path / "none", tmp_path / "masks", tmp_path / "set")
    with pytest.raises(InputError, match="and no mask"):
        convert_masks(tmp_path / "images", tmp_path / "none", tmp_path / "set")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["a", "a"]}, "duplicate name or value"),
        ({"classes": ["a=1", "b=1"]}, "duplicate name or value"),
        ({"classes": ["a=1", "b"]}, "a value for all classes"),
        ({"classes": ["a=0"]}, "from 1"),
        ({"classes": ["a=x"]}, "from 1"),
        ({"classes": ["a", ""]}, "no name"),
        ({"classes": ["a", "b"], "kind": "instances"}, "takes one class"),
        ({"kind": "classes"}, "needs --classes"),
        ({"connectivity": 6}, "4 or 8"),
        ({"min_area": -1}, "at least 0"),
        ({"split": "trian"}, "not a split"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        convert_masks(tmp_path, tmp_path, tmp_path / "set", **options)
