"""Reading a recorded pack of the original, and comparing within its limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rsprompter_cli.models.image_transform import ImageMeta, make_meta
from rsprompter_cli.models.layers.rpn import Proposals, RpnOutput
from rsprompter_cli.structures import Detections, Target

ALL = 10**6
"""More samples than there are: the recorded losses have no randomness."""


@dataclass(frozen=True, eq=False)
class Pack:
    """One variant's recorded weights, inputs and outputs."""

    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def metas(self) -> list[ImageMeta]:
        """The test metas in our words (the original's scale factor is width first)."""
        return [
            make_meta(tuple(one["ori_shape"]), tuple(reversed(one["scale_factor"])), self.meta["image_size"])
            for one in self.meta["test_metas"]
        ]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Image shapes in training, before padding."""
        return [tuple(shape) for shape in self.meta["img_shapes"]]

    @property
    def targets(self) -> list[Target]:
        """Ground truth of both images."""
        return [
            Target(
                self.inputs[f"gt{index}.boxes"].float(),
                self.inputs[f"gt{index}.labels"].long(),
                self.inputs[f"gt{index}.masks"].bool(),
            )
            for index in range(2)
        ]

    def predicted(self, index: int) -> dict[str, Tensor]:
        """The detections of an image: bboxes, labels, scores, masks."""
        prefix = f"pred{index}."
        return {key.removeprefix(prefix): value for key, value in self.outputs.items() if key.startswith(prefix)}


def read_pack(folder: Path) -> Pack:
    """All files of a variant's folder."""
    return Pack(
        load_file(folder / "reference_state_dict.safetensors"),
        load_file(folder / "inputs.safetensors"),
        load_file(folder / "outputs.safetensors"),
        json.loads((folder / "meta.json").read_text(encoding="utf-8")),
    )


def assert_close(ours: Tensor, recorded: Tensor, limit: float, name: str, *, relative: bool = True) -> None:
    """Largest difference at most `limit` x max(1, largest recorded value), or `limit` itself."""
    assert ours.shape == recorded.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(recorded.shape)}"
    bound = limit * max(1.0, float(recorded.abs().max())) if relative else limit
    difference = float((ours.double() - recorded.double()).abs().max())
    assert difference <= bound, f"{name}: differs by {difference:.3g}, allowed {bound:.3g}"


def assert_masks(ours: Tensor, recorded: Tensor, name: str) -> None:
    """Per mask at most max(4 px, 0.02 % of its pixels) differ."""
    assert ours.shape == recorded.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(recorded.shape)}"
    pixels = recorded[0].numel()
    worst = int((ours != recorded.bool()).flatten(1).sum(1).max())
    assert worst <= max(4, 2e-4 * pixels), f"{name}: {worst} of {pixels} pixels differ"


def assert_same_boxes(
    boxes: Tensor, scores: Tensor, recorded_boxes: Tensor, recorded_scores: Tensor, name: str
) -> Tensor:
    """Boxes within .01 px and scores within 1e-4, in the same order up to ties closer than 1e-5.

    Returns:
        for each recorded row the row of ours that is it.
    """
    assert boxes.shape == recorded_boxes.shape, f"{name}: {tuple(boxes.shape)} instead of {tuple(recorded_boxes.shape)}"
    partners = []
    free = set(range(len(boxes)))
    for row in range(len(recorded_boxes)):
        near = [
            other
            for other in sorted(free, key=lambda index: abs(index - row))
            if float((boxes[other] - recorded_boxes[row]).abs().max()) <= 1e-2
            and abs(float(scores[other] - recorded_scores[row])) <= 1e-4
            and (other == row or abs(float(recorded_scores[other] - recorded_scores[row])) < 1e-5)
        ]
        assert near, f"{name}: nothing of ours is recorded row {row}"
        partners.append(near[0])
        free.discard(near[0])
    return torch.tensor(partners)


def assert_proposals(
    output: RpnOutput, proposals: Sequence[Proposals], recorded: dict[str, Tensor], limit: float
) -> None:
    """Answers of the proposal network on its five levels within a limit, and the same proposals of each image."""
    for level in range(5):
        assert_close(output.logits[level], recorded[f"rpn_cls{level}"], limit, f"rpn_cls{level}")
        assert_close(output.offsets[level], recorded[f"rpn_reg{level}"], limit, f"rpn_reg{level}")
    for index, ours in enumerate(proposals):
        name = f"proposals{index}"
        assert_same_boxes(ours.boxes, ours.scores, recorded[f"{name}.boxes"], recorded[f"{name}.scores"], name)


def assert_same_objects(found: Detections, pack: Pack, index: int) -> Tensor:
    """The recorded boxes, scores and labels of an image; see `assert_same_boxes`.

    Returns:
        for each recorded row the row of ours that is it.
    """
    recorded = pack.predicted(index)
    order = assert_same_boxes(found.boxes, found.scores, recorded["bboxes"], recorded["scores"], f"image {index}")
    assert torch.equal(found.labels[order], recorded["labels"].long())
    return order


def assert_losses(ours: dict[str, float], recorded: dict[str, float], limit: float) -> None:
    """Every recorded loss within a relative limit, 1e-8 absolute."""
    assert set(ours) == set(recorded)
    for name, value in recorded.items():
        assert abs(ours[name] - value) <= max(limit * abs(value), 1e-8), f"{name}: {ours[name]} instead of {value}"


def assert_total(losses: dict[str, Tensor], meta: dict[str, Any], limit: float) -> Tensor:
    """The sum of all losses within a relative limit; it is returned, with its graph."""
    total = torch.stack(list(losses.values())).sum()
    assert float(total.detach()) == pytest.approx(meta["total_loss"], rel=limit)
    return total


def assert_two_stage_losses(
    losses: dict[str, Tensor], by_level: Sequence[Tensor], meta: dict[str, Any], limit: float
) -> Tensor:
    """The losses of a two-stage model as recorded, those of its proposals level by level.

    Args:
        by_level: of the proposal network, for its classes and its boxes, [5] each.

    Returns:
        their sum, with its graph.
    """
    parts = {"loss_rpn_cls": by_level[0].detach(), "loss_rpn_bbox": by_level[1].detach()}
    ours = {name: float(value.detach()) for name, value in losses.items() if name not in parts}
    for name, values in parts.items():
        ours |= {f"{name}.{level}": float(value) for level, value in enumerate(values)}
        assert float(losses[name].detach()) == pytest.approx(float(values.sum()), rel=1e-6)
    assert_losses(ours, meta["losses"], limit)
    return assert_total(losses, meta, limit)


def assert_trainable(model: nn.Module, names: dict[str, str], meta: dict[str, Any]) -> None:
    """The parameters that train are the recorded ones.

    Args:
        names: our name of each original one.
    """
    ours = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert ours == {names[original] for original in meta["trainable"]}


def assert_gradients(model: nn.Module, names: dict[str, str], meta: dict[str, Any], limit: float) -> None:
    """Gradient norms of all listed parameters, and nothing but listed parameters has one.

    Args:
        names: our name of each original one.
    """
    parameters = dict(model.named_parameters())
    for original, norm in meta["grad_norms"].items():
        gradient = parameters[names[original]].grad
        assert gradient is not None, f"{original}: no gradient"
        ours = float(gradient.norm())
        assert abs(ours - norm) <= limit * norm, f"{original}: gradient {ours} instead of {norm}"
    largest = max(meta["grad_norms"].values())
    listed = set(meta["grad_norms"]) | set(meta["grad_norms_too_small_to_compare"])
    for original in meta["trainable"]:
        gradient = parameters[names[original]].grad
        norm = 0.0 if gradient is None else float(gradient.norm())
        if original not in meta["grad_norms"]:
            assert norm <= 2e-5 * largest, f"{original}: gradient {norm}, recorded as none"
        if original not in listed:
            assert gradient is None, f"{original}: has a gradient, recorded without"
