"""Sizes of the SAM models: what `model.sam_arch` holds, and those known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from rsprompter_cli.config.frozen import Frozen


class SamDecoderArch(Frozen):
    """Sizes of SAM's prompt encoder and mask decoder."""

    hidden_size: PositiveInt = 256
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 8
    mlp_dim: PositiveInt = 2048
    attention_downsample_rate: PositiveInt = 2
    iou_head_hidden_dim: PositiveInt = 256
    iou_head_depth: PositiveInt = 3
    num_multimask_outputs: PositiveInt = 3
    mask_input_channels: PositiveInt = 16


class VitArch(Frozen):
    """Sizes of SAM's ViT image encoder."""

    kind: Literal["vit"] = "vit"
    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    mlp_dim: PositiveInt
    global_attn_indexes: tuple[int, ...]
    window_size: PositiveInt = 14
    patch_size: PositiveInt = 16
    output_channels: PositiveInt = 256
    pretrained_image_size: PositiveInt = 1024
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
    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)
    output_channels: PositiveInt = 256
    pretrained_image_size: PositiveInt = 256
    decoder: SamDecoderArch = SamDecoderArch()


SamArch = Annotated[VitArch | TinyVitArch, Field(discriminator="kind")]

KNOWN_SAM: Mapping[str, VitArch | TinyVitArch] = {
    "base": VitArch(hidden_size=768, num_layers=12, num_heads=12, mlp_dim=3072, global_attn_indexes=(2, 5, 8, 11)),
    "large": VitArch(hidden_size=1024, num_layers=24, num_heads=16, mlp_dim=4096, global_attn_indexes=(5, 11, 17, 23)),
    "huge": VitArch(hidden_size=1280, num_layers=32, num_heads=16, mlp_dim=5120, global_attn_indexes=(7, 15, 23, 31)),
    "tiny-vit": TinyVitArch(),
}
