"""Annotation files that would need all memory or never end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rsprompter_cli import documents
from rsprompter_cli.cli.app import run
from rsprompter_cli.data.check import check_coco, check_set
from rsprompter_cli.data.coco import rle
from rsprompter_cli.data.coco.problems import MAX_PROBLEMS, EntryError, Problem, Problems
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.convert.coco2vector import convert_coco
from rsprompter_cli.data.convert.labelme2coco import convert_labelme
from rsprompter_cli.data.convert.rings import check_crossings, ring_polygon
from rsprompter_cli.data.convert.yolo2coco import convert_from_yolo
from rsprompter_cli.errors import InputError, UsageError
from tests.make.foreign_sets import make_labelme, shape, square

Capture = pytest.CaptureFixture[str]


def zigzag(vertices: int, width: int, step: float = 7.0) -> list[float]:
    """A ring that runs from side to side of an image, a few pixels lower each time."""
    return [number for k in range(vertices) for number in (float(width * (k % 2)), step * k)]


def document(segmentation: Any, height: int, width: int, **image: Any) -> dict[str, Any]:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, width, height], "area": 5.0, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height, **image}],
        "annotations": [{**entry, "segmentation": segmentation}],
        "categories": [{"id": 1, "name": "x"}],
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(("vertices", "side"), [(1500, 65535), (9000, 65535), (4000, 28000), (3000, 512)])
def test_a_zigzag_is_refused_before_it_is_drawn(
    vertices: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.json", document([zigzag(vertices, side, side / vertices)], side, side))

    def drawn(*_: object) -> None:
        raise AssertionError("pycocotools has seen it")

    monkeypatch.setattr(coco_mask, "frPyObjects", drawn)
    with pytest.raises(InputError, match=r"annotation 1 .*edges of .* pixels in all, more than"):
        read_coco(path)


def test_zigzags_over_many_rings_and_annotations_add_up(tmp_path: Path) -> None:
    rings = [zigzag(30, 65000, 7.0 + k) for k in range(10)]
    with pytest.raises(InputError, match="edges of"):
        read_coco(write(tmp_path / "a.json", document(rings, 65535, 65535)))
    content = document([zigzag(100, 65000)], 65535, 65535)
    content["annotations"] = [{**content["annotations"][0], "id": k} for k in range(1, 60)]
    began = time.monotonic()
    with pytest.raises(InputError, match=r"more outline than a file of so many annotations can have \(and \d+ more\)"):
        read_coco(write(tmp_path / "b.json", content))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("height", [300, 12_000])
def test_what_people_draw_is_read(height: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    coast = height / 2 + (0.3 + 0.1 * rng.random(len(turn)))[:, None] * height * np.stack(
        [np.cos(turn), np.sin(turn)], 1
    )
    fence = [number for k in range(60) for number in (5.0 + 4 * k, 5.0 + (k % 2) * (height - 20))]
    for ring in (np.round(coast, 2).ravel().tolist(), fence):
        (one,) = read_coco(write(tmp_path / "a.json", document([ring], height, height))).annotations
        assert coco_mask.area(rle.to_rle(one.segmentation, height, height).as_dict()) > 0


def test_pictures_of_sizes_that_overflow_are_refused(tmp_path: Path) -> None:
    for height, width in ((1, 4_000_000_000), (2_000_000, 2000), (10**40, 3)):
        with pytest.raises(InputError, match=r"invalid size|not a whole number"):
            read_coco(write(tmp_path / "a.json", document([[0, 0, 1, 0, 1, 1]], height, width)))


def test_masks_of_a_large_image_are_united_and_cropped_without_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 60_000
    parts = [[10, 10, 40, 10, 40, 30, 10, 30], [30, 20, 70, 20, 70, 50, 30, 50]]
    small = rle.to_rle(rle.parse_segmentation(parts, 100, 100), 100, 100)
    large = rle.to_rle(rle.parse_segmentation(parts, side, side), side, side)
    monkeypatch.setattr(coco_mask, "decode", lambda _: pytest.fail("decodes the whole image"))
    (crop, x, y), (same, *_) = rle.decode_crop(large), rle.decode_crop(small)
    assert (x, y, crop.shape) == (10, 10, (40, 60))
    assert (crop == same).all()
    counts = large.counts.decode("ascii")
    path = write(tmp_path / "a.json", document({"size": [side, side], "counts": counts}, side, side))
    convert_coco(path, tmp_path / "a.geojson", pixel_coords=True)
    (feature,) = json.loads((tmp_path / "a.geojson").read_bytes())["features"]
    assert len(feature["geometry"]["coordinates"][0]) == 9  # two rectangles that overlap


def test_a_mask_that_fills_a_large_image_is_one_line(tmp_path: Path) -> None:
    side = 65_535
    segmentation = {"size": [side, side], "counts": [0, side * side]}
    path = write(tmp_path / "a.json", document(segmentation, side, side))
    with pytest.raises(InputError, match=r"a\.png: instance 1: mask covers 65535 x 65535 pixels"):
        convert_coco(path, tmp_path / "a.geojson", pixel_coords=True)


def test_a_star_that_crosses_itself_a_million_times_is_refused() -> None:
    angles = np.arange(3001) * np.pi * 3000 / 3001
    star = 500 + 400 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    began = time.monotonic()
    with pytest.raises(EntryError, match="crosses itself more than 200,000 times"):
        ring_polygon(star)
    assert time.monotonic() - began < 10
    check_crossings(star[:300])
    turn = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    check_crossings(500 + 400 * np.stack([np.cos(turn), np.sin(turn)], axis=1))


@pytest.mark.parametrize("entry", ["[]", "{}", "[0]", '{"":0}', "[[]]"])
def test_a_file_of_nothing_but_brackets_is_refused_unparsed(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents.json, "loads", lambda *_, **__: pytest.fail("parses it"))
    many = ",".join([entry] * 8_000_000)
    path = tmp_path / "a.json"
    path.write_text(f'{{"images":[{many}],"annotations":[],"categories":[]}}', encoding="utf-8")
    with pytest.raises(InputError, match="lists and objects in"):
        read_coco(path)


def test_broken_entries_are_counted_and_not_kept(tmp_path: Path, capsys: Capture) -> None:
    content = document([[0, 0, 5, 0, 5, 5]], 9, 9)
    content["annotations"] = [[]] * 5000
    report = check_coco(write(tmp_path / "a.json", content), read_pictures=False)
    kinds = [problem for problem in report.errors if problem.kind == "entry-type"]
    assert (len(kinds), sum(one.count for one in kinds)) == (MAX_PROBLEMS + 1, 5000)
    assert run(["data", "check", str(tmp_path / "a.json"), "--no-pictures"]) == 3
    assert "5,00" in capsys.readouterr().out
    content["annotations"] = [[]] * 150_000
    with pytest.raises(InputError, match=r"and 100,000 more"):
        read_coco(write(tmp_path / "a.json", content))


def test_problems_keep_the_first_of_each_kind() -> None:
    problems = Problems()
    for number in range(MAX_PROBLEMS + 7):
        problems.add(Problem("error", "a", f"{number}"), Problem("warning", "a", ""))
    problems.add(Problem("error", "b", "last"))
    listed = problems.listed()
    assert sum(one.count for one in listed) == 2 * (MAX_PROBLEMS + 7) + 1
    assert [one.count for one in listed if one.count > 1] == [7, 7]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", [["x" * 5000] * 50]),
        ("id", 10**300),
        ("bbox", [1] * 90_000),
        ("iscrowd", "y" * 90_000),
        ("area", {"a": [1] * 9999}),
    ],
)
def test_messages_stay_short(key: str, value: Any, tmp_path: Path) -> None:
    content = document([[0, 0, 5, 0, 5, 5]], 9, 9)
    content["annotations"][0][key] = value
    with pytest.raises(InputError) as caught:
        read_coco(write(tmp_path / "a.json", content))
    assert len(caught.value.message) < 700 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["\ud800", "x" * 5000])
def test_names_that_cannot_be_written_are_refused(name: str, tmp_path: Path) -> None:
    content = document([[0, 0, 5, 0, 5, 5]], 9, 9)
    content["categories"][0]["name"] = name
    with pytest.raises(InputError, match="too long or not valid Unicode"):
        read_coco(write(tmp_path / "a.json", content))
    content = document([[0, 0, 5, 0, 5, 5]], 9, 9, file_name=f"{name}.png")
    with pytest.raises(InputError, match="file_name"):
        read_coco(write(tmp_path / "a.json", content))


def test_the_largest_file_is_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b" " * (2 << 20))
    monkeypatch.setenv(documents.MAX_JSON, "1")
    with pytest.raises(InputError, match="has 2 MiB, more than 1") as caught:
        read_coco(path)
    assert documents.MAX_JSON in caught.value.hint
    monkeypatch.setenv(documents.MAX_JSON, "lots")
    with pytest.raises(UsageError, match="RSP_MAX_JSON=lots: must be a number of MiB"):
        read_coco(path)


@pytest.mark.parametrize("case", ["z1500", "z20000", "z4000_at_10000px"])
def test_zigzags_from_the_field(case: str, shared: Path) -> None:
    path = shared / "doors" / "coco-zigzag-memory" / f"{case}.json"
    with pytest.raises(InputError, match=r"edges of .* pixels in all"):
        read_coco(path)


@pytest.mark.parametrize("name", ["\ud800x", "1" * 300, "a\0b", "../" * 900])
def test_folders_in_a_yolo_file_that_no_system_has(name: str, tmp_path: Path) -> None:
    for key in ("train", "path"):
        document = {"train": "images", "names": ["a"], key: name}
        (tmp_path / "data.yaml").write_text(json.dumps(document), encoding="utf-8")
        with pytest.raises(InputError, match=r"data\.yaml"):
            convert_from_yolo(tmp_path / "data.yaml", tmp_path / "out")


@pytest.mark.parametrize("name", ["\ud800", "x" * 5000])
def test_class_names_that_no_set_takes(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(json.dumps({"train": "images", "names": [name]}), encoding="utf-8")
    with pytest.raises(InputError, match="too long or not valid Unicode"):
        convert_from_yolo(tmp_path / "data.yaml", tmp_path / "out")
    make_labelme(tmp_path / "drawn", "one", [shape(square(4, 4, 20), label=name)])
    with pytest.raises(InputError, match="too long or not valid Unicode"):
        convert_labelme(tmp_path / "drawn", tmp_path / "out")


@pytest.mark.parametrize("radius", [1e8, 1e15, 1e200])
def test_circles_beyond_any_picture(radius: float, tmp_path: Path) -> None:
    make_labelme(tmp_path / "drawn", "one", [shape([[20, 20], [radius, 20]], "circle")])
    with pytest.raises(InputError, match="a circle cannot have a radius of"):
        convert_labelme(tmp_path / "drawn", tmp_path / "out")


def test_a_problem_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    image = {"id": 1, "file_name": "line\nbreak.png", "width": 4, "height": 4}
    document = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    (report,) = check_set(tmp_path)
    lines = report.lines()
    assert any("line break.png" in line for line in lines)
    assert all("\n" not in line for line in lines)
