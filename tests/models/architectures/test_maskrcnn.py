"""The plain Mask R-CNN baseline behind the contract of the other models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet50

from rsprompter_cli.config import MaskRcnnConfig
from rsprompter_cli.models.architectures.maskrcnn import MaskRcnn
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.image_transform import make_meta
from rsprompter_cli.models.layers.resnet import load_resnet_weights
from rsprompter_cli.models.masks import paste
from rsprompter_cli.structures import Detections, MaskPatches
from tests.make.boxed import boxed_target, noise_images
from tests.make.narrow_maskrcnn import narrow_maskrcnn
from tests.make.tiny_models import build_seeded, tiny_maskrcnn_config

NAMES = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MaskRcnn]:
    """Builds the baseline narrow, with random weights of a fixed seed."""
    narrow_maskrcnn(monkeypatch)

    def make(**changes: Any) -> MaskRcnn:
        model = build_seeded(tiny_maskrcnn_config(**{"score_threshold": 0.0} | changes))
        assert isinstance(model, MaskRcnn)
        return model

    return make


def _predict(model: MaskRcnn, images: list[Tensor]) -> list[Detections]:
    results = model(images)
    assert isinstance(results, list)
    return results


def test_it_is_torchvisions_model_with_a_resnet_that_takes_its_files() -> None:
    with torch.device("meta"):
        model = build_model(MaskRcnnConfig(), num_classes=10)
        files = resnet50(weights=None).state_dict()
    assert isinstance(model, MaskRcnn)
    assert sum(one.numel() for one in model.parameters()) == pytest.approx(46e6, rel=0.03)
    assert tuple(model.roi_heads.box_predictor.cls_score.weight.shape) == (11, 1024)
    ours = {name: value.shape for name, value in model.resnet.state_dict().items()}
    assert ours == {name: value.shape for name, value in files.items() if not name.startswith("fc.")}
    options = (model.roi_heads.fg_bg_sampler.batch_size_per_image, model.roi_heads.score_thresh)
    assert (*options, model.roi_heads.detections_per_img) == (512, 0.05, 100)


def test_a_file_of_resnet_weights_fills_the_resnet_alone(build: Callable[..., MaskRcnn], tmp_path: Path) -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(
        {name: torch.ones_like(value) for name, value in model.resnet.state_dict().items()}, tmp_path / "r.safetensors"
    )
    load_resnet_weights(model.get_submodule("resnet"), tmp_path / "r.safetensors")
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[1] for name in changed} == {"body"}
    assert bool((after["backbone.body.layer4.0.conv2.weight"] == 1).all())


@pytest.mark.parametrize(
    ("stages", "frozen"), [(-1, set()), (0, {"conv1", "bn1"}), (2, {"conv1", "bn1", "layer1", "layer2"})]
)
def test_frozen_stages_do_not_train(build: Callable[..., MaskRcnn], stages: int, frozen: set[str]) -> None:
    model = build(frozen_stages=stages)
    still = {name.split(".")[0] for name, one in model.resnet.named_parameters() if not one.requires_grad}
    assert still == frozen
    assert all(one.requires_grad for name, one in model.named_parameters() if not name.startswith("backbone.body."))


@pytest.mark.parametrize("frozen_norms", [True, False])
def test_frozen_norms_keep_their_statistics(build: Callable[..., MaskRcnn], frozen_norms: bool) -> None:
    model = build(frozen_stages=1, frozen_norms=frozen_norms).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    moved = {name for name, value in before.items() if not torch.equal(model.state_dict()[name], value)}
    in_resnet = {name.split(".")[2] for name in moved if name.startswith("backbone.body.")}
    assert in_resnet == (set() if frozen_norms else {"layer2", "layer3", "layer4"})
    assert any(name.startswith("backbone.fpn.") for name in moved)
    assert any(name.startswith("roi_heads.mask_head.") for name in moved)


@pytest.mark.parametrize("objects", [[(4, 5, 30, 30), (10, 2, 29, 19)], []])
def test_training_is_finite_with_and_without_objects(
    build: Callable[..., MaskRcnn], objects: list[tuple[int, int, int, int]]
) -> None:
    model = build().train()
    losses = model(noise_images((50, 64), (20, 30)), [boxed_target(50, 64, objects, 2), boxed_target(20, 30, [])])
    assert isinstance(losses, dict)
    assert set(losses) == NAMES
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in losses.values())
    assert (float(losses["loss_mask"].detach()) > 0) == bool(objects)
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in model.parameters() if one.grad is not None)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert all(one.grad is not None for one in model.roi_heads.mask_head.parameters())


def test_the_mask_head_trains_again_after_a_batch_without_objects(build: Callable[..., MaskRcnn]) -> None:
    model = build().train()
    for objects, training in (([], False), ([(4, 5, 30, 30)], True)):
        model(noise_images((64, 64)), [boxed_target(64, 64, objects)])
        assert model.roi_heads.mask_head.training == training


def test_a_small_picture_first_does_not_change_later_answers(build: Callable[..., MaskRcnn]) -> None:
    images = noise_images((64, 64), (64, 16))
    fresh = _predict(build(), images[:1])[0]
    model = build()
    _predict(model, images[1:])
    later = _predict(model, images[:1])[0]
    assert torch.equal(later.boxes, fresh.boxes)
    assert model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_boxes_end_where_the_picture_does(build: Callable[..., MaskRcnn]) -> None:
    model = build()
    images = noise_images((100, 40), (64, 64), (31, 200))
    for image, found in zip(images, _predict(model, images), strict=True):
        height, width = image.shape[1:]
        assert 0 < len(found) <= 100
        assert float(found.boxes[:, 0::2].max()) <= width + 1e-3
        assert float(found.boxes[:, 1::2].max()) <= height + 1e-3


def test_labels_count_from_zero_without_the_background(build: Callable[..., MaskRcnn]) -> None:
    model = build(score_threshold=0.5)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.zero_()
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))
    assert set(_predict(model, noise_images((64, 64)))[0].labels.tolist()) == {2}


def test_zero_detections(build: Callable[..., MaskRcnn]) -> None:
    found = _predict(build(score_threshold=0.999), noise_images((100, 40)))[0]
    assert found.boxes.shape == (0, 4)
    assert isinstance(found.masks, MaskPatches)
    assert paste(found.masks).shape == (0, 100, 40)


def test_forward_equals_its_parts(build: Callable[..., MaskRcnn]) -> None:
    model = build()
    image = torch.rand(3, 64, 64) * 255
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    direct = model.detect(((image - mean) / std)[None], [make_meta((64, 64), (1.0, 1.0), 64)])[0]
    assert torch.equal(_predict(model, [image])[0].boxes, direct.boxes)


def test_bfloat16_keeps_boxes_and_losses_in_float32(build: Callable[..., MaskRcnn]) -> None:
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _predict(model, noise_images((64, 64)))[0]
        losses = model.train()(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    assert isinstance(losses, dict)
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value)) for value in losses.values())
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    # Numbers of bfloat16 between 16 and 64 are whole multiples of an eighth.
    assert bool(((found.boxes * 8) % 1 != 0).any())
