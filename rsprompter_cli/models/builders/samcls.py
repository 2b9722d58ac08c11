"""SAM-cls, and SAM alone, from their configuration."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet18

from rsprompter_cli.config import AutomaskConfig, SamclsConfig
from rsprompter_cli.config.sam import TinyVitArch, VitArch
from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.architectures.samcls import SamCls
from rsprompter_cli.models.builders.sam import build_decoder, build_encoder, sam_sizes
from rsprompter_cli.models.sam.automatic_masks import AutomaskSettings
from rsprompter_cli.models.sam.modules import PromptedDecoder


def build_samcls(config: SamclsConfig, num_classes: int) -> nn.Module:
    """SAM-cls of a completed configuration.

    Raises:
        UsageError: a blur without a middle pixel.
    """
    arch, side = sam_sizes(config)
    if config.blur % 2 == 0:
        raise UsageError(f"model.blur = {config.blur}: must be odd")
    settings = automask_settings(config.automask, arch, config.mask_chunk)
    return SamCls(
        encoder=build_encoder(arch, side),
        mask_decoder=build_asked_decoder(arch, settings),
        resnet=resnet18(weights=None, num_classes=num_classes + 1),
        image_size=side,
        automask=settings,
        crop_size=config.crop_size,
        crop_scale=config.crop_scale,
        blur=config.blur,
        match_iou=config.match_iou,
        crop_samples=config.crop_samples,
        max_detections=config.max_detections,
    )


def automask_settings(config: AutomaskConfig, arch: VitArch | TinyVitArch, chunk: int) -> AutomaskSettings:
    """The settings of automatic masks as plain values; `chunk` prompts are decoded at a time."""
    # The only weights in TinyViT's layout are LiteMedSAM's, which never saw a point.
    prompts = config.prompts or ("boxes" if isinstance(arch, TinyVitArch) else "points")
    return AutomaskSettings(
        prompts=prompts,
        points_per_side=config.points_per_side,
        box_sizes=config.box_sizes,
        min_return_iou=config.min_return_iou,
        min_predicted_iou=config.min_predicted_iou,
        min_stability=config.min_stability,
        stability_offset=config.stability_offset,
        box_nms_iou=config.box_nms_iou,
        crop_layers=config.crop_layers,
        crop_nms_iou=config.crop_nms_iou,
        min_region_area=config.min_region_area,
        chunk=chunk,
    )


def build_asked_decoder(arch: VitArch | TinyVitArch, settings: AutomaskSettings) -> PromptedDecoder:
    """The mask decoder that is asked for automatic masks, with the embeddings of its prompts."""
    boxes = settings.prompts == "boxes"
    return build_decoder(arch, settings.chunk, box_prompts=boxes, point_prompts=not boxes)
