"""Sets of pictures in the layouts that people bring: masks, YOLO, labelme."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.make.whu import make_buildings

Masks = dict[str, np.ndarray]


def buildings(seed: int = 0) -> np.ndarray:
    return make_buildings(np.random.default_rng(seed), 64, 4, 6)


def make_pairs(root: Path, masks: Masks, *, image_suffix: str = "", mask_suffix: str = "", kind: str = "png") -> Path:
    """Write root/images/NAME.png and root/masks/NAME.png."""
    for name, mask in masks.items():
        image = root / "images" / f"{name}{image_suffix}.png"
        label = root / "masks" / f"{name}{mask_suffix}.{kind}"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(image)
        Image.fromarray(mask).save(label)
    return root


SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"
YAML = "train: images/train\nval: images/val\nnames: [house, tank]\n"


def make_yolo(root: Path, labels: dict[str, str | None], yaml: str = YAML, size: tuple[int, int] = (100, 80)) -> Path:
    """Write root/data.yaml, and for each name (`images/train/a`) a picture and its label unless that is None."""
    for name, text in labels.items():
        picture = root / f"{name}.png"
        label = root / f"{name.replace('images', 'labels')}.txt"
        for path in (picture, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), len(name), np.uint8)).save(picture)
        if text is not None:
            label.write_text(text)
    (root / "data.yaml").write_text(yaml)
    return root


HEIGHT, WIDTH = 80, 100


def shape(points: Any, kind: str | None = "polygon", label: Any = "house", group: Any = None) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def png(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(content, "PNG")
    return content.getvalue()


def make_labelme(root: Path, name: str, shapes: list[Any], **more: Any) -> Path:
    """Write root/NAME.json and, unless `imagePath` is given, root/NAME.png; the root."""
    file = root / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{file.stem}.png", "imageData": None,
        "imageHeight": HEIGHT, "imageWidth": WIDTH,
    }  # fmt: skip
    file.write_text(json.dumps(content | more))
    if "imagePath" not in more:
        file.with_suffix(".png").write_bytes(png())
    return root
