"""Folders laid out like the WHU building set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_buildings(rng: np.random.Generator, size: int = 512, per_side: int = 8, count: int = 60) -> np.ndarray:
    """A label of `count` apart L-shaped buildings, uint8 [size, size] of 0 and 255."""
    label = np.zeros((size, size), np.uint8)
    cell = size // per_side
    for place in rng.permutation(per_side * per_side)[:count]:
        row, col = divmod(int(place), per_side)
        height, width = rng.integers(cell // 3, cell - 4, 2)
        top, left = row * cell + 2, col * cell + 2
        label[top : top + height, left : left + width] = 255
        label[top : top + height // 2, left + width // 2 : left + width] = 0
    return label


def make_whu(root: Path, labels: dict[str, list[np.ndarray]], suffix: str = ".tif") -> Path:
    """Write `root/imgs/SPLIT/{image,label}/N.tif`, images of noise beside the labels given per split."""
    rng = np.random.default_rng(0)
    for split, masks in labels.items():
        for kind in ("image", "label"):
            (root / "imgs" / split / kind).mkdir(parents=True, exist_ok=True)
        for number, mask in enumerate(masks):
            image = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "imgs" / split / "image" / f"{number}{suffix}")
            Image.fromarray(mask).save(root / "imgs" / split / "label" / f"{number}{suffix}")
    return root
