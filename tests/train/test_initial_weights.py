"""The first weights of a run's ResNet, whichever model it stands in."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from rsprompter_cli.config import ModelConfig
from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.models.build import build_model
from rsprompter_cli.train.initial_weights import choose_start, load_start
from tests.make.tiny_models import TINY_TINY_VIT, tiny_model_config, tiny_samcls_config, tiny_samdet_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 with torchvision's names and 1000 classes."""
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18().state_dict(), path)
    return path


def test_a_classifier_of_crops_starts_from_them_too(weights: Path) -> None:
    config = tiny_samcls_config(backbone_weights=str(weights))
    start = choose_start(config, checkpoint=None, random_sam=True)
    assert start.backbone is not None
    model = build_model(start.model, num_classes=2)
    own = model.state_dict()["resnet.fc.weight"].clone()
    load_start(model, start, ("house", "tank"))
    stored = torch.load(weights, weights_only=True)
    for key, value in model.get_submodule("resnet").state_dict().items():
        assert torch.equal(value, own if key == "fc.weight" else stored[key]) or key == "fc.bias"
    assert own.shape[0] == 3


@pytest.mark.parametrize("config", [tiny_model_config(), tiny_samdet_config(), tiny_samcls_config()])
def test_models_without_such_weights_ask_for_no_file(config: ModelConfig) -> None:
    assert choose_start(config, checkpoint=None, random_sam=True).backbone is None


def test_a_random_resnet_that_cannot_learn_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("rsprompter_cli"), "propagate", True)
    choose_start(tiny_samdet_config(frozen_stages=-1, frozen_norms=False), checkpoint=None, random_sam=True)
    assert caplog.text == ""
    choose_start(tiny_samdet_config(), checkpoint=None, random_sam=True)
    assert "--set model.frozen_stages=-1" in caplog.text


def test_imagenet_is_for_a_resnet_50() -> None:
    with pytest.raises(CheckpointError, match=r"model\.backbone has other sizes"):
        choose_start(tiny_samdet_config(backbone_weights="imagenet"), checkpoint=None, random_sam=True)


def test_a_file_of_another_network_is_one_short_line_that_names_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({f"layer{index}.weight": torch.zeros(1) for index in range(700)}, path)
    start = choose_start(tiny_samcls_config(backbone_weights=str(path)), checkpoint=None, random_sam=True)
    with pytest.raises(
        CheckpointError, match=r"100 missing keys: conv1\.weight and 99 more; 700 unexpected keys: "
    ) as caught:
        load_start(build_model(start.model, num_classes=2), start, ("house", "tank"))
    assert "resnet18 (IMAGENET1K_V1, resnet18-f37072fd.pth)" in caught.value.hint
    assert "--backbone-weights random" in caught.value.hint
    assert len(caught.value.message) < 200 + len(str(path))


def test_points_are_refused_for_tiny_vit_in_a_folder() -> None:
    config = tiny_samcls_config(sam="somewhere", sam_arch=TINY_TINY_VIT, automask={"prompts": "points"})
    for random_sam in (True, False):
        with pytest.raises(UsageError, match=r"model\.automask\.prompts = points"):
            choose_start(config, checkpoint=None, random_sam=random_sam)
    with pytest.raises(UsageError, match=r"model\.automask\.prompts = points"):
        build_model(config, num_classes=2)
