"""COCO sets from the field, as labelling tools wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsprompter_cli.cli.app import run

Capture = pytest.CaptureFixture[str]


def _folder(shared: Path, name: str) -> str:
    return str(shared / "field" / name / "set")


def test_crowds_of_single_objects(shared: Path, capsys: Capture) -> None:
    folder = _folder(shared, "coco_rle_iscrowd")
    assert run(["data", "check", folder, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [(one["objects"], one["crowds"]) for one in reports] == [(4, 8)] * 2
    for report in reports:
        crowds, road = [warning["message"] for warning in report["warnings"]]
        assert "8 of 12 annotations are crowds (iscrowd 1), not training targets" in crowds
        assert "'road'" in road
        assert "no object" in road
    assert run(["data", "check", folder, "--crowds-are-objects"]) == 0
    assert capsys.readouterr().out.count("12 annotations, 0 errors, 0 warnings") == 2


def test_the_image_folder_repeated_in_names(shared: Path, capsys: Capture) -> None:
    assert run(["data", "check", _folder(shared, "coco_images_prefix")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("0 errors, 0 warnings") == 2
    assert captured.err.count("4 images were found in") == 2


def test_one_folder_per_split(shared: Path, capsys: Capture) -> None:
    folder = _folder(shared, "coco_roboflow_layout")
    assert run(["data", "check", folder, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [Path(one["file"]).parent.name for one in reports] == ["train", "valid", "test"]
    assert run(["data", "check", f"{folder}/train/_annotations.coco.json"]) == 0
    assert "12 annotations, 0 errors, 0 warnings" in capsys.readouterr().out


def test_a_root_category_of_the_name_of_a_class(shared: Path, capsys: Capture) -> None:
    assert run(["data", "check", _folder(shared, "coco_root_category"), "--json"]) == 0
    for report in json.loads(capsys.readouterr().out):
        assert report["classes"] == ["building", "road"]
        assert [warning["kind"] for warning in report["warnings"]] == ["category-group"]
