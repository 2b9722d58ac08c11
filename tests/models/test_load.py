"""Checkpoint folder to model: bit-equal, strict, with errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files import checkpoint
from rsprompter_cli.io.model_files.checkpoint import WEIGHTS_FILE, write_checkpoint
from rsprompter_cli.models import load
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.load import load_model
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model, tiny_model_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    write_checkpoint(path, tiny_model().state_dict(), tiny_config(), tiny_meta())
    return path


@pytest.mark.parametrize("encoder", ["frozen", "lora"])
def test_saved_and_loaded_answers_bit_for_bit(tmp_path: Path, encoder: str) -> None:
    model = tiny_model(encoder=encoder, seed=4)
    write_checkpoint(tmp_path / "model", model.state_dict(), tiny_config(encoder=encoder), tiny_meta())
    loaded = load_model(tmp_path / "model")
    assert not loaded.model.training
    assert loaded.meta.class_names == ("class0", "class1", "class2")
    assert loaded.config == tiny_config(encoder=encoder)
    image = torch.rand(3, 50, 64) * 255
    one, other = model([image])[0], loaded.model([image])[0]
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.masks.values, other.masks.values)


def test_half_precision_is_stored_only(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    save_file(halves, folder / WEIGHTS_FILE)
    loaded = load_model(folder).model
    assert {one.dtype for one in loaded.parameters()} == {torch.float32}
    key = "rpn.conv.weight"
    assert torch.equal(loaded.state_dict()[key], halves[key].float())


def test_every_difference_is_listed_before_anything_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    for key in [key for key in tensors if key.startswith("prompt_head.")]:
        del tensors[key]
    tensors["rpn.conv.weight"] = torch.zeros(16, 16, 1, 1)
    tensors["backbone.weight"] = torch.zeros(1)
    save_file(tensors, folder / WEIGHTS_FILE)
    devices: list[str] = []
    original = load.build_model

    def spy(*args: object, **kwargs: object) -> torch.nn.Module:
        model = original(*args, **kwargs)  # type: ignore[arg-type]
        devices.append(next(model.parameters()).device.type)
        return model

    monkeypatch.setattr(load, "build_model", spy)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = caught.value.message
    assert str(folder / WEIGHTS_FILE) in message
    assert "13 missing keys: prompt_head." in message
    assert "and 9 more" in message
    assert "1 unexpected key: backbone.weight" in message
    assert "1 shape mismatch: rpn.conv.weight [16, 16, 1, 1] instead of [16, 16, 3, 3]" in message
    assert devices == ["meta"]


def test_a_wrong_class_count_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", tiny_model(num_classes=10).state_dict(), tiny_config(), tiny_meta(num_classes=3))
    with pytest.raises(CheckpointError, match=r"contains a model of 10 classes, meta\.json lists 3"):
        load_model(tmp_path / "m")


def test_damaged_weights_are_named(folder: Path) -> None:
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_model(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_model(tmp_path / "nowhere")


def test_the_bundled_model_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED_MODEL", folder)
    assert load_model().meta.class_names == ("class0", "class1", "class2")
    assert load_model("bundled").meta.class_names == ("class0", "class1", "class2")
    with pytest.raises(CheckpointError, match=r"\./bundled: no such checkpoint folder"):
        load_model(Path("bundled"))


def test_building_leaves_no_question_open() -> None:
    complete = complete_config(tiny_model_config(sam="base", sam_arch=None))
    assert complete.image_size == 1024
    assert complete.sam_arch is not None
    assert complete_config(complete) == complete
    assert complete_config(tiny_model_config(sam="tiny-vit", sam_arch=None)).image_size == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 100}, "model.image_size = 100"),
        ({"neck": {"out_channels": 18}}, "model.neck.out_channels = 18"),
        ({"neck": {"out_channels": 16, "layers": [1, 9]}}, "model.neck.layers = "),
        ({"sam": "basis", "sam_arch": None}, "no SAM named 'basis'"),
    ],
)
def test_sizes_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        build_model(tiny_model_config(**changes), num_classes=2)


def test_default_layers_are_every_other_one() -> None:
    assert tiny_model().neck.aggregator.layers == (1, 3)  # type: ignore[union-attr]
    with torch.device("meta"):
        for name, expected in (("base", 6), ("huge", 16)):
            model = build_model(tiny_model_config(sam=name, sam_arch=None), num_classes=1)
            assert model.neck.aggregator.layers == tuple(range(1, 2 * expected, 2))  # type: ignore[union-attr]


def test_a_model_needs_a_class() -> None:
    with pytest.raises(UsageError, match="at least one class"):
        build_model(tiny_model_config(), num_classes=0)
