"""Models as graphs of ONNX: the steps of their inference without a loop, a branch or a size that the picture decides.

A model is one graph, or several that follow one another where the later ones run once for each object: so many objects
go through a mask decoder at a time as the caller's memory allows. Each graph computes what the model's `detect` does,
up to rounding; see docs/onnx.md for their inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from rsprompter_cli.io.model_files.onnx_folder import DECODER, DETECTOR, ENCODER
from rsprompter_cli.models.architectures.rsprompter_anchor import MASK_THRESHOLD as PROBABILITY
from rsprompter_cli.models.architectures.rsprompter_anchor import PROMPT_SIZE, RSPrompterAnchor
from rsprompter_cli.models.architectures.rsprompter_query import RSPrompterQuery
from rsprompter_cli.models.architectures.samdet import MASK_THRESHOLD as LOGIT
from rsprompter_cli.models.architectures.samdet import SamDet
from rsprompter_cli.models.architectures.samseg_mask2former import SamsegMask2Former
from rsprompter_cli.models.architectures.samseg_maskrcnn import SamsegMaskRcnn
from rsprompter_cli.models.image_transform import normalise
from rsprompter_cli.models.layers.boxes import ROI_SCALE, RPN_SCALE, decode_boxes, grid_anchors
from rsprompter_cli.models.layers.mask_head import REGION_SIZE, class_masks
from rsprompter_cli.models.layers.neck import PYRAMID_STRIDES
from rsprompter_cli.models.layers.query_decoder import best_pairs, mask_logits
from rsprompter_cli.models.layers.roi import BOX_SIZE, BoxHead, level_of_boxes, roi_features
from rsprompter_cli.models.layers.rpn import RegionProposals, per_anchor
from rsprompter_cli.models.masks import stretch
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD, PromptedDecoder

IMAGE, THRESHOLD, EMBEDDING, BOXES, PROMPTS = "image", "score_threshold", "embedding", "boxes", "prompts"
LABELS, SCORES, MASKS, COARSE = "labels", "scores", "masks", "coarse_masks"
_FOUND = (BOXES, LABELS, SCORES)


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph to be traced.

    module: computes it. inputs: an example of each. outputs: their names.
    per_object: inputs whose first dimension is the number of objects.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    per_object: tuple[str, ...] = ()


class Found(NamedTuple):
    """Objects in one picture: boxes [N, 4] in pixels of the square or None, labels [N], scores [N], masks [N, h, w]."""

    boxes: Tensor | None
    labels: Tensor
    scores: Tensor
    masks: Tensor


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The graphs of a model by name, in the order in which they run.

    find: the same by the model itself, of a picture [1, 3, S, S] on the 0..255 scale, padded.
    mask_threshold: at or above it a value of a mask, stretched to the size of its image, is of the object.
    masks_in_boxes: a mask lies over its box, not over the whole square.
    rounds_pixels: a picture that was resized is of whole numbers again.
    by_mask: boxes are those of the masks, and scores are to be multiplied by the mean probability over the mask.
    pad: what the picture is padded with, per channel on the 0..255 scale.
    """

    graphs: Mapping[str, Graph]
    find: Callable[[Tensor], Found]
    mask_threshold: float
    pad: tuple[float, ...]
    masks_in_boxes: bool = False
    rounds_pixels: bool = False
    by_mask: bool = False


def anchor_graphs(model: RSPrompterAnchor) -> OnnxModel:
    """RSPrompter-anchor: a detector that gives prompts, and SAM's decoder."""
    detector = Graph(_AnchorDetector(model), _picture(model.image_size), (*_FOUND, PROMPTS, EMBEDDING))
    embedding, prompts = _embedding_of(model), _prompt_tokens(model)
    decoder = Graph(
        _PromptMasks(model.mask_decoder),
        {EMBEDDING: embedding, PROMPTS: torch.zeros(3, prompts, embedding.shape[1])},
        (MASKS,),
        (PROMPTS,),
    )

    def find(image: Tensor) -> Found:
        features = model.features(normalise(image, model.pixel_mean, model.pixel_std))
        (found,) = model.find_boxes(features)
        (prompts,) = model.prompts(features, [found.boxes])
        return Found(*found, model.mask_decoder(features.embedding, prompts).sigmoid())

    return OnnxModel({DETECTOR: detector, DECODER: decoder}, find, PROBABILITY, tuple(model.pixel_mean))


def maskrcnn_graphs(model: SamsegMaskRcnn) -> OnnxModel:
    """SAM-seg with Mask R-CNN: one graph, whose masks are small."""
    graph = Graph(_MaskRcnn(model), _picture(model.image_size), (*_FOUND, MASKS))

    def find(image: Tensor) -> Found:
        levels = model.features(normalise(image, model.pixel_mean, model.pixel_std))
        (found,) = model.find_boxes(levels)
        logits = model.mask_head(roi_features(levels, [found.boxes], REGION_SIZE))
        return Found(*found, class_masks(logits, found.labels).sigmoid())

    return OnnxModel({DETECTOR: graph}, find, PROBABILITY, tuple(model.pixel_mean), masks_in_boxes=True)


def samdet_graphs(model: SamDet) -> OnnxModel:
    """SAMDet: the detector, SAM's encoder, and SAM's decoder for boxes."""
    side = model.image_size
    detector = Graph(_BoxDetector(model), _picture(side), _FOUND)
    encoder = Graph(_SamEncoder(model), {IMAGE: torch.zeros(1, 3, side, side)}, (EMBEDDING,))
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(3, 1)
    inputs = {EMBEDDING: _embedding_of(model), BOXES: boxes}
    decoder = Graph(_BoxMasks(model.mask_decoder, side), inputs, (MASKS, "quality"), (BOXES,))

    def find(image: Tensor) -> Found:
        batch = normalise(image, IMAGENET_MEAN, IMAGENET_STD)
        (found,) = model.find_boxes(model.features(batch))
        ((logits, _),) = model.segment(batch, [found.boxes])
        return Found(*found, logits)

    graphs = {DETECTOR: detector, ENCODER: encoder, DECODER: decoder}
    return OnnxModel(graphs, find, LOGIT, tuple(model.padding), rounds_pixels=True)


def query_graphs(model: RSPrompterQuery) -> OnnxModel:
    """RSPrompter-query: a detector that gives prompts and coarse masks, and SAM's decoder."""
    outputs = (LABELS, SCORES, PROMPTS, COARSE, EMBEDDING)
    detector = Graph(_QueryDetector(model), _picture(model.image_size), outputs)
    embedding = _embedding_of(model)
    channels, rows = embedding.shape[1:3]
    prompts = torch.zeros(3, model.prompt_head.prompts, channels)
    inputs = {EMBEDDING: embedding, PROMPTS: prompts, COARSE: torch.zeros(3, 4 * rows, 4 * rows)}
    decoder = Graph(_QueryMasks(model.mask_decoder), inputs, (MASKS,), (PROMPTS, COARSE))

    def find(image: Tensor) -> Found:
        levels, sam_embedding = model.features(normalise(image, model.pixel_mean, model.pixel_std))
        outputs, mask_features = model.decode(levels)
        last = outputs[-1]
        coarse = mask_logits(last.mask_embed, mask_features)
        masks = model.refine(sam_embedding, last.states[0], coarse[0])
        queries, labels, scores = best_pairs(last.class_logits[0], model.max_detections)
        return Found(None, labels, scores, masks[queries])

    return OnnxModel({DETECTOR: detector, DECODER: decoder}, find, LOGIT, tuple(model.pixel_mean), by_mask=True)


def mask2former_graphs(model: SamsegMask2Former) -> OnnxModel:
    """SAM-seg with Mask2Former: one graph."""
    graph = Graph(_MaskedQueries(model), _picture(model.image_size), (LABELS, SCORES, MASKS))

    def find(image: Tensor) -> Found:
        outputs, features = model.decode(model.features(normalise(image, model.pixel_mean, model.pixel_std)))
        masks = mask_logits(outputs[-1].mask_embed, features)[0]
        queries, labels, scores = best_pairs(outputs[-1].class_logits[0], model.max_detections)
        return Found(None, labels, scores, masks[queries])

    return OnnxModel({DETECTOR: graph}, find, LOGIT, tuple(model.pixel_mean), by_mask=True)


class _QueryDetector(nn.Module):
    def __init__(self, model: RSPrompterQuery) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        levels, sam_embedding = model.features(normalise(image, model.pixel_mean, model.pixel_std))
        outputs, mask_features = model.decode(levels)
        last = outputs[-1]
        coarse = mask_logits(last.mask_embed, mask_features)[0]
        queries, labels, scores = _above(score_threshold, *best_pairs(last.class_logits[0], model.max_detections))
        rows = 4 * sam_embedding.shape[-1]
        return (
            labels,
            scores,
            model.prompt_head(last.states[0])[queries],
            stretch(coarse[:, None], (rows, rows))[queries, 0],
            sam_embedding,
        )


class _QueryMasks(nn.Module):
    def __init__(self, decoder: PromptedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, embedding: Tensor, prompts: Tensor, coarse_masks: Tensor) -> Tensor:
        logits: Tensor = self.decoder(embedding, prompts, self.decoder.dense_prompts(coarse_masks[:, None]))
        return logits


class _MaskedQueries(nn.Module):
    def __init__(self, model: SamsegMask2Former) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        outputs, features = model.decode(model.features(normalise(image, model.pixel_mean, model.pixel_std)))
        queries, labels, scores = _above(
            score_threshold, *best_pairs(outputs[-1].class_logits[0], model.max_detections)
        )
        return labels, scores, mask_logits(outputs[-1].mask_embed, features)[0][queries]


def _above(threshold: Tensor, queries: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    keep = (scores > threshold).nonzero().squeeze(1)
    return queries[keep], labels[keep], scores[keep]


class _AnchorDetector(nn.Module):
    def __init__(self, model: RSPrompterAnchor) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        features = model.features(normalise(image, model.pixel_mean, model.pixel_std))
        boxes, labels, scores = _find_boxes(
            model.rpn, model.box_head, features.levels, features.located, model.image_size, score_threshold
        )
        prompts = model.prompt_head(_region_features(features.located, boxes, PROMPT_SIZE))
        if model.mask_decoder.corner_embed is not None:
            prompts = torch.cat([prompts, model.mask_decoder.corner_prompts(boxes, model.image_size)], dim=1)
        return boxes, labels, scores, prompts, features.embedding


class _PromptMasks(nn.Module):
    def __init__(self, decoder: PromptedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, embedding: Tensor, prompts: Tensor) -> Tensor:
        return self.decoder(embedding, prompts).sigmoid()


class _MaskRcnn(nn.Module):
    def __init__(self, model: SamsegMaskRcnn) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        levels = model.features(normalise(image, model.pixel_mean, model.pixel_std))
        boxes, labels, scores = _find_boxes(
            model.rpn, model.box_head, levels, levels, model.image_size, score_threshold
        )
        logits = model.mask_head(_region_features(levels, boxes, REGION_SIZE))
        return boxes, labels, scores, class_masks(logits, labels).sigmoid()


class _BoxDetector(nn.Module):
    def __init__(self, model: SamDet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        levels = model.features(normalise(image, IMAGENET_MEAN, IMAGENET_STD))
        return _find_boxes(model.rpn, model.box_head, levels, levels, model.image_size, score_threshold)


class _SamEncoder(nn.Module):
    def __init__(self, model: SamDet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        pixels = self.model.for_sam(normalise(image, IMAGENET_MEAN, IMAGENET_STD))
        embedding: Tensor = self.model.encoder(pixels).embedding
        return embedding


class _BoxMasks(nn.Module):
    def __init__(self, decoder: PromptedDecoder, side: int) -> None:
        super().__init__()
        self.decoder, self.side = decoder, side

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        prompts = self.decoder.corner_prompts(boxes, self.side, last_pixel=True)
        logits, quality = self.decoder.with_quality(embedding, prompts, multimask=False)
        return logits[:, 0], quality[:, 0].clamp(0, 1)


def _picture(side: int) -> dict[str, Tensor]:
    return {IMAGE: torch.zeros(1, 3, side, side), THRESHOLD: torch.tensor(0.5)}


def _embedding_of(model: Any) -> Tensor:
    """Zeros of the shape of an embedding."""
    cells = model.image_size // model.encoder.embedding_stride
    return torch.zeros(1, model.mask_decoder.decoder.iou_token.weight.shape[1], cells, cells)


def _prompt_tokens(model: RSPrompterAnchor) -> int:
    return model.prompt_head.prompts + (0 if model.mask_decoder.corner_embed is None else 2)


def _find_boxes(
    rpn: RegionProposals,
    head: BoxHead,
    levels: Sequence[Tensor],
    region_levels: Sequence[Tensor],
    side: int,
    threshold: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`two_stage.find_boxes` of one picture: boxes [N, 4], labels int64 [N], scores [N], best first."""
    proposals = _propose(rpn, levels, side)
    logits, offsets = head(_region_features(region_levels, proposals, BOX_SIZE))
    every = logits.softmax(dim=-1)[:, :-1]  # [P, K]
    placed = decode_boxes(proposals[:, None, :], offsets, ROI_SCALE, (side, side))  # [P, K, 4]
    rows, labels = (every > threshold).nonzero().unbind(1)
    boxes, scores = placed[rows, labels], every[rows, labels]
    keep = _suppress(boxes, scores, labels, head.nms_iou, side)[: head.max_detections]
    return boxes[keep], labels[keep], scores[keep]


def _propose(rpn: RegionProposals, levels: Sequence[Tensor], side: int) -> Tensor:
    """`RegionProposals.propose` of one picture: boxes [P, 4]."""
    output = rpn(levels)
    boxes, scores, level_of = [], [], []
    for level, (logits, offsets, stride) in enumerate(zip(output.logits, output.offsets, PYRAMID_STRIDES, strict=True)):
        anchors = grid_anchors((logits.shape[2], logits.shape[3]), stride, rpn.anchor_scales, logits.device)
        every = per_anchor(logits[0], 1).squeeze(1).sigmoid()
        score, order = every.topk(min(rpn.nms_pre_test, every.shape[0]))
        boxes.append(decode_boxes(anchors[order], per_anchor(offsets[0], 4)[order], RPN_SCALE, (side, side)))
        scores.append(score)
        level_of.append(torch.full_like(order, level))
    box, score, group = torch.cat(boxes), torch.cat(scores), torch.cat(level_of)
    whole = ((box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])).nonzero().squeeze(1)
    box, score, group = box[whole], score[whole], group[whole]
    return box[_suppress(box, score, group, rpn.nms_iou, side)[: rpn.max_proposals]]


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, side: int) -> Tensor:
    """torchvision's `batched_nms` of boxes within the square: groups are moved apart."""
    return nms(boxes + (groups * (side + 1)).to(boxes)[:, None], scores, iou)


def _region_features(levels: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
    """`roi.roi_features` of one picture: [N, C, size, size]."""
    level_of = level_of_boxes(boxes)
    first = torch.zeros_like(boxes[:, :1])  # index of the picture
    result = None
    for level, stride in enumerate(PYRAMID_STRIDES[:4]):
        here = (level_of == level).to(boxes)
        # Boxes of other levels become points, which cost nothing.
        regions = torch.cat([first, boxes * here[:, None]], dim=1)
        part = roi_align(levels[level], regions, size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
        part = part * here[:, None, None, None]
        result = part if result is None else result + part
    assert result is not None
    return result
