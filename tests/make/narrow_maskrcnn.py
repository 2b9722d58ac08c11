"""torchvision's Mask R-CNN with few and narrow layers: the published one takes seconds for a step."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads
from torchvision.models.resnet import BasicBlock, ResNet

from rsprompter_cli.models.builders import baselines


def narrow_maskrcnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every Mask R-CNN that is built be narrow."""
    monkeypatch.setattr(baselines, "maskrcnn_resnet50_fpn_v2", _narrow_detector)


def _narrow_detector(*, weights: None, weights_backbone: None, num_classes: int, **options: Any) -> MaskRCNN:
    """The same detector with a ResNet of four blocks and small heads."""
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    norm = nn.BatchNorm2d
    levels = {f"layer{index + 1}": str(index) for index in range(4)}
    return MaskRCNN(
        BackboneWithFPN(resnet, levels, [64, 128, 256, 512], 16, norm_layer=norm),
        num_classes=num_classes,
        box_head=FastRCNNConvFCHead((16, 7, 7), [8], [1024], norm_layer=norm),
        mask_head=MaskRCNNHeads(16, [256], 1, norm_layer=norm),
        **options,
    )
