"""Reading COCO: each fault is named by its id, and what is only unusual is taken."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.data.coco.read import CocoFile, labels_for, parse_coco, read_coco, require_usable
from rsprompter_cli.data.coco.rle import Rle
from rsprompter_cli.errors import InputError
from tests.make.coco_sets import make_set, read_document, write_document


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("sound")
    make_set(root)
    return read_document(root)


def _square(annotation: dict[str, Any]) -> list[float]:
    """The polygon of the first object, which `make_set` draws as a square."""
    ring: list[float] = annotation["segmentation"][0]
    return ring


def _kinds(tmp_path: Path, document: Any) -> list[str]:
    return [problem.kind for problem in parse_coco(write_document(tmp_path, document))[1]]


def test_a_sound_file_is_read_whole(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path))
    assert (len(coco.images), len(coco.annotations)) == (4, 9)
    assert coco.class_names == ("house", "tank")
    assert coco.labels == {10: 0, 20: 1}
    assert [len(coco.by_image[image.id]) for image in coco.images] == [3, 3, 3, 0]
    assert isinstance(coco.annotations[1].segmentation, Rle)


def test_ids_from_zero_and_with_gaps_and_in_any_order(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["categories"] = [{"id": 7, "name": "tank"}, {"id": 0, "name": "house"}]
    for index, annotation in enumerate(document["annotations"]):
        annotation["id"] = 1000 * index
        annotation["image_id"] = (annotation["image_id"] - 1) * 5
        annotation["category_id"] = 0 if annotation["category_id"] == 10 else 7
    for image in document["images"]:
        image["id"] = (image["id"] - 1) * 5
    coco = read_coco(write_document(tmp_path, document))
    assert coco.class_names == ("house", "tank")
    assert coco.labels == {0: 0, 7: 1}
    assert [len(coco.by_image[image_id]) for image_id in (0, 5, 10, 15)] == [3, 3, 3, 0]
    assert coco.annotations[0].id == 0


def test_what_is_left_out_is_filled_in(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    first = document["annotations"][0]
    area = first.pop("area")
    first.pop("iscrowd")
    document["images"][0]["width"] = float(document["images"][0]["width"])
    document["images"][0]["scene"] = "a.tif"
    coco = read_coco(write_document(tmp_path, document))
    assert (coco.annotations[0].area, coco.annotations[0].iscrowd) == (area, False)
    assert coco.images[0].extra == {"scene": "a.tif"}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"segmentation": [[float("nan"), 3, 6, 3, 6, 7]]}, "polygon-not-finite"),
        ({"segmentation": [[2, 3, 6, 3, 6]]}, "polygon-odd"),
        ({"segmentation": [[2, 3, 6, 3]]}, "polygon-short"),
        ({"segmentation": [[2, 3, 4, 3, 6, 3]]}, "polygon-flat"),
        ({"segmentation": [[2, 3, 1e8, 3, 6, 9]]}, "polygon-outside"),
        ({"segmentation": {"size": [64, 48], "counts": [3072]}}, "rle-size"),
        ({"segmentation": {"size": [48, 64], "counts": [3000, 71]}}, "rle-counts"),
        ({"segmentation": {"size": [48, 64], "counts": "d0T3"}}, "rle-counts"),
        ({"segmentation": None}, "no-segmentation"),
        ({"bbox": [1, 1, 0, 5]}, "bbox-empty"),
        ({"bbox": [1, 1, 5, -5]}, "bbox-empty"),
        ({"bbox": [60, 40, 20, 20]}, "bbox-outside"),
        ({"bbox": [float("nan"), 1, 5, 5]}, "bbox"),
        ({"bbox": [1, 1, 5, 10**400]}, "bbox"),
        ({"bbox": [1, 1, 5]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"id": 2}, "annotation-id-twice"),
        ({"id": "one"}, "not-an-integer"),
        ({"image_id": 99}, "image-unknown"),
        ({"image_id": "1.5"}, "not-an-integer"),
        ({"category_id": 1}, "category-unknown"),
        ({"category_id": True}, "not-an-integer"),
        ({"iscrowd": 2}, "iscrowd"),
        ({"area": -1}, "area"),
        ({"area": float("inf")}, "area"),
    ],
)
def test_each_faulty_annotation_is_named(
    tmp_path: Path, sound: dict[str, Any], change: dict[str, Any], kind: str
) -> None:
    document = copy.deepcopy(sound)
    document["annotations"][0].update(change)
    path = write_document(tmp_path, document)
    coco, problems = parse_coco(path)
    assert [problem.kind for problem in problems] == [kind]
    shown = 2 if kind == "annotation-id-twice" else document["annotations"][0]["id"]
    assert problems[0].message.startswith(f"annotation {shown!r}")
    assert len(coco.annotations) == 8
    with pytest.raises(InputError, match=f"annotation {shown!r}") as caught:
        read_coco(path)
    assert "rsp data check" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"file_name": "../secret.png"}, "file-name"),
        ({"file_name": "a/../../secret.png"}, "file-name"),
        ({"file_name": "..\\secret.png"}, "file-name"),
        ({"file_name": "/a/../secret.png"}, "file-name"),
        ({"file_name": "C:\\a\\..\\secret.png"}, "file-name"),
        ({"file_name": "/data/local-files/?d=..%2fsecret.png"}, "file-name"),
        ({"file_name": "%2e%2e/secret.png"}, "file-name"),
        ({"path": "../secret.png"}, "file-name"),
        ({"file_name": ""}, "file-name"),
        ({"file_name": 3}, "file-name"),
        ({"height": 0}, "image-size"),
        ({"width": 10**12}, "image-size"),
        ({"width": "wide"}, "not-an-integer"),
        ({"width": float("nan")}, "not-an-integer"),
        ({"id": 2}, "image-id-twice"),
    ],
)
def test_each_faulty_image_is_named_once(
    tmp_path: Path, sound: dict[str, Any], change: dict[str, Any], kind: str
) -> None:
    document = copy.deepcopy(sound)
    document["images"][0].update(change)
    if kind == "image-id-twice":
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 1]
    assert _kinds(tmp_path, document) == [kind]


def test_categories_must_be_told_apart(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["categories"][1]["name"] = "house"
    assert _kinds(tmp_path, document) == ["category-name-twice"]
    document["categories"][1] = {"id": 20}
    assert set(_kinds(tmp_path, document)) == {"category-name", "category-unknown"}
    document["categories"] = []
    assert set(_kinds(tmp_path, document)) == {"category-unknown"}


def test_entries_that_are_no_objects(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    for key in ("images", "annotations", "categories"):
        document[key].append([1, 2])
        document[key].append(None)
    assert _kinds(tmp_path, document) == ["entry-type"] * 6


def test_all_faults_are_counted(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["annotations"][0]["bbox"] = [0, 0, 0, 0]
    document["annotations"][4]["category_id"] = 4
    with pytest.raises(InputError, match=r"annotation 1 .*\(and 1 more\)"):
        read_coco(write_document(tmp_path, document))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00", "not JSON"),
        (b"{'images': []}", "not JSON"),
        (b'{"images": [', "not JSON"),
        (b"[" * 200_000, "nested more than 64 deep"),
        (b"[1]", "JSON list"),
        (b'{"type": "FeatureCollection", "features": []}', "no list 'images'"),
        (b'{"images": [], "annotations": {}, "categories": []}', "no list 'annotations'"),
    ],
)
def test_what_is_no_coco_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_coco(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_coco(tmp_path / "none.json")


def test_a_folder_or_nothing_has_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder") as caught:
        read_coco(tmp_path)
    assert "annotations/" in caught.value.hint
    with pytest.raises(InputError, match="no such file") as caught:
        read_coco(tmp_path / "nope")
    assert "rsp convert" in caught.value.hint


def test_a_byte_order_mark_is_no_fault(tmp_path: Path, sound: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(sound).encode())
    assert len(read_coco(path).images) == 4


@pytest.mark.parametrize("what", ["nothing", "crowds", "specks"])
def test_a_set_with_nothing_to_learn_is_refused(tmp_path: Path, sound: dict[str, Any], what: str) -> None:
    document = copy.deepcopy(sound)
    if what == "nothing":
        document["annotations"] = []
    for annotation in document["annotations"]:
        if what == "crowds":
            annotation["iscrowd"] = 1
        else:
            annotation["segmentation"] = [[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]]
    coco = read_coco(write_document(tmp_path, document))
    with pytest.raises(InputError, match=r"no usable object.*4 images") as caught:
        require_usable(coco)
    assert "rsp data check" in caught.value.hint


def test_one_object_is_enough(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["annotations"] = document["annotations"][1:2]
    coco = read_coco(write_document(tmp_path, document))
    require_usable(coco)
    assert len(coco.annotations) == 1


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path))
    assert labels_for(coco, ("tank", "ship", "house")) == {10: 2, 20: 0}
    with pytest.raises(InputError, match="tank"):
        labels_for(coco, ["house", "Tank"])


def test_an_unused_class_need_not_be_known(tmp_path: Path, sound: dict[str, Any]) -> None:
    document = copy.deepcopy(sound)
    document["categories"].append({"id": 30, "name": "crane"})
    assert labels_for(read_coco(write_document(tmp_path, document)), ["house", "tank"]) == {10: 0, 20: 1}


def test_it_travels_to_another_process(tmp_path: Path) -> None:
    coco = read_coco(make_set(tmp_path))
    assert coco.by_image
    twin = pickle.loads(pickle.dumps(coco))
    assert isinstance(twin, CocoFile)
    assert twin.images == coco.images
    assert [a.id for a in twin.by_image[1]] == [a.id for a in coco.by_image[1]]


@pytest.mark.parametrize(
    ("file", "images", "objects", "classes"),
    [
        ("nwpu/annotations/NWPU_instances_train.json", 520, 3178, 10),
        ("nwpu/annotations/NWPU_instances_val.json", 130, 743, 10),
        ("ssdd/annotations/SSDD_instances_train.json", 928, 2102, 1),
        ("ssdd/annotations/SSDD_instances_val.json", 232, 484, 1),
        ("whu/expected_annotations/WHU_building_train.json", 2, 5, 1),
    ],
)
def test_published_sets_are_sound(shared: Path, file: str, images: int, objects: int, classes: int) -> None:
    coco = read_coco(shared / "data" / file)
    assert (len(coco.images), len(coco.annotations), len(coco.class_names)) == (images, objects, classes)
