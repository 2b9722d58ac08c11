"""The parts of a SAM that models are built of, from their sizes."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from rsprompter_cli.config import NeckConfig, SamModelConfig, TinyVitArch, TrainedSamConfig, VitArch
from rsprompter_cli.errors import UsageError
from rsprompter_cli.models.layers.neck import LastAggregator, LayersAggregator, Neck, Splitter
from rsprompter_cli.models.sam.lora import add_lora
from rsprompter_cli.models.sam.modules import PromptedDecoder, SamVitEncoder

TRANSFORMERS_EPS = 1e-6
"""Of the mask decoder's norms in transformers, and so in the original RSPrompter."""
LITE_MEDSAM_EPS = 1e-5
"""Of the same norms in segment-anything's own code, which LiteMedSAM was trained with."""


def sam_sizes(config: SamModelConfig) -> tuple[VitArch | TinyVitArch, int]:
    """The sizes of the SAM of a completed configuration, and the side of its square input in pixels."""
    if config.sam_arch is None or config.image_size is None:
        raise ValueError("the configuration does not state the sizes of its SAM: see complete_config")
    return config.sam_arch, config.image_size


def build_trained_encoder(config: TrainedSamConfig) -> nn.Module:
    """SAM's image encoder of a completed configuration, with its adapters where it has any."""
    arch, side = sam_sizes(config)
    encoder = build_encoder(arch, side, checkpoint_layers=config.checkpoint_encoder)
    if config.encoder == "lora":
        add_lora(encoder, r=config.lora.r, alpha=config.lora.alpha, dropout=config.lora.dropout)
    return encoder


def build_encoder(arch: VitArch | TinyVitArch, side: int, *, checkpoint_layers: bool = False) -> nn.Module:
    """SAM's image encoder for a square input of `side` pixels; see the encoders for `checkpoint_layers`.

    Raises:
        UsageError: sizes that do not go together.
    """
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
                checkpoint_layers=checkpoint_layers,
            )
        case TinyVitArch():
            # timm is slow to import and only this encoder needs it.
            from rsprompter_cli.models.sam.tiny_vit import TinyVitEncoder

            return TinyVitEncoder(
                embed_dims=arch.embed_dims,
                depths=arch.depths,
                num_heads=arch.num_heads,
                window_sizes=arch.window_sizes,
                output_channels=arch.output_channels,
                image_size=side,
                checkpoint_layers=checkpoint_layers,
            )
        case _:
            assert_never(arch)


def build_neck(config: TrainedSamConfig, encoder: nn.Module) -> Neck:
    """The neck that reads this encoder.

    Raises:
        UsageError: layers the encoder does not have, or an embedding of a stride it cannot take.
    """
    arch, _ = sam_sizes(config)
    neck: NeckConfig = config.neck
    if neck.out_channels % 4:
        raise UsageError(f"model.neck.out_channels = {neck.out_channels}: must be a multiple of 4")
    aggregator: nn.Module
    if aggregator_kind(config) == "last":
        aggregator = LastAggregator(
            in_channels=arch.output_channels,
            hidden_channels=hidden_channels(config),
            out_channels=neck.out_channels,
        )
    else:
        state_channels: tuple[int, ...] = encoder.state_channels  # type: ignore[assignment]  # of the encoder's protocol
        aggregator = LayersAggregator(
            state_channels=state_channels,
            layers=_layers(neck, arch, len(state_channels)),
            hidden_channels=hidden_channels(config),
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


def aggregator_kind(config: TrainedSamConfig) -> str:
    """The aggregator a configuration means where it names none."""
    return config.neck.aggregator or ("last" if config.encoder == "lora" else "layers")


def hidden_channels(config: TrainedSamConfig) -> int:
    """The aggregator's inner width that a configuration means where it names none."""
    return config.neck.hidden_channels or (512 if aggregator_kind(config) == "last" else 32)


def build_decoder(
    arch: VitArch | TinyVitArch,
    chunk: int,
    *,
    box_prompts: bool = False,
    point_prompts: bool = False,
    mask_prompts: bool = False,
    empty_prompt: bool = True,
) -> PromptedDecoder:
    """SAM's mask decoder with the prompt parts asked for; `chunk` prompts are decoded at a time."""
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
        point_prompts=point_prompts,
        mask_prompts=mask_prompts,
        mask_input_channels=sizes.mask_input_channels,
        empty_prompt=empty_prompt,
    )
