"""Putting a SAM folder's weights into a model that was built for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.io.model_files.checkpoint import read_safetensors
from rsprompter_cli.io.model_files.sam_folder import SAM_WEIGHTS_FILE
from rsprompter_cli.models.state_dict import check_keys, check_values, shapes_of

_ENCODER = "vision_encoder."
_DECODER = "mask_decoder.decoder."
_RENAMED = {
    "mask_decoder.": _DECODER,
    "shared_image_embedding.": "mask_decoder.position.",
}
_OPTIONAL = {
    "prompt_encoder.no_mask_embed.": "mask_decoder.no_mask_embed.",
    "prompt_encoder.mask_embed.": "mask_decoder.mask_embed.",
    "prompt_encoder.not_a_point_embed.": "mask_decoder.not_a_point.",
}
"""Parts of SAM for prompts that a model may not use."""
STACKED = {
    "mask_decoder.point_embed.weight": ("prompt_encoder.point_embed.0.weight", "prompt_encoder.point_embed.1.weight"),
    "mask_decoder.corner_embed.weight": ("prompt_encoder.point_embed.2.weight", "prompt_encoder.point_embed.3.weight"),
}
"""Our tables of SAM's kinds of points, and the single rows in SAM that they are made of, in order:
background and object; a box's top left and bottom right corner."""
_UNUSED = ("prompt_encoder.point_embed.", "prompt_encoder.shared_embedding.")
"""Read as `STACKED`; the positions under their second name."""


def load_sam_weights(model: nn.Module, folder: str | Path, *, decoder: bool = True) -> None:
    """Put the weights of a SAM folder into `model.encoder` and `model.mask_decoder`, in place.

    A model may lack the mask decoder, and its decoder parts of SAM's prompt encoder: what it holds is
    filled. Its input may differ in size from SAM's: the position tables are then resized. Adapters,
    where the model has them, keep their start.

    Args:
        model: built for a SAM of these sizes.
        folder: as `rsp download-sam` writes it.
        decoder: False leaves the mask decoder proper as it started; SAM's positions and the embeddings
            of its prompts are put in all the same.

    Raises:
        CheckpointError: missing or damaged file, or weights that do not fit or are no numbers.
    """
    path = Path(folder) / SAM_WEIGHTS_FILE
    stored = read_safetensors(path)
    own = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(("encoder.", "mask_decoder.")) and (decoder or not key.startswith(_DECODER))
    }
    # Adapters stand beside the projection they wrap: its own weights are called base_layer.
    wanted = {key.replace(".base_layer.", "."): key for key in own if ".lora_" not in key}
    tensors = _renamed(
        stored, encoder_prefix="encoder.vit." if any("encoder.vit." in key for key in own) else "encoder.", own=own
    )
    tensors = {
        key: _resized(key, value, own[wanted[key]]) if key in wanted else value for key, value in tensors.items()
    }
    check_keys({plain: tuple(own[key].shape) for plain, key in wanted.items()}, shapes_of(tensors), str(path))
    check_values(
        {plain: own[key] for plain, key in wanted.items()},
        tensors,
        str(path),
        hint="such a SAM segments nothing: download or copy the folder again, or use another",
    )
    model.load_state_dict(
        {wanted[key]: value.to(own[wanted[key]].dtype) for key, value in tensors.items()}, strict=False
    )


def _renamed(stored: Mapping[str, Tensor], encoder_prefix: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM's tensors under the model's keys, without the parts beside the encoder that it lacks."""
    absent = _OPTIONAL if any(key.startswith(_DECODER) for key in own) else _OPTIONAL | _RENAMED
    result = {}
    for key, value in stored.items():
        if key.startswith(_UNUSED):
            continue
        if key.startswith(_ENCODER):
            result[encoder_prefix + key.removeprefix(_ENCODER)] = value
            continue
        old = next((prefix for prefix in _RENAMED | _OPTIONAL if key.startswith(prefix)), None)
        name = key if old is None else (_RENAMED | _OPTIONAL)[old] + key.removeprefix(old)
        if old not in absent or name in own:
            result[name] = value
    for name, sources in STACKED.items():
        if name in own and all(source in stored for source in sources):
            result[name] = torch.cat([stored[source] for source in sources])
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
