"""SAMDet against numbers recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from rsprompter_cli.models.architectures.samdet import SamDet
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.structures import LowResMasks
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


class Case(NamedTuple):
    """The recorded pack loaded into our model."""

    pack: Pack
    model: SamDet
    names: dict[str, str]


@pytest.fixture(scope="module")
def case(shared: Path) -> Case:
    pack, model, _, names, _ = load_recorded(shared, "samdet")
    assert isinstance(model, SamDet)
    return Case(pack, model, names)


def test_backbone_and_proposals(case: Case) -> None:
    recorded, model = case.pack.outputs, case.model.eval()
    side = case.pack.meta["image_size"]
    with torch.no_grad():
        maps = model.resnet(case.pack.inputs["images"])
        output = model.rpn(model.neck(maps))
        proposals = model.rpn.propose(output, [(side, side)] * 2)
    for index, level in enumerate(maps):
        assert_close(level, recorded[f"backbone_c{index + 2}"], 3e-5, f"backbone_c{index + 2}")
    assert_proposals(output, proposals, recorded, 1e-5)


def test_detections_in_original_pixels(case: Case) -> None:
    results = case.model.eval().detect(case.pack.inputs["images"], case.pack.metas)
    assert [len(result) for result in results] == case.pack.meta["detections"]
    for index, result in enumerate(results):
        order = assert_same_objects(result, case.pack, index)
        assert isinstance(result.masks, LowResMasks)
        ours = result.masks.values[order]
        assert_close(ours, case.pack.outputs[f"sam_masks{index}"], 1e-4, f"sam_masks{index}", relative=False)
        assert_masks(inflate(result.masks)[order], case.pack.predicted(index)["masks"], f"image {index}")


def test_losses_and_gradients(case: Case) -> None:
    model, pack = case.model, case.pack
    model.train()
    model.zero_grad()
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    images, targets = pack.inputs["images"], pack.targets
    with torch.no_grad():
        by_level = model.rpn.losses(model.rpn(model.features(images)), [target.boxes for target in targets])
    losses = model.losses(images, pack.sizes, targets)
    assert_two_stage_losses(losses, by_level, pack.meta, 2e-5).backward()
    assert_gradients(model, case.names, pack.meta, 3e-3)
    assert all(torch.equal(value, statistics[key]) for key, value in model.state_dict().items())


def test_the_same_parameters_train(case: Case) -> None:
    assert_trainable(case.model, case.names, case.pack.meta)
