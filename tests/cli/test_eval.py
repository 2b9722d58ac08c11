"""`rsp eval` in process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rsprompter_cli.cli.app import run
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from tests.make.coco_sets import CLASSES, make_set
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny checkpoint and a test split in the working folder."""
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "data", split="test", count=3)
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint("model", tiny_model(num_classes=2).state_dict(), tiny_config(), meta)
    return "model"


def test_the_tables_name_figures_and_classes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", model, "--data", "data"]) == 0
    out = capsys.readouterr().out
    for word in ("AP50", "AP75", "AP_small", "AR100", "3 images, 6 objects", "house", "tank"):
        assert word in out


def test_everything_at_once_and_json_alone_on_stdout(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    extras = ["--save-detections", "found.json", "--pr-curve", "pr.png", "--show-dir", "show", "--show", "1"]
    command = ["eval", model, "--data", "data", "--split", "test", "--batch", "2", "--precision", "fp32", *extras]
    assert run([*command, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert {"AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100"} <= tree["segm"].keys()
    assert tree["segm"]["AP_large"] is None
    assert [one["name"] for one in tree["per_class"]] == list(CLASSES)
    assert len(json.loads(Path("found.json").read_text())) == tree["detections"] > 0
    with Image.open("pr.png") as picture:
        assert picture.size[0] > 500
    assert sorted(path.name[:4] for path in Path("show").iterdir()) == ["best", "wors"]
    assert run(command) == 7
    assert "found.json already exists" in capsys.readouterr().err
    assert run([*command, "--overwrite", "--full"]) == 0
    captured = capsys.readouterr()
    assert captured.err.endswith("wrote found.json\nwrote show\nwrote pr.png\n")
    assert "class: boxes" in captured.out
    assert f"{tree['segm']['AP50']:.3f}" in captured.out
    assert run([*command, "--overwrite"]) == 0


def test_overwrite_never_removes_files_that_are_no_gallery(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in Path("data").iterdir())
    # Refused before the evaluation: the split need not even be there.
    assert run(["eval", model, "--data", "nowhere", "--show-dir", "data", "--overwrite"]) == 7
    error = capsys.readouterr().err.strip()
    assert "which is not an image of a gallery" in error
    assert "\n" not in error
    assert sorted(path.name for path in Path("data").iterdir()) == before


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--save-detections", "{truth}"], 7, "is the input"),
        (["--pr-curve", "{truth}"], 2, "must be a .png file"),
        (["--save-detections", "model/meta.json"], 7, "is a part of the input model"),
        (["--show-dir", "model"], 7, "is the input"),
        (["--save-detections", ""], 7, "has no name"),
        (["--save-detections", "both", "--pr-curve", "./both"], 2, "both name"),
    ],
)
def test_an_input_is_never_replaced(
    model: str, options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (truth,) = Path("data/annotations").glob("*test*.json")
    before = {path: path.read_bytes() for path in (truth, *Path(model).iterdir())}
    asked = [word.format(truth=truth) for word in options]
    assert run(["eval", model, "--data", "data", *asked, "--overwrite"]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere", "--data", "data"], 4, "nowhere"),
        (["model", "--data", "data", "--split", "val"], 3, "val.json"),
        (["model", "--data", "elsewhere"], 3, "elsewhere: no such folder"),
        (["model"], 2, "--data"),
    ],
)
def test_errors_are_one_line_with_their_code(
    model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert run(["eval", *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


def test_other_classes_are_listed(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_set(tmp_path / "other", split="test", count=2, classes=("ship", "tank"))
    assert run(["eval", model, "--data", "other"]) == 3
    assert "only in the file: ship; only in the model: house" in capsys.readouterr().err
