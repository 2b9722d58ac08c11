"""The two query models against numbers recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rsprompter_cli.models.architectures.rsprompter_query import RSPrompterQuery
from rsprompter_cli.models.architectures.samseg_mask2former import SamsegMask2Former
from rsprompter_cli.models.layers.query_decoder import QueryOutput, mask_logits
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.structures import Detections
from tests.models.parity import (
    Pack,
    assert_close,
    assert_gradients,
    assert_losses,
    assert_masks,
    assert_total,
    assert_trainable,
)
from tests.models.recorded_models import load_recorded, recorded_draws


class Case(NamedTuple):
    """A variant loaded into our model."""

    pack: Pack
    model: SamsegMask2Former | RSPrompterQuery
    kind: str
    names: dict[str, str]


@pytest.fixture(scope="module", params=["samseg_mask2former", "rsprompter_query"])
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    pack, model, config, names, _ = load_recorded(shared, request.param)
    assert isinstance(model, SamsegMask2Former | RSPrompterQuery)
    return Case(pack, model, config.kind, names)


class Recorded(NamedTuple):
    """What the model says of the recorded pictures, in evaluation mode."""

    levels: tuple[Tensor, ...]
    outputs: tuple[QueryOutput, ...]
    coarse: tuple[Tensor, Tensor]
    fine: tuple[Tensor, Tensor]


@torch.no_grad()
def _run(case: Case) -> Recorded:
    """Masks of the first and the last output: SAM's where the model has it, else the coarse ones twice."""
    model = case.model.eval()
    images = case.pack.inputs["images"]
    if isinstance(model, SamsegMask2Former):
        levels = model.features(images)
        outputs, features = model.decode(levels)
    else:
        levels, embedding = model.features(images)
        outputs, features = model.decode(levels)
    ends = (outputs[0], outputs[-1])
    first, last = (mask_logits(output.mask_embed, features) for output in ends)
    if isinstance(model, SamsegMask2Former):
        return Recorded(levels, outputs, (first, last), (first, last))
    fine_first, fine_last = (
        torch.stack(
            [model.refine(embedding[index : index + 1], output.states[index], coarse[index]) for index in range(2)]
        )
        for output, coarse in zip(ends, (first, last), strict=True)
    )
    return Recorded(levels, outputs, (first, last), (fine_first, fine_last))


def test_outputs_of_the_first_and_the_last_layer(case: Case) -> None:
    ours, recorded = _run(case), case.pack.outputs
    for level, maps in enumerate(ours.levels):
        assert_close(maps, recorded[f"fpn{level}"], 1e-5, f"fpn{level}")
    assert len(ours.outputs) == 5
    assert_close(ours.outputs[0].class_logits, recorded["cls_logits_first"], 3e-5, "cls_logits_first")
    assert_close(ours.outputs[-1].class_logits, recorded["cls_logits"], 3e-5, "cls_logits")
    assert_close(ours.fine[0], recorded["mask_logits_first"], 3e-5, "mask_logits_first")
    assert_close(ours.fine[1], recorded["mask_logits"], 3e-5, "mask_logits")
    if case.kind == "rsprompter-query":
        assert_close(ours.coarse[1], recorded["mask_plus_logits"], 3e-5, "mask_plus_logits")


def test_embeddings(case: Case) -> None:
    if isinstance(case.model, SamsegMask2Former):
        assert "image_embeddings" not in case.pack.outputs
        return
    with torch.no_grad():
        _, embedding = case.model.eval().features(case.pack.inputs["images"])
        positions = case.model.mask_decoder.positions(*embedding.shape[-2:]).expand_as(embedding)
    recorded = case.pack.outputs
    assert_close(embedding, recorded["image_embeddings"], 3e-5, "image_embeddings")
    assert_close(positions, recorded["image_positional_embeddings"], 2e-4, "positions", relative=False)


def _partners(ours: Detections, recorded: dict[str, Tensor], name: str) -> Tensor:
    """For each recorded row the row of ours that is it: the same class, box and score, whatever the order."""
    free, partners = set(range(len(ours))), []
    for label, box, score in zip(recorded["labels"], recorded["bboxes"], recorded["scores"], strict=True):
        near = [
            (abs(float(ours.scores[row] - score)), row)
            for row in free
            if int(ours.labels[row]) == int(label)
            and float((ours.boxes[row] - box).abs().max()) <= 1e-2
            and abs(float(ours.scores[row] - score)) <= 1e-4
        ]
        assert near, f"{name}: nothing of ours is a {int(label)} at {box.tolist()} of score {float(score)}"
        partners.append(min(near)[1])
        free.discard(partners[-1])
    return torch.tensor(partners)


def test_detections_in_original_pixels(case: Case) -> None:
    results = case.model.eval().detect(case.pack.inputs["images"], case.pack.metas)
    assert [len(result) for result in results] == case.pack.meta["detections"]
    for index, result in enumerate(results):
        name = f"image {index}"
        recorded = case.pack.predicted(index)
        assert torch.all(result.scores.diff() <= 0)
        rows = _partners(result, recorded, name)
        assert_masks(inflate(result.masks)[rows], recorded["masks"], name)  # type: ignore[arg-type]


def test_losses_and_gradients(case: Case) -> None:
    model, pack = case.model, case.pack
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    model.zero_grad()
    draw, left = recorded_draws(pack)
    losses = model.losses(pack.inputs["images"], pack.sizes, pack.targets, draw)
    assert left == []
    assert_losses({name: float(value.detach()) for name, value in losses.items()}, pack.meta["losses"], 2e-5)
    assert_total(losses, pack.meta, 2e-5).backward()
    assert_gradients(model, case.names, pack.meta, 1e-3)
    model.load_state_dict(statistics)


def test_the_same_parameters_train(case: Case) -> None:
    assert_trainable(case.model, case.names, case.pack.meta)
