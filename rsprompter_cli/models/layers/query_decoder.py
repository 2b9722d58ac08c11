"""The query decoder: learned queries look at the picture inside the masks they claim.

Source: Mask2Former (arXiv 2112.01527), masked attention, as in MMDetection's Mask2FormerHead.

Letters: B images, Q queries, C their width, D mask features, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsprompter_cli.models.image_transform import ImageMeta
from rsprompter_cli.models.layers.pixel_decoder import LEVELS, PixelMaps
from rsprompter_cli.models.layers.positions import sine_positions
from rsprompter_cli.models.masks import measure_logits
from rsprompter_cli.structures import Detections, LowResMasks


class QueryOutput(NamedTuple):
    """Predictions of the queries, at the start or after one layer.

    states: [B, Q, C] the queries, normed.
    class_logits: [B, Q, K + 1], the last for "no object".
    mask_embed: [B, Q, D], see `mask_logits`.
    """

    states: Tensor
    class_logits: Tensor
    mask_embed: Tensor


class QueryOutputs(NamedTuple):
    """Predictions of the queries for a batch.

    layers: before the first layer and after each.
    mask_features: [B, D, S/4, S/4].
    """

    layers: tuple[QueryOutput, ...]
    mask_features: Tensor


class QueryLayer(nn.Module):
    """Masked attention to the picture, attention among the queries, feed-forward; a norm after each.

    Args:
        channels, heads: of both attentions.
        feedforward: width between.
    """

    def __init__(self, *, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.cross_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.fc1 = nn.Linear(channels, feedforward)
        self.fc2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)

    def forward(self, queries: Tensor, places: Tensor, cells: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
        """One round.

        Args:
            queries: [B, Q, C].
            places: [Q, C], each query's learned position.
            cells: [B, T, C], one level of the picture.
            positions: [1, T, C] of its cells.
            hidden: bool [B, Q, T], the cells a query must not look at; a row with all cells hidden sees all.

        Returns:
            [B, Q, C].
        """
        hidden = hidden & ~hidden.all(dim=-1, keepdim=True)
        attended, _ = self.cross_attention(
            queries + places,
            cells + positions,
            cells,
            attn_mask=hidden.repeat_interleave(self.heads, dim=0),
            need_weights=False,
        )
        queries = self.norm1(queries + attended)
        placed = queries + places
        attended, _ = self.self_attention(placed, placed, queries, need_weights=False)
        queries = self.norm2(queries + attended)
        result: Tensor = self.norm3(queries + self.fc2(F.relu(self.fc1(queries))))
        return result


class QueryDecoder(nn.Module):
    """Learned queries, refined layer by layer.

    Args:
        queries: objects at most, Q.
        channels, heads, feedforward: of each layer.
        layers: rounds; round i looks at level i modulo 3, coarsest first.
        mask_channels: of the mask features, D.
        class_head: normed queries [B, Q, C] to class logits [B, Q, K + 1].
    """

    def __init__(
        self,
        *,
        queries: int,
        channels: int,
        heads: int,
        feedforward: int,
        layers: int,
        mask_channels: int,
        class_head: nn.Module,
    ) -> None:
        super().__init__()
        self.queries = nn.Embedding(queries, channels)
        self.places = nn.Embedding(queries, channels)
        self.level_embed = nn.Embedding(LEVELS, channels)
        self.layers = nn.ModuleList(
            QueryLayer(channels=channels, heads=heads, feedforward=feedforward) for _ in range(layers)
        )
        self.post_norm = nn.LayerNorm(channels)
        self.classes = class_head
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, mask_channels),
        )

    def forward(self, maps: PixelMaps) -> tuple[QueryOutput, ...]:
        """The outputs before the first round and after each."""
        batch = maps.mask_features.shape[0]
        cells, positions = [], []
        for index, level in enumerate(maps.levels):
            rows, columns = level.shape[-2:]
            cells.append(level.flatten(2).transpose(1, 2) + self.level_embed.weight[index])  # [B, T, C]
            positions.append(
                sine_positions(rows, columns, level.shape[1], level.device).flatten(2).transpose(1, 2)
            )  # [1, T, C]
        queries = self.queries.weight.expand(batch, -1, -1)
        outputs = [self._say(queries)]
        for index, layer in enumerate(self.layers):
            turn = index % LEVELS
            rows, columns = maps.levels[turn].shape[-2:]
            hidden = hidden_cells(outputs[-1].mask_embed, maps.mask_features, (rows, columns))
            queries = layer(queries, self.places.weight, cells[turn], positions[turn], hidden)
            outputs.append(self._say(queries))
        return tuple(outputs)

    def _say(self, queries: Tensor) -> QueryOutput:
        states = self.post_norm(queries)
        return QueryOutput(states, self.classes(states), self.mask_embed(states))


@torch.no_grad()
def hidden_cells(embed: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
    """The cells of a level that lie outside the masks claimed so far, bool [B, Q, T].

    Args:
        embed: [B, Q, D]; features: [B, D, h, w].
        size: (rows, columns) of the level.
    """
    masks = F.interpolate(mask_logits(embed, features), size=size, mode="bilinear", align_corners=False)
    return masks.flatten(2).sigmoid() < 0.5


def mask_logits(embed: Tensor, features: Tensor) -> Tensor:
    """Masks of queries: embed [B, Q, D] times features [B, D, h, w] to logits float32 [B, Q, h, w]."""
    return torch.einsum("bqd,bdhw->bqhw", embed, features).float()


def find_instances(class_logits: Tensor, mask_logits: Tensor, meta: ImageMeta, most: int) -> Detections:
    """The most probable pairs of query and class of one image, best score first.

    A pair's score is the probability of the class times the mean probability over the pixels of the
    query's mask, as it lies on the image. An empty mask has score 0 and a box of zeros.

    Args:
        class_logits: [Q, K + 1], the last for "no object", which is never an answer.
        mask_logits: float32 [Q, h, w] over the padded square.
        meta: how the image lies in its square.
        most: pairs kept, by the probability of the class.
    """
    queries, labels, kept = best_pairs(class_logits, most)
    # A query may answer with several classes: its mask is measured once.
    asked, place = queries.unique(return_inverse=True)
    boxes, certainty = measure_logits(LowResMasks(mask_logits[asked], 0.0, meta.frame))
    scores = kept * certainty[place]
    order = scores.argsort(descending=True, stable=True)
    masks = LowResMasks(mask_logits[queries[order]], 0.0, meta.frame)
    return Detections(boxes[place][order], labels[order], scores[order], masks)


def best_pairs(class_logits: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable pairs of query and class of one image: queries int64 [N], labels int64 [N], probabilities [N].

    Args:
        class_logits, most: as for `find_instances`.
    """
    chances = class_logits.float().softmax(-1)[:, :-1]
    num_classes = chances.shape[1]
    kept, pairs = chances.flatten().topk(min(most, chances.numel()))
    return pairs // num_classes, pairs % num_classes, kept
