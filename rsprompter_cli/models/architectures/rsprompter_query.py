"""RSPrompter-query: learned queries whose states and coarse masks prompt SAM's mask decoder.

Source: RSPrompter (arXiv 2306.16269), the query-based prompter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rsprompter_cli.models.base import ImageModel
from rsprompter_cli.models.image_transform import ImageMeta
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.layers.neck import Neck
from rsprompter_cli.models.layers.pixel_decoder import PixelDecoder
from rsprompter_cli.models.layers.query_decoder import QueryDecoder, QueryOutputs, find_instances, mask_logits
from rsprompter_cli.models.layers.query_losses import Match, QueryCriterion, named_by_layer
from rsprompter_cli.models.masks import stretch
from rsprompter_cli.models.sam.encoder_cache import EncoderCache, encode
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.models.training_context import Draw, uniform
from rsprompter_cli.structures import Detections, Size, Target


class QueryPromptHead(nn.Module):
    """States of queries to prompt embeddings of SAM's mask decoder.

    Args:
        channels: width of a query.
        prompts: embeddings per object, Kp.
        embed_channels: width of SAM's prompts, C.
    """

    def __init__(self, *, channels: int, prompts: int, embed_channels: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.embed_channels = embed_channels
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.ReLU(),
            nn.Linear(channels // 2, channels // 2),
            nn.ReLU(),
            nn.Linear(channels // 2, 2 * prompts * embed_channels),
        )

    def forward(self, states: Tensor) -> Tensor:
        """[N, width] to prompts [N, Kp, C]."""
        pairs = self.mlp(states).reshape(-1, self.prompts, self.embed_channels, 2)
        return torch.sin(pairs[..., 0]) + pairs[..., 1]


class RSPrompterQuery(ImageModel):
    """The whole model.

    Args:
        encoder: image encoder obeying `EncoderOutput`, with pixel_mean and pixel_std.
        neck: encoder maps to a pyramid.
        pixel_decoder, query_decoder: of the pyramid.
        prompt_head: queries to prompts.
        mask_decoder: SAM's, with its embedding of masks.
        criterion: the losses.
        image_size: side of the square input, pixels.
        max_detections: pairs of query and class kept per image.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        neck: Neck,
        pixel_decoder: PixelDecoder,
        query_decoder: QueryDecoder,
        prompt_head: QueryPromptHead,
        mask_decoder: PromptedDecoder,
        criterion: QueryCriterion,
        image_size: int,
        max_detections: int,
    ) -> None:
        mean, std = pixel_statistics(encoder)
        super().__init__(image_size=image_size, pixel_mean=mean, pixel_std=std)
        self.encoder = encoder
        self.neck = neck
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder
        self.prompt_head = prompt_head
        self.mask_decoder = mask_decoder
        self.criterion = criterion
        self.max_detections = max_detections
        self.encoder_cache: EncoderCache | None = None

    def features(self, batch: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The pyramid and SAM's embedding of a normalised, padded batch [B, 3, S, S]."""
        encoded = encode(self.encoder, batch, self.encoder_cache)
        return self.neck(encoded), encoded.embedding

    def decode(self, levels: Sequence[Tensor]) -> QueryOutputs:
        """Predictions of the queries from a pyramid."""
        maps = self.pixel_decoder(levels)
        return QueryOutputs(self.query_decoder(maps), maps.mask_features)

    def losses(
        self, batch: Tensor, sizes: Sequence[Size], targets: Sequence[Target], draw: Draw = uniform
    ) -> dict[str, Tensor]:
        """The losses of a normalised, padded batch.

        Objects are given to queries by the coarse masks alone, so SAM decodes the masks of the matched
        queries only: those of the others would reach neither a value nor a gradient.

        Args:
            batch: float32 [B, 3, S, S].
            sizes: (rows, columns) of each image before padding; the padding is background like any other.
            targets: B ground truths on the batch's device.
            draw: source of the points at which masks are compared.

        Returns:
            float32 scalars of the last output, and of every earlier one: loss_cls; loss_mask and loss_dice of
            SAM's masks; loss_mask_plus and loss_dice_plus of the coarse ones.
        """
        levels, embedding = self.features(batch)
        outputs, mask_features = self.decode(levels)
        return named_by_layer(
            [
                self.criterion.losses(
                    output,
                    mask_features,
                    targets,
                    partial(self._refine_matched, embedding, output.states),
                    draw,
                )
                for output in outputs
            ]
        )

    @torch.no_grad()
    def detect(self, batch: Tensor, metas: Sequence[ImageMeta]) -> list[Detections]:
        """Detections of a normalised, padded batch, in the pixels of the original images.

        Args:
            batch: float32 [B, 3, S, S].
            metas: how each image lies in its square.
        """
        levels, embedding = self.features(batch)
        outputs, mask_features = self.decode(levels)
        last = outputs[-1]
        coarse = mask_logits(last.mask_embed, mask_features)
        results = []
        for index, meta in enumerate(metas):
            fine = self.refine(embedding[index : index + 1], last.states[index], coarse[index])
            results.append(find_instances(last.class_logits[index], fine, meta, self.max_detections))
        return results

    def refine(self, embedding: Tensor, states: Tensor, coarse: Tensor) -> Tensor:
        """SAM's masks of some queries of one image, a few at a time.

        In training each part is decoded again in the backward pass, so that memory holds the graph of one.

        Args:
            embedding: SAM's, [1, C, h, w].
            states: [N, width] of the queries.
            coarse: [N, S/4, S/4] their coarse masks, which no gradient enters.

        Returns:
            logits float32 [N, 4h, 4w].
        """
        rows, columns = embedding.shape[-2:]
        if states.shape[0] == 0:
            return embedding.new_zeros((0, 4 * rows, 4 * columns), dtype=torch.float32)
        size = self.mask_decoder.chunk
        pairs = zip(states.split(size), coarse.detach().split(size), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self._decode(embedding, part, masks) for part, masks in pairs])
        parts = [
            checkpoint(self._decode, embedding, part, masks, use_reentrant=False, preserve_rng_state=False)
            for part, masks in pairs
        ]
        return torch.cat(parts)

    def _refine_matched(self, embedding: Tensor, states: Tensor, matches: Sequence[Match], coarse: Tensor) -> Tensor:
        """SAM's masks [n, 4h, 4w] of the matched queries of a batch, whose coarse masks [n, S/4, S/4] are given."""
        parts = coarse.split([len(match.queries) for match in matches])
        fine = [
            self.refine(embedding[index : index + 1], states[index, match.queries], part)
            for index, (match, part) in enumerate(zip(matches, parts, strict=True))
        ]
        return torch.cat(fine)

    def _decode(self, embedding: Tensor, states: Tensor, coarse: Tensor) -> Tensor:
        rows, columns = embedding.shape[-2:]
        # The mask embedding shrinks by 4; an encoder of stride 4 wants a finer coarse mask than there is.
        dense = self.mask_decoder.dense_prompts(stretch(coarse[:, None], (4 * rows, 4 * columns)))
        logits: Tensor = self.mask_decoder(embedding, self.prompt_head(states), dense)
        return logits
