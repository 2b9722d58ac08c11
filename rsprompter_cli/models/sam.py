"""SAM's parts: the ViT image encoder and the prompted mask decoder, built of transformers' modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import SamMaskDecoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding, SamVisionEncoder

from rsprompter_cli.models.encoder import EncoderOutput

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""0.485, 0.456, 0.406 on the 0..255 scale, RGB."""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""0.229, 0.224, 0.225 on the 0..255 scale, RGB."""


class SamVitEncoder(nn.Module):
    """SAM's ViT image encoder, of any size, with its intermediate states.

    Args:
        hidden_size, num_layers, num_heads, mlp_dim: of the transformer.
        global_attn_indexes: layers that attend over the whole map; the others within windows.
        window_size: side of the windows, cells.
        patch_size: pixels per cell.
        output_channels: of the embedding.
        image_size: side of the square input, pixels.

    Attributes:
        state_channels: channels of each map in `EncoderOutput.states`.
        embedding_stride: pixels per cell of the embedding.
        pixel_mean, pixel_std: what the caller subtracts and divides by, per channel on the 0..255 scale.
    """

    pixel_mean = IMAGENET_MEAN
    pixel_std = IMAGENET_STD

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        global_attn_indexes: Sequence[int],
        window_size: int,
        patch_size: int,
        output_channels: int,
        image_size: int,
    ) -> None:
        super().__init__()
        config = SamVisionConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            mlp_dim=mlp_dim,
            global_attn_indexes=list(global_attn_indexes),
            window_size=window_size,
            patch_size=patch_size,
            output_channels=output_channels,
            image_size=image_size,
            # transformers' own default is 1e-10, with which a random encoder says nothing.
            initializer_range=0.02,
        )
        self.vit = SamVisionEncoder(config)
        self.state_channels = (hidden_size,) * (num_layers + 1)
        self.embedding_stride = patch_size

    def forward(self, pixels: Tensor) -> EncoderOutput:
        """Encode a batch.

        Args:
            pixels: float [B, 3, S, S], already normalised.

        Returns:
            states: patch embedding with positions, then the output of every layer, [B, C, h, w].
            embedding: [B, output_channels, h, w].
        """
        cells = self.vit.patch_embed(pixels) + self.vit.pos_embed  # [B, h, w, C]
        states = [cells.permute(0, 3, 1, 2)]
        for layer in self.vit.layers:
            cells = layer(cells)
            states.append(cells.permute(0, 3, 1, 2))
        return EncoderOutput(tuple(states), self.vit.neck(cells))


class PromptedDecoder(nn.Module):
    """SAM's mask decoder with the two things it needs of the prompt encoder: positions and the empty dense prompt.

    Args:
        hidden_size, num_layers, num_heads, mlp_dim, attention_downsample_rate: of the two-way transformer.
        iou_head_hidden_dim, iou_head_depth: of the head that predicts a mask's quality.
        num_multimask_outputs: masks for an ambiguous prompt, beside the single one.
        norm_eps: of the two-way transformer's layer norms.
        chunk: prompts decoded at a time. Changes the speed, never the result: 100 prompts in one batch
            are four times slower on a CPU than in chunks of a few, whose maps stay in the cache.
        box_prompts: also hold SAM's embeddings of a box's two corners, for `corner_prompts`.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        attention_downsample_rate: int,
        iou_head_hidden_dim: int,
        iou_head_depth: int,
        num_multimask_outputs: int,
        chunk: int,
        norm_eps: float,
        box_prompts: bool = False,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        config = SamMaskDecoderConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            mlp_dim=mlp_dim,
            attention_downsample_rate=attention_downsample_rate,
            iou_head_hidden_dim=iou_head_hidden_dim,
            iou_head_depth=iou_head_depth,
            num_multimask_outputs=num_multimask_outputs,
            layer_norm_eps=norm_eps,
        )
        # A decoder outside a SamModel has to be told how to attend.
        config._attn_implementation = "sdpa"
        self.decoder = SamMaskDecoder(config)
        self.no_mask_embed = nn.Embedding(1, hidden_size)
        self.corner_embed = nn.Embedding(2, hidden_size) if box_prompts else None
        # The scale only sets the spread of the random start; SAM's weights replace it.
        self.position = SamPositionalEmbedding(SamVisionConfig(hidden_size=2, num_pos_feats=hidden_size // 2))

    def corner_prompts(self, boxes: Tensor, side: int) -> Tensor:
        """SAM's two prompt tokens of each box, its top left and bottom right pixel.

        Source: SAM's prompt encoder. It was trained with boxes that name the first and the last
        pixel of an object; ours end one pixel later.

        Args:
            boxes: [N, 4] xyxy in pixels of the square input.
            side: of that input, pixels.

        Returns:
            float32 [N, 2, C].
        """
        if self.corner_embed is None:
            raise ValueError("this decoder holds no corner embeddings")
        corners = torch.stack([boxes[:, :2] + 0.5, boxes[:, 2:] - 0.5], dim=1).float() / side  # [N, 2, 2]
        with torch.autocast(boxes.device.type, enabled=False):
            encoded: Tensor = self.position(corners)
        return encoded + self.corner_embed.weight

    def positions(self, rows: int, columns: int) -> Tensor:
        """SAM's positional encoding of a map's cells, float32 [1, C, rows, columns]."""
        table = self.position.positional_embedding
        y = (torch.arange(rows, device=table.device, dtype=torch.float32) + 0.5) / rows
        x = (torch.arange(columns, device=table.device, dtype=torch.float32) + 0.5) / columns
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        with torch.autocast(table.device.type, enabled=False):
            encoded: Tensor = self.position(torch.stack([grid_x, grid_y], dim=-1))  # [rows, columns, C]
        return encoded.permute(2, 0, 1)[None]

    def forward(self, embedding: Tensor, prompts: Tensor) -> Tensor:
        """Decode one mask for each prompt of one image.

        Args:
            embedding: [1, C, h, w] of the image.
            prompts: [N, Kp, C], Kp prompt tokens for each of N objects.

        Returns:
            logits float32 [N, 4h, 4w].
        """
        rows, columns = embedding.shape[-2:]
        if prompts.shape[0] == 0:
            return embedding.new_zeros((0, 4 * rows, 4 * columns), dtype=torch.float32)
        positions = self.positions(rows, columns)
        dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, rows, columns)
        parts = []
        for part in prompts.split(self.chunk):
            masks, _ = self.decoder(
                image_embeddings=embedding,
                image_positional_embeddings=positions,
                sparse_prompt_embeddings=part[None],  # [1, n, Kp, C]
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            parts.append(masks[0, :, 0].float())
        return torch.cat(parts)
