"""Losses of query models: each object is given to one query, and compared with it at a few points.

Source: Mask2Former (arXiv 2112.01527), section 3.3, with the costs, weights and normalisers of
MMDetection's Mask2FormerHead.

Letters: Q queries, K classes, G objects of an image, n objects matched, P points, D mask features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rsprompter_cli.models.layers.query_decoder import QueryOutput, mask_logits
from rsprompter_cli.models.training_context import Draw, rank_mean, uniform
from rsprompter_cli.structures import Target

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
"""Of the losses, and of the costs by which objects are matched."""
NO_OBJECT_WEIGHT = 0.1
"""Of queries without an object in the class loss."""
_DICE_EPS = 1.0


class Match(NamedTuple):
    """Which query answers for which object of one image; queries ascend.

    queries, objects: int64 [n].
    """

    queries: Tensor
    objects: Tensor


class QueryCriterion:
    """The losses of one output of the query decoder.

    Args:
        num_classes: K.
        points: at which a mask is compared with its object.
        oversample: points drawn for each that is kept for its uncertainty.
        importance: share of the points kept for their uncertainty, the others stay random.
        side: of the padded frame over which masks and points lie, pixels.
    """

    def __init__(self, *, num_classes: int, points: int, oversample: float, importance: float, side: int) -> None:
        self.num_classes = num_classes
        self.points = points
        self.oversample = oversample
        self.importance = importance
        self.side = side

    def losses(
        self,
        output: QueryOutput,
        features: Tensor,
        targets: Sequence[Target],
        refine: Callable[[Sequence[Match], Tensor], Tensor] | None = None,
        draw: Draw = uniform,
    ) -> dict[str, Tensor]:
        """All losses of one output.

        Args:
            output: of B images.
            features: mask features [B, D, h, w].
            targets: B ground truths.
            refine: from the matches and their queries' masks [n, h, w] to better masks [n, h', w'], to which the
                names without an ending then belong; the coarse ones end in "_plus". None: there are no better ones.
            draw: source of all points.

        Returns:
            float32 scalars.
        """
        matches = self.match(output, features, targets, draw)
        coarse = torch.cat(
            [
                mask_logits(output.mask_embed[index, match.queries][None], features[index : index + 1])[0]
                for index, match in enumerate(matches)
            ]
        )
        masks = {"": coarse} if refine is None else {"": refine(matches, coarse), "_plus": coarse}
        class_loss = self.class_loss(output.class_logits, targets, matches)
        return {"loss_cls": class_loss, **self.mask_losses(masks, targets, matches, draw)}

    @torch.no_grad()
    def match(
        self, output: QueryOutput, features: Tensor, targets: Sequence[Target], draw: Draw = uniform
    ) -> list[Match]:
        """Give each object to one query, at the least sum of costs.

        Args:
            output: of B images.
            features: mask features [B, D, h, w].
            targets: B ground truths.
            draw: of the points at which masks are compared, P for each image.
        """
        matches = []
        for index, target in enumerate(targets):
            points = draw([index], (self.points, 2), features.device)
            with torch.autocast(features.device.type, enabled=False):
                # A mask is linear in the features: those are read at the points, the masks never made.
                read = _sample(features[index : index + 1].float(), points)[0]  # [D, P]
                cost = matching_cost(
                    output.class_logits[index].float(),
                    output.mask_embed[index].float() @ read,
                    target.labels,
                    sample_masks(target.masks, torch.arange(len(target.labels), device=read.device), points, self.side),
                )
            matches.append(assign(cost))
        return matches

    def class_loss(self, logits: Tensor, targets: Sequence[Target], matches: Sequence[Match]) -> Tensor:
        """Weighted cross entropy over all queries, divided by their weights (`rank_mean`).

        Args:
            logits: [B, Q, K + 1].
        """
        labels = logits.new_full(logits.shape[:2], self.num_classes, dtype=torch.long)
        for row, target, match in zip(labels, targets, matches, strict=True):
            row[match.queries] = target.labels[match.objects]
        weights = logits.new_ones(self.num_classes + 1, dtype=torch.float32)
        weights[-1] = NO_OBJECT_WEIGHT
        total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), weights, reduction="sum")
        return CLASS_WEIGHT * total / rank_mean(weights[labels].sum(), logits)

    def mask_losses(
        self, masks: Mapping[str, Tensor], targets: Sequence[Target], matches: Sequence[Match], draw: Draw = uniform
    ) -> dict[str, Tensor]:
        """Cross entropy and dice of the matched queries' masks at points.

        Args:
            masks: by the ending of their losses' names, logits [n, h, w] of the matched queries of all images
                in order. The points are drawn where the first are uncertain, and serve all.
            targets, matches: of B images.
            draw: for each of the n masks first P * oversample points to choose from, then the random ones.

        Returns:
            loss_mask and loss_dice for each ending; zero, with a gradient, where nothing is matched.
        """
        first = next(iter(masks.values()))
        counts = [len(match.queries) for match in matches]
        matched, objects = rank_mean(sum(counts), first), rank_mean(sum(max(count, 1) for count in counts), first)
        if first.shape[0] == 0:
            return {f"{name}{end}": part.float().sum() for end, part in masks.items() for name in _MASK_LOSSES}
        owners = [index for index, count in enumerate(counts) for _ in range(count)]
        losses = {}
        with torch.autocast(first.device.type, enabled=False):
            points = self.uncertain_points(first.detach().float(), owners, draw)
            truth = torch.cat(
                [
                    sample_masks(target.masks, match.objects, part, self.side)
                    for target, match, part in zip(targets, matches, points.split(counts), strict=True)
                ]
            )
            for end, part in masks.items():
                logits = sample_maps(part.float(), points)
                each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
                losses[f"loss_mask{end}"] = MASK_WEIGHT * each.sum() / matched
                losses[f"loss_dice{end}"] = DICE_WEIGHT * dice(logits.sigmoid(), truth).sum() / objects
        return losses

    @torch.no_grad()
    def uncertain_points(self, logits: Tensor, owners: Sequence[int], draw: Draw = uniform) -> Tensor:
        """Points [n, P, 2] at which a mask is compared: most where its logits [n, h, w] are near 0.

        Source: PointRend (arXiv 1912.08193), section 3.2.

        Args:
            owners: the image of the batch that each mask is of.
        """
        drawn = draw(owners, (int(self.points * self.oversample), 2), logits.device)
        kept = int(self.importance * self.points)
        nearest = (-sample_maps(logits, drawn).abs()).topk(kept, dim=1).indices
        points = drawn.gather(1, nearest[..., None].expand(-1, -1, 2))
        if kept < self.points:
            points = torch.cat([points, draw(owners, (self.points - kept, 2), logits.device)], dim=1)
        return points


_MASK_LOSSES = ("loss_mask", "loss_dice")


def matching_cost(class_logits: Tensor, point_logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """Cost of giving each object to each query, float32 [Q, G].

    Args:
        class_logits: [Q, K + 1].
        point_logits: [Q, P], the masks at the points.
        labels: int64 [G].
        masks: float [G, P] in 0..1, at the same points.
    """
    class_cost = -class_logits.softmax(-1)[:, labels]
    inside, outside = F.softplus(-point_logits), F.softplus(point_logits)
    mask_cost = (inside @ masks.T + outside @ (1 - masks).T) / point_logits.shape[1]
    share = point_logits.sigmoid()
    overlap = 2 * (share @ masks.T) + _DICE_EPS
    dice_cost = 1 - overlap / (share.sum(1)[:, None] + masks.sum(1)[None] + _DICE_EPS)
    return CLASS_WEIGHT * class_cost + MASK_WEIGHT * mask_cost + DICE_WEIGHT * dice_cost


def assign(cost: Tensor) -> Match:
    """The pairs of least total cost, min(Q, G) of them (the Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    # Numbers that broke show in the losses, which are checked; here they only must not stop the search.
    finite = cost.detach().cpu().double().nan_to_num(nan=0.0, posinf=1e9, neginf=-1e9)
    queries, objects = linear_sum_assignment(finite.numpy())
    return Match(
        torch.from_numpy(queries).to(cost.device, torch.long), torch.from_numpy(objects).to(cost.device, torch.long)
    )


def named_by_layer(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The losses of all outputs: the last under their own names, output i before it under d{i}.NAME."""
    *earlier, last = losses
    named = dict(last)
    for index, part in enumerate(earlier):
        named |= {f"d{index}.{name}": value for name, value in part.items()}
    return named


def dice(share: Tensor, truth: Tensor) -> Tensor:
    """Dice loss of each row of [n, P], without squares in the denominator; float32 [n]."""
    overlap = 2 * (share * truth).sum(1) + _DICE_EPS
    return 1 - overlap / (share.sum(1) + truth.sum(1) + _DICE_EPS)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points, zero beyond their border.

    Args:
        maps: float [N, h, w].
        points: [N, P, 2] xy, 0..1 over the map.

    Returns:
        [N, P].
    """
    return _sample(maps[:, None], points)[:, 0]


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """As `sample_maps` for maps [N, D, h, w]; [N, D, P]."""
    grid = (2 * points - 1)[:, :, None]  # [N, P, 1, 2]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[..., 0]


def sample_masks(masks: Tensor, chosen: Tensor, points: Tensor, side: int) -> Tensor:
    """Bilinear values of masks at points of the padded frame, without making them floats first.

    Args:
        masks: bool [G, H, W] of an image that lies at the top left of the frame.
        chosen: int64 [n], the masks to read.
        points: [n or 1, P, 2] xy, 0..1 over the frame.
        side: of the frame, pixels.

    Returns:
        float32 [n, P] in 0..1.
    """
    _, rows, columns = masks.shape
    # From pixel centre to pixel centre, written as grid_sample does it: the same rounding.
    places = ((2 * points.float() - 1 + 1) * side - 1) / 2
    corner = places.floor()
    ahead = places - corner
    left, top = corner.long().unbind(-1)
    values = masks.new_zeros((chosen.shape[0], points.shape[1]), dtype=torch.float32)
    for down in (0, 1):
        for right in (0, 1):
            x, y = left + right, top + down
            inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
            cell = y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)
            weight = _share(ahead[..., 0], right) * _share(ahead[..., 1], down) * inside
            values += masks.take(chosen[:, None] * (rows * columns) + cell) * weight
    return values


def _share(ahead: Tensor, far: int) -> Tensor:
    return ahead if far else 1 - ahead
