"""Weights of SAM in other layouts, renamed to the keys of transformers' SamModel.

Two layouts are read: segment-anything's own (`image_encoder.`, `prompt_encoder.`, `mask_decoder.`), and
LiteMedSAM's, the same with a TinyViT encoder. Both are strict: every key is known, none is missing and
every shape is the network's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rsprompter_cli.config import SamDecoderArch, TinyVitArch, VitArch
from rsprompter_cli.errors import CheckpointError, plural, some
from rsprompter_cli.io.model_files.sam_folder import TIED_KEY, TIED_TO, config_from_arch
from rsprompter_cli.models.sam.tiny_vit import TinyVitEncoder
from rsprompter_cli.models.state_dict import check_keys, check_values, shapes_of

_META_HEADS = 8
"""Attention heads of SAM's mask decoder (builders/sam.py); no shape shows them."""

# Pattern of an original key -> new key. Layers of the small MLPs are numbered and handled apart.
_PROMPT_AND_DECODER = (
    (r"prompt_encoder\.point_embeddings\.(\d+)\.", r"prompt_encoder.point_embed.\1."),
    (r"prompt_encoder\.(not_a_point_embed|no_mask_embed)\.", r"prompt_encoder.\1."),
    (r"prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", TIED_TO),
    (r"mask_decoder\.(iou_token|mask_tokens)\.", r"mask_decoder.\1."),
    (r"mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
    (r"mask_decoder\.transformer\.layers\.(\d+)\.", r"mask_decoder.transformer.layers.\1."),
    (r"mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"mask_decoder\.transformer\.final_attn_", "mask_decoder.transformer.final_attn_"),
    (r"mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)
_VIT = (
    (r"image_encoder\.pos_embed$", "vision_encoder.pos_embed"),
    (r"image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"image_encoder\.blocks\.(\d+)\.", r"vision_encoder.layers.\1."),
    (r"image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
)
_TINY_VIT = (
    (r"image_encoder\.patch_embed\.seq\.(\d)\.", r"vision_encoder.patch_embed.\1."),
    (r"image_encoder\.layers\.(\d)\.blocks\.", r"vision_encoder.stages.\1.blocks."),
    # A merge closes a stage there and opens the next one here.
    (r"image_encoder\.layers\.0\.downsample\.", "vision_encoder.stages.1.downsample."),
    (r"image_encoder\.layers\.1\.downsample\.", "vision_encoder.stages.2.downsample."),
    (r"image_encoder\.layers\.2\.downsample\.", "vision_encoder.stages.3.downsample."),
    (r"image_encoder\.neck\.(\d)\.", r"vision_encoder.neck.\1."),
)
_MLP = re.compile(r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(\w+)")


def convert_meta(state: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], VitArch]:
    """The tensors of an original segment-anything file in SamModel's keys, and the sizes read off them.

    Args:
        state: tensors by original key.
        origin: the file, named in errors.

    Raises:
        CheckpointError: not such a file, or a key or shape that does not belong to it.
    """
    try:
        arch = _vit_arch(state)
    except KeyError as error:
        raise CheckpointError(f"{origin}: not an original SAM file, it lacks {error.args[0]}") from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{origin}: not an original SAM file: {error}") from error
    tensors = _rename(state, _VIT + _PROMPT_AND_DECODER, origin)
    check_tensors(tensors, arch, origin)
    return tensors, arch


def convert_lite_medsam(state: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], TinyVitArch]:
    """The tensors of a LiteMedSAM file in the keys of a tiny-vit SAM folder.

    Raises:
        CheckpointError: not such a file, or a key or shape that does not belong to it.
    """
    arch = TinyVitArch()
    renamed = {re.sub(r"\.c\.weight$", ".conv.weight", key): value for key, value in state.items()}
    tensors = _rename(renamed, _TINY_VIT + _PROMPT_AND_DECODER, origin)
    check_tensors(tensors, arch, origin)
    return tensors, arch


def expected_tensors(arch: VitArch | TinyVitArch) -> dict[str, Tensor]:
    """Every tensor of a SAM folder of these sizes, without memory; the tied matrix under both its names."""
    from transformers import SamConfig, SamModel
    from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

    with torch.device("meta"):
        if isinstance(arch, VitArch):
            return dict(SamModel(SamConfig.from_dict(config_from_arch(arch))).state_dict())
        # Encoder sizes are not looked at by the other parts, apart from the positional matrix.
        stand_in = VitArch(hidden_size=8, num_layers=1, num_heads=1, mlp_dim=8, global_attn_indexes=(0,))
        config: Any = SamConfig.from_dict(config_from_arch(stand_in.model_copy(update={"decoder": arch.decoder})))
        encoder = TinyVitEncoder(
            embed_dims=arch.embed_dims,
            depths=arch.depths,
            num_heads=arch.num_heads,
            window_sizes=arch.window_sizes,
            output_channels=arch.output_channels,
            image_size=arch.pretrained_image_size,
        )
        parts = {
            "vision_encoder": encoder,
            "prompt_encoder": SamPromptEncoder(config),
            "mask_decoder": SamMaskDecoder(config.mask_decoder_config),
        }
        found = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
        return {**found, TIED_TO: found[TIED_KEY]}


def check_tensors(found: Mapping[str, Tensor], arch: VitArch | TinyVitArch, origin: str) -> None:
    """Refuse weights that are not exactly those of the network, or no numbers; the tied matrix may be there once.

    Raises:
        CheckpointError: lists what differs, or is NaN or infinite.
    """
    expected = expected_tensors(arch)
    if TIED_KEY not in found:
        del expected[TIED_KEY]
    check_keys(shapes_of(expected), shapes_of(found), origin)
    check_values(
        expected, found, origin, hint="such a SAM segments nothing: download or copy the file again, or use another"
    )
    if TIED_KEY in found and not torch.equal(found[TIED_KEY], found[TIED_TO]):
        raise CheckpointError(f"{origin}: {TIED_KEY} differs from {TIED_TO}, which is the same matrix in a SAM")


def _rename(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...], origin: str) -> dict[str, Tensor]:
    depths = _mlp_depths(state)
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        new = _new_key(key, rules, depths)
        if new is None:
            unknown.append(key)
        else:
            renamed[new] = value
    if unknown:
        listed = some(sorted(unknown), 3)
        raise CheckpointError(f"{origin}: {plural(len(unknown), 'unexpected key')} for a SAM: {listed}")
    if TIED_TO in renamed:
        renamed[TIED_KEY] = renamed[TIED_TO]
    return renamed


def _new_key(key: str, rules: tuple[tuple[str, str], ...], depths: Mapping[str, int]) -> str | None:
    mlp = _MLP.fullmatch(key)
    if mlp:
        head, index, kind = mlp[1], int(mlp[2]), mlp[3]
        last = depths[head]
        layer = "proj_in" if index == 0 else "proj_out" if index == last else f"layers.{index - 1}"
        return f"{head}.{layer}.{kind}"
    for pattern, replacement in rules:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return None


def _mlp_depths(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Index of the last layer of each small MLP."""
    depths: dict[str, int] = {}
    for key in state:
        mlp = _MLP.fullmatch(key)
        if mlp:
            depths[mlp[1]] = max(depths.get(mlp[1], 0), int(mlp[2]))
    return depths


def _vit_arch(state: Mapping[str, Tensor]) -> VitArch:
    """Sizes of an original SAM, read off its tensors."""

    def shape(key: str) -> tuple[int, ...]:
        return tuple(state[key].shape)

    layers = _count(state, r"image_encoder\.blocks\.(\d+)\.")
    _, cells, _, hidden = shape("image_encoder.pos_embed")
    patch = shape("image_encoder.patch_embed.proj.weight")[-1]
    relative = [shape(f"image_encoder.blocks.{index}.attn.rel_pos_h") for index in range(layers)]
    whole_map = 2 * cells - 1
    windowed = {rows for rows, _ in relative if rows != whole_map}
    if len(windowed) > 1:
        raise ValueError(f"relative positions of {len(windowed) + 1} sizes")
    return VitArch(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=hidden // relative[0][1],
        mlp_dim=shape("image_encoder.blocks.0.mlp.lin1.weight")[0],
        global_attn_indexes=tuple(index for index, (rows, _) in enumerate(relative) if rows == whole_map),
        window_size=(windowed.pop() + 1) // 2 if windowed else cells,
        patch_size=patch,
        output_channels=shape("image_encoder.neck.0.weight")[0],
        pretrained_image_size=cells * patch,
        decoder=_decoder_arch(state),
    )


def _decoder_arch(state: Mapping[str, Tensor]) -> SamDecoderArch:
    def shape(key: str) -> tuple[int, ...]:
        return tuple(state[key].shape)

    masks, hidden = shape("mask_decoder.mask_tokens.weight")
    narrow = shape("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight")[0]
    return SamDecoderArch(
        hidden_size=hidden,
        num_layers=_count(state, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        num_heads=_META_HEADS,
        mlp_dim=shape("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
        attention_downsample_rate=hidden // narrow,
        iou_head_hidden_dim=shape("mask_decoder.iou_prediction_head.layers.0.weight")[0],
        iou_head_depth=_count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        num_multimask_outputs=masks - 1,
        mask_input_channels=shape("prompt_encoder.mask_downscaling.3.weight")[0],
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)
