"""The configuration of a model with everything written out that it may leave to its SAM; knows no torch."""

from __future__ import annotations

from pathlib import Path

from rsprompter_cli.config import (
    KNOWN_SAM,
    AutomaskConfig,
    ModelConfig,
    SamclsConfig,
    SamModelConfig,
    TinyVitArch,
    VitArch,
)
from rsprompter_cli.errors import UsageError, did_you_mean
from rsprompter_cli.io.model_files.sam_folder import read_sam_folder

SIZE_STEP = 32
"""The input's side is a multiple of this: stride 16, pooled once."""


def complete_config(model_config: ModelConfig) -> ModelConfig:
    """The same configuration with the SAM's sizes and the image size written out.

    Stored with a checkpoint, it rebuilds the model without the SAM folder it was trained from.

    Raises:
        UsageError: no such SAM, one without point prompts that is given points, or an image size the model
            cannot take.
        CheckpointError: a SAM folder that cannot be read.
    """
    side = model_config.image_size
    written: dict[str, object] = {}
    if isinstance(model_config, SamModelConfig):
        arch = model_config.sam_arch or resolve_sam_arch(model_config.sam)
        if isinstance(model_config, SamclsConfig):
            _check_prompts(model_config.automask, arch)
        side = side or arch.pretrained_image_size
        written = {"sam_arch": arch, "image_size": side}
    if side is not None and side % SIZE_STEP:
        raise UsageError(f"model.image_size = {side}: must be a multiple of {SIZE_STEP}")
    return model_config.model_copy(update=written)


def resolve_sam_arch(sam: str) -> VitArch | TinyVitArch:
    """Sizes of a SAM by name, or of the SAM folder at that path.

    Raises:
        UsageError: neither a known name nor a folder.
        CheckpointError: a folder that is no SAM folder.
    """
    if sam in KNOWN_SAM:
        return KNOWN_SAM[sam]
    if not Path(sam).is_dir():
        raise UsageError(f"model.sam: no SAM named {sam!r} and no such folder", did_you_mean(sam, KNOWN_SAM))
    return read_sam_folder(sam, verify=False).arch


def _check_prompts(config: AutomaskConfig, arch: VitArch | TinyVitArch) -> None:
    """Refuse to ask a SAM with what it was never trained with.

    Raises:
        UsageError: points for TinyViT.
    """
    if config.prompts == "points" and isinstance(arch, TinyVitArch):
        raise UsageError(
            "model.automask.prompts = points: tiny-vit was trained with boxes alone and finds nothing with points",
            "omit it, or use another SAM",
        )
