"""The recorded variants, built at their sizes and loaded with the original's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsprompter_cli.config import (
    BoxConfig,
    LoraConfig,
    Mask2FormerQueryConfig,
    ModelConfig,
    NeckConfig,
    OneScaleRpnConfig,
    ResNetConfig,
    RoiConfig,
    RpnConfig,
    RSPrompterAnchorConfig,
    RSPrompterQueryConfig,
    SamdetConfig,
    SamsegMask2FormerConfig,
    SamsegMaskRcnnConfig,
)
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.original.rename import rename_keys
from rsprompter_cli.models.training_context import Draw
from tests.make.original_files import load_original
from tests.models.parity import ALL, Pack, read_pack

_NECK = NeckConfig(hidden_channels=8, out_channels=32)
_PROPOSALS: dict[str, Any] = {"nms_pre_train": 300, "nms_pre_test": 300, "max_proposals": 60, "samples": ALL}
_BOXES: dict[str, Any] = {"fc_channels": 64, "samples": ALL, "max_detections": 20}
_QUERY: dict[str, Any] = {
    "queries": 12,
    "channels": 32,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "heads": 4,
    "points": 4,
    "encoder_feedforward": 64,
    "decoder_feedforward": 64,
    "norm_groups": 8,
    "loss_points": 256,
    "max_detections": 20,
}


def _anchor(**common: Any) -> RSPrompterAnchorConfig:
    return RSPrompterAnchorConfig(rpn=RpnConfig(**_PROPOSALS), roi=RoiConfig(**_BOXES), **common)


def _lora(**common: Any) -> RSPrompterAnchorConfig:
    neck = NeckConfig(hidden_channels=16, out_channels=32)
    return _anchor(encoder="lora", lora=LoraConfig(r=4, alpha=8, dropout=0.0), neck=neck, **common)


def _full_anchor(**common: Any) -> RSPrompterAnchorConfig:
    return _anchor(encoder="full", neck=_NECK, **common)


def _query(**common: Any) -> RSPrompterQueryConfig:
    return RSPrompterQueryConfig(encoder="full", neck=_NECK, query=Mask2FormerQueryConfig(**_QUERY), **common)


def _mask2former(**common: Any) -> SamsegMask2FormerConfig:
    return SamsegMask2FormerConfig(encoder="full", neck=_NECK, query=Mask2FormerQueryConfig(**_QUERY), **common)


def _maskrcnn(**common: Any) -> SamsegMaskRcnnConfig:
    parts: dict[str, Any] = {"rpn": OneScaleRpnConfig(**_PROPOSALS), "roi": BoxConfig(**_BOXES)}
    return SamsegMaskRcnnConfig(encoder="full", neck=_NECK, **parts, **common)


def _samdet(**common: Any) -> SamdetConfig:
    return SamdetConfig(
        backbone=ResNetConfig(stem_channels=8, hidden_sizes=(32, 64, 128, 256)),
        out_channels=32,
        rpn=OneScaleRpnConfig(**_PROPOSALS),
        roi=BoxConfig(**_BOXES),
        **common,
    )


CONFIGS: Mapping[str, Callable[..., ModelConfig]] = {
    "rsprompter_anchor": _full_anchor,
    "rsprompter_anchor_lora": _lora,
    "rsprompter_query": _query,
    "samseg_mask2former": _mask2former,
    "samseg_maskrcnn": _maskrcnn,
    "samdet": _samdet,
}
"""Every recorded variant."""


class Recorded(NamedTuple):
    """A variant loaded into our model.

    names: our name of each original one. lora: whether it has adapters.
    """

    pack: Pack
    model: nn.Module
    config: ModelConfig
    names: dict[str, str]
    lora: bool


def load_recorded(shared: Path, variant: str) -> Recorded:
    """A recorded variant, in evaluation mode or training as `build_model` leaves it."""
    pack = read_pack(shared / "parity" / variant)
    config = CONFIGS[variant](sam=str(shared / "parity" / "sam"), image_size=pack.meta["image_size"])
    model = build_model(config, num_classes=pack.meta["num_classes"])
    lora = variant.endswith("_lora")
    load_original(model, pack.weights, kind=config.kind, lora=lora, origin=variant)
    return Recorded(pack, model, config, rename_keys(pack.weights, kind=config.kind, lora=lora), lora)


def recorded_draws(pack: Pack) -> tuple[Draw, list[Tensor]]:
    """The recorded draws in call order, each asked for in its shape; and those not yet drawn."""
    left = [pack.outputs[key] for key in sorted(pack.outputs) if key.startswith("rand")]

    def draw(images: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
        drawn = left.pop(0)
        assert tuple(drawn.shape) == (len(images), *shape)
        return drawn.to(device)

    return draw, left
