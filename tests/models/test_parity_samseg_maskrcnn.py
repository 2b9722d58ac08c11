"""SAM-seg Mask R-CNN against numbers recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from rsprompter_cli.models.architectures.samseg_maskrcnn import SamsegMaskRcnn
from rsprompter_cli.models.masks import paste
from rsprompter_cli.structures import MaskPatches, Target
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
    model: SamsegMaskRcnn
    names: dict[str, str]


@pytest.fixture(scope="module")
def case(shared: Path) -> Case:
    pack, model, _, names, _ = load_recorded(shared, "samseg_maskrcnn")
    assert isinstance(model, SamsegMaskRcnn)
    return Case(pack, model, names)


def test_features_and_proposals(case: Case) -> None:
    recorded, model = case.pack.outputs, case.model.eval()
    side = case.pack.meta["image_size"]
    with torch.no_grad():
        levels = model.features(case.pack.inputs["images"])
        output = model.rpn(levels)
        proposals = model.rpn.propose(output, [(side, side)] * 2)
    for level in range(5):
        assert_close(levels[level], recorded[f"fpn{level}"], 1e-5, f"fpn{level}")
    assert_proposals(output, proposals, recorded, 1e-5)


def test_detections_in_original_pixels(case: Case) -> None:
    results = case.model.eval().detect(case.pack.inputs["images"], case.pack.metas)
    assert [len(result) for result in results] == case.pack.meta["detections"]
    for index, result in enumerate(results):
        order = assert_same_objects(result, case.pack, index)
        assert isinstance(result.masks, MaskPatches)
        assert_masks(paste(result.masks)[order], case.pack.predicted(index)["masks"], f"image {index}")


def test_losses_and_gradients(case: Case) -> None:
    model, pack = case.model, case.pack
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    images, targets = pack.inputs["images"], pack.targets
    by_level = model.rpn.losses(model.rpn(model.features(images)), [target.boxes for target in targets])
    model.load_state_dict(statistics)
    model.zero_grad()
    losses = model.losses(images, pack.sizes, targets)
    assert_two_stage_losses(losses, by_level, pack.meta, 2e-5).backward()
    assert_gradients(model, case.names, pack.meta, 1e-3)
    model.load_state_dict(statistics)


def test_masks_of_unpadded_targets_give_the_same_loss(case: Case) -> None:
    model, pack = case.model, case.pack
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    # The recorded masks are padded to the square; training hands the model those of the image alone.
    cut = [
        Target(target.boxes, target.labels, target.masks[:, :rows, :columns])
        for target, (rows, columns) in zip(pack.targets, pack.sizes, strict=True)
    ]
    losses = model.train().losses(pack.inputs["images"], pack.sizes, cut)
    assert float(losses["loss_mask"].detach()) == pytest.approx(pack.meta["losses"]["loss_mask"], rel=2e-5)
    model.load_state_dict(statistics)


def test_the_same_parameters_train(case: Case) -> None:
    assert_trainable(case.model, case.names, case.pack.meta)
