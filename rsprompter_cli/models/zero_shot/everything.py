"""SAM alone: everything that it sees in a picture, without classes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rsprompter_cli.config import Config, ModelConfig, SamclsConfig, SamModelConfig
from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files.checkpoint import Checkpoint, CheckpointMeta, read_checkpoint
from rsprompter_cli.io.model_files.sam_folder import SamFolder, read_sam_folder
from rsprompter_cli.io.network.hub import find_sam
from rsprompter_cli.io.network.sam_name import refuse_two_sams
from rsprompter_cli.models.builders.sam import build_encoder, sam_sizes
from rsprompter_cli.models.builders.samcls import automask_settings, build_asked_decoder
from rsprompter_cli.models.complete_config import complete_config
from rsprompter_cli.models.cpu.linear import use_fast_linear
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.load import LoadedModel, load_model, outline_of
from rsprompter_cli.models.sam.automatic_masks import AutomaskSettings, SamSegmenter, automatic_masks
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.models.sam.weights import load_sam_weights
from rsprompter_cli.structures import Detections, Target

CLASS_NAME = "object"
"""The one class of everything."""

_FIRST_CHOICES = ("base", "tiny-vit")
"""SAMs taken where none is named, the first that is on this machine."""

_log = logging.getLogger(__name__)


class Everything(nn.Module):
    """Every automatic mask is a detection of one class, its score the IoU that SAM expects of it.

    Args:
        encoder, mask_decoder: SAM's.
        image_size: side of SAM's square input, pixels.
        automask: how masks are made and chosen.
    """

    def __init__(
        self, *, encoder: nn.Module, mask_decoder: PromptedDecoder, image_size: int, automask: AutomaskSettings
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_decoder = mask_decoder
        self.image_size = image_size
        self.automask = automask
        self.padding, _ = pixel_statistics(encoder)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        """Detections of images [3, H, W] RGB, uint8 or float on the 0..255 scale; there is nothing to train."""
        segmenter = SamSegmenter(self.encoder, self.mask_decoder, self.image_size)
        found = [automatic_masks(image, segmenter, self.automask) for image in images]
        return [Detections(one.boxes, torch.zeros(len(one)).long(), one.quality, one.masks) for one in found]


@dataclass(frozen=True, eq=False)
class SamChoice:
    """The SAM that everything is found with, read and checked, tensors not yet loaded.

    origin: a SAM folder, or a checkpoint within which it lies.
    """

    origin: SamFolder | Checkpoint

    @property
    def path(self) -> Path:
        """The folder that its weights are read from."""
        return self.origin.path if isinstance(self.origin, SamFolder) else self.origin.folder


def find_everything(sam: str | None = None, model: str | Path | None = None) -> SamChoice:
    """The SAM to find everything with; base where none is named, or tiny-vit where only that is on this machine.

    Args:
        sam: as `rsp download-sam` names it, or a folder.
        model: instead, a checkpoint folder or "bundled", whose SAM is taken as it was trained. Where it does not
            hold all that automatic masks need, a warning is logged and the SAM that it was trained from is used.

    Raises:
        CheckpointError: it is not on this machine, or damaged.
        UsageError: no such SAM, a model without one, or both are named.
    """
    refuse_two_sams(sam, model)
    if model is not None:
        return _choose_within(read_checkpoint(model))
    if sam is not None:
        return SamChoice(read_sam_folder(find_sam(sam)))
    for name in _FIRST_CHOICES:
        try:
            folder = find_sam(name)
        except CheckpointError:
            continue
        _log.info("segmenting everything with the SAM %s", name)
        return SamChoice(read_sam_folder(folder))
    raise CheckpointError(
        "there are no SAM weights on this machine", "run rsp download-sam, or give a folder with --sam"
    )


def _choose_within(checkpoint: Checkpoint) -> SamChoice:
    config = complete_config(checkpoint.config.model)
    if not isinstance(config, SamModelConfig):
        raise UsageError(f"{checkpoint.name}: a {config.kind} has no SAM", "give one with --sam instead of --model")
    lacking = _lacking(checkpoint, config)
    if lacking is None:
        return SamChoice(checkpoint)
    _log.warning(
        "%s: a %s has no %s; segmenting everything with the SAM %s, as it was before training",
        checkpoint.name,
        config.kind,
        lacking,
        config.sam,
    )
    return SamChoice(read_sam_folder(find_sam(config.sam)))


def _lacking(checkpoint: Checkpoint, config: SamModelConfig) -> str | None:
    """What automatic masks need of SAM and the checkpoint does not hold, in words."""
    arch, _ = sam_sizes(config)
    settings = _settings(config)
    with torch.device("meta"):
        needed = build_asked_decoder(arch, settings).state_dict()
    held = {key for key in outline_of(checkpoint).state_dict() if key.startswith("mask_decoder.")}
    if not held:
        return "mask decoder"
    return None if {f"mask_decoder.{key}" for key in needed} <= held else f"embeddings of {settings.prompts}"


def _settings(config: SamModelConfig) -> AutomaskSettings:
    """Of a SAM-cls its own, of another model the defaults."""
    arch, _ = sam_sizes(config)
    asks = config if isinstance(config, SamclsConfig) else SamclsConfig()
    return automask_settings(asks.automask, arch, asks.mask_chunk)


def everything_meta(choice: SamChoice) -> CheckpointMeta:
    """The metadata of `Everything`; masks are chosen by its own settings, so no score is too low."""
    if isinstance(choice.origin, Checkpoint):
        # Of the pictures it knows what the checkpoint knows; how good and fast that is was measured of other answers.
        return replace(
            choice.origin.meta,
            class_names=(CLASS_NAME,),
            category_ids=(1,),
            score_threshold=0.0,
            metrics={},
            provenance={},
        )
    return CheckpointMeta(
        class_names=(CLASS_NAME,),
        category_ids=(1,),
        image_size=choice.origin.arch.pretrained_image_size,
        score_threshold=0.0,
        sam=choice.origin.identity(),
    )


def load_everything(choice: SamChoice, device: str | torch.device = "cpu") -> LoadedModel:
    """`Everything` with the weights of a SAM, in evaluation mode.

    Raises:
        CheckpointError: weights that do not fit; all differences are listed.
    """
    origin = choice.origin
    model, config = _of_checkpoint(origin) if isinstance(origin, Checkpoint) else _of_folder(origin)
    return LoadedModel(model.to(device).eval(), Config(name="everything", model=config), everything_meta(choice))


def _of_folder(folder: SamFolder) -> tuple[Everything, ModelConfig]:
    arch, side = folder.arch, folder.arch.pretrained_image_size
    shown = str(folder.path).encode("utf-8", "backslashreplace").decode()
    config = SamclsConfig(sam=shown, sam_arch=arch, image_size=side)
    settings = _settings(config)
    model = Everything(
        encoder=build_encoder(arch, side),
        mask_decoder=build_asked_decoder(arch, settings),
        image_size=side,
        automask=settings,
    )
    load_sam_weights(model, folder.path)
    use_fast_linear(model)
    return model, config


def _of_checkpoint(checkpoint: Checkpoint) -> tuple[Everything, ModelConfig]:
    """The encoder, with its adapters where it has any, and the mask decoder of the checkpoint's model."""
    config = complete_config(checkpoint.config.model)
    assert isinstance(config, SamModelConfig)
    _, side = sam_sizes(config)
    trained = load_model(checkpoint.folder).model
    decoder = trained.get_submodule("mask_decoder")
    assert isinstance(decoder, PromptedDecoder)
    model = Everything(
        encoder=trained.get_submodule("encoder"), mask_decoder=decoder, image_size=side, automask=_settings(config)
    )
    return model, config
