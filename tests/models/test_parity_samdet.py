"""SAMDet against numbers recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rsprompter_cli.config import BoxConfig, OneScaleRpnConfig, ResNetConfig, SamdetConfig
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.import_original import load_original, rename_keys
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.models.samdet import SamDet
from rsprompter_cli.structures import LowResMasks
from tests.models.parity import (
    Pack,
    assert_close,
    assert_gradients,
    assert_losses,
    assert_masks,
    assert_same_boxes,
    read_pack,
)

ALL = 10**6
"""More samples than there are: the recorded losses have no randomness."""


class Case(NamedTuple):
    """The recorded pack loaded into our model."""

    pack: Pack
    model: SamDet


@pytest.fixture(scope="module")
def case(shared: Path) -> Case:
    pack = read_pack(shared / "parity" / "samdet")
    config = SamdetConfig(
        sam=str(shared / "parity" / "sam"),
        image_size=pack.meta["image_size"],
        backbone=ResNetConfig(stem_channels=8, hidden_sizes=(32, 64, 128, 256)),
        out_channels=32,
        rpn=OneScaleRpnConfig(nms_pre_train=300, nms_pre_test=300, max_proposals=60, samples=ALL),
        roi=BoxConfig(fc_channels=64, samples=ALL, max_detections=20),
    )
    model = build_model(config, num_classes=pack.meta["num_classes"])
    assert isinstance(model, SamDet)
    load_original(model, pack.weights, kind="samdet", lora=False, origin="samdet")
    return Case(pack, model)


def _names(pack: Pack) -> dict[str, str]:
    return rename_keys(pack.weights, kind="samdet", lora=False)


def test_backbone_and_proposals(case: Case) -> None:
    recorded, model = case.pack.outputs, case.model.eval()
    side = case.pack.meta["image_size"]
    with torch.no_grad():
        maps = model.resnet(case.pack.inputs["images"])
        output = model.rpn(model.neck(maps))
        proposals = model.rpn.propose(output, [(side, side)] * 2)
    for index, level in enumerate(maps):
        assert_close(level, recorded[f"backbone_c{index + 2}"], 3e-5, f"backbone_c{index + 2}")
    for level in range(5):
        assert_close(output.logits[level], recorded[f"rpn_cls{level}"], 1e-5, f"rpn_cls{level}")
        assert_close(output.offsets[level], recorded[f"rpn_reg{level}"], 1e-5, f"rpn_reg{level}")
    for index, ours in enumerate(proposals):
        name = f"proposals{index}"
        assert_same_boxes(ours.boxes, ours.scores, recorded[f"{name}.boxes"], recorded[f"{name}.scores"], name)


def test_detections_in_original_pixels(case: Case) -> None:
    results = case.model.eval().detect(case.pack.inputs["images"], case.pack.metas)
    assert [len(result) for result in results] == case.pack.meta["detections"]
    for index, result in enumerate(results):
        recorded: dict[str, Tensor] = {
            key.partition(".")[2]: value for key, value in case.pack.outputs.items() if key.startswith(f"pred{index}.")
        }
        order = assert_same_boxes(result.boxes, result.scores, recorded["bboxes"], recorded["scores"], f"image {index}")
        assert torch.equal(result.labels[order], recorded["labels"].long())
        assert isinstance(result.masks, LowResMasks)
        ours = result.masks.values[order]
        assert_close(ours, case.pack.outputs[f"sam_masks{index}"], 1e-4, f"sam_masks{index}", relative=False)
        assert_masks(inflate(result.masks)[order], recorded["masks"], f"image {index}")


def test_losses_and_gradients(case: Case) -> None:
    model, pack = case.model, case.pack
    model.train()
    model.zero_grad()
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    images, targets = pack.inputs["images"], pack.targets
    with torch.no_grad():
        by_level = model.rpn.losses(model.rpn(model.features(images)), [target.boxes for target in targets])
    losses = model.losses(images, pack.sizes, targets)
    ours = {name: float(losses[name].detach()) for name in ("loss_cls", "loss_bbox")}
    for name, values in zip(("loss_rpn_cls", "loss_rpn_bbox"), by_level, strict=True):
        ours |= {f"{name}.{level}": float(value) for level, value in enumerate(values)}
        assert float(losses[name].detach()) == pytest.approx(float(values.sum()), rel=1e-6)
    assert_losses(ours, pack.meta["losses"], 2e-5)
    total = torch.stack(list(losses.values())).sum()
    assert float(total.detach()) == pytest.approx(pack.meta["total_loss"], rel=2e-5)
    total.backward()
    assert_gradients(model, _names(pack), pack.meta, 3e-3)
    assert all(torch.equal(value, statistics[key]) for key, value in model.state_dict().items())


def test_the_same_parameters_train(case: Case) -> None:
    names = _names(case.pack)
    ours = {name for name, parameter in case.model.named_parameters() if parameter.requires_grad}
    assert ours == {names[original] for original in case.pack.meta["trainable"]}
