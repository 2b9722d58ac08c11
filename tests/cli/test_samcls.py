"""SAM-cls from training to polygons, and everything that SAM sees, in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import Config, TrainConfig, dump_config
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.io.model_files.sam_folder import write_sam_folder
from rsprompter_cli.io.network.hub import sam_folder_for
from tests.make.coco_sets import make_set
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.scenes import write_scene
from tests.make.segmenters import see_bright_shapes
from tests.make.tiny_models import tiny_samcls_config


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own, and no SAM on the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))


def _preset(**train: Any) -> str:
    options = {"epochs": 2, "batch_size": 2, "warmup_steps": 2, "workers": 0, "precision": "fp32", "lr": 1e-3}
    config = Config(name="tiny", model=tiny_samcls_config(), train=TrainConfig.model_validate(options | train))
    Path("tiny.toml").write_text(dump_config(config), encoding="utf-8")
    for seed, split in enumerate(("train", "val")):
        make_set(Path("data"), split=split, count=3, seed=seed)
    return "tiny.toml"


def _train(preset: str, *more: str) -> int:
    return run(["train", preset, "--data", "data", "--out", "run", "--device", "cpu", "--random-sam", *more])


def _scene(name: str = "scene.tif") -> str:
    pixels = np.asarray(Image.open("data/images/train_0.png")).transpose(2, 0, 1)
    write_scene(Path(name), pixels)
    return name


def test_train_eval_and_predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = see_bright_shapes(monkeypatch)
    assert _train(_preset()) == 0
    # Three pictures to train on and three to validate, each searched once in two epochs.
    assert len(seen) == 6
    assert not Path("run/automatic-masks").exists()
    tensors = read_checkpoint("run/last").tensors()
    assert tensors["resnet.fc.weight"].shape == (3, 512)
    assert "mask_decoder.point_embed.weight" in tensors
    capsys.readouterr()
    assert (
        run(
            [
                "eval",
                "run/last",
                "--data",
                "data",
                "--split",
                "val",
                "--device",
                "cpu",
                "--save-detections",
                "found.json",
            ]
        )
        == 0
    )
    results = json.loads(Path("found.json").read_text())
    assert results
    assert {round(one["quality"], 2) for one in results} <= {0.9, 0.75}
    scene = _scene()
    options = ["--model", "run/last", "--score", "0", "--native", "--device", "cpu"]
    assert run(["predict", scene, "--out", "out.geojson", *options]) == 0
    features = json.loads(Path("out.geojson").read_text())["features"]
    assert features
    assert {f["properties"]["class"] for f in features} == {"house", "tank"}
    assert all(0.7 < f["properties"]["quality"] < 1 for f in features)
    assert run(["predict", scene, "--out", "out.json", *options]) == 0
    assert all("quality" in one for one in json.loads(Path("out.json").read_text())["annotations"])


def test_masks_in_a_folder_of_the_users_stay_and_serve_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = see_bright_shapes(monkeypatch)
    preset = _preset(epochs=1, cache_folder="masks")
    # The weights of a random SAM come of the seed, which both runs share.
    assert _train(preset) == 0
    assert len(list(Path("masks").iterdir())) == len(seen) == 6
    assert _train(preset, "--overwrite") == 0
    assert len(seen) == 6


def test_a_stopped_run_goes_on_as_if_it_had_not(monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    preset = _preset(epochs=1)
    assert _train(preset) == 0
    whole = read_checkpoint("run/last").tensors()
    assert _train(preset, "--overwrite", "--minutes", "0") == 0
    assert Path("run/automatic-masks").is_dir()
    assert _train(preset, "--resume") == 0
    again = read_checkpoint("run/last").tensors()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_everything_with_a_sam_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    _preset()
    assert run(["predict", _scene(), "--everything", "--sam", "", "--native", "--out", "out.geojson"]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "the name of the SAM is empty" in error


def test_a_sam_that_finds_nothing_ends_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(_preset(epochs=9), "--set", "model.automask.min_predicted_iou=1") == 8
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rsp: error")]
    assert "SAM found no mask in 3 training images" in error
    assert "min_predicted_iou" in error


def test_a_random_sam_finds_what_it_finds_without_complaint() -> None:
    # Nothing stands in for SAM here: it fills whole pictures, if anything.
    preset = _preset(epochs=1)
    changes = ("min_predicted_iou=0", "min_stability=0", "stability_offset=1e-3")
    assert _train(preset, *(word for change in changes for word in ("--set", f"model.automask.{change}"))) == 0
    options = ["--model", "run/last", "--native", "--device", "cpu"]
    assert run(["predict", _scene(), "--out", "out.geojson", *options]) == 0
    assert json.loads(Path("out.geojson").read_text())["type"] == "FeatureCollection"


def _small_sam(folder: Path) -> Path:
    source = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}
    write_sam_folder(folder, small_sam_tensors(), SMALL_SAM, source)
    return folder


def test_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    see_bright_shapes(monkeypatch)
    make_set(Path("data"), count=2)
    folder = _small_sam(Path("sam"))
    options = ["--everything", "--sam", str(folder), "--device", "cpu"]
    assert run(["predict", _scene(), "--out", "out.geojson", *options]) == 0
    features = json.loads(Path("out.geojson").read_text())["features"]
    assert {f["properties"]["class"] for f in features} == {"object"}
    # Three objects and the ground.
    assert sorted(f["properties"]["score"] for f in features) == [0.75, 0.9, 0.9, 0.9]
    assert all("quality" not in f["properties"] for f in features)
    assert run(["predict", _scene(), "--out", "few.geojson", "--score", "0.8", *options]) == 0
    assert len(json.loads(Path("few.geojson").read_text())["features"]) == 3
    capsys.readouterr()
    assert run(["predict", _scene(), "--dry-run", *options]) == 0
    assert "window of 64 px" in capsys.readouterr().out


def test_the_sam_of_everything_is_found_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    make_set(Path("data"), count=2)
    scene = _scene()
    plan = ["predict", scene, "--dry-run"]
    assert run([*plan, "--everything"]) != 0
    assert "rsp download-sam" in capsys.readouterr().err
    assert run([*plan, "--everything", "--sam", "huge"]) != 0
    assert "rsp download-sam huge" in capsys.readouterr().err
    assert run([*plan, "--sam", "base"]) == 2
    assert "--sam requires --everything" in capsys.readouterr().err
    # Without base, tiny-vit serves; the bundled model's own SAM is asked for only when it is named.
    _small_sam(sam_folder_for("tiny-vit"))
    assert run(["-v", *plan, "--everything"]) == 0
    assert "the SAM tiny-vit" in capsys.readouterr().err
    _small_sam(sam_folder_for("base"))
    assert run(["-v", *plan, "--everything"]) == 0
    assert "the SAM base" in capsys.readouterr().err


def test_everything_with_the_sam_within_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see_bright_shapes(monkeypatch)
    assert _train(_preset(epochs=1)) == 0
    capsys.readouterr()
    # No SAM is on this machine: that of the model is enough.
    command = ["predict", _scene(), "--everything", "--model", "run/last", "--native", "--device", "cpu"]
    assert run([*command, "--out", "out.geojson"]) == 0
    features = json.loads(Path("out.geojson").read_text())["features"]
    assert {f["properties"]["class"] for f in features} == {"object"}
    assert sorted(f["properties"]["score"] for f in features) == [0.75, 0.9, 0.9, 0.9]
    assert "before training" not in capsys.readouterr().err
    assert run([*command, "--out", "twice.geojson", "--sam", "base"]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "--sam and --model give two different SAMs (give one of the two)" in error


def test_points_are_refused_for_a_sam_that_knows_boxes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    # Before its weights are looked for, and whether or not it would start from them.
    changes = ["--set", "model.automask.prompts=points", "--set", "model.sam_arch=none", "--sam", "tiny-vit"]
    command = ["train", _preset(), "--data", "data", "--out", "run", *changes]
    for more in ([], ["--random-sam"]):
        assert run([*command, *more]) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert "model.automask.prompts = points: tiny-vit was trained with boxes alone" in error
        assert "omit it, or use another SAM" in error
    assert not Path("run").exists()


def test_everything_with_the_real_weights_of_a_folder() -> None:
    make_set(Path("data"), count=2)
    folder = _small_sam(Path("sam"))
    options = ["--everything", "--sam", str(folder), "--device", "cpu"]
    assert run(["predict", _scene(), "--out", "out.geojson", *options]) == 0
    assert all(f["properties"]["score"] >= 0.5 for f in json.loads(Path("out.geojson").read_text())["features"])
