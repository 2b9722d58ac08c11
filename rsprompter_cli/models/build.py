"""A model from its configuration: the one place where a configuration becomes keywords."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from rsprompter_cli.config import ModelConfig, NeckConfig, RSPrompterAnchorConfig, TinyVitArch, VitArch
from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.lora import add_lora
from rsprompter_cli.models.neck import LastAggregator, LayersAggregator, Neck, Splitter
from rsprompter_cli.models.roi import BoxHead
from rsprompter_cli.models.rpn import RegionProposals
from rsprompter_cli.models.rsprompter_anchor import PromptHead, RSPrompterAnchor
from rsprompter_cli.models.sam import PromptedDecoder, SamVitEncoder
from rsprompter_cli.models.sam_weights import resolve_sam_arch
from rsprompter_cli.models.trainable import set_trainable

SIZE_STEP = 32
"""The input's side is a multiple of this: stride 16, pooled once."""

TRANSFORMERS_EPS = 1e-6
"""Of the mask decoder's norms in transformers, and so in the original RSPrompter."""
LITE_MEDSAM_EPS = 1e-5
"""Of the same norms in segment-anything's own code, which LiteMedSAM was trained with."""


def complete_config(model_config: ModelConfig) -> ModelConfig:
    """The same configuration with the SAM's sizes and the image size written out.

    Stored with a checkpoint, it rebuilds the model without the SAM folder it was trained from.

    Raises:
        UsageError: no such SAM, or an image size the model cannot take.
        CheckpointError: a SAM folder that cannot be read.
    """
    arch = model_config.sam_arch or resolve_sam_arch(model_config.sam)
    side = model_config.image_size or arch.pretrained_image_size
    if side % SIZE_STEP:
        raise UsageError(f"model.image_size = {side}: must be a multiple of {SIZE_STEP}")
    return model_config.model_copy(update={"sam_arch": arch, "image_size": side})


def merged_config(model_config: ModelConfig) -> ModelConfig:
    """The configuration of the same model once its adapters are merged."""
    if model_config.encoder != "lora":
        return model_config
    neck = model_config.neck.model_copy(update={"aggregator": _aggregator_kind(model_config)})
    return model_config.model_copy(update={"encoder": "frozen", "neck": neck})


def build_model(model_config: ModelConfig, *, num_classes: int) -> nn.Module:
    """A model with random weights, its trainable parameters set.

    Args:
        model_config: the `model` part of a configuration.
        num_classes: K, without the background.

    Raises:
        UsageError: sizes that do not go together.
        CheckpointError: a SAM folder that cannot be read.
    """
    if num_classes < 1:
        raise UsageError(f"a model needs at least one class, got {num_classes}")
    complete = complete_config(model_config)
    match complete:
        case RSPrompterAnchorConfig():
            model = _build_anchor(complete, num_classes)
        case _:
            assert_never(complete)
    set_trainable(model, encoder=complete.encoder, decoder=complete.decoder)
    return model


def _build_anchor(config: RSPrompterAnchorConfig, num_classes: int) -> nn.Module:
    arch, side = config.sam_arch, config.image_size
    assert arch is not None
    assert side is not None
    encoder = _build_encoder(arch, side)
    if config.encoder == "lora":
        add_lora(encoder, r=config.lora.r, alpha=config.lora.alpha, dropout=config.lora.dropout)
    channels = config.neck.out_channels
    return RSPrompterAnchor(
        encoder=encoder,
        neck=_build_neck(config, encoder, arch),
        rpn=RegionProposals(
            channels=channels,
            anchor_scales=config.rpn.anchor_scales,
            nms_pre_train=config.rpn.nms_pre_train,
            nms_pre_test=config.rpn.nms_pre_test,
            max_proposals=config.rpn.max_proposals,
            nms_iou=config.rpn.nms_iou,
            samples=config.rpn.samples,
        ),
        box_head=BoxHead(
            channels=channels,
            fc_channels=config.roi.fc_channels,
            num_classes=num_classes,
            score_threshold=config.roi.score_threshold,
            nms_iou=config.roi.nms_iou,
            max_detections=config.roi.max_detections,
        ),
        prompt_head=PromptHead(
            channels=channels,
            prompts=config.prompts_per_object,
            embed_channels=arch.decoder.hidden_size,
            # Beside SAM's own prompts the learned ones start silent: the first masks are then SAM's.
            silent=config.box_prompts,
        ),
        mask_decoder=_build_decoder(arch, config.mask_chunk, box_prompts=config.box_prompts),
        image_size=side,
        roi_samples=config.roi.samples,
        mask_samples=config.roi.mask_samples,
    )


def _build_encoder(arch: VitArch | TinyVitArch, side: int) -> nn.Module:
    if arch.output_channels != arch.decoder.hidden_size:
        raise UsageError(
            f"model.sam_arch: output_channels {arch.output_channels} differs from decoder.hidden_size "
            f"{arch.decoder.hidden_size}",
            "the mask decoder adds its prompts to the embedding: give both the same width",
        )
    match arch:
        case VitArch():
            if side % (2 * arch.patch_size):
                raise UsageError(f"model.image_size = {side}: must be a multiple of {2 * arch.patch_size}")
            return SamVitEncoder(
                hidden_size=arch.hidden_size,
                num_layers=arch.num_layers,
                num_heads=arch.num_heads,
                mlp_dim=arch.mlp_dim,
                global_attn_indexes=arch.global_attn_indexes,
                window_size=arch.window_size,
                patch_size=arch.patch_size,
                output_channels=arch.output_channels,
                image_size=side,
            )
        case TinyVitArch():
            # timm is slow to import and only this encoder needs it.
            from rsprompter_cli.models.tiny_vit import TinyVitEncoder

            return TinyVitEncoder(
                embed_dims=arch.embed_dims,
                depths=arch.depths,
                num_heads=arch.num_heads,
                window_sizes=arch.window_sizes,
                output_channels=arch.output_channels,
                image_size=side,
            )
        case _:
            assert_never(arch)


def _build_neck(config: RSPrompterAnchorConfig, encoder: nn.Module, arch: VitArch | TinyVitArch) -> Neck:
    neck: NeckConfig = config.neck
    if neck.out_channels % 4:
        raise UsageError(f"model.neck.out_channels = {neck.out_channels}: must be a multiple of 4")
    aggregator: nn.Module
    if _aggregator_kind(config) == "last":
        aggregator = LastAggregator(
            in_channels=arch.output_channels,
            hidden_channels=neck.hidden_channels or 512,
            out_channels=neck.out_channels,
        )
    else:
        state_channels: tuple[int, ...] = encoder.state_channels  # type: ignore[assignment]  # of the encoder's protocol
        aggregator = LayersAggregator(
            state_channels=state_channels,
            layers=_layers(neck, arch, len(state_channels)),
            hidden_channels=neck.hidden_channels or 32,
            out_channels=neck.out_channels,
        )
    stride: int = encoder.embedding_stride  # type: ignore[assignment]  # of the encoder's protocol
    if stride not in (4, 16):
        raise UsageError(f"model.sam_arch.patch_size = {stride}: the neck takes embeddings of stride 4 or 16")
    return Neck(aggregator, Splitter(channels=neck.out_channels, stride=stride))


def _layers(neck: NeckConfig, arch: VitArch | TinyVitArch, states: int) -> tuple[int, ...]:
    if neck.layers is None:
        # Every other layer of a ViT, from the first on; every block that TinyViT offers.
        return tuple(range(1, states, 2)) if isinstance(arch, VitArch) else tuple(range(states))
    wrong = [layer for layer in neck.layers if not 0 <= layer < states]
    if wrong or not neck.layers:
        raise UsageError(f"model.neck.layers = {list(neck.layers)}: this encoder has states 0 to {states - 1}")
    return neck.layers


def _aggregator_kind(config: RSPrompterAnchorConfig) -> str:
    return config.neck.aggregator or ("last" if config.encoder == "lora" else "layers")


def _build_decoder(arch: VitArch | TinyVitArch, chunk: int, *, box_prompts: bool) -> PromptedDecoder:
    sizes = arch.decoder
    return PromptedDecoder(
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        mlp_dim=sizes.mlp_dim,
        attention_downsample_rate=sizes.attention_downsample_rate,
        iou_head_hidden_dim=sizes.iou_head_hidden_dim,
        iou_head_depth=sizes.iou_head_depth,
        num_multimask_outputs=sizes.num_multimask_outputs,
        chunk=chunk,
        norm_eps=LITE_MEDSAM_EPS if isinstance(arch, TinyVitArch) else TRANSFORMERS_EPS,
        box_prompts=box_prompts,
    )
