"""Reading a SAM folder (config.json + model.safetensors) into a model that was built for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from rsprompter_cli.config import KNOWN_SAM, SamDecoderArch, TinyVitArch, VitArch
from rsprompter_cli.errors import CheckpointError, UsageError, did_you_mean
from rsprompter_cli.io.checkpoint import WEIGHTS_FILE, read_safetensors
from rsprompter_cli.models.keys import check_keys, shapes_of

CONFIG_FILE = "config.json"
TINY_VIT_TYPE = "tiny-vit"
"""model_type of a folder whose encoder is TinyViT; the other keys of its config are TinyVitArch's."""

_ENCODER = "vision_encoder."
_RENAMED = {
    "mask_decoder.": "mask_decoder.decoder.",
    "prompt_encoder.no_mask_embed.": "mask_decoder.no_mask_embed.",
    "shared_image_embedding.": "mask_decoder.position.",
}
_UNUSED = ("prompt_encoder.mask_embed.", "prompt_encoder.point_embed.", "prompt_encoder.not_a_point_embed.",
           "prompt_encoder.shared_embedding.")  # fmt: skip
"""Parts of SAM for prompts that users click, which a model may lack."""


def resolve_sam_arch(sam: str) -> VitArch | TinyVitArch:
    """Sizes of a SAM by name, or of the SAM folder at that path.

    Raises:
        UsageError: neither a known name nor a folder.
        CheckpointError: a folder whose config.json is missing, damaged or of another model.
    """
    if sam in KNOWN_SAM:
        return KNOWN_SAM[sam]
    folder = Path(sam)
    if not folder.is_dir():
        raise UsageError(f"model.sam: no SAM named {sam!r} and no such folder", did_you_mean(sam, KNOWN_SAM))
    path = folder / CONFIG_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return _parse_arch(fields)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: not a SAM folder, it lacks {CONFIG_FILE}") from error
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise CheckpointError(f"{path}: not the configuration of a SAM: {error}") from error


def _parse_arch(fields: Mapping[str, Any]) -> VitArch | TinyVitArch:
    if fields.get("model_type") == TINY_VIT_TYPE:
        return TinyVitArch.model_validate({key: value for key, value in fields.items() if key != "model_type"})
    if fields.get("model_type") != "sam":
        raise ValueError(f"model_type is {fields.get('model_type')!r}, expected 'sam' or {TINY_VIT_TYPE!r}")
    from transformers import SamConfig

    # transformers fills in what a hub file leaves to its defaults.
    config = SamConfig(**{key: value for key, value in fields.items() if key.endswith("_config")})
    vision, decoder = config.vision_config, config.mask_decoder_config
    return VitArch(
        hidden_size=vision.hidden_size,
        num_layers=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        mlp_dim=vision.mlp_dim,
        global_attn_indexes=tuple(vision.global_attn_indexes),
        window_size=vision.window_size,
        patch_size=vision.patch_size,
        output_channels=vision.output_channels,
        pretrained_image_size=vision.image_size,
        decoder=SamDecoderArch(
            hidden_size=decoder.hidden_size,
            num_layers=decoder.num_hidden_layers,
            num_heads=decoder.num_attention_heads,
            mlp_dim=decoder.mlp_dim,
            attention_downsample_rate=decoder.attention_downsample_rate,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
            iou_head_depth=decoder.iou_head_depth,
            num_multimask_outputs=decoder.num_multimask_outputs,
            mask_input_channels=config.prompt_encoder_config.mask_input_channels,
        ),
    )


def load_sam_weights(model: nn.Module, folder: str | Path) -> None:
    """Put the weights of a SAM folder into `model.encoder` and `model.mask_decoder`, in place.

    The model's input may differ in size from SAM's: the position tables are then resized. Adapters,
    where the model has them, keep their start.

    Raises:
        CheckpointError: missing or damaged file, or weights that do not fit.
    """
    path = Path(folder) / WEIGHTS_FILE
    stored = read_safetensors(path)
    own = {key: value for key, value in model.state_dict().items() if key.startswith(("encoder.", "mask_decoder."))}
    # Adapters stand beside the projection they wrap: its own weights are called base_layer.
    wanted = {key.replace(".base_layer.", "."): key for key in own if ".lora_" not in key}
    tensors = _renamed(
        stored, encoder_prefix="encoder.vit." if any("encoder.vit." in key for key in own) else "encoder."
    )
    tensors = {
        key: _resized(key, value, own[wanted[key]]) if key in wanted else value for key, value in tensors.items()
    }
    check_keys({plain: tuple(own[key].shape) for plain, key in wanted.items()}, shapes_of(tensors), str(path))
    model.load_state_dict(
        {wanted[key]: value.to(own[wanted[key]].dtype) for key, value in tensors.items()}, strict=False
    )


def _renamed(stored: Mapping[str, Tensor], encoder_prefix: str) -> dict[str, Tensor]:
    result = {}
    for key, value in stored.items():
        if key.startswith(_UNUSED):
            continue
        if key.startswith(_ENCODER):
            result[encoder_prefix + key.removeprefix(_ENCODER)] = value
            continue
        old = next((prefix for prefix in _RENAMED if key.startswith(prefix)), None)
        result[key if old is None else _RENAMED[old] + key.removeprefix(old)] = value
    return result


def _resized(key: str, stored: Tensor, own: Tensor) -> Tensor:
    """A position table at the size of the model; any other tensor as it is.

    Source: mmpretrain's ViTSAM: positions bicubic, relative positions of the global layers linear.
    """
    if stored.shape == own.shape:
        return stored
    if key.endswith(".pos_embed") and stored.ndim == 4:  # [1, h, w, C]
        resized = F.interpolate(
            stored.float().permute(0, 3, 1, 2), size=tuple(own.shape[1:3]), mode="bicubic", align_corners=False
        )
        return resized.permute(0, 2, 3, 1).contiguous()
    if key.endswith((".rel_pos_h", ".rel_pos_w")) and stored.ndim == 2:  # [2n - 1, C]
        resized = F.interpolate(stored.float().T[None], size=own.shape[0], mode="linear", align_corners=False)
        return resized[0].T.contiguous()
    return stored
