"""A model from its configuration: the one place where a configuration becomes keywords."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import nn

from rsprompter_cli.config import (
    Mask2FormerConfig,
    MaskRcnnConfig,
    ModelConfig,
    RSPrompterAnchorConfig,
    RSPrompterQueryConfig,
    SamclsConfig,
    SamdetConfig,
    SamsegMask2FormerConfig,
    SamsegMaskRcnnConfig,
    TrainedSamConfig,
)
from rsprompter_cli.errors import UsageError, shorten
from rsprompter_cli.models.builders.baselines import build_mask2former, build_maskrcnn
from rsprompter_cli.models.builders.query import build_rsprompter_query, build_samseg_mask2former
from rsprompter_cli.models.builders.sam import aggregator_kind
from rsprompter_cli.models.builders.samcls import build_samcls
from rsprompter_cli.models.builders.two_stage import build_rsprompter_anchor, build_samdet, build_samseg_maskrcnn
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.cpu.linear import use_fast_linear
from rsprompter_cli.models.layers.resnet import freeze_stages
from rsprompter_cli.models.trainable import set_trainable

_NO_MODEL = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError)
"""What the libraries' layers raise for sizes that they cannot have, where no check of ours was first."""


def merged_config(model_config: ModelConfig) -> ModelConfig:
    """The configuration of the same model once its adapters are merged."""
    if not isinstance(model_config, TrainedSamConfig) or model_config.encoder != "lora":
        return model_config
    neck = model_config.neck.model_copy(update={"aggregator": aggregator_kind(model_config)})
    return model_config.model_copy(update={"encoder": "frozen", "neck": neck})


def build_model(model_config: ModelConfig, *, num_classes: int) -> nn.Module:
    """A model with random weights, its trainable parameters set.

    Args:
        model_config: the `model` part of a configuration.
        num_classes: K, without the background.

    Raises:
        UsageError: sizes that do not go together.
        CheckpointError: a SAM folder that cannot be read.
    """
    if num_classes < 1:
        raise UsageError(f"a model needs at least one class, got {num_classes}")
    complete = complete_config(model_config)
    try:
        model = _build(complete, num_classes)
    except _NO_MODEL as error:
        if isinstance(error, RuntimeError) and torch.empty(0).device.type != "meta":
            raise  # no memory, for instance
        words = shorten(" ".join(str(error).split()), 200)
        raise UsageError(f"model: its sizes do not fit together: {type(error).__name__}: {words}") from error
    use_fast_linear(model)
    return model


def _build(complete: ModelConfig, num_classes: int) -> nn.Module:
    match complete:
        case RSPrompterAnchorConfig():
            model = build_rsprompter_anchor(complete, num_classes)
            set_trainable(model, encoder=complete.encoder, decoder=complete.decoder)
        case RSPrompterQueryConfig():
            model = build_rsprompter_query(complete, num_classes)
            set_trainable(model, encoder=complete.encoder, decoder=complete.decoder)
        case SamsegMask2FormerConfig():
            model = build_samseg_mask2former(complete, num_classes)
            set_trainable(model, encoder=complete.encoder, decoder="train")
        case SamsegMaskRcnnConfig():
            model = build_samseg_maskrcnn(complete, num_classes)
            set_trainable(model, encoder=complete.encoder, decoder="train")
        case SamdetConfig():
            model = build_samdet(complete, num_classes)
            set_trainable(model, encoder="frozen", decoder="frozen")
            freeze_stages(model.get_submodule("resnet"), complete.frozen_stages)
        case SamclsConfig():
            model = build_samcls(complete, num_classes)
            set_trainable(model, encoder="frozen", decoder="frozen")
        case MaskRcnnConfig():
            model = build_maskrcnn(complete, num_classes)
        case Mask2FormerConfig():
            model = build_mask2former(complete, num_classes)
        case _:
            assert_never(complete)
    return model
