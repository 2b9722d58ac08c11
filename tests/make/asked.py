"""A stand-in for a SAM that is asked: it sees bright shapes exactly, and the ground between them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from rsprompter_cli.structures import LowResMasks, MaskFrame

BRIGHT = 150
"""Shapes are redder than this, the ground is not."""


class SightedSam:
    """Answers a point with the shape or ground it lies on, a box with what is bright in it.

    Counts the pictures it saw in `seen` and keeps their sizes. Its score is 0.9, on the ground 0.3; a box
    without anything bright gets an empty mask.
    """

    device = torch.device("cpu")

    def __init__(self, image_size: int = 64) -> None:
        self.image_size = image_size
        self.seen: list[tuple[int, int]] = []

    def see(self, picture: Tensor) -> np.ndarray:
        self.seen.append((int(picture.shape[1]), int(picture.shape[2])))
        assert max(self.seen[-1]) <= self.image_size
        return picture[0].numpy() > BRIGHT

    def answer_boxes(self, seen: np.ndarray, boxes: Tensor) -> tuple[LowResMasks, Tensor]:
        masks = []
        for x0, y0, x1, y1 in boxes.numpy():
            assert x0 >= 0
            assert y0 >= 0
            assert x1 <= seen.shape[1]
            assert y1 <= seen.shape[0]
            inside = np.zeros_like(seen)
            inside[round(y0) : round(y1), round(x0) : round(x1)] = True
            masks.append(seen & inside)
        return _answer(masks, [0.9] * len(masks))

    def answer_points(self, seen: np.ndarray, points: Tensor) -> tuple[LowResMasks, Tensor]:
        masks, scores = [], []
        shapes, _ = ndimage.label(seen)
        for places in points.numpy():
            x, y = np.minimum(places.astype(int), [seen.shape[1] - 1, seen.shape[0] - 1]).T
            masks.append(np.isin(shapes, shapes[y, x]))
            scores.append(0.9 if seen[y, x].any() else 0.3)
        return _answer(masks, scores)


def _answer(masks: list[np.ndarray], scores: list[float]) -> tuple[LowResMasks, Tensor]:
    size = masks[0].shape
    values = torch.from_numpy(np.where(np.stack(masks), 8.0, -8.0))
    return LowResMasks(values, 0.0, MaskFrame(size, size, size)), torch.tensor(scores)
