"""RSPrompter-anchor against numbers recorded from the original, full fine-tuning and LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from rsprompter_cli.models.architectures.rsprompter_anchor import RSPrompterAnchor
from rsprompter_cli.models.masks import inflate
from tests.models.parity import (
    Pack,
    assert_close,
    assert_gradients,
    assert_masks,
    assert_proposals,
    assert_same_objects,
    assert_trainable,
    assert_two_stage_losses,
)
from tests.models.recorded_models import load_recorded


class Limits(NamedTuple):
    """Largest differences the pack allows."""

    features: float
    embeddings: float
    masks: float
    losses: float
    gradients: float


class Case(NamedTuple):
    """A variant loaded into our model."""

    pack: Pack
    model: RSPrompterAnchor
    names: dict[str, str]
    lora: bool
    limits: Limits


@pytest.fixture(scope="module", params=["rsprompter_anchor", "rsprompter_anchor_lora"])
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    pack, model, _, names, lora = load_recorded(shared, request.param)
    assert isinstance(model, RSPrompterAnchor)
    limits = Limits(1e-5, 3e-5, 2e-4, 2e-5, 1e-3) if not lora else Limits(1e-3, 1e-3, 1e-3, 1e-4, 3e-3)
    return Case(pack, model, names, lora, limits)


def test_features_and_embeddings(case: Case) -> None:
    with torch.no_grad():
        features = case.model.eval().features(case.pack.inputs["images"])
        positions = case.model.mask_decoder.positions(*features.embedding.shape[-2:]).expand_as(features.embedding)
    recorded = case.pack.outputs
    for level, maps in enumerate(features.levels):
        assert_close(maps, recorded[f"fpn{level}"], case.limits.features, f"fpn{level}")
    assert_close(features.embedding, recorded["image_embeddings"], case.limits.embeddings, "image_embeddings")
    assert_close(positions, recorded["image_positional_embeddings"], 2e-4, "positions", relative=False)


def test_proposals(case: Case) -> None:
    recorded = case.pack.outputs
    model = case.model.eval()
    side = case.pack.meta["image_size"]
    with torch.no_grad():
        output = model.rpn(model.features(case.pack.inputs["images"]).levels)
        proposals = model.rpn.propose(output, [(side, side)] * 2)
    assert_proposals(output, proposals, recorded, case.limits.features)


def test_prompts_and_low_resolution_masks(case: Case) -> None:
    model = case.model.eval()
    with torch.no_grad():
        features = model.features(case.pack.inputs["images"])
        prompts = model.prompts(features, [found.boxes for found in model.find_boxes(features)])
        masks = [model.mask_decoder(features.embedding[index : index + 1], part) for index, part in enumerate(prompts)]
    recorded = case.pack.outputs
    assert_close(torch.cat(prompts)[:, None], recorded["sparse_prompts"], case.limits.embeddings, "sparse_prompts")
    ours = torch.cat(masks)[:, None, None]
    assert_close(ours, recorded["low_res_masks"], case.limits.masks, "low_res_masks", relative=False)


def test_detections_in_original_pixels(case: Case) -> None:
    results = case.model.eval().detect(case.pack.inputs["images"], case.pack.metas)
    assert [len(result) for result in results] == case.pack.meta["detections"]
    for index, result in enumerate(results):
        order = assert_same_objects(result, case.pack, index)
        assert_masks(inflate(result.masks)[order], case.pack.predicted(index)["masks"], f"image {index}")  # type: ignore[arg-type]


def test_losses_and_gradients(case: Case) -> None:
    model, pack = case.model, case.pack
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    images, targets = pack.inputs["images"], pack.targets
    output = model.rpn(model.features(images).levels)
    by_level = model.rpn.losses(output, [target.boxes for target in targets])
    model.load_state_dict(statistics)
    model.zero_grad()
    losses = model.losses(images, pack.sizes, targets)
    assert_two_stage_losses(losses, by_level, pack.meta, case.limits.losses).backward()
    assert_gradients(model, case.names, pack.meta, case.limits.gradients)
    model.load_state_dict(statistics)


def test_the_same_parameters_train(case: Case) -> None:
    assert_trainable(case.model, case.names, case.pack.meta)
    if case.lora:
        assert isinstance(case.model.encoder, nn.Module)
        assert any(".lora_A." in case.names[original] for original in case.pack.meta["trainable"])
