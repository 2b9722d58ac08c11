"""The report of a whole set: what stops training, what only deserves a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.data.check import check_coco, check_set
from rsprompter_cli.errors import InputError
from tests.make.coco_sets import make_set, read_document, write_document

Change = Callable[[dict[str, Any]], None]


def _report(root: Path, change: Change) -> tuple[list[str], list[str]]:
    """Kinds of errors and warnings of a sound set after `change`."""
    make_set(root)
    document = read_document(root)
    change(document)
    report = check_coco(write_document(root, document))
    json.dumps(report.as_json(), allow_nan=False)
    return [p.kind for p in report.errors], [p.kind for p in report.warnings]


def test_a_sound_set_has_nothing_to_say(tmp_path: Path) -> None:
    make_set(tmp_path, split="train")
    make_set(tmp_path, split="val", first_id=0)
    told: list[tuple[int, int]] = []
    reports = check_set(tmp_path, on_picture=lambda done, total: told.append((done, total)))
    assert [report.problems for report in reports] == [(), ()]
    assert [(report.images, report.objects, report.classes) for report in reports] == [(4, 9, ("house", "tank"))] * 2
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
    assert reports[0].lines() == []


def _first(key: str, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (_first("bbox", [-1.9, 0, 20, 40]), "bbox-overshoot"),
        (_first("segmentation", [[-1.9, 0, 20, 0, 20, 40, 0, 40]]), "polygon-overshoot"),
        (_first("bbox", [50, 40, 4, 4]), "bbox-mask"),
        (_first("segmentation", [[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]]), "no-pixel"),
        (_first("area", 3000.0), "area"),
        (lambda d: d["categories"].append({"id": 3, "name": "crane"}), "category-unused"),
        (lambda d: d["images"].append({**d["images"][0], "id": 77}), "picture-twice"),
    ],
)
def test_warnings_do_not_stop(tmp_path: Path, change: Change, warning: str) -> None:
    errors, warnings = _report(tmp_path, change)
    assert errors == []
    assert warning in warnings


def test_a_rounded_border_is_no_matter(tmp_path: Path) -> None:
    def widen(document: dict[str, Any]) -> None:
        x, y, w, h = document["annotations"][0]["bbox"]
        document["annotations"][0]["bbox"] = [x - 0.5, y - 0.5, w + 1, h + 1]

    assert _report(tmp_path, widen) == ([], [])


def test_boxes_as_corners_are_recognised(tmp_path: Path) -> None:
    def to_corners(document: dict[str, Any]) -> None:
        document["annotations"] = [
            # Far from the origin, x2 and y2 read as width and height would leave a smaller image.
            {
                "id": index,
                "image_id": 1,
                "category_id": 10,
                "bbox": [20, 10, 30, 20],
                "segmentation": [[20, 10, 30, 10, 30, 20, 20, 20]],
            }
            for index in range(3)
        ]

    errors, warnings = _report(tmp_path, to_corners)
    assert errors == ["bbox-corners"]
    assert warnings.count("bbox-mask") == 3


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    def crowd(document: dict[str, Any]) -> None:
        for annotation in document["annotations"]:
            annotation["iscrowd"] = 1

    assert _report(tmp_path, crowd)[0] == ["no-object"]


def test_every_faulty_annotation_is_listed_with_its_ids(tmp_path: Path) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["annotations"][0]["segmentation"] = [[float("nan")] * 6]
    document["annotations"][4]["bbox"] = [0, 0, 0, 0]
    report = check_coco(write_document(tmp_path, document))
    assert [(p.kind, p.annotation_id, p.image_id) for p in report.errors] == [
        ("polygon-not-finite", 1, 1),
        ("bbox-empty", 5, 2),
    ]
    assert "train_1.png" in report.errors[1].message


def _missing(root: Path) -> None:
    (root / "images" / "train_0.png").unlink()


def _doubled(root: Path) -> None:
    (root / "imgs").mkdir()
    (root / "imgs" / "train_0.png").write_bytes((root / "images" / "train_0.png").read_bytes())


def _resized(root: Path) -> None:
    Image.new("RGB", (65, 48)).save(root / "images" / "train_0.png")


def _turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(root / "images" / "train_0.png", exif=exif)


def _cut(root: Path) -> None:
    path = root / "images" / "train_0.png"
    path.write_bytes(path.read_bytes()[:400])


def _text(root: Path) -> None:
    (root / "images" / "train_0.png").write_text("not a picture")


def _bomb(root: Path) -> None:
    Image.new("1", (10000, 9000)).save(root / "images" / "train_0.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "not found; tried"),
        (_doubled, "2 folders"),
        (_resized, "65 x 48"),
        (_turned, "48 x 64"),
        (_cut, "train_0.png"),
        (_text, "train_0.png"),
        (_bomb, "pixels"),
    ],
)
def test_each_faulty_picture_is_named(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    path = make_set(tmp_path)
    spoil(tmp_path)
    errors = check_coco(path).errors
    assert [(error.kind, error.image_id) for error in errors] == [("picture", 1)]
    assert errors[0].message.startswith("image 1 (train_0.png): ")
    assert words in errors[0].message


def test_pictures_need_not_be_decoded(tmp_path: Path) -> None:
    path = make_set(tmp_path)
    _text(tmp_path)
    assert check_coco(path, read_pictures=False).errors == ()
    _missing(tmp_path)
    assert len(check_coco(path, read_pictures=False).errors) == 1


def test_a_turned_picture_with_the_turned_size_is_sound(tmp_path: Path) -> None:
    make_set(tmp_path, count=1, size=(64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "images" / "train_0.png", exif=exif)
    assert check_set(tmp_path)[0].problems == ()


def test_classes_of_the_splits_must_agree(tmp_path: Path) -> None:
    make_set(tmp_path, split="train")
    make_set(tmp_path, split="val", classes=("house", "mill"))
    train, val = check_set(tmp_path)
    assert train.problems == ()
    assert [problem.kind for problem in val.problems] == ["class-foreign"]
    assert "'mill'" in val.problems[0].message


def test_long_lists_are_shortened_for_people_only(tmp_path: Path) -> None:
    make_set(tmp_path, count=20)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    report = check_set(tmp_path)[0]
    assert len(report.lines()) == 11
    assert "10 more" in report.lines()[-1]
    assert len(report.as_json()["errors"]) == 20


@pytest.mark.parametrize("length", [500, 5000])
def test_a_name_too_long_is_listed_short(tmp_path: Path, length: int) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    document["images"][0]["file_name"] = "n" * length
    write_document(tmp_path, document)
    (problem,) = [one for one in check_set(tmp_path)[0].errors if one.image_id == document["images"][0]["id"]]
    assert "nnn" in problem.message
    if length > 1000:
        assert problem.kind == "file-name"
        assert len(problem.message) < 300


def test_no_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json"):
        check_set(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        check_set(tmp_path / "none")
    with pytest.raises(InputError, match="no such file"):
        check_set("n" * 300)


def test_published_photographs_are_sound(shared: Path) -> None:
    report = check_coco(shared / "data/nwpu/annotations/NWPU_instances_val.json")
    assert report.problems == ()


def test_exact_copies_of_an_annotation_are_one_warning_with_their_count(tmp_path: Path) -> None:
    make_set(tmp_path)
    document = read_document(tmp_path)
    first = document["annotations"][0]
    ids = [900, 901]
    document["annotations"] += [{**first, "id": number} for number in ids]
    # Another class, or a number that differs, is another object.
    other = next(category["id"] for category in document["categories"] if category["id"] != first["category_id"])
    document["annotations"].append({**first, "id": 902, "category_id": other})
    report = check_coco(write_document(tmp_path, document))
    (copies,) = [problem for problem in report.warnings if problem.kind == "annotation-copy"]
    assert f"2 of {report.objects} annotations are exact copies" in copies.message
    assert f"the first of them 900, a copy of {first['id']}" in copies.message
    assert (copies.annotation_id, copies.image_id) == (900, first["image_id"])
    assert report.errors == ()
