"""SAMDet from its configuration."""

from __future__ import annotations

from torch import nn

from rsprompter_cli.config import ResNetConfig, SamdetConfig
from rsprompter_cli.models.build_sam import build_decoder, build_encoder, sam_sizes
from rsprompter_cli.models.build_two_stage import build_box_head, build_rpn
from rsprompter_cli.models.fpn import FeaturePyramid
from rsprompter_cli.models.resnet import ResNet
from rsprompter_cli.models.samdet import SamDet


def build_samdet(config: SamdetConfig, num_classes: int) -> nn.Module:
    """SAMDet of a completed configuration."""
    arch, side = sam_sizes(config)
    channels = config.out_channels
    return SamDet(
        resnet=build_resnet(config.backbone, frozen_norms=config.frozen_norms),
        neck=FeaturePyramid(in_channels=config.backbone.hidden_sizes, channels=channels),
        rpn=build_rpn(config.rpn, channels),
        box_head=build_box_head(config.roi, channels, num_classes),
        encoder=build_encoder(arch, side),
        # Every prompt part, used or not: the checkpoint then holds the whole SAM, as the original's does.
        mask_decoder=build_decoder(arch, config.mask_chunk, box_prompts=True, point_prompts=True, mask_prompts=True),
        image_size=side,
        roi_samples=config.roi.samples,
    )


def build_resnet(config: ResNetConfig, *, frozen_norms: bool) -> ResNet:
    """A ResNet of those sizes."""
    return ResNet(
        stem_channels=config.stem_channels,
        hidden_sizes=config.hidden_sizes,
        depths=config.depths,
        frozen_norms=frozen_norms,
    )
