"""The two-stage models and SAMDet from their configuration."""

from __future__ import annotations

from torch import nn

from rsprompter_cli.config import (
    BoxConfig,
    ResNetConfig,
    RpnConfig,
    RSPrompterAnchorConfig,
    SamdetConfig,
    SamsegMaskRcnnConfig,
)
from rsprompter_cli.models.architectures.rsprompter_anchor import PromptHead, RSPrompterAnchor
from rsprompter_cli.models.architectures.samdet import SamDet
from rsprompter_cli.models.architectures.samseg_maskrcnn import SamsegMaskRcnn
from rsprompter_cli.models.builders.sam import (
    build_decoder,
    build_encoder,
    build_neck,
    build_trained_encoder,
    sam_sizes,
)
from rsprompter_cli.models.layers.mask_head import FcnMaskHead
from rsprompter_cli.models.layers.resnet import FeaturePyramid, ResNet
from rsprompter_cli.models.layers.roi import BoxHead
from rsprompter_cli.models.layers.rpn import RegionProposals


def build_rsprompter_anchor(config: RSPrompterAnchorConfig, num_classes: int) -> nn.Module:
    """RSPrompter-anchor of a completed configuration."""
    arch, side = sam_sizes(config)
    encoder = build_trained_encoder(config)
    channels = config.neck.out_channels
    return RSPrompterAnchor(
        encoder=encoder,
        neck=build_neck(config, encoder),
        rpn=build_rpn(config.rpn, channels),
        box_head=build_box_head(config.roi, channels, num_classes),
        prompt_head=PromptHead(
            channels=channels,
            prompts=config.prompts_per_object,
            embed_channels=arch.decoder.hidden_size,
            # Beside SAM's own prompts the learned ones start silent: the first masks are then SAM's.
            silent=config.box_prompts,
        ),
        mask_decoder=build_decoder(arch, config.mask_chunk, box_prompts=config.box_prompts),
        image_size=side,
        roi_samples=config.roi.samples,
        mask_samples=config.roi.mask_samples,
    )


def build_samseg_maskrcnn(config: SamsegMaskRcnnConfig, num_classes: int) -> nn.Module:
    """Mask R-CNN on SAM's encoder, of a completed configuration."""
    _, side = sam_sizes(config)
    encoder = build_trained_encoder(config)
    channels = config.neck.out_channels
    return SamsegMaskRcnn(
        encoder=encoder,
        neck=build_neck(config, encoder),
        rpn=build_rpn(config.rpn, channels),
        box_head=build_box_head(config.roi, channels, num_classes),
        mask_head=FcnMaskHead(channels=channels, num_classes=num_classes),
        image_size=side,
        roi_samples=config.roi.samples,
    )


def build_rpn(config: RpnConfig, channels: int) -> RegionProposals:
    """Region proposals on a pyramid of that width."""
    return RegionProposals(
        channels=channels,
        anchor_scales=config.anchor_scales,
        nms_pre_train=config.nms_pre_train,
        nms_pre_test=config.nms_pre_test,
        max_proposals=config.max_proposals,
        anchor_area=config.anchor_area,
        nms_iou=config.nms_iou,
        samples=config.samples,
    )


def build_box_head(config: BoxConfig, channels: int, num_classes: int) -> BoxHead:
    """The box head on region features of that width."""
    return BoxHead(
        channels=channels,
        fc_channels=config.fc_channels,
        num_classes=num_classes,
        score_threshold=config.score_threshold,
        nms_iou=config.nms_iou,
        max_detections=config.max_detections,
    )


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
