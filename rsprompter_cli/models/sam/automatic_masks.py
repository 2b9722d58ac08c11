"""SAM's automatic masks: a grid of prompts, each answered by masks, of which the good ones stay.

Source: SamAutomaticMaskGenerator of segment-anything, which asks with points. A SAM that was trained with
boxes alone (LiteMedSAM) answers points with nothing and is asked with boxes. A box anywhere is filled by
something; what is an object, its own bounds give back. Masks never exist at full size: candidates are
kept as pieces of the decoder's maps, and each is looked at in pixels only where it is not empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes, nms

from rsprompter_cli.models.image_transform import ImageMeta, resize_batch
from rsprompter_cli.models.layers.image_encoder import pixel_statistics
from rsprompter_cli.models.sam.mask_patches import Sampler, clean_patch, tight_patch
from rsprompter_cli.models.sam.modules import PromptedDecoder
from rsprompter_cli.structures import MaskPatches, Size

CROP_OVERLAP = 512 / 1500
"""Share of the short side that crops of the first layer have in common, as in segment-anything."""

EDGE_TOLERANCE = 20
"""Pixels: a mask that ends this close to the edge of a crop, and not of the picture, was cut by it."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class AutomaskSettings:
    """How masks are made and chosen.

    prompts: points or boxes.
    points_per_side: of the grid of points over the picture and over each crop.
    box_sizes: sides of the boxes, shares of the longer side of the picture or crop.
    min_return_iou: least IoU of a box's mask and of that which SAM makes of this mask's bounds.
    min_predicted_iou: least quality, as the decoder guesses it.
    min_stability: least IoU of the masks at `stability_offset` logits above and below the threshold.
    box_nms_iou: of two masks of one crop whose boxes overlap by more, the better stays.
    crop_layers: further passes over 4, 16, .. crops of the picture.
    crop_nms_iou: the same between crops, where the smaller crop is the better.
    min_region_area: holes and islands below this many pixels are filled and removed; 0: never.
    chunk: prompts decoded at a time.
    """

    prompts: Literal["points", "boxes"]
    points_per_side: int
    box_sizes: tuple[float, ...]
    min_return_iou: float
    min_predicted_iou: float
    min_stability: float
    stability_offset: float
    box_nms_iou: float
    crop_layers: int
    crop_nms_iou: float
    min_region_area: int
    chunk: int


@dataclass(frozen=True, eq=False)
class PictureMasks:
    """The automatic masks of one picture, best first.

    boxes: float32 [N, 4] xyxy, the bounds of the masks (last pixel + 1).
    quality: float32 [N], the IoU each is thought to reach, 0..1.
    masks: the N masks in pixels of the picture.
    """

    boxes: Tensor
    quality: Tensor
    masks: MaskPatches

    def __len__(self) -> int:
        return int(self.quality.shape[0])


class PromptSegmenter(Protocol):
    """What answers points or boxes with masks."""

    def embed(self, picture: Tensor) -> tuple[Any, ImageMeta]:
        """What `answer` needs of a picture [3, H, W], and how that lies in the model's square."""

    def answer(self, embedding: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of points [N, 2] xy or boxes [N, 4] xyxy in pixels of the square.

        Returns:
            logits [N, M, h, w] over the square, M = 1 for boxes, and quality [N, M].
        """


@dataclass(frozen=True, eq=False)
class SamSegmenter:
    """SAM's encoder and decoder as a `PromptSegmenter`; the decoder holds the embeddings of what it is asked with."""

    encoder: nn.Module
    decoder: PromptedDecoder
    image_size: int

    def embed(self, picture: Tensor) -> tuple[Any, ImageMeta]:
        mean, std = pixel_statistics(self.encoder)
        device = self.decoder.no_mask_embed.weight.device
        batch, metas = resize_batch([picture], self.image_size, mean, std, device)
        return self.encoder(batch).embedding, metas[0]

    def answer(self, embedding: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
        asked = prompts.to(embedding.device)
        if asked.shape[1] == 4:
            tokens = self.decoder.corner_prompts(asked, self.image_size)
            return self.decoder.with_quality(embedding, tokens, multimask=False)
        tokens = self.decoder.point_prompts(asked[:, None], self.image_size)
        return self.decoder.with_quality(embedding, tokens, multimask=True)


class _Candidate(NamedTuple):
    """A mask that passed the thresholds, waiting for its rivals.

    piece: float16 map around the mask, from `corner` (row, column) of the decoder's map on.
    box: bounds in pixels of the picture. crop: number of the crop it was seen in.
    """

    piece: Tensor
    corner: tuple[int, int]
    box: Box
    quality: float
    crop: int


@torch.no_grad()
def automatic_masks(picture: Tensor, segmenter: PromptSegmenter, settings: AutomaskSettings) -> PictureMasks:
    """All masks that SAM finds in a picture.

    Args:
        picture: [3, H, W] RGB, uint8 or float on the 0..255 scale.
        segmenter: SAM.
        settings: how masks are chosen.
    """
    size = (int(picture.shape[1]), int(picture.shape[2]))
    crops = crop_boxes(size, settings.crop_layers)
    samplers: list[Sampler] = []
    candidates: list[_Candidate] = []
    for number, (x0, y0, x1, y1) in enumerate(crops):
        embedding, meta = segmenter.embed(picture[:, y0:y1, x0:x1])
        prompts = prompt_grid((y1 - y0, x1 - x0), settings)
        prompts = prompts * torch.tensor([meta.scale[1], meta.scale[0]]).repeat(prompts.shape[1] // 2)
        found: list[_Candidate] = []
        sampler: Sampler | None = None
        for part in prompts.split(settings.chunk):
            logits, quality = segmenter.answer(embedding, part)
            if settings.prompts == "boxes":
                logits, quality = _returned(logits, quality, segmenter, embedding, meta, settings)
            sampler = sampler or Sampler(meta.frame, (logits.shape[-2], logits.shape[-1]), logits.device)
            found += _good_ones(logits.flatten(0, 1), quality.flatten(), sampler, crops[number], size, number, settings)
        assert sampler is not None
        samplers.append(sampler)
        kept = _suppress([one.box for one in found], [one.quality for one in found], settings.box_nms_iou)
        candidates += [found[index] for index in kept]
    if len(crops) > 1:
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (crops[one.crop] for one in candidates)]
        kept = _suppress([one.box for one in candidates], [1 / area for area in areas], settings.crop_nms_iou)
        candidates = [candidates[index] for index in kept]
    return _finish(candidates, samplers, crops, size, settings)


def point_grid(per_side: int) -> Tensor:
    """The centres of per_side x per_side cells of the unit square, row by row, float32 [per_side**2, 2] xy."""
    places = (torch.arange(per_side, dtype=torch.float32) + 0.5) / per_side
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def box_grid(size: Size, shares: Sequence[float]) -> Tensor:
    """Square boxes all over a picture, each half on its neighbour, float32 [N, 4] xyxy pixels.

    Args:
        size: of the picture.
        shares: sides of the boxes, of its longer side; they end where the picture does.
    """
    boxes = []
    for share in shares:
        side = share * max(size)
        tops, lefts = (_starts(length, side) for length in size)
        corners = torch.cartesian_prod(tops, lefts).reshape(-1, 2)
        boxes.append(torch.cat([corners.flip(1), (corners + side).minimum(torch.tensor(size)).flip(1)], dim=1))
    return torch.cat(boxes)


def _starts(length: int, side: float) -> Tensor:
    """Where boxes begin that cover a length, each at least half on its neighbour, evenly."""
    last = max(length - side, 0.0)
    return torch.linspace(0, last, math.ceil(last / (side / 2)) + 1)


def prompt_grid(size: Size, settings: AutomaskSettings) -> Tensor:
    """The prompts for a picture or crop of this size: points [N, 2] xy or boxes [N, 4] xyxy, in its pixels."""
    if settings.prompts == "boxes":
        return box_grid(size, settings.box_sizes)
    return point_grid(settings.points_per_side) * torch.tensor([size[1], size[0]])


def crop_boxes(size: Size, layers: int) -> list[Box]:
    """The whole picture, then 2 x 2 crops, 4 x 4 crops, .. of it, xyxy pixels; neighbours overlap."""
    height, width = size
    boxes = [(0, 0, width, height)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        overlap = int(CROP_OVERLAP * min(size) * (2 / per_side))
        crop_width = math.ceil((overlap * (per_side - 1) + width) / per_side)
        crop_height = math.ceil((overlap * (per_side - 1) + height) / per_side)
        lefts = [(crop_width - overlap) * i for i in range(per_side)]
        tops = [(crop_height - overlap) * i for i in range(per_side)]
        boxes += [
            (left, top, min(left + crop_width, width), min(top + crop_height, height))
            for left, top in product(lefts, tops)
            # Rounding up may leave nothing to the last crops of a picture of a few pixels.
            if left < width and top < height
        ]
    return boxes


def is_cut(box: Box, crop: Box, size: Size) -> bool:
    """Whether a mask's box (last pixel + 1) ends near an edge of its crop that is not near one of the picture."""
    height, width = size
    x0, y0, x1, y1 = box
    # segment-anything compares the last pixel itself with the crop's end.
    sides = zip((x0, y0, x1 - 1, y1 - 1), crop, (0, 0, width, height), strict=True)
    return any(
        abs(side - edge) <= EDGE_TOLERANCE and abs(side - picture_edge) > EDGE_TOLERANCE
        for side, edge, picture_edge in sides
    )


def _returned(
    logits: Tensor,
    quality: Tensor,
    segmenter: PromptSegmenter,
    embedding: Any,
    meta: ImageMeta,
    settings: AutomaskSettings,
) -> tuple[Tensor, Tensor]:
    """What SAM makes of the bounds of masks [N, 1, h, w], where it is the same once more; n of the N."""
    seen = logits[:, 0] > 0
    kept = (quality[:, 0] >= settings.min_predicted_iou) & seen.flatten(1).any(1)
    seen = seen[kept]
    if seen.shape[0] == 0:
        return logits[:0], quality[:0]
    ends = masks_to_boxes(seen) + torch.tensor([0, 0, 1, 1], device=seen.device)  # last cell + 1
    rows, columns = (
        side / cells for side, cells in zip(meta.frame.padded, (seen.shape[1], seen.shape[2]), strict=True)
    )
    logits, quality = segmenter.answer(embedding, ends * ends.new_tensor([columns, rows, columns, rows]))
    again = logits[:, 0] > 0
    both, either = (again & seen).sum((1, 2)), (again | seen).sum((1, 2))
    same = both >= settings.min_return_iou * either
    return logits[same], quality[same]


def _good_ones(
    logits: Tensor,
    quality: Tensor,
    sampler: Sampler,
    crop: Box,
    size: Size,
    number: int,
    settings: AutomaskSettings,
) -> Iterator[_Candidate]:
    """Those of the masks [n, h, w] of one crop that pass the thresholds and are not cut by the crop's edge."""
    kept = quality >= settings.min_predicted_iou
    maps = logits[kept].float()
    for values, bounds, guess in zip(
        maps, sampler.bounds(maps > -settings.stability_offset), quality[kept].tolist(), strict=True
    ):
        if bounds is None:
            continue
        pixels, (left, top) = sampler.pixels(values, bounds)
        wider = int((pixels > -settings.stability_offset).sum())
        if wider == 0 or int((pixels > settings.stability_offset).sum()) < settings.min_stability * wider:
            continue
        box = _bounds_of(pixels >= 0)
        if box is None:
            continue
        x0, y0 = left + crop[0], top + crop[1]
        placed = (box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0)
        if not is_cut(placed, crop, size):
            piece, corner = sampler.piece(values, bounds)
            yield _Candidate(piece, corner, placed, guess, number)


def _bounds_of(mask: Tensor) -> Box | None:
    """x0, y0, x1, y1 of a mask [h, w], last pixel + 1; None when it is empty."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if rows.shape[0] == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _suppress(boxes: list[Box], scores: list[float], iou: float) -> list[int]:
    """Numbers of the boxes that non-maximum suppression leaves, best first."""
    kept: list[int] = nms(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(scores), iou).tolist()
    return kept


def _finish(
    candidates: list[_Candidate], samplers: list[Sampler], crops: list[Box], size: Size, settings: AutomaskSettings
) -> PictureMasks:
    """The masks in pixels of the picture, without small holes and islands and the doubles that their removal makes."""
    patches = []
    for one in candidates:
        x0, y0, _, _ = crops[one.crop]
        box = (one.box[0] - x0, one.box[1] - y0, one.box[2] - x0, one.box[3] - y0)
        pixels, (left, top) = samplers[one.crop].restore(one.piece, one.corner, box)
        cleaned, changed = clean_patch(pixels, (left + x0, top + y0), size, settings.min_region_area)
        patch = tight_patch(cleaned, (left + x0, top + y0))
        if patch is not None:
            patches.append((patch, one.quality, changed))
    if settings.min_region_area:
        # As in segment-anything: of two masks that became alike, the one that was not touched is the better.
        boxes = [patch.box for patch, _, _ in patches]
        scores = [0.0 if changed else 1.0 for _, _, changed in patches]
        kept = _suppress(boxes, scores, max(settings.box_nms_iou, settings.crop_nms_iou))
        patches = [patches[index] for index in kept]
    patches.sort(key=lambda entry: -entry[1])
    masks = MaskPatches(
        tuple(patch.values for patch, _, _ in patches), tuple(patch.corner for patch, _, _ in patches), size
    )
    return PictureMasks(
        torch.tensor([patch.box for patch, _, _ in patches], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([quality for _, quality, _ in patches], dtype=torch.float32).clamp(0, 1),
        masks,
    )
