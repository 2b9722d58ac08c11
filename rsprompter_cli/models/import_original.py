"""Key names of the original RSPrompter code, mapped to ours.

One ordered table of patterns for each block: a key is renamed by the first pattern that matches it whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.models.keys import check_keys, shapes_of

_PEFT = r"backbone\.vision_encoder\.base_model\.model\."
_PLAIN = r"backbone\.vision_encoder\."
_BODY = rf"(?:{_PEFT}|{_PLAIN})"

_ENCODER = (
    # transformers' names
    (rf"{_BODY}(pos_embed|patch_embed\..+)", r"encoder.vit.\1"),
    (rf"{_BODY}(layers\.\d+\.(?:layer_norm\d|mlp\.lin\d)\..+)", r"encoder.vit.\1"),
    (rf"{_BODY}(layers\.\d+\.attn\.(?:proj\..+|rel_pos_.))", r"encoder.vit.\1"),
    (rf"{_BODY}(layers\.\d+\.attn\.qkv\..+)", r"encoder.vit.\1"),
    (rf"{_BODY}(neck\..+)", r"encoder.vit.\1"),
    # mmpretrain's names, used with LoRA
    (rf"{_BODY}(layers\.\d+)\.ln(\d)\.(.+)", r"encoder.vit.\1.layer_norm\2.\3"),
    (rf"{_BODY}(layers\.\d+)\.ffn\.layers\.0\.0\.(.+)", r"encoder.vit.\1.mlp.lin1.\2"),
    (rf"{_BODY}(layers\.\d+)\.ffn\.layers\.1\.(.+)", r"encoder.vit.\1.mlp.lin2.\2"),
    (rf"{_BODY}channel_reduction\.0\.(.+)", r"encoder.vit.neck.conv1.\1"),
    (rf"{_BODY}channel_reduction\.1\.(.+)", r"encoder.vit.neck.layer_norm1.\1"),
    (rf"{_BODY}channel_reduction\.2\.(.+)", r"encoder.vit.neck.conv2.\1"),
    (rf"{_BODY}channel_reduction\.3\.(.+)", r"encoder.vit.neck.layer_norm2.\1"),
)

_NECK = (
    (r"neck\.feature_aggregator\.downconvs\.(.+)", r"neck.aggregator.reduce.\1"),
    (r"neck\.feature_aggregator\.hidden_convs\.(.+)", r"neck.aggregator.residual.\1"),
    (r"neck\.feature_aggregator\.(?:fusion_conv|channel_fusion)\.(.+)", r"neck.aggregator.fuse.\1"),
    (r"neck\.feature_spliter\.fpn1\.(.+)", r"neck.splitter.up4.\1"),
    (r"neck\.feature_spliter\.fpn2\.0\.(.+)", r"neck.splitter.up2.\1"),
    (r"neck\.feature_spliter\.lateral_convs\.(\d)\.conv\.(.+)", r"neck.splitter.lateral.\1.conv.\2"),
    (r"neck\.feature_spliter\.lateral_convs\.(\d)\.norm_layer\.(.+)", r"neck.splitter.lateral.\1.norm.\2"),
    (r"neck\.feature_spliter\.fpn_convs\.(\d)\.conv\.(.+)", r"neck.splitter.output.\1.conv.\2"),
    (r"neck\.feature_spliter\.fpn_convs\.(\d)\.norm_layer\.(.+)", r"neck.splitter.output.\1.norm.\2"),
)

_TWO_STAGE = (
    (r"rpn_head\.rpn_conv\.(.+)", r"rpn.conv.\1"),
    (r"rpn_head\.rpn_cls\.(.+)", r"rpn.objectness.\1"),
    (r"rpn_head\.rpn_reg\.(.+)", r"rpn.offsets.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.(.+)", r"box_head.fc1.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.(.+)", r"box_head.fc2.\1"),
    (r"roi_head\.bbox_head\.fc_cls\.(.+)", r"box_head.classes.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(.+)", r"box_head.offsets.\1"),
)

_ANCHOR = (
    (r"roi_head\.mask_head\.point_emb\.0\.(.+)", r"prompt_head.conv.\1"),
    (r"roi_head\.mask_head\.point_emb\.1\.(.+)", r"prompt_head.norm.\1"),
    (r"roi_head\.mask_head\.point_emb\.4\.(.+)", r"prompt_head.fc1.\1"),
    (r"roi_head\.mask_head\.point_emb\.6\.(.+)", r"prompt_head.fc2.\1"),
    (r"roi_head\.mask_head\.point_emb\.8\.(.+)", r"prompt_head.fc3.\1"),
    (r"roi_head\.mask_head\.mask_decoder\.mask_decoder\.(.+)", r"mask_decoder.decoder.\1"),
    (r"roi_head\.mask_head\.no_mask_embed\.(.+)", r"mask_decoder.no_mask_embed.\1"),
    (r"shared_image_embedding\.shared_image_embedding\.(.+)", r"mask_decoder.position.\1"),
)

_TABLES = {"rsprompter-anchor": _ENCODER + _NECK + _TWO_STAGE + _ANCHOR}

_QKV = re.compile(r"(\.attn\.qkv)\.(?:base_layer\.)?(weight|bias)$")


def rename_keys(keys: Iterable[str], *, kind: str, lora: bool) -> dict[str, str]:
    """Our name of each original key; a key that no pattern knows is left out.

    Args:
        keys: of an original state dictionary.
        kind: of the model.
        lora: whether our model has adapters, which move the projection's own weights to `base_layer`
            (peft before 0.7 wrote them without).
    """
    table = [(re.compile(pattern), replacement) for pattern, replacement in _TABLES[kind]]
    renamed = {}
    for key in keys:
        for pattern, replacement in table:
            match = pattern.fullmatch(key)
            if match:
                name = match.expand(replacement)
                renamed[key] = _QKV.sub(r"\1.base_layer.\2" if lora else r"\1.\2", name)
                break
    return renamed


def load_original(model: nn.Module, tensors: Mapping[str, Tensor], *, kind: str, lora: bool, origin: str) -> None:
    """Put an original state dictionary into a model, in place; strict both ways.

    Args:
        model: built with the sizes of the dictionary.
        tensors: under original names.
        kind, lora: of the model.
        origin: the file, named in errors.

    Raises:
        CheckpointError: lists unknown, missing, left-over and mismatched keys.
    """
    names = rename_keys(tensors, kind=kind, lora=lora)
    unknown = [key for key in tensors if key not in names]
    if unknown:
        shown = ", ".join(unknown[:4])
        raise CheckpointError(
            f"{origin}: {len(unknown)} keys are none of an original {kind}: {shown}",
            "is the preset the one it was trained with?",
        )
    ours = {names[key]: value for key, value in tensors.items()}
    check_keys(shapes_of(model.state_dict()), shapes_of(ours), origin)
    model.load_state_dict(ours)
