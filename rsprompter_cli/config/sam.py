"""Sizes of the SAM models: what `model.sam_arch` holds, and those known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rsprompter_cli.config.frozen import Frozen
from rsprompter_cli.config.numbers import Heads, Layers, Side, Width

StageDepth = Annotated[int, Field(gt=0, le=24)]
StageWindow = Annotated[int, Field(gt=0, le=16)]
"""Of TinyViT: each block tabulates the distances of all pairs of cells of a window."""


class SamDecoderArch(Frozen):
    """Sizes of SAM's prompt encoder and mask decoder."""

    hidden_size: Width = 256
    num_layers: Layers = 2
    num_heads: Heads = 8
    mlp_dim: Width = 2048
    attention_downsample_rate: Heads = 2
    iou_head_hidden_dim: Width = 256
    iou_head_depth: Layers = 3
    num_multimask_outputs: Heads = 3
    mask_input_channels: Width = 16

    @model_validator(mode="after")
    def _check(self) -> SamDecoderArch:
        # The prompts are halves of sines and cosines; the masks are upscaled with an eighth of the width.
        if self.hidden_size % 8 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size}: must be a multiple of 8 and of num_heads {self.num_heads}"
            )
        if self.hidden_size % (self.attention_downsample_rate * self.num_heads):
            raise ValueError(
                f"attention_downsample_rate {self.attention_downsample_rate}: hidden_size {self.hidden_size} must be a "
                f"multiple of it times num_heads {self.num_heads}"
            )
        if self.mask_input_channels % 4:
            raise ValueError(f"mask_input_channels {self.mask_input_channels}: must be a multiple of 4")
        return self


class VitArch(Frozen):
    """Sizes of SAM's ViT image encoder."""

    kind: Literal["vit"] = "vit"
    hidden_size: Width
    num_layers: Layers
    num_heads: Heads
    mlp_dim: Width
    global_attn_indexes: tuple[int, ...] = Field(max_length=128)
    window_size: Heads = 14
    patch_size: Heads = 16
    output_channels: Width = 256
    pretrained_image_size: Side = 1024
    decoder: SamDecoderArch = SamDecoderArch()

    @model_validator(mode="after")
    def _check(self) -> VitArch:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size}: must be a multiple of num_heads {self.num_heads}")
        wrong = [index for index in self.global_attn_indexes if not 0 <= index < self.num_layers]
        if wrong:
            raise ValueError(f"global_attn_indexes {wrong}: the layers are 0 to {self.num_layers - 1}")
        return self


class TinyVitArch(Frozen):
    """Sizes of the TinyViT image encoder of the MobileSAM family, in LiteMedSAM's stride-4 layout."""

    kind: Literal["tiny-vit"] = "tiny-vit"
    embed_dims: tuple[Width, ...] = Field((64, 128, 160, 320), min_length=4, max_length=4)
    depths: tuple[StageDepth, ...] = Field((2, 2, 6, 2), min_length=4, max_length=4)
    num_heads: tuple[Heads, ...] = Field((2, 4, 5, 10), min_length=4, max_length=4)
    window_sizes: tuple[StageWindow, ...] = Field((7, 7, 14, 7), min_length=4, max_length=4)
    output_channels: Width = 256
    pretrained_image_size: Side = 256
    decoder: SamDecoderArch = SamDecoderArch()

    @model_validator(mode="after")
    def _check(self) -> TinyVitArch:
        for width, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"embed_dims {width}: must be a multiple of its num_heads {heads}")
        return self


SamArch = Annotated[VitArch | TinyVitArch, Field(discriminator="kind")]

KNOWN_SAM: Mapping[str, VitArch | TinyVitArch] = {
    "base": VitArch(hidden_size=768, num_layers=12, num_heads=12, mlp_dim=3072, global_attn_indexes=(2, 5, 8, 11)),
    "large": VitArch(hidden_size=1024, num_layers=24, num_heads=16, mlp_dim=4096, global_attn_indexes=(5, 11, 17, 23)),
    "huge": VitArch(hidden_size=1280, num_layers=32, num_heads=16, mlp_dim=5120, global_attn_indexes=(7, 15, 23, 31)),
    "tiny-vit": TinyVitArch(),
}
