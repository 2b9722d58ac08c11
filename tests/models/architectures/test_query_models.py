"""The two query models on fabricated input: the model's contract and what the recorded packs cannot show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from rsprompter_cli.config import Config, QueryConfig, TrainConfig
from rsprompter_cli.errors import UsageError
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.io.model_files.sam_folder import config_from_arch
from rsprompter_cli.models.architectures.rsprompter_query import RSPrompterQuery
from rsprompter_cli.models.architectures.samseg_mask2former import SamsegMask2Former
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.image_transform import make_meta
from rsprompter_cli.models.layers.query_decoder import find_instances
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.structures import Detections, LowResMasks, Target
from rsprompter_cli.train.initial_weights import choose_start, load_start
from tests.make.boxed import boxed_target, noise_images
from tests.make.tiny_models import (
    TINY_QUERY,
    TINY_TINY_VIT,
    TINY_VIT,
    build_seeded,
    tiny_mask2former_config,
    tiny_meta,
    tiny_query_config,
)

CONFIGS = {"rsprompter-query": tiny_query_config, "samseg-mask2former": tiny_mask2former_config}
LOSSES = {
    "rsprompter-query": {"loss_cls", "loss_mask", "loss_dice", "loss_mask_plus", "loss_dice_plus"},
    "samseg-mask2former": {"loss_cls", "loss_mask", "loss_dice"},
}
BLOCKS = {
    "rsprompter-query": {"neck", "pixel_decoder", "query_decoder", "prompt_head", "mask_decoder"},
    "samseg-mask2former": {"neck", "pixel_decoder", "query_decoder"},
}

Model = RSPrompterQuery | SamsegMask2Former


@pytest.fixture(params=list(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _model(kind: str, **changes: Any) -> Model:
    model = build_seeded(CONFIGS[kind](**changes))
    assert isinstance(model, Model)
    return model


def _query_model(**changes: Any) -> RSPrompterQuery:
    model = _model("rsprompter-query", **changes)
    assert isinstance(model, RSPrompterQuery)
    return model


TWO = [boxed_target(50, 64, [(4, 5, 30, 30), (20, 20, 60, 48)], 2), boxed_target(64, 30, [(1, 1, 12, 60)], 1)]


def _train(model: Model, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
    """Losses of a training step, carried backward; all is checked to be finite."""
    losses = model.train()(images, targets)
    assert isinstance(losses, dict)
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in losses.values())
    total = torch.stack(list(losses.values())).sum()
    assert bool(torch.isfinite(total))
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return losses


@pytest.mark.parametrize("encoder", ["frozen", "lora", "full"])
def test_every_block_that_trains_gets_a_gradient(kind: str, encoder: str) -> None:
    model = _model(kind, encoder=encoder)
    losses = _train(model, noise_images((50, 64), (64, 30)), TWO)
    names = LOSSES[kind]
    assert set(losses) == names | {f"d{index}.{name}" for index in range(3) for name in names}
    assert all(float(value.detach()) > 0 for value in losses.values())
    moved = {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and float(parameter.grad.abs().max()) > 0
    }
    assert moved == BLOCKS[kind] | (set() if encoder == "frozen" else {"encoder"})
    assert all(parameter.requires_grad for parameter in model.parameters() if parameter.grad is not None)


def test_a_batch_without_objects_trains(kind: str) -> None:
    losses = _train(
        _model(kind, encoder="full"),
        noise_images((64, 64), (10, 64)),
        [boxed_target(64, 64, []), boxed_target(10, 64, [])],
    )
    assert {float(value.detach()) for name, value in losses.items() if "cls" not in name} == {0.0}
    assert all(float(value.detach()) > 0 for name, value in losses.items() if "cls" in name)


def test_one_image_with_and_one_without_objects(kind: str) -> None:
    losses = _train(
        _model(kind),
        noise_images((64, 64), (64, 64)),
        [boxed_target(64, 64, []), boxed_target(64, 64, [(0, 0, 64, 64)])],
    )
    assert float(losses["loss_mask"].detach()) > 0


def test_more_objects_than_queries(kind: str) -> None:
    boxes = [(8 * (index % 8), 8 * (index // 8), 8 * (index % 8) + 6, 8 * (index // 8) + 6) for index in range(20)]
    losses = _train(_model(kind), noise_images((64, 64)), [boxed_target(64, 64, boxes)])
    assert float(losses["loss_dice"].detach()) > 0


def test_boxes_are_those_of_the_masks(kind: str) -> None:
    model = _model(kind)
    images = noise_images((100, 40), (64, 64), (31, 200))
    results = model(images)
    assert isinstance(results, list)
    for image, found in zip(images, results, strict=True):
        height, width = image.shape[1:]
        assert len(found) == TINY_QUERY["queries"]
        assert isinstance(found.masks, LowResMasks)
        assert found.masks.threshold == 0
        masks = inflate(found.masks)
        assert masks.shape == (len(found), height, width)
        for mask, box, score in zip(masks, found.boxes.tolist(), found.scores.tolist(), strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            if len(rows) == 0:
                assert box == [0, 0, 0, 0]
                assert score == 0
            else:
                assert box == [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def test_a_batch_answers_as_its_images_alone(kind: str) -> None:
    model = _model(kind)
    images = noise_images((64, 50), (64, 64))
    for together, alone in zip(model(images), [model([image])[0] for image in images], strict=True):  # type: ignore[index]
        assert isinstance(together, Detections)
        assert isinstance(alone, Detections)
        torch.testing.assert_close(together.scores, alone.scores, atol=1e-5, rtol=1e-4)


def test_bfloat16_trains_and_predicts(kind: str) -> None:
    model = _model(kind, encoder="full")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _train(model, noise_images((50, 64), (64, 30)), TWO)
        (found,) = model.eval()(noise_images((64, 64)))
    assert isinstance(found, Detections)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert isinstance(found.masks, LowResMasks)
    assert found.masks.values.dtype == torch.float32


def test_tiny_vit_whose_map_has_stride_4(kind: str) -> None:
    model = _model(kind, sam="tiny-vit", sam_arch=TINY_TINY_VIT)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    _train(model, noise_images((50, 64), (64, 30)), TWO)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    (found,) = model.eval()(noise_images((64, 40)))
    assert isinstance(found, Detections)
    assert isinstance(found.masks, LowResMasks)
    side = 64 if kind == "rsprompter-query" else 16
    assert found.masks.values.shape[1:] == (side, side)


def test_frozen_decoder_stays(kind: str) -> None:
    if kind == "samseg-mask2former":
        assert "decoder" not in tiny_mask2former_config().model_dump()
        return
    model = _model(kind, decoder="frozen")
    _train(model, noise_images((50, 64), (64, 30)), TWO)
    assert all(parameter.grad is None for parameter in model.mask_decoder.parameters())  # type: ignore[union-attr]
    assert not model.mask_decoder.training  # type: ignore[union-attr]


def test_masks_of_the_matched_are_those_of_all_and_so_are_the_gradients() -> None:
    model = _query_model(mask_chunk=3)
    batch = torch.randn(1, 3, 64, 64)
    levels, embedding = model.features(batch)
    states = model.decode(levels).layers[-1].states[0].detach().requires_grad_()
    coarse = torch.randn(8, 16, 16)
    picked = torch.tensor([1, 4, 6, 7])
    with torch.no_grad():
        plain = model.refine(embedding.detach(), states, coarse)
    model.mask_decoder.chunk = 2
    few = model.refine(embedding.detach(), states[picked], coarse[picked])
    torch.testing.assert_close(few, plain[picked], atol=1e-5, rtol=1e-4)
    few.square().sum().backward()  # type: ignore[no-untyped-call]
    ours = states.grad
    states.grad = None
    whole = model._decode(embedding.detach(), states, coarse)
    whole[picked].square().sum().backward()  # type: ignore[no-untyped-call]
    assert ours is not None
    assert states.grad is not None
    assert float(ours.abs().max()) > 0
    torch.testing.assert_close(ours, states.grad, atol=1e-4, rtol=1e-3)


def test_no_gradient_enters_the_dense_prompt() -> None:
    model = _query_model()
    _, embedding = model.features(torch.randn(1, 3, 64, 64))
    coarse = torch.randn(2, 16, 16, requires_grad=True)
    model.refine(embedding, torch.randn(2, 16), coarse).sum().backward()  # type: ignore[no-untyped-call]
    assert coarse.grad is None
    changed = model.refine(embedding, torch.zeros(2, 16), coarse + 3).detach()
    assert not torch.allclose(changed, model.refine(embedding, torch.zeros(2, 16), coarse).detach())


def test_inference_decodes_the_last_output_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _query_model()
    calls: list[int] = []
    original = model.refine

    def spy(embedding: Tensor, states: Tensor, coarse: Tensor) -> Tensor:
        calls.append(len(states))
        return original(embedding, states, coarse)

    monkeypatch.setattr(model, "refine", spy)
    model(noise_images((64, 64), (40, 64)))
    assert calls == [8, 8]
    calls.clear()
    model.train()(noise_images((50, 64), (64, 30)), TWO)
    assert calls == [2, 1] * 4


def test_pairs_of_query_and_class() -> None:
    meta = make_meta((8, 8), (2.0, 2.0), 16)
    masks = torch.full((3, 4, 4), -5.0)
    masks[0] = 5.0
    masks[1, :2] = 1.0
    logits = torch.tensor([[3.0, 2.9, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    found = find_instances(logits, masks, meta, 4)
    chances = logits.softmax(-1)
    # Query 2 is surest of its class, but its mask is empty: it comes last, with a box of zeros.
    assert found.labels.tolist() == [0, 1, 2, 0] or found.labels.tolist() == [2, 0, 1, 0]
    assert float(found.scores[-1]) == 0
    assert found.boxes[-1].tolist() == [0, 0, 0, 0]
    by_label = dict(zip(found.labels[:-1].tolist(), found.scores[:-1].tolist(), strict=True))
    assert by_label[0] == pytest.approx(float(chances[0, 0] * torch.tensor(5.0).sigmoid()), rel=1e-4)
    assert by_label[1] == pytest.approx(float(chances[0, 1] * torch.tensor(5.0).sigmoid()), rel=1e-4)
    assert found.boxes[found.labels == 1].tolist() == [[0, 0, 8, 8]]
    # No more pairs than there are, and "no object" is never one.
    assert len(find_instances(logits, masks, meta, 100)) == 9
    assert int(find_instances(logits, masks, meta, 100).labels.max()) == 2


def test_sizes_that_do_not_go_together_are_refused(kind: str) -> None:
    for changes in ({"heads": 3}, {"norm_groups": 5}, {"channels": 18, "heads": 2, "norm_groups": 2}):
        with pytest.raises(UsageError, match=r"model\.query\.channels"):
            _model(kind, query=QueryConfig(**(TINY_QUERY | changes)).model_dump())


def test_a_checkpoint_gives_the_same_answer_and_counts_its_classes(kind: str, tmp_path: Path) -> None:
    config = Config(name="tiny", model=CONFIGS[kind](), train=TrainConfig())
    model = _model(kind)
    write_checkpoint(tmp_path / "c", model.state_dict(), config=config, meta=tiny_meta())
    again = load_model(tmp_path / "c").model
    (one,), (other,) = model(noise_images((40, 64))), again(noise_images((40, 64)))
    assert torch.equal(one.scores, other.scores)  # type: ignore[union-attr]
    assert torch.equal(one.masks.values, other.masks.values)  # type: ignore[union-attr]
    write_checkpoint(tmp_path / "d", model.state_dict(), config=config, meta=tiny_meta(num_classes=2))
    with pytest.raises(Exception, match="contains a model of 3 classes"):
        load_model(tmp_path / "d")


@pytest.mark.parametrize("init", ["sam", "random"])
def test_the_mask_decoder_starts_from_sam_or_anew_and_the_rest_from_sam(init: str, tmp_path: Path) -> None:
    sam = SamModel(SamConfig.from_dict(config_from_arch(TINY_VIT)))
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(0.01)
    sam.save_pretrained(tmp_path)
    config = tiny_query_config(sam=str(tmp_path), sam_arch=None, decoder_init=init)
    start = choose_start(config, checkpoint=None, random_sam=False)
    model = build_model(start.model, num_classes=3)
    assert isinstance(model, RSPrompterQuery)
    load_start(model, start, ["a", "b", "c"])
    stored = sam.state_dict()
    token = model.mask_decoder.decoder.mask_tokens.weight
    assert torch.equal(token, stored["mask_decoder.mask_tokens.weight"]) == (init == "sam")
    assert model.mask_decoder.mask_embed is not None
    assert torch.equal(model.mask_decoder.mask_embed.conv3.weight, stored["prompt_encoder.mask_embed.conv3.weight"])
    positions = model.mask_decoder.position.positional_embedding
    assert torch.equal(positions, stored["shared_image_embedding.positional_embedding"])
    encoder = model.encoder.state_dict()
    assert torch.equal(encoder["vit.layers.1.mlp.lin1.weight"], stored["vision_encoder.layers.1.mlp.lin1.weight"])
