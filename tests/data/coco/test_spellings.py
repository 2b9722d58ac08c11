"""Values that are not written as COCO asks: read with one warning per kind, or refused with the id and the way out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rsprompter_cli.data.coco.document import read_document as read_json
from rsprompter_cli.data.coco.read import CocoFile, parse_coco, read_coco
from rsprompter_cli.data.coco.rle import to_rle
from rsprompter_cli.errors import InputError
from tests.make.coco_sets import make_set, read_document, write_document


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("sound")
    make_set(root)
    return read_document(root)


def _masks(coco: CocoFile) -> list[bytes]:
    sizes = {image.id: (image.height, image.width) for image in coco.images}
    return [to_rle(a.segmentation, *sizes[a.image_id]).counts for a in coco.annotations]


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return str(value) if isinstance(value, int | float) else value


def _points(ring: list[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(ring[::2], ring[1::2], strict=True)]


# Annotation 0 of the sound set is a polygon, annotation 1 an RLE with compressed counts.
FORMS = {
    "flat": (0, lambda s: s[0], "flat-polygon"),
    "flat text": (0, lambda s: _as_text(s[0]), "flat-polygon"),
    "text": (0, _as_text, "text-number"),
    "points": (0, lambda s: _points(s[0]), "point-polygon"),
    "ring of points": (0, lambda s: [_points(s[0])], "point-polygon"),
    "bytes": (1, lambda s: {**s, "counts": repr(s["counts"].encode())}, "rle-bytes"),
    "size as text": (1, lambda s: {**s, "size": _as_text(s["size"])}, "text-number"),
    "in a list": (1, lambda s: [s], "rle-in-list"),
    "uncompressed": (1, lambda s: {**s, "counts": _runs(s)}, None),
    "uncompressed floats": (1, lambda s: {**s, "counts": [float(run) for run in _runs(s)]}, "text-number"),
}


def _runs(rle: dict[str, Any]) -> list[int]:
    flat = coco_mask.decode({**rle, "counts": rle["counts"].encode()}).ravel(order="F")
    borders = np.flatnonzero(np.diff(np.concatenate(([0], flat)))) if flat.any() else np.zeros(0, int)
    return [int(run) for run in np.diff(np.concatenate(([0], borders, [flat.size])))]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_means_the_same_mask(tmp_path: Path, sound: dict[str, Any], form: str) -> None:
    index, change, kind = FORMS[form]
    document = copy.deepcopy(sound)
    annotation = document["annotations"][index]
    annotation["segmentation"] = change(annotation["segmentation"])
    coco, problems = parse_coco(write_document(tmp_path, document))
    expected = read_coco(write_document(tmp_path / "sound", sound))
    assert _masks(coco) == _masks(expected)
    kinds = [(problem.kind, problem.severity) for problem in problems]
    if kind is None:
        assert kinds == []
    else:
        assert (kind, "warning") in kinds
        assert problems[0].annotation_id == annotation["id"]
        assert problems[0].message.startswith("1 annotation has ")
        assert f"the first is annotation {annotation['id']} (image 1, train_0.png)" in problems[0].message


def test_everything_as_text_is_one_warning_per_list(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    for key, names in (
        ("images", ("id", "height", "width")),
        ("annotations", ("id", "image_id", "category_id", "bbox", "area", "iscrowd")),
        ("categories", ("id",)),
    ):
        for entry in document[key]:
            entry.update({name: _as_text(entry[name]) for name in names})
    coco, problems = parse_coco(write_document(tmp_path, document))
    assert [problem.message.split(" numbers")[0] for problem in problems] == [
        "2 categories have",
        "4 images have",
        "9 annotations have",
    ]
    expected = read_coco(write_document(tmp_path / "sound", sound))
    assert coco.images == expected.images
    assert coco.labels == expected.labels
    assert [(a.id, a.bbox, a.area, a.iscrowd) for a in coco.annotations] == [
        (a.id, a.bbox, a.area, a.iscrowd) for a in expected.annotations
    ]


def test_what_may_be_missing(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document |= {"info": None, "licenses": None}
    for annotation in document["annotations"]:
        annotation["iscrowd"] = annotation["area"] = None
    coco, problems = parse_coco(write_document(tmp_path, document))
    assert problems == []
    expected = read_coco(write_document(tmp_path / "sound", sound))
    assert [a.area for a in coco.annotations] == [a.area for a in expected.annotations]
    assert not any(a.iscrowd for a in coco.annotations)


@pytest.mark.parametrize("value", ["missing", None, ""])
def test_sizes_are_read_from_the_pictures(tmp_path: Path, value: object) -> None:
    path = make_set(tmp_path)
    document = read_document(tmp_path)
    for image in document["images"]:
        image.update(height=value, width=value)
        if value == "missing":
            del image["height"], image["width"]
    write_document(tmp_path, document)
    coco, problems = parse_coco(path)
    assert {(image.height, image.width) for image in coco.images} == {(48, 64)}
    assert [(problem.kind, problem.severity) for problem in problems] == [("image-size-missing", "warning")]
    assert problems[0].message.startswith("4 images have no width and height, which are read from the image file")
    (tmp_path / "images" / "train_0.png").unlink()
    with pytest.raises(InputError, match=r"image 1 has no width and height, and .*not found.*--image-folder"):
        read_coco(path)


@pytest.mark.parametrize("value", ["missing", None, []])
def test_boxes_without_masks_are_counted_once(tmp_path: Path, sound: dict[str, Any], value: object) -> None:
    document = copy.deepcopy(sound)
    for annotation in document["annotations"][2:]:
        annotation["segmentation"] = value
        if value == "missing":
            del annotation["segmentation"]
    coco, problems = parse_coco(write_document(tmp_path, document))
    (problem,) = problems
    assert (problem.kind, problem.severity, problem.annotation_id) == ("no-segmentation", "error", 3)
    assert problem.message.startswith("7 of 9 annotations have no segmentation, the first is annotation 3 (image 1")
    assert "draw masks in the labelling tool" in problem.message
    assert len(coco.annotations) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segmentation": [1, 2, 3, 4]}, "annotation 1 .*polygon 0 has 4 coordinates"),
        ({"segmentation": [1, 2, 3, "x", 5, 6]}, "annotation 1 .*not a flat list of numbers"),
        ({"segmentation": [[[1, 2], [9, 2], [9, 9]], [[3, 3], [4, 3], [4, 4]]]}, "annotation 1 .*2 lists of points"),
        ({"segmentation": [1, 2, 3, float("nan"), 5, 6]}, "annotation 1 .*NaN"),
        ({"segmentation": {"x": [1, 2, 3], "y": [1, 2, 3]}}, "annotation 1 .*RLE size None"),
        ({"segmentation": {"size": [48, 64], "counts": "b'\\"}}, "annotation 1 .*RLE counts"),
        ({"segmentation": "[[1, 2, 3, 4, 5, 6]]"}, "annotation 1 .*neither polygons nor RLE"),
        ({"bbox": ["a", 1, 2, 3]}, "annotation 1 .*no bbox of four finite numbers"),
        ({"bbox": ["nan", 1, 2, 3]}, "annotation 1 .*no bbox of four finite numbers"),
        ({"area": float("nan")}, "annotation 1 .*invalid area nan; without this key"),
        ({"area": "big"}, "annotation 1 .*invalid area 'big'"),
        ({"iscrowd": "yes"}, "annotation 1 .*iscrowd 'yes'"),
        ({"id": float("nan")}, "annotation nan .*not a whole number"),
        ({"image_id": None}, "annotation 1: has image_id None"),
    ],
)
def test_what_has_no_one_meaning_is_refused(
    tmp_path: Path, sound: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    document = copy.deepcopy(sound)
    document["annotations"][0].update(change)
    with pytest.raises(InputError, match=words) as caught:
        read_coco(write_document(tmp_path, document))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "hint"),
    [
        ({"type": "FeatureCollection", "features": []}, "rsp convert vector2coco"),
        ({"shapes": [], "imagePath": "a.png"}, "rsp convert labelme2coco"),
        ({"a.png123": {"filename": "a.png", "regions": []}}, "a VIA project"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "a VIA project"),
        ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "Label Studio's native format"),
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "list of detections"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, document: Any, hint: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert hint in caught.value.hint
