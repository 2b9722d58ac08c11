"""First weights of a ResNet: every library's ResNet takes them, foreign files are safe, what does not fit is listed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.ops import FrozenBatchNorm2d
from transformers import ResNetConfig, ResNetModel

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.models.layers.resnet import ResNet, find_resnet_file, load_resnet_weights

RESNET50 = {"stem_channels": 64, "hidden_sizes": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3), "frozen_norms": True}


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Weights with statistics of their own, without the counters of the norms, as the published files are."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1, generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.9, 1.1, generator=generator)  # type: ignore[union-attr]
                module.weight.uniform_(0.4, 0.5, generator=generator)
    return {key: value for key, value in network.state_dict().items() if "num_batches" not in key}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A ResNet-50 of torchvision and its file."""
    torch.manual_seed(0)
    network = resnet50().eval()
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(_state(network), path)
    return path, network


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    maps = [network.maxpool(network.relu(network.bn1(network.conv1(image))))]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        maps.append(stage(maps[-1]))
    return maps[1:]


def test_ours_and_transformers_answer_as_torchvisions(reference: tuple[Path, nn.Module]) -> None:
    path, network = reference
    ours, theirs = ResNet(**RESNET50).eval(), ResNetModel(ResNetConfig()).eval()  # type: ignore[arg-type]
    load_resnet_weights(ours, path)
    load_resnet_weights(theirs, path)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = _maps(network, image)
        states = theirs(image, output_hidden_states=True).hidden_states[1:]
        for one, other, wanted in zip(ours(image), states, expected, strict=True):
            torch.testing.assert_close(one, wanted, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(other, wanted, atol=1e-4, rtol=1e-4)


def test_a_classifier_of_other_classes_keeps_its_own_and_takes_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(1)
    stored = _state(resnet18())
    save_file(stored, tmp_path / "resnet18.safetensors")
    for network in (resnet18(num_classes=4), resnet18(num_classes=4, norm_layer=FrozenBatchNorm2d)):
        before = network.fc.weight.clone()
        load_resnet_weights(network, tmp_path / "resnet18.safetensors")
        assert torch.equal(network.fc.weight, before)
        for key, value in stored.items():
            assert key.startswith("fc.") or torch.equal(network.state_dict()[key], value)


def test_another_resnet_is_listed(reference: tuple[Path, nn.Module]) -> None:
    path, _ = reference
    narrow = ResNet(stem_channels=8, hidden_sizes=(16, 16, 32, 32), depths=(1, 1, 1, 1), frozen_norms=True)
    with pytest.raises(
        CheckpointError, match=r"unexpected keys: layer1\.1.*conv1\.weight \[64, 3, 7, 7\] instead of \[8,"
    ):
        load_resnet_weights(narrow, path)


@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "bn1.running_var"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, key: str) -> None:
    stored = _state(resnet18())
    stored[key].view(-1)[2] = torch.nan
    save_file(stored, tmp_path / "resnet18.safetensors")
    with pytest.raises(CheckpointError, match=f"resnet18.safetensors: 1 of 100 tensors contain NaN or infinity: {key}"):
        load_resnet_weights(resnet18(), tmp_path / "resnet18.safetensors")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"conv1.weight": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_resnet_weights(resnet18(), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_the_words_for_first_weights(reference: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, _ = reference
    assert find_resnet_file("random", "resnet50") is None
    found = find_resnet_file(str(path), "resnet50")
    assert found is not None
    assert found.facts() == {"file": "resnet50.pth", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(CheckpointError, match="no such file"):
        find_resnet_file(str(tmp_path / "nowhere.pth"), "resnet50")
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not as its name states"):
        find_resnet_file(str(tmp_path / "resnet50-0676ba61.pth"), "resnet50")
