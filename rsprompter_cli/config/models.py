"""The models: one table for each kind, distinguished by `kind`.

The defaults are the numbers of the original (arXiv 2306.16269 and its code); presets write out
what differs between data sets.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Literal, get_args

from pydantic import Field

from rsprompter_cli.config.frozen import Frozen
from rsprompter_cli.config.numbers import Count, Heads, Layers, Side, Text, Width
from rsprompter_cli.config.sam import SamArch

AnchorScales = Annotated[tuple[Annotated[float, Field(gt=0, le=1024)], ...], Field(min_length=1, max_length=16)]
"""Sides of the anchors over the stride of their level."""

BACKBONE_WEIGHTS: str = Field(
    "imagenet", description="initial weights of the ResNet: imagenet, a torchvision file, or random"
)
FROZEN_STAGES: int = Field(1, ge=-1, le=4, description="frozen stages of the ResNet: 1 = stem and layer1; -1: none")
FROZEN_NORMS: bool = Field(True, description="the ResNet's BatchNorm keeps its running statistics")
"""What the models that start from a ResNet's weights share."""


class LoraConfig(Frozen):
    """Low-rank adapters on the encoder's qkv projections."""

    r: Width = 16
    alpha: Count = 32
    dropout: float = Field(0.05, ge=0, lt=1)


class NeckConfig(Frozen):
    """Aggregator and splitter."""

    aggregator: Literal["layers", "last"] | None = Field(
        None, description="read several encoder states, or only the last map; None: last with LoRA, layers otherwise"
    )
    layers: tuple[int, ...] | None = Field(
        None, max_length=256, description="encoder states to read, 0 = patch embedding; None: the SAM's default"
    )
    hidden_channels: Width | None = Field(None, description="None: 32 for layers, 512 for last")
    out_channels: Width = 256


class RpnConfig(Frozen):
    """Region proposals."""

    anchor_scales: AnchorScales = (4.0, 8.0)
    nms_pre_train: Count = 2000
    nms_pre_test: Count = 1000
    max_proposals: Count = 1000
    nms_iou: float = Field(0.7, gt=0, le=1)
    samples: Count = 256
    anchor_area: Literal["square", "original"] = Field(
        "square",
        description="anchors used in training: all of the padded square; original: where a batch fills the square, "
        "those on each image only, its size rounded up to multiples of 32",
    )


class OneScaleRpnConfig(RpnConfig):
    """Region proposals with one anchor scale, as in every two-stage model but RSPrompter-anchor."""

    anchor_scales: AnchorScales = (8.0,)


class BoxConfig(Frozen):
    """Box head and post-processing of the two-stage models."""

    fc_channels: Width = 1024
    samples: Count = 512
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms_iou: float = Field(0.5, gt=0, le=1)
    max_detections: Count = 100


class RoiConfig(BoxConfig):
    """Box head of RSPrompter-anchor, whose masks are decoded for the positives of a step."""

    samples: Count = 256
    mask_samples: Count | None = Field(
        None, description="positives per image decoded for the mask loss, the costly part on a CPU; None: all"
    )


class QueryConfig(Frozen):
    """Pixel decoder and query decoder of RSPrompter-query."""

    queries: Count = Field(100, description="maximum number of objects, Np")
    channels: Width = Field(128, description="width of queries, pixel decoder and mask features")
    encoder_layers: Layers = Field(3, description="deformable layers of the pixel decoder")
    decoder_layers: Layers = 6
    heads: Heads = 8
    points: Heads = Field(4, description="samples per head and level of the deformable attention")
    encoder_feedforward: Width = 512
    decoder_feedforward: Width = 512
    norm_groups: Width = 32
    loss_points: Count = Field(12544, description="mask points compared per object")
    oversample: float = Field(3.0, ge=1, le=100, description="points drawn for each one kept for its uncertainty")
    importance: float = Field(0.75, ge=0, le=1, description="share of the points kept for their uncertainty")
    max_detections: Count | None = Field(
        None, description="pairs of query and class kept per image; None: as many as there are queries"
    )


class Mask2FormerQueryConfig(QueryConfig):
    """The same decoders with Mask2Former's sizes."""

    channels: Width = Field(256, description="width of queries, pixel decoder and mask features")
    decoder_layers: Layers = 9
    encoder_feedforward: Width = 1024
    decoder_feedforward: Width = 2048


class TransformersQueryConfig(Mask2FormerQueryConfig):
    """Sizes of Mask2Former's authors, as far as transformers lets them change."""

    channels: int = Field(
        256, gt=0, le=32768, multiple_of=32, description="width of queries, pixel decoder and mask features"
    )
    encoder_layers: Layers = Field(6, description="deformable layers of the pixel decoder")
    points: Literal[4] = 4
    norm_groups: Literal[32] = 32


class ResNetConfig(Frozen):
    """Sizes of a ResNet with bottlenecks; the defaults are ResNet-50."""

    stem_channels: Width = 64
    hidden_sizes: tuple[Width, ...] = Field((256, 512, 1024, 2048), min_length=4, max_length=4)
    depths: tuple[Layers, ...] = Field((3, 4, 6, 3), min_length=4, max_length=4)


class AutomaskConfig(Frozen):
    """SAM's automatic masks: a grid of prompts, each answered by masks, of which the good ones stay."""

    prompts: Literal["points", "boxes"] | None = Field(
        None, description="prompts given to SAM; None: boxes for tiny-vit, which accepts nothing else, points otherwise"
    )
    points_per_side: int = Field(32, ge=1, le=256)
    box_sizes: tuple[Annotated[float, Field(ge=0.01, le=1)], ...] = Field(
        (0.5, 0.25, 0.125),
        min_length=1,
        max_length=64,
        description="boxes: their sides, as shares of the image's longer side",
    )
    min_return_iou: float = Field(
        0.8, ge=0, le=1, description="boxes: a mask is kept if its own bounds as prompt reproduce it with this IoU"
    )
    min_predicted_iou: float = Field(0.5, ge=0, le=1)
    min_stability: float = Field(0.6, ge=0, le=1)
    stability_offset: float = Field(
        1.0, gt=0, le=1000, description="logit offset, up and down, that tests a mask's stability"
    )
    box_nms_iou: float = Field(0.5, gt=0, le=1)
    crop_layers: int = Field(0, ge=0, le=4, description="further passes over 4, 16, .. crops of the image")
    crop_nms_iou: float = Field(0.6, gt=0, le=1)
    min_region_area: int = Field(
        16, ge=0, le=1_000_000_000, description="holes and islands below this many pixels are removed"
    )


class SamModelConfig(Frozen):
    """What every model on a SAM shares."""

    sam: Text = Field("base", description="base, large, huge, tiny-vit, or a folder written by rsp download-sam")
    sam_arch: SamArch | None = Field(
        None, description="sizes of that SAM; None: looked up by name or read from the folder"
    )
    image_size: Side | None = Field(None, description="side of the square input, pixels; None: the SAM's own")


class TrainedSamConfig(SamModelConfig):
    """What every model whose SAM encoder may train shares."""

    encoder: Literal["frozen", "lora", "full"] = "frozen"
    checkpoint_encoder: bool = Field(
        False, description="run the encoder a second time in the backward pass: much less memory, a third more time"
    )
    lora: LoraConfig = LoraConfig()
    neck: NeckConfig = NeckConfig()


class RSPrompterAnchorConfig(TrainedSamConfig):
    """RSPrompter-anchor: region features become prompts of the SAM mask decoder."""

    kind: Literal["rsprompter-anchor"] = "rsprompter-anchor"
    decoder: Literal["train", "frozen"] = "train"
    rpn: RpnConfig = RpnConfig()
    roi: RoiConfig = RoiConfig()
    prompts_per_object: Heads = 5
    box_prompts: bool = Field(
        False, description="prompt with the corners of the box too, as SAM was trained; masks need far less training"
    )
    mask_chunk: Count = Field(4, description="prompts decoded at a time; changes speed, never the result")


class RSPrompterQueryConfig(TrainedSamConfig):
    """RSPrompter-query: learned queries become prompts of the SAM mask decoder."""

    kind: Literal["rsprompter-query"] = "rsprompter-query"
    decoder: Literal["train", "frozen"] = "train"
    decoder_init: Literal["sam", "random"] = Field(
        "sam", description="initial weights of the mask decoder; random: as in the original, there by accident"
    )
    query: QueryConfig = QueryConfig()
    prompts_per_object: Heads = 5
    mask_chunk: Count = Field(4, description="prompts decoded at a time; changes speed, never the result")


class SamsegMaskRcnnConfig(TrainedSamConfig):
    """Mask R-CNN on SAM's encoder."""

    kind: Literal["samseg-maskrcnn"] = "samseg-maskrcnn"
    rpn: OneScaleRpnConfig = OneScaleRpnConfig()
    roi: BoxConfig = BoxConfig()


class SamsegMask2FormerConfig(TrainedSamConfig):
    """Mask2Former on SAM's encoder."""

    kind: Literal["samseg-mask2former"] = "samseg-mask2former"
    query: Mask2FormerQueryConfig = Mask2FormerQueryConfig()


class SamdetConfig(SamModelConfig):
    """A Faster R-CNN whose boxes prompt a frozen SAM."""

    kind: Literal["samdet"] = "samdet"
    backbone: ResNetConfig = ResNetConfig()
    backbone_weights: Text = BACKBONE_WEIGHTS
    frozen_stages: int = FROZEN_STAGES
    frozen_norms: bool = FROZEN_NORMS
    out_channels: Width = Field(256, description="width of the feature pyramid")
    rpn: OneScaleRpnConfig = OneScaleRpnConfig()
    roi: BoxConfig = BoxConfig()
    mask_chunk: Count = Field(4, description="prompts decoded at a time; changes speed, never the result")


class SamclsConfig(SamModelConfig):
    """SAM's automatic masks, each named by a ResNet-18."""

    kind: Literal["samcls"] = "samcls"
    automask: AutomaskConfig = AutomaskConfig()
    backbone_weights: Text = BACKBONE_WEIGHTS
    crop_size: int = Field(224, ge=64, le=4096, description="side of the crops the classifier reads, pixels")
    crop_scale: float = Field(2.0, ge=1, le=100, description="the crop is the mask's box enlarged by this factor")
    blur: Side = Field(7, description="kernel size of the blur outside the mask, pixels, odd")
    match_iou: float = Field(
        0.2,
        gt=0,
        le=1,
        description="a mask takes the class of the object that its box overlaps most, if by more than this",
    )
    crop_samples: Count = Field(
        64, description="crops per image in a training step, half of them of objects where there are enough"
    )
    max_detections: Count = Field(100, description="pairs of mask and class kept per image")
    mask_chunk: Count = Field(16, description="points decoded at a time; changes speed, never the result")


class MaskRcnnConfig(Frozen):
    """Plain baseline: torchvision's Mask R-CNN, ResNet-50 FPN v2."""

    kind: Literal["maskrcnn"] = "maskrcnn"
    image_size: Side = Field(1024, description="side of the square input, pixels")
    backbone_weights: Text = BACKBONE_WEIGHTS
    frozen_stages: int = FROZEN_STAGES
    frozen_norms: bool = FROZEN_NORMS
    max_proposals: Count = Field(1000, description="regions per image in evaluation")
    roi_samples: Count = Field(512, description="regions per image in the losses of a training step")
    score_threshold: float = Field(0.05, ge=0, lt=1)
    max_detections: Count = 100


class Mask2FormerConfig(Frozen):
    """Plain baseline: transformers' Mask2Former on a ResNet-50."""

    kind: Literal["mask2former"] = "mask2former"
    image_size: Side = Field(1024, description="side of the square input, pixels")
    backbone_weights: Text = BACKBONE_WEIGHTS
    frozen_stages: int = FROZEN_STAGES
    frozen_norms: bool = FROZEN_NORMS
    backbone: ResNetConfig = ResNetConfig()
    query: TransformersQueryConfig = TransformersQueryConfig()


ModelConfig = Annotated[
    RSPrompterAnchorConfig
    | RSPrompterQueryConfig
    | SamsegMaskRcnnConfig
    | SamsegMask2FormerConfig
    | SamdetConfig
    | SamclsConfig
    | MaskRcnnConfig
    | Mask2FormerConfig,
    Field(discriminator="kind"),
]

ResNetModelConfig = SamdetConfig | SamclsConfig | MaskRcnnConfig | Mask2FormerConfig
"""The models with a ResNet, whose first weights are `backbone_weights`."""


def kinds_of(tables: type[Frozen] | UnionType) -> list[str]:
    """The kinds of model whose table is one of these or extends it, in the order of the configuration."""
    known: tuple[type[Frozen], ...] = get_args(get_args(ModelConfig)[0])
    return [str(table.model_fields["kind"].default) for table in known if issubclass(table, tables)]
