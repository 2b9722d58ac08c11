"""From the queries' classes and masks to detections.

Source: Mask2Former's instance inference, as in MMDetection's MaskFormerFusionHead.
"""

from __future__ import annotations

from torch import Tensor

from rsprompter_cli.models.masks import measure_logits
from rsprompter_cli.models.preprocess import ImageMeta
from rsprompter_cli.structures import Detections, LowResMasks


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
