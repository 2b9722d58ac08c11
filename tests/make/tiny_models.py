"""Small models for tests: a ViT of width 16 on 64 px images, random weights of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rsprompter_cli.config import (
    AutomaskConfig,
    BoxConfig,
    Config,
    Mask2FormerConfig,
    Mask2FormerQueryConfig,
    MaskRcnnConfig,
    ModelConfig,
    NeckConfig,
    OneScaleRpnConfig,
    QueryConfig,
    ResNetConfig,
    RoiConfig,
    RpnConfig,
    RSPrompterAnchorConfig,
    RSPrompterQueryConfig,
    SamclsConfig,
    SamDecoderArch,
    SamdetConfig,
    SamsegMask2FormerConfig,
    SamsegMaskRcnnConfig,
    TinyVitArch,
    TrainConfig,
    TransformersQueryConfig,
    VitArch,
)
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.build import build_model

TINY_DECODER = SamDecoderArch(
    hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32, iou_head_hidden_dim=16, mask_input_channels=8
)

TINY_VIT = VitArch(
    hidden_size=16,
    num_layers=4,
    num_heads=2,
    mlp_dim=32,
    global_attn_indexes=(1, 3),
    window_size=3,
    output_channels=16,
    pretrained_image_size=64,
    decoder=TINY_DECODER,
)

TINY_TINY_VIT = TinyVitArch(
    embed_dims=(8, 8, 8, 8),
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 1, 1),
    window_sizes=(4, 4, 4, 4),
    output_channels=16,
    pretrained_image_size=64,
    decoder=TINY_DECODER,
)
"""Its maps have stride 4, those of the ViT stride 16."""

TINY_RESNET = ResNetConfig(stem_channels=8, hidden_sizes=(16, 16, 32, 32), depths=(1, 1, 1, 1))


def tiny_model_config(**changes: Any) -> RSPrompterAnchorConfig:
    """The model part of a configuration; keyword arguments replace its keys."""
    base = {
        "sam_arch": TINY_VIT,
        "neck": NeckConfig(hidden_channels=8, out_channels=16),
        "rpn": RpnConfig(nms_pre_train=100, nms_pre_test=50, max_proposals=30, samples=64),
        "roi": RoiConfig(fc_channels=32, samples=32, max_detections=10, score_threshold=0.01),
    }
    return RSPrompterAnchorConfig.model_validate(base | changes)


def tiny_config(*, train: dict[str, Any] | None = None, **changes: Any) -> Config:
    """A whole configuration for a run of seconds; keyword arguments replace keys of the model part."""
    values = {"epochs": 2, "batch_size": 2, "warmup_steps": 2, "workers": 0, "precision": "fp32"} | (train or {})
    return Config(name="tiny", model=tiny_model_config(**changes), train=TrainConfig.model_validate(values))


def build_seeded(config: ModelConfig, *, num_classes: int = 3, seed: int = 0) -> nn.Module:
    """A model in evaluation mode; the same seed gives the same weights and leaves torch's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config, num_classes=num_classes).eval()


def tiny_model(*, num_classes: int = 3, seed: int = 0, **changes: Any) -> nn.Module:
    """An RSPrompter-anchor of the sizes above; keyword arguments replace keys of its configuration."""
    return build_seeded(tiny_model_config(**changes), num_classes=num_classes, seed=seed)


def tiny_samdet_config(**changes: Any) -> SamdetConfig:
    """SAMDet on a ResNet of width 8 that starts random; keyword arguments replace its keys."""
    base = {
        "sam_arch": TINY_VIT,
        "backbone": TINY_RESNET,
        "backbone_weights": "random",
        "out_channels": 16,
        "rpn": OneScaleRpnConfig(nms_pre_train=100, nms_pre_test=50, max_proposals=30, samples=64),
        "roi": BoxConfig(fc_channels=32, samples=32, max_detections=10, score_threshold=0.01),
    }
    return SamdetConfig.model_validate(base | changes)


def tiny_samseg_maskrcnn_config(**changes: Any) -> SamsegMaskRcnnConfig:
    """SAM-seg Mask R-CNN on the tiny SAM; keyword arguments replace its keys."""
    base = {
        "sam_arch": TINY_VIT,
        "neck": NeckConfig(hidden_channels=8, out_channels=16),
        "rpn": OneScaleRpnConfig(nms_pre_train=100, nms_pre_test=50, max_proposals=30, samples=64),
        "roi": BoxConfig(fc_channels=32, samples=32, max_detections=10, score_threshold=0.01),
    }
    return SamsegMaskRcnnConfig.model_validate(base | changes)


def tiny_samcls_config(**changes: Any) -> SamclsConfig:
    """SAM-cls on the tiny SAM with a ResNet-18 that starts random; keyword arguments replace its keys."""
    base = {
        "sam_arch": TINY_VIT,
        "automask": AutomaskConfig(points_per_side=8),
        "backbone_weights": "random",
        "crop_size": 64,
        "crop_samples": 6,
        "max_detections": 20,
    }
    return SamclsConfig.model_validate(base | changes)


def tiny_meta(*, num_classes: int = 3, image_size: int = 64, **changes: Any) -> CheckpointMeta:
    """What the model's folder says of it."""
    names = tuple(f"class{index}" for index in range(num_classes))
    values: dict[str, Any] = {
        "class_names": names,
        "category_ids": tuple(range(1, num_classes + 1)),
        "image_size": image_size,
    }
    return CheckpointMeta(**(values | changes))


TINY_QUERY: dict[str, Any] = {
    "queries": 8,
    "channels": 16,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "heads": 2,
    "points": 2,
    "encoder_feedforward": 32,
    "decoder_feedforward": 32,
    "norm_groups": 4,
    "loss_points": 128,
}

PLAIN_QUERY = TINY_QUERY | {"channels": 32, "points": 4, "norm_groups": 32}
"""The same with what transformers does not let change."""


def tiny_query_config(**changes: Any) -> RSPrompterQueryConfig:
    """RSPrompter-query of 8 queries and 3 rounds; keyword arguments replace its keys."""
    base = {
        "sam_arch": TINY_VIT,
        "neck": NeckConfig(hidden_channels=8, out_channels=16),
        "query": QueryConfig(**TINY_QUERY),
        "prompts_per_object": 2,
    }
    return RSPrompterQueryConfig.model_validate(base | changes)


def tiny_mask2former_config(**changes: Any) -> SamsegMask2FormerConfig:
    """SAM-seg Mask2Former of the same sizes; keyword arguments replace its keys."""
    base = {
        "sam_arch": TINY_VIT,
        "neck": NeckConfig(hidden_channels=8, out_channels=16),
        "query": Mask2FormerQueryConfig(**TINY_QUERY),
    }
    return SamsegMask2FormerConfig.model_validate(base | changes)


def tiny_plain_mask2former_config(**changes: Any) -> Mask2FormerConfig:
    """The plain Mask2Former baseline on a ResNet of width 8 that starts random; keyword arguments replace its keys."""
    base = {
        "image_size": 64,
        "backbone": TINY_RESNET,
        "backbone_weights": "random",
        "query": TransformersQueryConfig(**PLAIN_QUERY),
    }
    return Mask2FormerConfig.model_validate(base | changes)


def tiny_maskrcnn_config(**changes: Any) -> MaskRcnnConfig:
    """The plain Mask R-CNN baseline on small input; its parts are torchvision's, see `narrow_maskrcnn`."""
    base = {
        "image_size": 64,
        "backbone_weights": "random",
        "roi_samples": 16,
        "max_proposals": 20,
        "score_threshold": 0.01,
    }
    return MaskRcnnConfig.model_validate(base | changes)


TINY_CONFIGS: dict[str, Callable[..., ModelConfig]] = {
    "rsprompter-anchor": tiny_model_config,
    "rsprompter-query": tiny_query_config,
    "samseg-maskrcnn": tiny_samseg_maskrcnn_config,
    "samseg-mask2former": tiny_mask2former_config,
    "samdet": tiny_samdet_config,
    "samcls": tiny_samcls_config,
    "maskrcnn": tiny_maskrcnn_config,
    "mask2former": tiny_plain_mask2former_config,
}
"""Every kind of model."""
