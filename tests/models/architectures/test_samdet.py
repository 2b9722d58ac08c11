"""SAMDet on fabricated input: what trains, what stays, masks from true boxes, 8-bit preprocessing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.architectures.samdet import SamDet
from rsprompter_cli.models.image_transform import resize_batch
from rsprompter_cli.models.layers.resnet import freeze_stages
from rsprompter_cli.models.layers.rpn import Proposals
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD
from rsprompter_cli.models.trainable import trainable_table
from rsprompter_cli.structures import LowResMasks
from tests.make.boxed import boxed_target, no_proposals, noise_images
from tests.make.tiny_models import TINY_DECODER, TINY_TINY_VIT, build_seeded, tiny_samdet_config

LOSSES = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"}
BOXES = [(4, 5, 30, 30), (20, 20, 60, 48)]


def _samdet(**changes: Any) -> SamDet:
    model = build_seeded(tiny_samdet_config(**changes))
    assert isinstance(model, SamDet)
    return model


def _loss(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _forbidden(*_: Any) -> None:
    raise AssertionError("SAM was run")


def test_training_moves_what_the_original_moves_and_never_runs_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _samdet().train()
    monkeypatch.setattr(model.encoder, "forward", _forbidden)
    monkeypatch.setattr(model.mask_decoder, "with_quality", _forbidden)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        losses = model(
            noise_images((64, 50), (40, 64)),
            [boxed_target(64, 50, BOXES[:1], 1), boxed_target(40, 64, [(1, 1, 30, 39)])],
        )
        assert set(losses) == LOSSES
        assert all(bool(torch.isfinite(value)) and float(value.detach()) > 0 for value in losses.values())
        _loss(losses).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"resnet", "neck", "rpn", "box_head"}
    assert {name.split(".")[1] for name in changed if name.startswith("resnet.")} == {"layer2", "layer3", "layer4"}
    assert "resnet.layer2.0.bn1.weight" in changed
    assert not any("running_" in name or "num_batches" in name for name in changed)


def test_norms_follow_the_settings_in_training_mode() -> None:
    def modes(model: SamDet) -> dict[str, bool]:
        norms = {name: one for name, one in model.resnet.named_modules() if isinstance(one, nn.BatchNorm2d)}
        return {name: norm.training for name, norm in norms.items()}

    assert not any(modes(_samdet().train()).values())
    # Frozen stages keep their statistics whatever the others do.
    some = modes(_samdet(frozen_norms=False).train())
    assert {name.split(".")[0] for name, trains in some.items() if trains} == {"layer2", "layer3", "layer4"}
    free = _samdet(frozen_norms=False, frozen_stages=-1).train()
    assert all(modes(free).values())
    assert all(parameter.requires_grad for parameter in free.resnet.parameters())
    assert not any(modes(free.eval()).values())


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [(-1, set()), (0, {"conv1", "bn1"}), (2, {"conv1", "bn1", "layer1", "layer2"})],
)
def test_frozen_stages(stages: int, frozen: set[str]) -> None:
    parameters = _samdet(frozen_stages=stages).resnet.named_parameters()
    assert {name.split(".")[0] for name, parameter in parameters if not parameter.requires_grad} == frozen


def test_stages_of_other_resnets_freeze_too() -> None:
    from torchvision.models import resnet18
    from transformers import ResNetConfig, ResNetModel

    small = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
    for resnet, stem, first in (
        (resnet18(), {"conv1", "bn1"}, "layer1"),
        (ResNetModel(ResNetConfig(**small)), {"embedder"}, "encoder.stages.0"),
    ):
        freeze_stages(resnet, 1)
        frozen = {name for name, parameter in resnet.named_parameters() if not parameter.requires_grad}
        assert frozen
        assert all(name.split(".")[0] in stem or name.startswith(first) for name in frozen)
        wanted = {name for name, _ in resnet.named_parameters() if name.startswith((first, *stem))}
        assert frozen == wanted


def test_the_table_of_parameters() -> None:
    model = _samdet()
    rows = {row.block: row for row in trainable_table(model)}
    assert list(rows) == ["resnet", "neck", "rpn", "box_head", "encoder", "mask_decoder"]
    assert sum(row.trainable + row.frozen for row in rows.values()) == sum(one.numel() for one in model.parameters())
    assert rows["encoder"].trainable == rows["mask_decoder"].trainable == 0
    assert rows["neck"].frozen == rows["rpn"].frozen == rows["box_head"].frozen == 0
    frozen = [model.resnet.conv1, model.resnet.bn1, model.resnet.layer1]
    assert rows["resnet"].frozen == sum(one.numel() for part in frozen for one in part.parameters())


def test_images_without_objects_train() -> None:
    model = _samdet().train()
    losses = model(noise_images((64, 64), (10, 64)), [boxed_target(64, 64, []), boxed_target(10, 64, [])])
    _loss(losses).backward()
    assert float(losses["loss_bbox"].detach()) == 0
    assert float(losses["loss_rpn_cls"].detach()) > 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_region_head_has_no_low_quality_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _samdet().train()
    # Overlap 1/3 with its object, whose best it is: background here, the object's in RSPrompter-anchor.
    proposal = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 25.0]])
    monkeypatch.setattr(model.rpn, "propose", lambda output, clip: [Proposals(proposal, torch.ones(2))])
    caught: list[Any] = []
    original = model.box_head.losses

    def spy(logits: Tensor, offsets: Tensor, samples: Any, *rest: Any) -> dict[str, Tensor]:
        caught.extend(samples)
        return original(logits, offsets, samples, *rest)

    monkeypatch.setattr(model.box_head, "losses", spy)
    model(noise_images((64, 64)), [boxed_target(64, 64, [(0, 0, 10, 30), (40, 40, 60, 60)])])
    assert caught[0].objects.tolist() == [0, 1, 0]
    assert caught[0].boxes[3].tolist() == [0, 0, 10, 10]


def test_masks_are_the_decoders_logits() -> None:
    model = _samdet()
    for found in model(noise_images((100, 40), (64, 64), (31, 200))):
        assert isinstance(found.masks, LowResMasks)
        assert found.masks.threshold == 0
        assert found.masks.values.shape == (len(found), 16, 16)


def test_no_detections_run_no_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _samdet()
    monkeypatch.setattr(model.rpn, "propose", no_proposals)
    monkeypatch.setattr(model.encoder, "forward", _forbidden)
    found = model(noise_images((100, 40)))[0]
    assert found.boxes.shape == (0, 4)
    assert isinstance(found.masks, LowResMasks)
    assert found.masks.values.shape == (0, 16, 16)
    assert inflate(found.masks).shape == (0, 100, 40)


def test_true_boxes_give_the_masks_that_detections_with_these_boxes_have() -> None:
    model = _samdet()
    images = noise_images((100, 40), (31, 200))
    detected = model(images)
    again = model.oracle(images, [one.boxes for one in detected], [one.labels for one in detected])
    for one, other in zip(detected, again, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert other.scores.tolist() == [1.0] * len(one)
        torch.testing.assert_close(other.boxes, one.boxes)
        torch.testing.assert_close(other.masks.values, one.masks.values, atol=1e-4, rtol=1e-4)
        assert other.masks.frame == one.masks.frame
    none = model.oracle(images[:1], [torch.zeros(0, 4)], [torch.zeros(0).long()])[0]
    assert len(none) == 0


def test_boxes_prompt_sam_as_transformers_itself_does() -> None:
    from transformers import SamConfig, SamModel

    model = _samdet()
    decoder = TINY_DECODER
    sam = SamModel(
        SamConfig(
            vision_config={"hidden_size": 16, "num_pos_feats": 8, "image_size": 64, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "output_channels": 16, "global_attn_indexes": [0]},
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
            mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2,
                                 "iou_head_hidden_dim": decoder.iou_head_hidden_dim},
        )
    ).eval()  # fmt: skip
    sam.mask_decoder.load_state_dict(model.mask_decoder.decoder.state_dict())
    with torch.no_grad():
        sam.shared_image_embedding.positional_embedding.copy_(model.mask_decoder.position.positional_embedding)
        sam.prompt_encoder.shared_embedding.positional_embedding.copy_(model.mask_decoder.position.positional_embedding)
        sam.prompt_encoder.no_mask_embed.weight.copy_(model.mask_decoder.no_mask_embed.weight)
        for corner in (0, 1):
            row = model.mask_decoder.corner_embed.weight[corner : corner + 1]  # type: ignore[union-attr]
            sam.prompt_encoder.point_embed[2 + corner].weight.copy_(row)
        batch = torch.randn(1, 3, 64, 64)
        boxes = torch.tensor([[3.0, 4.5, 40.0, 64.0], [0.0, 0.0, 5.0, 5.0]])
        embedding = model.encoder(batch).embedding
        theirs = sam(image_embeddings=embedding, input_boxes=boxes[None], multimask_output=False)
        logits, quality = model.segment(batch, [boxes])[0]
    torch.testing.assert_close(logits, theirs.pred_masks[0, :, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quality, theirs.iou_scores[0, :, 0].clamp(0, 1), atol=1e-4, rtol=1e-4)


def test_pictures_are_resized_and_padded_in_eight_bits() -> None:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    image = noise_images((32, 20))[0]

    def pixels(picture: Tensor, eight_bit: bool = True) -> Tensor:
        batch, _ = resize_batch([picture], 64, IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"), eight_bit=eight_bit)
        return batch[0] * std + mean

    small = pixels(image)
    assert torch.allclose(small[:, :, 40:], torch.tensor([124.0, 116.0, 104.0])[:, None, None], atol=1e-4)
    inside = small[:, :, :40]
    assert torch.allclose(inside, inside.round(), atol=1e-3)
    assert float((inside - pixels(image, eight_bit=False)[:, :, :40]).abs().max()) <= 0.51
    # Floats never were 8 bits, and stay what they are.
    assert torch.allclose(pixels(image.float())[:, :, :40], pixels(image, eight_bit=False)[:, :, :40], atol=1e-4)
    assert _samdet().padding == (124.0, 116.0, 104.0)


def test_an_encoder_of_another_normalisation_gets_its_own() -> None:
    model = _samdet(sam="tiny-vit", sam_arch=TINY_TINY_VIT)
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = noise_images((64, 64))[0]
    found = model.oracle([image], [torch.tensor(BOXES)], [torch.zeros(len(BOXES)).long()])[0]
    torch.testing.assert_close(seen[0][0], image / 255, atol=1e-5, rtol=1e-5)
    assert found.masks.values.shape == (2, 64, 64)  # type: ignore[union-attr]


def test_sizes_that_make_no_resnet() -> None:
    with pytest.raises(UsageError, match="do not describe a ResNet"):
        _samdet(backbone={"hidden_sizes": [16, 18, 32, 32]})
    with pytest.raises(ValidationError, match="hidden_sizes"):
        _samdet(backbone={"hidden_sizes": [16, 16, 32]})


def test_bfloat16_trains_and_predicts() -> None:
    model = _samdet().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(noise_images((64, 64)), [boxed_target(64, 64, BOXES)])
    assert all(value.dtype == torch.float32 for value in losses.values())
    _loss(losses).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.eval()(noise_images((64, 64)))[0]
    assert found.boxes.dtype == found.scores.dtype == found.masks.values.dtype == torch.float32  # type: ignore[union-attr]
