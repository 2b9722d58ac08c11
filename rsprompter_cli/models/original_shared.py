"""Key names of the original for the blocks that several of its models share; see original_keys.py."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rsprompter_cli.models.original_keys import Row

PEFT_PREFIX = "base_model.model."
"""Stands before the names of an encoder that peft wrapped."""

QKV = re.compile(r"(\.attn\.qkv)\.(?:base_layer\.)?(weight|bias)$")
"""The projection under an adapter: peft before 0.7 wrote it without `base_layer`."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a file writes the names of the encoder.

    mmpretrain: as mmpretrain does, else as transformers.
    peft: with peft's prefix.
    base_layer: the projections under adapters as peft from 0.7 on names them.
    """

    mmpretrain: bool
    peft: bool
    base_layer: bool


def find_spelling(keys: Iterable[str]) -> Spelling:
    """The spelling of an original state dictionary."""
    names = list(keys)
    return Spelling(
        mmpretrain=any(".channel_reduction." in name for name in names),
        peft=any(PEFT_PREFIX in name for name in names),
        base_layer=any(".qkv.base_layer." in name for name in names),
    )


def encoder_rows(prefix: str) -> tuple[Row, ...]:
    """SAM's image encoder under the names of transformers.

    Args:
        prefix: of its keys in the original, with the dot.
    """
    return ((f"{prefix}*", "encoder.vit.*"),)


def mmpretrain_encoder_rows(prefix: str) -> tuple[Row, ...]:
    """SAM's image encoder under the names of mmpretrain, which the original takes for other image sizes."""
    return (
        (f"{prefix}layers.#.ln#.*", "encoder.vit.layers.#.layer_norm#.*"),
        (f"{prefix}layers.#.ffn.layers.0.0.*", "encoder.vit.layers.#.mlp.lin1.*"),
        (f"{prefix}layers.#.ffn.layers.1.*", "encoder.vit.layers.#.mlp.lin2.*"),
        (f"{prefix}channel_reduction.0.*", "encoder.vit.neck.conv1.*"),
        (f"{prefix}channel_reduction.1.*", "encoder.vit.neck.layer_norm1.*"),
        (f"{prefix}channel_reduction.2.*", "encoder.vit.neck.conv2.*"),
        (f"{prefix}channel_reduction.3.*", "encoder.vit.neck.layer_norm2.*"),
    )


def import_rows(encoder: str) -> tuple[Row, ...]:
    """Encoder and neck in every spelling; the narrower names come first."""
    neck = SPLITTER_ROWS + LAYERS_AGGREGATOR_ROWS + LAST_AGGREGATOR_ROWS
    return mmpretrain_encoder_rows(encoder) + encoder_rows(encoder) + neck


def export_rows(encoder: str, *, mmpretrain: bool, last: bool) -> tuple[Row, ...]:
    """Encoder and neck in one spelling.

    Args:
        encoder: prefix of the encoder's keys in the original.
        mmpretrain: mmpretrain's names of the encoder, else transformers'.
        last: the neck reads the last map only.
    """
    body = mmpretrain_encoder_rows(encoder) if mmpretrain else ()
    neck = SPLITTER_ROWS + (LAST_AGGREGATOR_ROWS if last else LAYERS_AGGREGATOR_ROWS)
    return body + encoder_rows(encoder) + neck


def rpn_and_box_head_rows(prefix: str = "") -> tuple[Row, ...]:
    """Region proposals and box head of the two-stage models."""
    return (
        (f"{prefix}rpn_head.rpn_conv.*", "rpn.conv.*"),
        (f"{prefix}rpn_head.rpn_cls.*", "rpn.objectness.*"),
        (f"{prefix}rpn_head.rpn_reg.*", "rpn.offsets.*"),
        (f"{prefix}roi_head.bbox_head.shared_fcs.0.*", "box_head.fc1.*"),
        (f"{prefix}roi_head.bbox_head.shared_fcs.1.*", "box_head.fc2.*"),
        (f"{prefix}roi_head.bbox_head.fc_cls.*", "box_head.classes.*"),
        (f"{prefix}roi_head.bbox_head.fc_reg.*", "box_head.offsets.*"),
    )


SPLITTER_ROWS: tuple[Row, ...] = (
    ("neck.feature_spliter.fpn1.*", "neck.splitter.up4.*"),
    ("neck.feature_spliter.fpn2.0.*", "neck.splitter.up2.*"),
    ("neck.feature_spliter.lateral_convs.#.conv.*", "neck.splitter.lateral.#.conv.*"),
    ("neck.feature_spliter.lateral_convs.#.norm_layer.*", "neck.splitter.lateral.#.norm.*"),
    ("neck.feature_spliter.fpn_convs.#.conv.*", "neck.splitter.output.#.conv.*"),
    ("neck.feature_spliter.fpn_convs.#.norm_layer.*", "neck.splitter.output.#.norm.*"),
)

LAYERS_AGGREGATOR_ROWS: tuple[Row, ...] = (
    ("neck.feature_aggregator.downconvs.*", "neck.aggregator.reduce.*"),
    ("neck.feature_aggregator.hidden_convs.*", "neck.aggregator.residual.*"),
    ("neck.feature_aggregator.fusion_conv.*", "neck.aggregator.fuse.*"),
)

LAST_AGGREGATOR_ROWS: tuple[Row, ...] = (("neck.feature_aggregator.channel_fusion.*", "neck.aggregator.fuse.*"),)
