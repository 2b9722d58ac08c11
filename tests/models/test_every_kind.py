"""What every kind of model keeps to: its detections, nothing found, nothing to find, saved and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from rsprompter_cli.cli.app import run
from rsprompter_cli.config import AutomaskConfig, Config, ModelConfig, SamModelConfig, TrainConfig, dump_config
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.masks import inflate, paste
from rsprompter_cli.models.state_dict import CLASS_ROWS
from rsprompter_cli.structures import Batch, Detections, LowResMasks, MaskPatches
from rsprompter_cli.train.distributed.ddp import Engine
from rsprompter_cli.train.setup import build_optimizer
from tests.make.boxed import boxed_target, noise_images
from tests.make.coco_sets import CLASSES, make_set
from tests.make.narrow_maskrcnn import narrow_maskrcnn
from tests.make.segmenters import see_bright_shapes
from tests.make.tiny_models import TINY_CONFIGS, build_seeded, tiny_meta

ALWAYS_ANSWER = {"rsprompter-query", "samseg-mask2former", "mask2former"}
"""Each of their queries is an answer, of whatever score."""
RATES_ITS_MASKS = {"samdet", "samcls"}
"""Their detections have SAM's own estimate beside the score."""


@pytest.fixture(params=list(TINY_CONFIGS))
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    narrow_maskrcnn(monkeypatch)
    return str(request.param)


def test_these_are_all_kinds() -> None:
    union = get_args(ModelConfig)[0]
    assert set(TINY_CONFIGS) == set(CLASS_ROWS) == {part.model_fields["kind"].default for part in get_args(union)}


def _silenced(kind: str) -> tuple[ModelConfig, nn.Module]:
    """A model of two classes that takes everything for none of them."""
    # SAM-cls asks for the class of the masks it has: without masks it finds nothing.
    changes = {"automask": AutomaskConfig(points_per_side=2, min_predicted_iou=1.0)} if kind == "samcls" else {}
    config = TINY_CONFIGS[kind](**changes)
    model = build_seeded(config, num_classes=2)
    rows = CLASS_ROWS[kind]
    with torch.no_grad():
        model.get_parameter(rows).zero_()
        bias = model.get_parameter(rows.replace("weight", "bias")).zero_()
        bias[0 if kind == "maskrcnn" else -1] = 50.0
    return config, model


def test_nothing_found_is_an_empty_result(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "data", split="test", count=2)
    config, model = _silenced(kind)
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint("model", model.state_dict(), Config(name="tiny", model=config), meta)
    extras = ["--save-detections", "found.json", "--pr-curve", "pr.png", "--show-dir", "show", "--batch", "2"]
    assert run(["eval", "model", "--data", "data", *extras, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["segm"]["AP"] == tree["bbox"]["AP"] == 0
    found = json.loads(Path("found.json").read_text())
    assert tree["detections"] == len(found) == (16 if kind in ALWAYS_ANSWER else 0)
    assert all(one["score"] < 1e-12 for one in found)
    command = ["predict", "data/images/test_0.png", "--model", "model", "--pixel-coords", "--json"]
    assert run([*command, "--out", "found.geojson"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 0
    assert json.loads(Path("found.geojson").read_text())["features"] == []


def _images() -> list[Tensor]:
    """Two of dim noise, the first with a bright square."""
    first, second = (image // 2 for image in noise_images((64, 64), (40, 64)))
    first[:, 8:40, 8:40] = 240
    return [first, second]


def test_a_batch_without_ground_truth_trains_and_training_goes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    model = build_seeded(TINY_CONFIGS[kind]()).train()
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05)
    engine = Engine(model, optimizer, device=torch.device("cpu"), dtype=torch.float32, clip_grad=None)
    nothing = [boxed_target(64, 64, []), boxed_target(40, 64, [])]
    objects = [boxed_target(64, 64, [(8, 8, 40, 40)]), boxed_target(40, 64, [])]
    for step, targets in enumerate((nothing, nothing, objects, nothing), start=1):
        losses = engine.forward(Batch(_images(), targets, [1, 2]))
        assert all(bool(torch.isfinite(value)) for value in losses.values()), (step, losses)
        engine.backward(losses, weight=1.0)
        assert engine.step(1.0) > 0
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_it_trains_evaluates_and_predicts_from_the_command_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see_bright_shapes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    # Of each split's two pictures the second has no object, and is a whole batch.
    for split in ("train", "val"):
        make_set(tmp_path / "data", split=split, count=2)
    train = TrainConfig(epochs=1, batch_size=1, warmup_steps=2, workers=0, precision="fp32", clip_grad=0.1)
    config = Config(name="tiny", model=TINY_CONFIGS[kind](), train=train)
    Path("tiny.toml").write_text(dump_config(config), encoding="utf-8")
    random = ["--random-sam"] if isinstance(config.model, SamModelConfig) else []
    assert run(["train", "tiny.toml", "--data", "data", "--device", "cpu", "--out", "run", "--json", *random]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["steps"], told["finished"]) == (2, True)
    assert "segm_AP50" in told["metrics"]
    # transformers warns of ResNets below Mask2Former.
    assert "not a supported model" not in captured.err
    stored = read_checkpoint("run/best")
    assert stored.config.model.kind == kind
    assert all(bool(torch.isfinite(value).all()) for value in stored.tensors().values())
    assert run(["eval", "run/best", "--data", "data", "--split", "val"]) == 0
    assert "AP50" in capsys.readouterr().out
    command = ["predict", "data/images/val_0.png", "--model", "run/best", "--out", "found.geojson", "--score", "0"]
    assert run([*command, "--pixel-coords"]) == 0
    assert json.loads(Path("found.geojson").read_text())["type"] == "FeatureCollection"


def _pixels(found: Detections) -> Tensor:
    if isinstance(found.masks, LowResMasks):
        return inflate(found.masks)
    return paste(found.masks) if isinstance(found.masks, MaskPatches) else found.masks


def test_detections_keep_the_contract(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    model = build_seeded(TINY_CONFIGS[kind]())
    # SAM-cls has something to see in bright pictures only.
    images = noise_images((100, 40), (64, 64), (31, 200)) if kind != "samcls" else _images()
    for image, found in zip(images, model(images), strict=True):
        assert len(found) > 0
        assert found.boxes.shape == (len(found), 4)
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert found.labels.dtype == torch.int64
        assert set(found.labels.tolist()) <= {0, 1, 2}
        assert torch.all(found.scores.diff() <= 0)
        assert 0 <= float(found.scores.min()) <= float(found.scores.max()) <= 1
        assert _pixels(found).shape == (len(found), *image.shape[1:])
        assert (found.quality is not None) == (kind in RATES_ITS_MASKS)
        if found.quality is not None:
            assert found.quality.shape == found.scores.shape
            assert 0 <= float(found.quality.min()) <= float(found.quality.max()) <= 1


def test_a_saved_model_answers_bit_for_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    config = TINY_CONFIGS[kind]()
    model = build_seeded(config)
    write_checkpoint(tmp_path / "model", model.state_dict(), Config(name="tiny", model=config), tiny_meta())
    again = load_model(tmp_path / "model").model
    for one, other in zip(model(_images()), again(_images()), strict=True):
        assert len(one) > 0
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert torch.equal(_pixels(one), _pixels(other))
