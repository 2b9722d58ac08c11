"""Fabricated SAM weights: a tiny SamModel in Hugging Face's keys and in segment-anything's."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import torch
from torch import Tensor

from rsprompter_cli.config import SamDecoderArch, VitArch
from rsprompter_cli.io.model_files.sam_folder import TIED_KEY, config_from_arch
from rsprompter_cli.models.sam.convert import expected_tensors

# Eight decoder heads and three layers in the quality head, as every original file has.
SMALL_SAM = VitArch(
    hidden_size=16,
    num_layers=3,
    num_heads=2,
    mlp_dim=24,
    global_attn_indexes=(1,),
    window_size=3,
    patch_size=8,
    output_channels=32,
    pretrained_image_size=64,
    decoder=SamDecoderArch(
        hidden_size=32, num_layers=2, num_heads=8, mlp_dim=40, iou_head_hidden_dim=20, mask_input_channels=8
    ),
)


def small_sam_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random weights by Hugging Face key, the tied matrix under both its names."""
    generator = torch.Generator().manual_seed(seed)
    needed = sorted(expected_tensors(SMALL_SAM).items())
    tensors = {key: torch.randn(one.shape, generator=generator) * 0.2 for key, one in needed}
    tensors[TIED_KEY] = tensors["shared_image_embedding.positional_embedding"]
    return tensors


def safetensors_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A model.safetensors as the hub keeps it: the tied matrix once."""
    from safetensors.torch import save

    return save({key: value for key, value in tensors.items() if key != TIED_KEY}, metadata={"format": "pt"})


def pickle_bytes(content: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_hugging_face(folder: Path, tensors: dict[str, Tensor], kind: str) -> None:
    """A folder as Hugging Face's libraries save a model.

    Args:
        folder: to make.
        tensors: by Hugging Face's keys.
        kind: model.safetensors, pytorch_model.bin, safetensors shards, or pickled shards.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config_bytes())
    pickled = "pickle" in kind or kind.endswith(".bin")
    write = pickle_bytes if pickled else safetensors_bytes
    name, suffix = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    if "shards" not in kind:
        (folder / f"{name}{suffix}").write_bytes(write(dict(tensors)))
        return
    keys = sorted(tensors.keys() - {TIED_KEY})
    places = {}
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        shard = f"{name}-{number:05}-of-00002{suffix}"
        (folder / shard).write_bytes(write({key: tensors[key] for key in part}))
        places |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{name}{suffix}.index.json").write_text(json.dumps(index))


def config_bytes() -> bytes:
    """The config.json of the small SAM."""
    return json.dumps(config_from_arch(SMALL_SAM)).encode()


# The names of transformers' own conversion script, from the new key back to the old one.
_BACK = (
    ("shared_image_embedding.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("vision_encoder.neck.conv1", "image_encoder.neck.0"),
    ("vision_encoder.neck.layer_norm1", "image_encoder.neck.1"),
    ("vision_encoder.neck.conv2", "image_encoder.neck.2"),
    ("vision_encoder.neck.layer_norm2", "image_encoder.neck.3"),
    ("vision_encoder.patch_embed.projection", "image_encoder.patch_embed.proj"),
    ("vision_encoder.layers", "image_encoder.blocks"),
    ("vision_encoder", "image_encoder"),
    ("mask_embed.conv1", "mask_downscaling.0"),
    ("mask_embed.layer_norm1", "mask_downscaling.1"),
    ("mask_embed.conv2", "mask_downscaling.3"),
    ("mask_embed.layer_norm2", "mask_downscaling.4"),
    ("mask_embed.conv3", "mask_downscaling.6"),
    (".point_embed.", ".point_embeddings."),
    ("upscale_conv1", "output_upscaling.0"),
    ("upscale_layer_norm", "output_upscaling.1"),
    ("upscale_conv2", "output_upscaling.3"),
    ("layer_norm", "norm"),
    ("layers.0.weight", "layers.1.weight"),
    ("layers.0.bias", "layers.1.bias"),
    ("proj_in", "layers.0"),
    ("proj_out", "layers.2"),
)


def original_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as an original segment-anything file names them."""
    renamed = {}
    for key, value in tensors.items():
        if key == TIED_KEY:
            continue
        old = key
        for new, previous in _BACK:
            small_mlp = re.search(r"hypernetworks_mlps|iou_prediction_head", key)
            if new.startswith(("layers.0", "proj_")) and not small_mlp:
                continue
            # proj_in becomes layers.0 after the middle layer has moved to 1.
            old = old.replace(new, previous)
        renamed[old] = value
    return renamed
