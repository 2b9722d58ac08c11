"""SAM alone: everything that it sees in a picture, without classes."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from rsprompter_cli.config import Config, SamclsConfig, SamModelConfig
from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.checkpoint import CheckpointMeta, read_checkpoint
from rsprompter_cli.io.hub import find_sam
from rsprompter_cli.io.sam_folder import SamFolder, read_sam_folder
from rsprompter_cli.models.automask import AutomaskSettings, SamSegmenter, automatic_masks
from rsprompter_cli.models.build_sam import build_encoder
from rsprompter_cli.models.build_samcls import automask_settings, build_asked_decoder
from rsprompter_cli.models.encoder import pixel_statistics
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.sam import PromptedDecoder
from rsprompter_cli.models.sam_weights import load_sam_weights
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
        self.pixel_mean, _ = pixel_statistics(encoder)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        """Detections of images [3, H, W] RGB, uint8 or float on the 0..255 scale; there is nothing to train."""
        segmenter = SamSegmenter(self.encoder, self.mask_decoder, self.image_size)
        found = [automatic_masks(image, segmenter, self.automask) for image in images]
        return [Detections(one.boxes, torch.zeros(len(one)).long(), one.quality, one.masks) for one in found]


def find_everything(sam: str | None, model: str | Path | None = None) -> SamFolder:
    """The SAM to find everything with.

    Args:
        sam: as `rsp download-sam` names it, or a folder; None: that of `model`.
        model: a checkpoint folder, whose SAM as it was before training is taken; None: base, or
            tiny-vit where only that is on this machine.

    Raises:
        CheckpointError: it is not on this machine, or damaged.
        UsageError: no such SAM, or a model without one.
    """
    if sam is None and model is not None:
        config = read_checkpoint(model).config.model
        if not isinstance(config, SamModelConfig):
            raise UsageError(f"{model}: a {config.kind} has no SAM", "name one with --sam")
        sam = config.sam
    if sam is not None:
        return read_sam_folder(find_sam(sam))
    for name in _FIRST_CHOICES:
        try:
            folder = find_sam(name)
        except CheckpointError:
            continue
        _log.info("everything is found with the SAM %s", name)
        return read_sam_folder(folder)
    raise CheckpointError("no SAM weights are on this machine", "run: rsp download-sam, or name a folder with --sam")


def everything_meta(folder: SamFolder) -> CheckpointMeta:
    """What `Everything` says of itself; masks are chosen by its own settings, so no score is too low."""
    return CheckpointMeta(
        class_names=(CLASS_NAME,),
        category_ids=(1,),
        image_size=folder.arch.pretrained_image_size,
        score_threshold=0.0,
        sam=folder.identity(),
    )


def load_everything(folder: SamFolder, device: str | torch.device = "cpu") -> LoadedModel:
    """`Everything` with the weights of a SAM folder, in evaluation mode.

    Raises:
        CheckpointError: weights that do not fit; all differences are listed.
    """
    arch, side = folder.arch, folder.arch.pretrained_image_size
    config = SamclsConfig(sam=str(folder.path), sam_arch=arch, image_size=side)
    settings = automask_settings(config.automask, arch, config.mask_chunk)
    model = Everything(
        encoder=build_encoder(arch, side),
        mask_decoder=build_asked_decoder(arch, settings),
        image_size=side,
        automask=settings,
    )
    load_sam_weights(model, folder.path)
    return LoadedModel(model.to(device).eval(), Config(name="everything", model=config), everything_meta(folder))
