"""The model's contract on fabricated input: losses, detections, frozen parts, rules the recorded pack cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.sam.configuration_sam import SamConfig, SamPromptEncoderConfig
from transformers.models.sam.modeling_sam import SamPromptEncoder

from rsprompter_cli.models.architectures import rsprompter_anchor
from rsprompter_cli.models.architectures.rsprompter_anchor import RSPrompterAnchor
from rsprompter_cli.models.image_transform import make_meta
from rsprompter_cli.models.layers import two_stage
from rsprompter_cli.models.layers.positions import sine_positions
from rsprompter_cli.models.layers.roi import RoiSamples
from rsprompter_cli.models.layers.rpn import Proposals
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.models.trainable import trainable_table
from rsprompter_cli.structures import LowResMasks
from tests.make.boxed import boxed_target, no_proposals, noise_images
from tests.make.tiny_models import TINY_TINY_VIT, tiny_model


def _anchor(**changes: Any) -> RSPrompterAnchor:
    model = tiny_model(**changes)
    assert isinstance(model, RSPrompterAnchor)
    return model


def _loss(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


NAMES = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"}


@pytest.mark.parametrize("encoder", ["frozen", "lora", "full"])
def test_training_gives_finite_losses_and_gradients(encoder: str) -> None:
    model = _anchor(encoder=encoder).train()
    targets = [boxed_target(50, 64, [(4, 5, 30, 30), (20, 20, 60, 48)], 2), boxed_target(64, 30, [(1, 1, 12, 60)], 1)]
    losses = model(noise_images((50, 64), (64, 30)), targets)
    assert set(losses) == NAMES
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in losses.values())
    assert all(float(value.detach()) > 0 for value in losses.values())
    _loss(losses).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    assert all(model.get_parameter(name).requires_grad for name in gradients)
    moved = {name.split(".")[0] for name, gradient in gradients.items() if float(gradient.abs().max()) > 0}
    assert moved == {"neck", "rpn", "box_head", "prompt_head", "mask_decoder"} | (
        set() if encoder == "frozen" else {"encoder"}
    )


def test_images_without_objects_train() -> None:
    model = _anchor(encoder="full").train()
    losses = model(noise_images((64, 64), (10, 64)), [boxed_target(64, 64, []), boxed_target(10, 64, [])])
    _loss(losses).backward()
    assert float(losses["loss_mask"].detach()) == 0
    assert float(losses["loss_bbox"].detach()) == 0
    assert float(losses["loss_rpn_cls"].detach()) > 0
    assert all(
        bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters() if parameter.grad is not None
    )


def test_one_image_with_and_one_without_objects() -> None:
    model = _anchor().train()
    losses = model(noise_images((64, 64), (64, 64)), [boxed_target(64, 64, []), boxed_target(64, 64, [(0, 0, 64, 64)])])
    _loss(losses).backward()
    assert float(losses["loss_mask"].detach()) > 0


def test_no_proposals_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _anchor()
    monkeypatch.setattr(model.rpn, "propose", no_proposals)
    found = model(noise_images((100, 40)))[0]
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.values.shape == (0, 16, 16)
    assert inflate(found.masks).shape == (0, 100, 40)
    losses = model.train()(noise_images((64, 64)), [boxed_target(64, 64, [])])
    _loss(losses).backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())


def test_masks_are_probabilities_over_the_padded_square() -> None:
    model = _anchor()
    images = noise_images((100, 40), (64, 64), (31, 200))
    for image, found in zip(images, model(images), strict=True):
        height, width = image.shape[1:]
        assert isinstance(found.masks, LowResMasks)
        assert found.masks.threshold == 0.5
        assert found.masks.frame.image == (height, width)
        assert found.masks.frame.padded == (64, 64)
        assert 0 <= float(found.masks.values.min()) <= float(found.masks.values.max()) <= 1


def test_a_batch_answers_as_its_images_alone() -> None:
    model = _anchor()
    images = noise_images((64, 50), (64, 64))
    for together, alone in zip(model(images), [model([image])[0] for image in images], strict=True):
        assert torch.equal(together.labels, alone.labels)
        assert torch.allclose(together.boxes, alone.boxes, atol=1e-3)
        assert torch.allclose(together.masks.values, alone.masks.values, atol=1e-5)


def test_forward_equals_its_parts() -> None:
    model = _anchor()
    image = torch.rand(3, 64, 64) * 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.encoder.pixel_mean, model.encoder.pixel_std))
    direct = model.detect(((image - mean) / std)[None], [make_meta((64, 64), (1.0, 1.0), 64)])[0]
    whole = model([image])[0]
    assert torch.equal(whole.boxes, direct.boxes)
    assert torch.equal(whole.masks.values, direct.masks.values)


def test_the_same_seed_gives_the_same_losses() -> None:
    runs = []
    for _ in range(2):
        model = _anchor(encoder="lora").train()
        torch.manual_seed(11)
        losses = model(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30), (20, 20, 60, 48)])])
        runs.append({name: float(value.detach()) for name, value in losses.items()})
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("encoder", "decoder"), [("frozen", "train"), ("frozen", "frozen"), ("lora", "frozen")])
def test_only_the_stated_parameters_train(encoder: str, decoder: str) -> None:
    model = _anchor(encoder=encoder, decoder=decoder).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        _loss(model(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30), (20, 20, 60, 48)])])).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    blocks = {name.split(".")[0] for name in changed}
    assert blocks == {"neck", "rpn", "box_head", "prompt_head"} | (
        ({"encoder"} if encoder == "lora" else set()) | ({"mask_decoder"} if decoder == "train" else set())
    )
    assert all(".lora_" in name for name in changed if name.startswith("encoder."))
    assert "mask_decoder.position.positional_embedding" not in changed
    assert not model.mask_decoder.training or decoder == "train"


def test_frozen_tiny_vit_keeps_its_statistics() -> None:
    model = _anchor(sam="tiny-vit", sam_arch=TINY_TINY_VIT).train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    losses = model(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    _loss(losses).backward()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert not any(module.training for module in model.encoder.modules())
    assert model.neck.aggregator.training
    sizes = [tuple(level.shape[-2:]) for level in model.features(torch.zeros(1, 3, 64, 64)).levels]
    assert sizes == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    found = model.eval()(noise_images((64, 40)))[0]
    assert found.masks.values.shape[1:] == (64, 64)


def test_table_of_trainable_parameters_adds_up() -> None:
    model = _anchor(encoder="lora")
    rows = {row.block: row for row in trainable_table(model)}
    assert list(rows) == ["encoder", "neck", "rpn", "box_head", "prompt_head", "mask_decoder"]
    assert sum(row.trainable + row.frozen for row in rows.values()) == sum(one.numel() for one in model.parameters())
    assert rows["encoder"].trainable == 4 * (16 * 16 + 48 * 16)  # four layers of A [r, C] and B [3C, r], r 16
    assert rows["mask_decoder"].frozen == model.mask_decoder.position.positional_embedding.numel()
    assert rows["neck"].frozen == 0


def _catch_samples(model: RSPrompterAnchor, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[RoiSamples]]:
    caught: list[Sequence[RoiSamples]] = []
    original = model.box_head.losses

    def spy(logits: Tensor, offsets: Tensor, samples: Sequence[RoiSamples], *rest: Any) -> dict[str, Tensor]:
        caught.append(samples)
        return original(logits, offsets, samples, *rest)

    monkeypatch.setattr(model.box_head, "losses", spy)
    return caught


def test_region_head_matches_low_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _anchor().train()
    caught = _catch_samples(model, monkeypatch)
    # Overlap 2/3 with object 0 and .5 with object 1, whose best it is: low-quality matching gives it to object 1.
    proposal = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    monkeypatch.setattr(model.rpn, "propose", lambda output, clip: [Proposals(proposal, torch.ones(1))])
    model(noise_images((64, 64)), [boxed_target(64, 64, [(0, 0, 10, 15), (0, 0, 5, 10)])])
    drawn = caught[0][0]
    assert drawn.objects.tolist() == [0, 1, 1]
    assert drawn.boxes.tolist() == [[0, 0, 10, 15], [0, 0, 5, 10], [0, 0, 10, 10]]


def test_training_cuts_proposals_to_the_unpadded_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _anchor().train()
    caught = _catch_samples(model, monkeypatch)
    model(noise_images((64, 64), (40, 24)), [boxed_target(64, 64, []), boxed_target(40, 24, [])])
    whole, part = caught[0]
    assert float(whole.boxes[:, 2].max()) > 24
    assert float(whole.boxes[:, 3].max()) > 40
    assert float(part.boxes[:, 2].max()) == 24
    assert float(part.boxes[:, 3].max()) == 40


def test_prediction_cuts_boxes_to_the_padded_square() -> None:
    model = _anchor()
    with torch.no_grad():
        # Every class box grows by exp(3) on both sides: all of them reach the borders.
        model.box_head.offsets.bias.copy_(torch.tensor([0.0, 0.0, 15.0, 15.0]).repeat(3))
    found = model(noise_images((64, 16)))[0]
    assert found.boxes[0].tolist() == [0, 0, 64, 64]


def test_region_features_carry_positions_and_proposals_do_not() -> None:
    features = _anchor().features(torch.randn(1, 3, 64, 64))
    sine = sine_positions(16, 16, 16, torch.device("cpu"))
    assert torch.allclose(features.located[0] - features.levels[0], sine, atol=1e-5)
    half = nn.functional.interpolate(sine, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(features.located[1] - features.levels[1], half, atol=1e-5)


def test_prompts_are_sines_of_even_plus_odd_channels() -> None:
    head = _anchor().prompt_head
    regions = torch.randn(3, 16, 14, 14)
    hidden = torch.relu(head.norm(head.conv(regions))).flatten(1)
    raw = head.fc3(torch.relu(head.fc2(torch.relu(head.fc1(hidden))))).reshape(3, 5, 32)
    assert torch.allclose(head(regions), raw[..., ::2].sin() + raw[..., 1::2], atol=1e-6)


def test_bfloat16_trains_and_predicts() -> None:
    model = _anchor(encoder="full").train()
    targets = [boxed_target(64, 64, [(4, 5, 30, 30), (20, 20, 60, 48)])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(noise_images((64, 64)), targets)
    assert all(value.dtype == torch.float32 for value in losses.values())
    _loss(losses).backward()
    assert all(
        bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters() if parameter.grad is not None
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.eval()(noise_images((64, 64)))[0]
    assert found.boxes.dtype == found.scores.dtype == found.masks.values.dtype == torch.float32


def test_training_without_targets_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="needs targets"):
        _anchor().train()(noise_images((64, 64)))


def test_mask_loss_is_the_mean_over_the_padded_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _anchor().train()
    seen: list[tuple[Tensor, Tensor, int]] = []
    original = rsprompter_anchor.full_frame_mask_loss

    def spy(logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
        seen.append((logits.detach(), masks[chosen], side))
        return original(logits, masks, chosen, side)

    monkeypatch.setattr(rsprompter_anchor, "full_frame_mask_loss", spy)
    losses = model(
        noise_images((40, 64), (64, 64)),
        [boxed_target(40, 64, [(4, 5, 30, 30)]), boxed_target(64, 64, [(1, 2, 60, 50)])],
    )
    total, count = torch.zeros(()), 0
    for logits, masks, side in seen:
        full = nn.functional.interpolate(logits[:, None], size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
        target = torch.zeros_like(full)
        target[:, : masks.shape[1], : masks.shape[2]] = masks.float()
        total = total + nn.functional.binary_cross_entropy_with_logits(full, target, reduction="sum")
        count += len(logits)
        assert side == 64
    assert float(losses["loss_mask"].detach()) == pytest.approx(float(total) / (count * 64 * 64), rel=1e-5)


@pytest.mark.parametrize(("most", "expected"), [(None, [3, 2]), (2, [2, 2]), (100, [3, 2])])
def test_the_mask_loss_decodes_no_more_positives_than_asked(
    monkeypatch: pytest.MonkeyPatch, most: int | None, expected: list[int]
) -> None:
    model = _anchor()
    model.mask_samples = most
    model.train()
    boxes = [[(4.0, 5, 30, 30), (10, 10, 50, 40), (20, 8, 60, 60)], [(1, 2, 60, 50), (9, 9, 30, 30)]]
    drawn = iter([RoiSamples(torch.tensor(part), torch.arange(len(part))) for part in boxes])
    monkeypatch.setattr(two_stage, "sample_rois", lambda *_, **_named: next(drawn))
    seen: list[list[int]] = []
    original = rsprompter_anchor.full_frame_mask_loss

    def spy(logits: Tensor, masks: Tensor, chosen: Tensor, side: int) -> Tensor:
        assert len(logits) == len(chosen) == len(set(chosen.tolist()))
        seen.append(chosen.tolist())
        return original(logits, masks, chosen, side)

    monkeypatch.setattr(rsprompter_anchor, "full_frame_mask_loss", spy)
    targets = [boxed_target(64, 64, [tuple(int(v) for v in box) for box in part]) for part in boxes]  # type: ignore[misc]
    losses = model(noise_images((64, 64), (64, 64)), targets)
    assert [len(part) for part in seen] == expected
    assert torch.isfinite(losses["loss_mask"])


def test_box_prompts_are_what_sam_itself_gives_a_box() -> None:
    decoder = _anchor(box_prompts=True).mask_decoder
    assert decoder.corner_embed is not None
    width = decoder.no_mask_embed.weight.shape[1]
    sizes = SamPromptEncoderConfig(hidden_size=width, image_size=64, patch_size=16, mask_input_channels=8)
    reference = SamPromptEncoder(
        SamConfig(prompt_encoder_config=sizes.to_dict(), vision_config={"num_pos_feats": width // 2})
    )
    with torch.no_grad():
        reference.shared_embedding.positional_embedding.copy_(decoder.position.positional_embedding)
        for corner, index in ((2, 0), (3, 1)):
            reference.point_embed[corner].weight.copy_(decoder.corner_embed.weight[index : index + 1])
    boxes = torch.tensor([[4.0, 6.0, 30.0, 21.0], [0.0, 0.0, 64.0, 64.0]])
    # SAM names the last pixel, we its outer edge.
    last_pixel = boxes - torch.tensor([0.0, 0.0, 1.0, 1.0])
    sparse, _ = reference(input_points=None, input_labels=None, input_boxes=last_pixel[None], input_masks=None)
    torch.testing.assert_close(decoder.corner_prompts(boxes, 64), sparse[0], rtol=1e-5, atol=1e-5)


def test_box_prompts_join_the_learned_ones_which_start_silent() -> None:
    model = _anchor(box_prompts=True, prompts_per_object=3).eval()
    features = model.features(torch.zeros(2, 3, 64, 64))
    boxes = [torch.tensor([[4.0, 6.0, 30.0, 21.0]]), torch.zeros(0, 4)]
    one, none = model.prompts(features, boxes)
    assert one.shape[1:] == none.shape[1:] == (5, one.shape[2])
    assert none.shape[0] == 0
    assert bool((one[:, :3] == 0).all())
    assert torch.equal(one[:, 3:], model.mask_decoder.corner_prompts(boxes[0], 64))
    losses = model.train()(noise_images((64, 64)), [boxed_target(64, 64, [(4, 5, 30, 30)])])
    _loss(losses).backward()
    assert model.prompt_head.fc3.weight.grad is not None
    assert float(model.prompt_head.fc3.weight.grad.abs().max()) > 0
