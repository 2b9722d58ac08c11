"""A model without weights that finds coloured blobs: what the scene pipeline does with them is then known exactly."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from rsprompter_cli.config import Config, load_config
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.structures import Detections, Target

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
"""Colour of each class of object; anything else is ground."""


class BlobModel(nn.Module):
    """Every 4-connected blob of a class colour is one detection with an exact mask; its score is 0.9.

    Counts the images it was shown in `seen` and keeps them when `keep` is set.
    """

    def __init__(self, *, keep: bool = False) -> None:
        super().__init__()
        self.padding = (0.0, 0.0, 0.0)
        self.seen = 0
        self.keep = keep
        self.images: list[Tensor] = []

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        self.seen += len(images)
        if self.keep:
            self.images.extend(image.clone() for image in images)
        return [_blobs(image) for image in images]


def _blobs(image: Tensor) -> Detections:
    pixels = image.numpy().astype(np.float32)
    masks, labels = [], []
    for label, colour in enumerate(COLOURS.values()):
        near = (np.abs(pixels - np.float32(colour).reshape(3, 1, 1)) < 60).all(axis=0)
        numbered, count = ndimage.label(near)
        masks += [numbered == k for k in range(1, count + 1)]
        labels += [label] * count
    stack = np.stack(masks) if masks else np.zeros((0, *pixels.shape[1:]), bool)
    boxes = [_bounds(mask) for mask in masks]
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.full((len(masks),), 0.9),
        torch.from_numpy(stack),
    )


def _bounds(mask: np.ndarray) -> list[float]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)]


def stub_config() -> Config:
    """Any valid configuration: the stub reads none of it."""
    return load_config("rsprompter-anchor-cpu")


def blob_model(
    *, image_size: int = 64, gsd_range: tuple[float, float] | None = None, keep: bool = False
) -> LoadedModel:
    """The stub as `predict_scene` takes it."""
    meta = CheckpointMeta(
        class_names=tuple(COLOURS), category_ids=(1, 7), image_size=image_size, gsd_range=gsd_range, score_threshold=0.5
    )
    return LoadedModel(BlobModel(keep=keep), stub_config(), meta)
