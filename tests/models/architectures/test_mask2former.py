"""The plain Mask2Former baseline behind the contract of the other models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck, ResNet

from rsprompter_cli.config import (
    Mask2FormerConfig,
    SamsegMask2FormerConfig,
    load_config,
)
from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.architectures.mask2former import Mask2Former
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.image_transform import make_meta
from rsprompter_cli.models.layers.resnet import load_resnet_weights, torchvision_name
from rsprompter_cli.models.state_dict import CLASS_ROWS
from rsprompter_cli.structures import Detections, LowResMasks, Target
from tests.make.boxed import boxed_target, noise_images
from tests.make.tiny_models import build_seeded, tiny_plain_mask2former_config

LOSSES = {"loss_cls", "loss_mask", "loss_dice"}
NAMES = LOSSES | {f"d{index}.{name}" for index in range(3) for name in LOSSES}
"""Of three layers, and of what the queries say before the first."""


def _build(**changes: Any) -> Mask2Former:
    model = build_seeded(tiny_plain_mask2former_config(**changes))
    assert isinstance(model, Mask2Former)
    return model


def _predict(model: Mask2Former, images: list[Tensor]) -> list[Detections]:
    results = model(images)
    assert isinstance(results, list)
    return results


def _losses(model: Mask2Former, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
    losses = model.train()(images, targets)
    assert isinstance(losses, dict)
    return losses


def test_it_is_the_librarys_model_with_a_resnet_that_takes_torchvisions_files() -> None:
    with torch.device("meta"):
        model = build_model(Mask2FormerConfig(), num_classes=10)
        files = resnet50(weights=None).state_dict()
    assert isinstance(model, Mask2Former)
    # The figure of Mask2Former's paper for its ResNet-50.
    assert sum(one.numel() for one in model.parameters()) == pytest.approx(44e6, rel=0.03)
    assert tuple(model.get_parameter(CLASS_ROWS["mask2former"]).shape) == (11, 256)
    ours = {torchvision_name(name): value.shape for name, value in model.resnet.state_dict().items()}
    assert ours == {name: value.shape for name, value in files.items() if not name.startswith("fc.")}
    assert len(model.network.get_submodule("model.transformer_module.decoder.layers")._modules) == 9
    assert model.max_detections == 100


def test_the_resnet_computes_what_torchvisions_computes(tmp_path: Path) -> None:
    theirs = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    model = _build(backbone={"depths": (1, 1, 1, 1)})
    save_file(theirs.state_dict(), tmp_path / "r.safetensors")
    load_resnet_weights(model.get_submodule("resnet"), tmp_path / "r.safetensors")
    batch = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = model.features(batch)
        expected = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(batch)))))
        assert torch.allclose(maps[0], expected, atol=1e-4, rtol=1e-4)
        expected = theirs.layer4(theirs.layer3(theirs.layer2(expected)))
        assert torch.allclose(maps[3], expected, atol=1e-3, rtol=1e-3)


def test_a_file_of_resnet_weights_fills_the_resnet_alone(tmp_path: Path) -> None:
    model = _build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ones = {torchvision_name(name): torch.ones_like(value) for name, value in model.resnet.state_dict().items()}
    save_file(ones, tmp_path / "r.safetensors")
    load_resnet_weights(model.get_submodule("resnet"), tmp_path / "r.safetensors")
    changed = {name for name, value in before.items() if not torch.equal(value, model.state_dict()[name])}
    assert changed
    assert all(name.startswith("network.model.pixel_level_module.encoder.") for name in changed)


@pytest.mark.parametrize(
    ("stages", "frozen"), [(-1, set()), (0, {"conv1", "bn1"}), (2, {"conv1", "bn1", "layer1", "layer2"})]
)
def test_frozen_stages_do_not_train(stages: int, frozen: set[str]) -> None:
    model = _build(frozen_stages=stages)
    named = [(torchvision_name(name), one) for name, one in model.resnet.named_parameters()]
    assert {name.split(".")[0] for name, one in named if not one.requires_grad} == frozen
    _losses(model, noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])["loss_mask"].backward()
    assert all((one.grad is None) == (name.split(".")[0] in frozen) for name, one in named)
    others = [
        one for name, one in model.named_parameters() if not name.startswith("network.model.pixel_level_module.e")
    ]
    assert all(one.requires_grad for one in others)


@pytest.mark.parametrize("frozen_norms", [True, False])
def test_frozen_norms_keep_their_statistics(frozen_norms: bool) -> None:
    model = _build(frozen_stages=1, frozen_norms=frozen_norms)
    before = {name: value.clone() for name, value in model.resnet.state_dict().items() if "running" in name}
    _losses(model, noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    after = model.resnet.state_dict()
    moved = {
        torchvision_name(name).split(".")[0] for name, value in before.items() if not torch.equal(after[name], value)
    }
    assert moved == (set() if frozen_norms else {"layer2", "layer3", "layer4"})


@pytest.mark.parametrize("objects", [[(4, 5, 30, 30), (10, 2, 29, 19)], []])
def test_training_is_finite_with_and_without_objects(objects: list[tuple[int, int, int, int]]) -> None:
    model = _build(frozen_stages=-1)
    losses = _losses(
        model, noise_images((50, 64), (20, 30)), [boxed_target(50, 64, objects, 2), boxed_target(20, 30, [])]
    )
    assert set(losses) == NAMES
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in losses.values())
    assert (float(losses["loss_mask"].detach()) > 0) == bool(objects)
    torch.stack(list(losses.values())).sum().backward()
    assert all(one.grad is not None and bool(torch.isfinite(one.grad).all()) for one in model.parameters())


def test_losses_are_the_librarys_own_on_the_padded_square() -> None:
    model = _build().train()
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2))
    target = boxed_target(40, 50, [(4, 5, 30, 30), (20, 10, 49, 39)], 1)
    square = torch.zeros(2, 64, 64)
    square[:, :40, :50] = target.masks.float()
    torch.manual_seed(3)
    losses = model.losses(image[None], [(40, 50)], [target])
    torch.manual_seed(3)
    expected = model.network(pixel_values=image[None], mask_labels=[square], class_labels=[target.labels]).loss
    assert torch.allclose(torch.stack(list(losses.values())).sum(), expected, rtol=1e-5)


def test_more_objects_than_queries() -> None:
    boxes = [(4 * index, 4, 4 * index + 3, 40) for index in range(12)]
    losses = _losses(_build(), noise_images((64, 64)), [boxed_target(64, 64, boxes)])
    assert all(bool(torch.isfinite(value)) for value in losses.values())


def test_a_few_steps_find_the_object() -> None:
    model = _build(frozen_stages=-1).train()
    image = torch.full((3, 64, 64), 30, dtype=torch.uint8)
    image[:, 10:40, 20:50] = 220
    target = boxed_target(64, 64, [(20, 10, 50, 40)], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(20):
            losses = _losses(model, [image], [target])
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
    found = _predict(model.eval(), [image])[0]
    assert int(found.labels[0]) == 2
    assert float((found.boxes[0] - target.boxes[0]).abs().max()) < 6


def test_every_query_is_a_detection() -> None:
    model = _build()
    images = noise_images((100, 40), (64, 64), (31, 200))
    for image, found in zip(images, _predict(model, images), strict=True):
        height, width = image.shape[1:]
        assert len(found) == 8
        assert float(found.boxes[:, 0::2].max()) <= width
        assert float(found.boxes[:, 1::2].max()) <= height
        assert isinstance(found.masks, LowResMasks)
        assert (tuple(found.masks.values.shape), found.masks.values.dtype) == ((8, 16, 16), torch.float32)
        assert (found.masks.threshold, found.masks.frame.image) == (0.0, (height, width))


def test_empty_masks_score_nothing() -> None:
    model = _build()
    last = {
        "model.pixel_level_module.decoder.mask_projection": -1.0,
        "model.transformer_module.decoder.mask_predictor.mask_embedder.2.0": 1.0,
    }
    with torch.no_grad():
        for name, value in last.items():
            model.network.get_parameter(f"{name}.weight").zero_()
            model.network.get_parameter(f"{name}.bias").fill_(value)
    found = _predict(model, noise_images((64, 64)))[0]
    assert float(found.scores.max()) == 0
    assert float(found.boxes.abs().max()) == 0


def test_forward_equals_its_parts() -> None:
    model = _build()
    image = torch.rand(3, 64, 64) * 255
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    direct = model.detect(((image - mean) / std)[None], [make_meta((64, 64), (1.0, 1.0), 64)])[0]
    assert torch.equal(_predict(model, [image])[0].scores, direct.scores)


def test_bfloat16_decodes_pixels_and_compares_masks_in_float32() -> None:
    model = _build()
    seen: list[torch.dtype] = []
    offsets = model.network.get_submodule(
        "model.pixel_level_module.decoder.encoder.layers.0.self_attn.sampling_offsets"
    )
    offsets.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _predict(model, noise_images((64, 64)))[0]
        losses = _losses(model, noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    assert seen == [torch.float32] * 2
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value)) for value in losses.values())
    assert found.scores.dtype == torch.float32
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in model.parameters() if one.grad is not None)


def test_training_goes_on_after_a_prediction_in_inference_mode() -> None:
    model = _build()
    with torch.inference_mode():
        _predict(model, noise_images((64, 64)))
    losses = _losses(model, noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    torch.stack(list(losses.values())).sum().backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


@pytest.mark.parametrize("changes", [{"channels": 48}, {"points": 2}, {"norm_groups": 16}])
def test_sizes_that_the_library_fixes_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Mask2FormerConfig.model_validate({"query": changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": {"heads": 3}}, "multiple of model.query.heads = 3"),
        ({"backbone": {"hidden_sizes": (16, 18, 32, 32)}}, "do not describe a ResNet"),
        ({"image_size": 100}, "multiple of 32"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_model(Mask2FormerConfig.model_validate(changes), num_classes=3)


@pytest.mark.parametrize("data", ["whu", "nwpu", "ssdd"])
def test_presets_compare_with_the_model_on_sam(data: str) -> None:
    ours, theirs = load_config(f"mask2former-{data}"), load_config(f"samseg-mask2former-{data}")
    assert isinstance(ours.model, Mask2FormerConfig)
    assert (ours.train, ours.data) == (theirs.train, theirs.data)
    assert isinstance(theirs.model, SamsegMask2FormerConfig)
    assert ours.model.query.queries == theirs.model.query.queries
