"""A stand-in for SAM that knows the fabricated COCO sets: what their bright shapes are it sees exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from rsprompter_cli.models.image_transform import ImageMeta, make_meta
from rsprompter_cli.models.sam.automatic_masks import SamSegmenter

BRIGHT = 200
"""Objects of `make_set` are redder than this, the ground is not."""


def see_bright_shapes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every SamSegmenter answers a point with the bright shape or the ground that it lies on.

    Returns:
        A list that grows by one for each picture that is embedded.
    """
    seen: list[int] = []

    def embed(self: SamSegmenter, picture: Tensor) -> tuple[Any, ImageMeta]:
        seen.append(1)
        height, width = picture.shape[1:]
        pieces, _ = ndimage.label(picture[0].cpu().numpy() > BRIGHT)
        return torch.from_numpy(pieces.astype(np.int64)), make_meta((height, width), (1.0, 1.0), max(height, width))

    def answer(self: SamSegmenter, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        side = max(embedding.shape)
        square = torch.full((side, side), -1)
        square[: embedding.shape[0], : embedding.shape[1]] = embedding
        at = square[points[:, 1].long(), points[:, 0].long()]
        same = torch.where(square == at[:, None, None], 8.0, -8.0)[:, None]
        return same, torch.where(at > 0, 0.9, 0.75)[:, None]

    monkeypatch.setattr(SamSegmenter, "embed", embed)
    monkeypatch.setattr(SamSegmenter, "answer", answer)
    return seen
