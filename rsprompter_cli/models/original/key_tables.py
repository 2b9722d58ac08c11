"""How the key names of the original RSPrompter code are written down, and read in both directions.

How to write a table: each row is a pair, the original's name and ours, and stands for itself except that

* `#` is a number, as in `layers.#.`;
* `*` is all the rest of a name, any number of words, and only stands at the end.

Both sides of a row have the same wildcards in the same order, so a row is read from left to right to
import and from right to left to export. The first row that fits a whole name renames it. Rows must not
lead two original names to one of ours; what the original stores in pieces or twice has fields of its own:

* `stacked`: our name -> the original's names of which ours is the concatenation along the first axis;
* `copies`: an original name -> another original name whose tensor it repeats. It must be equal on
  import, where it is dropped, and is written again on export.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

Row = tuple[str, str]
"""The original's name and ours."""

_PLACEHOLDER = re.compile(r"[#*]")


@dataclass(frozen=True)
class KeyTable:
    """The names of one kind of model.

    Attributes:
        rows: pairs of names, see above; those of the encoder and of the neck have tables of their own below.
        encoder: prefix of SAM's image encoder in the original.
        stacked: our name of each tensor that the original stores in pieces, and their names.
        copies: original names of tensors that the original stores twice, and the name of the other.
    """

    rows: tuple[Row, ...]
    encoder: str = "backbone.vision_encoder."
    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)


def to_ours(keys: Iterable[str], rows: tuple[Row, ...]) -> dict[str, str]:
    """Our name of each original one; a name that no row fits is left out."""
    rename = _renamer(rows)
    return {key: name for key in keys if (name := rename(key)) is not None}


def to_original(keys: Iterable[str], rows: tuple[Row, ...]) -> dict[str, str]:
    """The original's name of each of ours; a name that no row fits is left out."""
    return to_ours(keys, tuple((ours, original) for original, ours in rows))


@cache
def _renamer(rows: tuple[Row, ...]) -> Callable[[str], str | None]:
    """A function that renames one key, left side to right side."""
    compiled = [(_pattern(left), _template(right)) for left, right in rows]

    def rename(key: str) -> str | None:
        for pattern, template in compiled:
            match = pattern.fullmatch(key)
            if match:
                return match.expand(template)
        return None

    return rename


def _pattern(name: str) -> re.Pattern[str]:
    wild = {"#": r"(\d+)", "*": "(.+)"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in re.split(r"([#*])", name)))


def _template(name: str) -> str:
    count = iter(range(1, len(name) + 2))
    return _PLACEHOLDER.sub(lambda _: rf"\g<{next(count)}>", name)


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


def shared_rows(encoder: str, *, mmpretrain: bool = True, layers: bool = True, last: bool = True) -> tuple[Row, ...]:
    """Encoder and neck of every model, in every spelling unless one is chosen; the narrower names come first.

    Args:
        encoder: prefix of the keys of SAM's image encoder in the original, with the dot.
        mmpretrain: its names in mmpretrain, which the original takes for other image sizes, before those in
            transformers.
        layers: the neck that reads several maps of the encoder; last: the one that reads the last map only.
    """
    return (
        *(_mmpretrain_rows(encoder) if mmpretrain else ()),
        (f"{encoder}*", "encoder.vit.*"),
        *_SPLITTER_ROWS,
        *(_LAYERS_AGGREGATOR_ROWS if layers else ()),
        *(_LAST_AGGREGATOR_ROWS if last else ()),
    )


def _mmpretrain_rows(encoder: str) -> tuple[Row, ...]:
    return (
        (f"{encoder}layers.#.ln#.*", "encoder.vit.layers.#.layer_norm#.*"),
        (f"{encoder}layers.#.ffn.layers.0.0.*", "encoder.vit.layers.#.mlp.lin1.*"),
        (f"{encoder}layers.#.ffn.layers.1.*", "encoder.vit.layers.#.mlp.lin2.*"),
        (f"{encoder}channel_reduction.0.*", "encoder.vit.neck.conv1.*"),
        (f"{encoder}channel_reduction.1.*", "encoder.vit.neck.layer_norm1.*"),
        (f"{encoder}channel_reduction.2.*", "encoder.vit.neck.conv2.*"),
        (f"{encoder}channel_reduction.3.*", "encoder.vit.neck.layer_norm2.*"),
    )


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


_SPLITTER_ROWS: tuple[Row, ...] = (
    ("neck.feature_spliter.fpn1.*", "neck.splitter.up4.*"),
    ("neck.feature_spliter.fpn2.0.*", "neck.splitter.up2.*"),
    ("neck.feature_spliter.lateral_convs.#.conv.*", "neck.splitter.lateral.#.conv.*"),
    ("neck.feature_spliter.lateral_convs.#.norm_layer.*", "neck.splitter.lateral.#.norm.*"),
    ("neck.feature_spliter.fpn_convs.#.conv.*", "neck.splitter.output.#.conv.*"),
    ("neck.feature_spliter.fpn_convs.#.norm_layer.*", "neck.splitter.output.#.norm.*"),
)

_LAYERS_AGGREGATOR_ROWS: tuple[Row, ...] = (
    ("neck.feature_aggregator.downconvs.*", "neck.aggregator.reduce.*"),
    ("neck.feature_aggregator.hidden_convs.*", "neck.aggregator.residual.*"),
    ("neck.feature_aggregator.fusion_conv.*", "neck.aggregator.fuse.*"),
)

_LAST_AGGREGATOR_ROWS: tuple[Row, ...] = (("neck.feature_aggregator.channel_fusion.*", "neck.aggregator.fuse.*"),)


ANCHOR = KeyTable(
    rows=(
        *rpn_and_box_head_rows(),
        ("roi_head.mask_head.point_emb.0.*", "prompt_head.conv.*"),
        ("roi_head.mask_head.point_emb.1.*", "prompt_head.norm.*"),
        ("roi_head.mask_head.point_emb.4.*", "prompt_head.fc1.*"),
        ("roi_head.mask_head.point_emb.6.*", "prompt_head.fc2.*"),
        ("roi_head.mask_head.point_emb.8.*", "prompt_head.fc3.*"),
        ("roi_head.mask_head.mask_decoder.mask_decoder.*", "mask_decoder.decoder.*"),
        ("roi_head.mask_head.no_mask_embed.*", "mask_decoder.no_mask_embed.*"),
        ("shared_image_embedding.shared_image_embedding.*", "mask_decoder.position.*"),
    )
)


SAMSEG_MASKRCNN = KeyTable(
    (
        *rpn_and_box_head_rows(),
        ("roi_head.mask_head.convs.#.conv.*", "mask_head.convs.#.*"),
        ("roi_head.mask_head.upsample.*", "mask_head.enlarge.*"),
        ("roi_head.mask_head.conv_logits.*", "mask_head.logits.*"),
    )
)


_HEAD = "panoptic_head."
_PIXELS = _HEAD + "pixel_decoder."
_LAYER = _PIXELS + "encoder.layers.#."
_ROUND = _HEAD + "transformer_decoder.layers.#."

_QUERY_ROWS: tuple[Row, ...] = (
    (_PIXELS + "input_convs.#.conv.*", "pixel_decoder.inputs.#.conv.*"),
    (_PIXELS + "input_convs.#.gn.*", "pixel_decoder.inputs.#.norm.*"),
    (_PIXELS + "level_encoding.*", "pixel_decoder.level_embed.*"),
    (_LAYER + "self_attn.*", "pixel_decoder.layers.#.attention.*"),
    (_LAYER + "ffn.layers.0.0.*", "pixel_decoder.layers.#.fc1.*"),
    (_LAYER + "ffn.layers.1.*", "pixel_decoder.layers.#.fc2.*"),
    (_LAYER + "norms.0.*", "pixel_decoder.layers.#.norm1.*"),
    (_LAYER + "norms.1.*", "pixel_decoder.layers.#.norm2.*"),
    (_PIXELS + "lateral_convs.#.conv.*", "pixel_decoder.lateral.#.conv.*"),
    (_PIXELS + "lateral_convs.#.gn.*", "pixel_decoder.lateral.#.norm.*"),
    (_PIXELS + "output_convs.#.conv.*", "pixel_decoder.output.#.conv.*"),
    (_PIXELS + "output_convs.#.gn.*", "pixel_decoder.output.#.norm.*"),
    (_PIXELS + "mask_feature.*", "pixel_decoder.mask_feature.*"),
    (_ROUND + "cross_attn.attn.*", "query_decoder.layers.#.cross_attention.*"),
    (_ROUND + "self_attn.attn.*", "query_decoder.layers.#.self_attention.*"),
    (_ROUND + "ffn.layers.0.0.*", "query_decoder.layers.#.fc1.*"),
    (_ROUND + "ffn.layers.1.*", "query_decoder.layers.#.fc2.*"),
    (_ROUND + "norms.0.*", "query_decoder.layers.#.norm1.*"),
    (_ROUND + "norms.1.*", "query_decoder.layers.#.norm2.*"),
    (_ROUND + "norms.2.*", "query_decoder.layers.#.norm3.*"),
    (_HEAD + "transformer_decoder.post_norm.*", "query_decoder.post_norm.*"),
    (_HEAD + "query_feat.*", "query_decoder.queries.*"),
    (_HEAD + "query_embed.*", "query_decoder.places.*"),
    (_HEAD + "level_embed.*", "query_decoder.level_embed.*"),
    (_HEAD + "cls_embed.*", "query_decoder.classes.*"),
    (_HEAD + "mask_embed.*", "query_decoder.mask_embed.*"),
)

SAMSEG_MASK2FORMER = KeyTable(_QUERY_ROWS)

QUERY = KeyTable(
    (
        *_QUERY_ROWS,
        (_HEAD + "point_emb.*", "prompt_head.mlp.*"),
        (_HEAD + "mask_decoder.mask_decoder.*", "mask_decoder.decoder.*"),
        (_HEAD + "sam_mask_embed.*", "mask_decoder.mask_embed.*"),
        ("shared_image_embedding.shared_image_embedding.*", "mask_decoder.position.*"),
    )
)


_SAM = "segmentor.sam_model."
_PROMPTS = _SAM + "prompt_encoder."

SAMDET = KeyTable(
    (
        *rpn_and_box_head_rows("detector."),
        ("detector.backbone.*", "resnet.*"),
        ("detector.neck.lateral_convs.#.conv.*", "neck.fpn.inner_blocks.#.0.*"),
        ("detector.neck.fpn_convs.#.conv.*", "neck.fpn.layer_blocks.#.0.*"),
        (_SAM + "mask_decoder.*", "mask_decoder.decoder.*"),
        (_SAM + "shared_image_embedding.*", "mask_decoder.position.*"),
        (_PROMPTS + "no_mask_embed.*", "mask_decoder.no_mask_embed.*"),
        (_PROMPTS + "mask_embed.*", "mask_decoder.mask_embed.*"),
        (_PROMPTS + "not_a_point_embed.*", "mask_decoder.not_a_point.*"),
    ),
    encoder=_SAM + "vision_encoder.",
    stacked={
        "mask_decoder.point_embed.weight": (_PROMPTS + "point_embed.0.weight", _PROMPTS + "point_embed.1.weight"),
        "mask_decoder.corner_embed.weight": (_PROMPTS + "point_embed.2.weight", _PROMPTS + "point_embed.3.weight"),
    },
    # One table of frequencies serves the map and the prompts.
    copies={
        _PROMPTS + "shared_embedding.positional_embedding": _SAM + "shared_image_embedding.positional_embedding",
    },
)
