"""`rsp train`, `eval` and `predict` with SAMDet, in process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import Config, TrainConfig, dump_config
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.models.build import build_model
from tests.make.coco_sets import CLASSES, make_set, read_document, write_document
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_maskrcnn_config, tiny_meta, tiny_model, tiny_samdet_config

TRAIN = TrainConfig(epochs=1, batch_size=2, warmup_steps=2, workers=0, precision="fp32")


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny preset file and its data in the working folder."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        make_set(tmp_path / "data", split=split)
    config = Config(name="tiny", model=tiny_samdet_config(), train=TRAIN)
    Path("tiny.toml").write_text(dump_config(config), encoding="utf-8")
    return "tiny.toml"


def _train(preset: str, *more: str) -> int:
    return run(["train", preset, "--data", "data", "--device", "cpu", "--random-sam", *more])


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rsp: error: ")
    return error


def test_trained_evaluated_and_predicted_with(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resnet = build_model(tiny_samdet_config(), num_classes=2).get_submodule("resnet")
    torch.save(resnet.state_dict(), "resnet.pth")
    assert _train(preset, "--backbone-weights", "resnet.pth", "--out", "run") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().err.splitlines() if line}
    assert rows["encoder"][0] == rows["mask_decoder"][0] == "0"
    checkpoint = read_checkpoint("run/last")
    digest = hashlib.sha256(Path("resnet.pth").read_bytes()).hexdigest()
    assert checkpoint.meta.provenance["backbone"] == {"file": "resnet.pth", "sha256": digest}
    stored = checkpoint.tensors()
    # The stem is frozen: what was given is what is kept. The last stage has moved.
    assert torch.equal(stored["resnet.conv1.weight"], resnet.state_dict()["conv1.weight"])
    assert not torch.equal(stored["resnet.layer4.0.conv1.weight"], resnet.state_dict()["layer4.0.conv1.weight"])

    assert run(["eval", "run/last", "--data", "data", "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detections"] > 0
    command = ["eval", "run/last", "--data", "data", "--split", "val", "--oracle", "--save-detections", "o.json"]
    assert run([*command, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["bbox"]["AP"] == pytest.approx(1.0)
    assert tree["segm"]["AP"] < 1.0
    found = json.loads(Path("o.json").read_text())
    assert len(found) == tree["detections"] == 9
    assert {one["score"] for one in found} == {1.0}
    assert all(0 <= one["quality"] <= 1 for one in found)

    scene = write_scene(tmp_path / "scene.tif", paint(70, 90, {"red": [(10, 10, 50, 40)]}))
    options = ["--model", "run/last", "--native", "--score", "0", "--json"]
    assert run(["predict", str(scene), "--out", "out.geojson", *options]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == len(
        json.loads(Path("out.geojson").read_text())["features"]
    )


def test_a_run_goes_on_without_the_file_it_began_from(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    resnet = build_model(tiny_samdet_config(), num_classes=2).get_submodule("resnet")
    torch.save(resnet.state_dict(), "resnet.pth")
    assert _train(preset, "--backbone-weights", "resnet.pth", "--out", "run", "--minutes", "0") == 0
    Path("resnet.pth").unlink()
    capsys.readouterr()
    assert run(["train", "--resume", "--out", "run", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True


def test_an_oracle_is_for_samdet_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_set(tmp_path / "data", split="test", count=2)
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint(tmp_path / "model", tiny_model(num_classes=2).state_dict(), tiny_config(), meta)
    assert run(["eval", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--oracle"]) == 2
    assert "--oracle: the model is rsprompter-anchor, but only samdet" in _one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--backbone-weights", "nowhere.pth"], 4, "nowhere.pth: no such file"),
        (["--backbone-weights", "imagenet"], 4, "model.backbone has other sizes"),
        (["--backbone-weights", "resnet18.pth"], 4, "the weights do not fit the model"),
        (["--backbone-weights", "resnet18.pth"], 4, "a ResNet with the sizes in model.backbone"),
        (["--backbone-weights", "random", "--resume"], 2, "--resume and --backbone-weights are mutually exclusive"),
        (["--backbone-weights", "random", "--load-from", "run"], 2, "--load-from loads all weights"),
        (["--set", "model.frozen_stages=5"], 2, "model.frozen_stages"),
    ],
)
def test_errors_are_one_line_with_their_code(
    preset: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), "resnet18.pth")
    more = [] if "--load-from" in arguments else ["--random-sam"]
    assert run(["train", preset, "--data", "data", "--out", "r", *more, *arguments]) == code
    assert words in _one_line(capsys)
    assert not Path("r").exists()


def test_models_without_a_resnet_have_no_weights_for_it(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("anchor.toml").write_text(dump_config(tiny_config()), encoding="utf-8")
    assert _train("anchor.toml", "--backbone-weights", "random") == 2
    error = _one_line(capsys)
    assert "--backbone-weights: a rsprompter-anchor has no ResNet" in error
    assert "omit it, or use a preset of samdet, samcls, maskrcnn, mask2former" in error


@pytest.mark.parametrize("option", [["--sam", "base"], ["--random-sam"]])
def test_models_without_a_sam_take_none(preset: str, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    Path("plain.toml").write_text(dump_config(Config(name="tiny", model=tiny_maskrcnn_config())), encoding="utf-8")
    assert run(["train", "plain.toml", "--data", "data", *option]) == 2
    error = _one_line(capsys)
    assert f"{option[0]}: a maskrcnn has no SAM (omit it, or use a preset of rsprompter-anchor, " in error


def test_true_boxes_are_those_of_the_file(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = read_document(Path("data"), "val")
    for annotation in document["annotations"]:
        x, y = annotation["bbox"][0] + 0.4, annotation["bbox"][1] + 0.4
        annotation |= {"bbox": [x, y, 4.5, 3.5], "area": 15.75}
        annotation["segmentation"] = [[x, y, x + 4.5, y, x + 4.5, y + 3.5, x, y + 3.5]]
    # A box is one, though no pixel lies in it.
    x, y = document["annotations"][0]["bbox"][:2]
    document["annotations"][0] |= {"bbox": [x, y, 0.1, 0.1], "area": 0.01}
    document["annotations"][0]["segmentation"] = [[x, y, x + 0.1, y, x + 0.1, y + 0.1, x, y + 0.1]]
    write_document(Path("data"), document, "val")
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    model = build_model(tiny_samdet_config(), num_classes=2)
    write_checkpoint("model", model.state_dict(), Config(name="tiny", model=tiny_samdet_config()), meta)
    assert run(["eval", "model", "--data", "data", "--split", "val", "--oracle", "--batch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bbox"]["AP"] == pytest.approx(1.0)
