"""SAM's parts: the ViT image encoder and the prompted mask decoder, built of transformers' modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamMaskEmbedding,
    SamPositionalEmbedding,
    SamVisionEncoder,
)

from rsprompter_cli.models.cpu.attention import vit_layer
from rsprompter_cli.models.cpu.mask_decoder import SharedImage, decode
from rsprompter_cli.models.layers.image_encoder import EncoderOutput
from rsprompter_cli.models.sam.recompute import recompute

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
        checkpoint_layers: in training keep each layer's output only and run the layer again in the backward pass.

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
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_layers = checkpoint_layers
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
            # transformers' own default is 1e-10, with which a random encoder carries no information.
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
            cells = self._layer(layer, cells)
            states.append(cells.permute(0, 3, 1, 2))
        return EncoderOutput(tuple(states), self.vit.neck(cells))

    def _layer(self, layer: nn.Module, cells: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return vit_layer(layer, cells) if cells.device.type == "cpu" else layer(cells)
        return recompute(layer, cells) if self.checkpoint_layers and self.training else layer(cells)


class PromptedDecoder(nn.Module):
    """SAM's mask decoder with those parts of SAM's prompt encoder that a model asks for.

    Always held: the positions (`position`).

    Args:
        hidden_size, num_layers, num_heads, mlp_dim, attention_downsample_rate: of the two-way transformer.
        iou_head_hidden_dim, iou_head_depth: of the head that predicts a mask's quality.
        num_multimask_outputs: masks for an ambiguous prompt, beside the single one.
        norm_eps: of the two-way transformer's layer norms.
        chunk: prompts decoded at a time. Changes the speed, never the result: on a CPU a few at a time
            are fastest, whose maps stay in the cache.
        box_prompts: also hold SAM's embeddings of a box's two corners, for `corner_prompts`.
        point_prompts: also hold SAM's embeddings of clicked points, for `point_prompts`.
        mask_prompts: also hold SAM's embedding of masks, for `dense_prompts`.
        mask_input_channels: width of that embedding; needed with `mask_prompts` only.
        empty_prompt: hold SAM's empty dense prompt (`no_mask_embed`); False where every call brings its own.
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
        point_prompts: bool = False,
        mask_prompts: bool = False,
        mask_input_channels: int = 16,
        empty_prompt: bool = True,
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
        # A decoder outside a SamModel needs its attention implementation set.
        config._attn_implementation = "sdpa"
        self.decoder = SamMaskDecoder(config)
        if empty_prompt:
            self.no_mask_embed = nn.Embedding(1, hidden_size)
        self.corner_embed = nn.Embedding(2, hidden_size) if box_prompts else None
        self.point_embed = nn.Embedding(2, hidden_size) if point_prompts else None
        self.not_a_point = nn.Embedding(1, hidden_size) if point_prompts else None
        self.mask_embed = (
            SamMaskEmbedding(SamPromptEncoderConfig(hidden_size=hidden_size, mask_input_channels=mask_input_channels))
            if mask_prompts
            else None
        )
        # The scale only sets the spread of the random start; SAM's weights replace it.
        self.position = SamPositionalEmbedding(SamVisionConfig(hidden_size=2, num_pos_feats=hidden_size // 2))

    def corner_prompts(self, boxes: Tensor, side: int, *, last_pixel: bool = False) -> Tensor:
        """SAM's two prompt tokens of each box, its top left and bottom right pixel.

        Source: SAM's prompt encoder. It was trained with boxes that name the first and the last
        pixel of an object; ours end one pixel later.

        Args:
            boxes: [N, 4] xyxy in pixels of the square input.
            side: of that input, pixels.
            last_pixel: the boxes are passed as SAM's own code takes them, half a pixel being added to both corners.

        Returns:
            float32 [N, 2, C].
        """
        if self.corner_embed is None:
            raise ValueError("this decoder holds no corner embeddings")
        end = boxes[:, 2:] + (0.5 if last_pixel else -0.5)
        corners = torch.stack([boxes[:, :2] + 0.5, end], dim=1).float() / side  # [N, 2, 2]
        return self._encode(corners) + self.corner_embed.weight

    def point_prompts(self, points: Tensor, side: int, labels: Tensor | None = None) -> Tensor:
        """SAM's prompt tokens of points: one each, and the token for the absence of a box.

        Args:
            points: [N, P, 2] xy of pixels of the square input (their first corner: SAM adds half a pixel),
                P points for each of N objects.
            side: of that input, pixels.
            labels: integers [N, P], 1 on the object, 0 on the background; None: all on the object.

        Returns:
            float32 [N, P + 1, C].
        """
        if self.point_embed is None or self.not_a_point is None:
            raise ValueError("this decoder holds no point embeddings")
        kinds = points.new_ones(points.shape[:2], dtype=torch.long) if labels is None else labels.long()
        tokens = self._encode((points.float() + 0.5) / side) + self.point_embed(kinds)
        last = self.not_a_point.weight.expand(points.shape[0], 1, -1)
        return torch.cat([tokens, last], dim=1)

    def dense_prompts(self, masks: Tensor) -> Tensor:
        """SAM's dense prompt of mask logits.

        Args:
            masks: float [N, 1, 4h, 4w].

        Returns:
            [N, C, h, w].
        """
        if self.mask_embed is None:
            raise ValueError("this decoder holds no mask embedding")
        prompts: Tensor = self.mask_embed(masks)
        return prompts

    def positions(self, rows: int, columns: int) -> Tensor:
        """SAM's positional encoding of a map's cells, float32 [1, C, rows, columns]."""
        table = self.position.positional_embedding
        y = (torch.arange(rows, device=table.device, dtype=torch.float32) + 0.5) / rows
        x = (torch.arange(columns, device=table.device, dtype=torch.float32) + 0.5) / columns
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        encoded = self._encode(torch.stack([grid_x, grid_y], dim=-1))  # [rows, columns, C]
        return encoded.permute(2, 0, 1)[None]

    def forward(self, embedding: Tensor, prompts: Tensor, dense: Tensor | None = None) -> Tensor:
        """Decode one mask for each prompt of one image.

        Args:
            embedding: [1, C, h, w] of the image.
            prompts: [N, Kp, C], Kp prompt tokens for each of N objects.
            dense: [N, C, h, w] a dense prompt of each object's own; None: SAM's empty one.

        Returns:
            logits float32 [N, 4h, 4w]: those of `with_quality(..., multimask=False)`.
        """
        logits, _ = self.with_quality(embedding, prompts, dense=dense, multimask=False)
        return logits[:, 0]

    def with_quality(
        self, embedding: Tensor, prompts: Tensor, *, dense: Tensor | None = None, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode the masks of each prompt of one image and SAM's guess of their quality.

        Args:
            embedding, prompts, dense: as for `forward`.
            multimask: the masks of SAM's tokens for an ambiguous prompt, instead of the single one.

        Returns:
            logits: float32 [N, M, 4h, 4w], M the number of those tokens, or 1.
            quality: float32 [N, M], the IoU each mask is thought to reach.
        """
        rows, columns = embedding.shape[-2:]
        count = self.decoder.num_multimask_outputs if multimask else 1
        exporting = torch.compiler.is_exporting()  # to a graph, which takes any number of prompts at a time
        if not exporting and prompts.shape[0] == 0:
            return (
                embedding.new_zeros((0, count, 4 * rows, 4 * columns), dtype=torch.float32),
                embedding.new_zeros((0, count), dtype=torch.float32),
            )
        positions, image = _cells(self.positions(rows, columns))[0], _cells(embedding)
        shared = None
        if dense is None:
            empty = image[0] + self.no_mask_embed.weight
            shared = SharedImage(self.decoder.transformer.layers[0], empty.to(_arithmetic(empty)), positions)
        parts = (prompts,) if exporting else prompts.split(self.chunk)
        own = () if dense is None else (dense,) if exporting else dense.split(self.chunk)
        wanted = slice(1, None) if multimask else slice(0, 1)

        room = None
        if image.device.type == "cpu" and not torch.is_grad_enabled():
            room = torch.empty((parts[0].shape[0], *image.shape[1:]), dtype=_arithmetic(image))
            positions = positions.to(room)

        def decode_part(index: int) -> tuple[Tensor, Tensor]:
            cells: Tensor | SharedImage
            if shared is not None:
                cells = shared
            elif room is not None:
                cells = torch.add(image, own[index].flatten(2).transpose(1, 2), out=room[: own[index].shape[0]])
            else:
                cells = image + _cells(own[index])
            return decode(self.decoder, cells, positions, parts[index], wanted, size=(rows, columns), room=room)

        if torch.is_grad_enabled() and len(parts) > 1:
            # The maps of one prompt take some 60 MB at 1024 pixels: they are made again in the backward pass.
            decoded = [
                checkpoint(decode_part, index, use_reentrant=False, preserve_rng_state=False)
                for index in range(len(parts))
            ]
        else:
            decoded = [decode_part(index) for index in range(len(parts))]
        masks, quality = zip(*decoded, strict=True)
        return torch.cat(masks).float(), torch.cat(quality).float()

    def _encode(self, places: Tensor) -> Tensor:
        """SAM's positional encoding of points [..., 2] xy in 0..1 of the input's side, float32 [..., C]."""
        with torch.autocast(places.device.type, enabled=False):
            encoded: Tensor = self.position(places)
        return encoded


def _cells(maps: Tensor) -> Tensor:
    """[N, C, h, w] to [N, hw, C], contiguous."""
    return maps.flatten(2).transpose(1, 2).contiguous()


def _arithmetic(values: Tensor) -> torch.dtype:
    """What matrix products of such values are computed in."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
