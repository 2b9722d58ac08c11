"""SAM-seg Mask R-CNN on fabricated input: what the recorded pack cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.models.architectures.samseg_maskrcnn import SamsegMaskRcnn
from rsprompter_cli.models.image_transform import make_meta
from rsprompter_cli.models.layers.roi import BoxDetections, RoiSamples
from rsprompter_cli.models.layers.rpn import Proposals
from rsprompter_cli.models.masks import paste
from rsprompter_cli.structures import Detections, MaskPatches, Target
from tests.make.boxed import boxed_target, no_proposals, noise_images
from tests.make.tiny_models import build_seeded, tiny_samseg_maskrcnn_config

NAMES = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"}


def _model(**changes: Any) -> SamsegMaskRcnn:
    model = build_seeded(tiny_samseg_maskrcnn_config(**changes))
    assert isinstance(model, SamsegMaskRcnn)
    return model


def _train(model: SamsegMaskRcnn, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
    """Losses of a training step, carried backward; all is checked to be finite."""
    losses = model.train()(images, targets)
    assert isinstance(losses, dict)
    assert set(losses) == NAMES
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return losses


def _predict(model: SamsegMaskRcnn, images: list[Tensor]) -> list[Detections]:
    results = model(images)
    assert isinstance(results, list)
    return results


def _mask_of(found: Detections) -> Tensor:
    assert isinstance(found.masks, MaskPatches)
    return paste(found.masks)


@pytest.mark.parametrize("encoder", ["frozen", "lora", "full"])
def test_what_is_stated_trains(encoder: str) -> None:
    model = _model(encoder=encoder)
    targets = [boxed_target(50, 64, [(4, 5, 30, 30), (20, 20, 60, 48)], 2), boxed_target(64, 30, [(1, 1, 12, 60)], 1)]
    losses = _train(model, noise_images((50, 64), (64, 30)), targets)
    assert all(float(value.detach()) > 0 for value in losses.values())
    moved = {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and float(parameter.grad.abs().max()) > 0
    }
    assert moved == {"neck", "rpn", "box_head", "mask_head"} | (set() if encoder == "frozen" else {"encoder"})
    assert model.encoder.training == (encoder != "frozen")


def test_a_batch_without_any_object_trains() -> None:
    model = _model(encoder="full")
    losses = _train(model, noise_images((64, 64), (10, 64)), [boxed_target(64, 64, []), boxed_target(10, 64, [])])
    assert float(losses["loss_mask"].detach()) == float(losses["loss_bbox"].detach()) == 0
    assert all(parameter.grad is not None for parameter in model.mask_head.parameters())


def test_one_image_with_and_one_without_objects() -> None:
    targets = [boxed_target(64, 64, []), boxed_target(64, 64, [(0, 0, 64, 64)])]
    assert float(_train(_model(), noise_images((64, 64), (64, 64)), targets)["loss_mask"].detach()) > 0


def test_no_proposals_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    monkeypatch.setattr(model.rpn, "propose", no_proposals)
    found = _predict(model, noise_images((100, 40)))[0]
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert _mask_of(found).shape == (0, 100, 40)
    _train(model, noise_images((64, 64)), [boxed_target(64, 64, [])])


def test_a_box_wholly_in_the_padding_has_an_empty_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0], [40.0, 4.0, 60.0, 30.0], [64.0, 0.0, 64.0, 64.0]])
    found = BoxDetections(boxes, torch.tensor([0, 1, 2]), torch.tensor([0.9, 0.8, 0.7]))
    monkeypatch.setattr(model, "find_boxes", lambda levels: [found])
    with torch.no_grad():
        model.mask_head.logits.bias.fill_(50.0)
    # The image is a third as wide as it is high: the right two thirds of the square are padding.
    result = _predict(model, noise_images((128, 42)))[0]
    masks = _mask_of(result)
    assert masks.flatten(1).any(1).tolist() == [True, False, False]
    assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_the_mask_is_that_of_the_detections_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    boxes = torch.tensor([[2.0, 2.0, 40.0, 40.0]]).repeat(3, 1)
    found = BoxDetections(boxes, torch.tensor([0, 1, 2]), torch.tensor([0.9, 0.8, 0.7]))
    monkeypatch.setattr(model, "find_boxes", lambda levels: [found])
    with torch.no_grad():
        model.mask_head.logits.weight.zero_()
        model.mask_head.logits.bias.copy_(torch.tensor([-9.0, 9.0, -9.0]))
    assert _mask_of(_predict(model, noise_images((64, 64)))[0]).flatten(1).any(1).tolist() == [False, True, False]


def test_region_head_matches_low_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model().train()
    caught: list[Sequence[RoiSamples]] = []
    original = model.box_head.losses

    def spy(logits: Tensor, offsets: Tensor, samples: Sequence[RoiSamples], *rest: Any) -> dict[str, Tensor]:
        caught.append(samples)
        return original(logits, offsets, samples, *rest)

    monkeypatch.setattr(model.box_head, "losses", spy)
    # Overlap 2/3 with object 0 and .5 with object 1, whose best it is: low-quality matching gives it to object 1.
    proposal = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    monkeypatch.setattr(model.rpn, "propose", lambda output, clip: [Proposals(proposal, torch.ones(1))])
    model(noise_images((64, 64)), [boxed_target(64, 64, [(0, 0, 10, 15), (0, 0, 5, 10)])])
    assert caught[0][0].objects.tolist() == [0, 1, 1]


def test_forward_equals_its_parts() -> None:
    model = _model()
    image = torch.rand(3, 64, 64) * 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.encoder.pixel_mean, model.encoder.pixel_std))
    direct = model.detect(((image - mean) / std)[None], [make_meta((64, 64), (1.0, 1.0), 64)])[0]
    whole = _predict(model, [image])[0]
    assert torch.equal(whole.boxes, direct.boxes)
    assert torch.equal(_mask_of(whole), _mask_of(direct))


def test_bfloat16_trains_and_predicts() -> None:
    model = _model(encoder="full")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.train()(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
        found = _predict(model.eval(), noise_images((64, 64)))[0]
    assert isinstance(losses, dict)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert bool(torch.isfinite(torch.stack(list(losses.values()))).all())
