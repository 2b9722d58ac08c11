"""Small COCO sets: bright shapes on a noisy ground, with polygons and run lengths that fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CLASSES = ("house", "tank")


def make_set(
    root: Path,
    *,
    split: str = "train",
    count: int = 4,
    size: tuple[int, int] = (48, 64),
    objects: int = 3,
    classes: tuple[str, ...] = CLASSES,
    first_id: int = 1,
    seed: int = 0,
) -> Path:
    """Write `root/images/{split}_{i}.png` and `root/annotations/instances_{split}.json`; the latter's path.

    The last image has no object. Objects are squares (polygons, class 0) and discs (RLE, the
    other classes in turn), each in a cell of its own. Category ids are 10, 20, ...; image and
    annotation ids start at `first_id`.
    """
    rng = np.random.default_rng(seed)
    document: dict[str, Any] = {
        "info": {"description": "fabricated"},
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * (label + 1), "name": name} for label, name in enumerate(classes)],
    }
    (root / "images").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = rng.integers(40, 90, (*size, 3), dtype=np.uint8)
        image_id, name = first_id + index, f"{split}_{index}.png"
        document["images"].append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        for place in range(objects if index < count - 1 or count == 1 else 0):
            label = place % len(classes)
            entry = {
                "id": first_id + len(document["annotations"]),
                "image_id": image_id,
                "category_id": 10 * (label + 1),
                "iscrowd": 0,
                **_shape(rng, size, place, objects, disc=label > 0),
            }
            mask = entry.pop("mask")
            pixels[mask] = (230, 60 + 150 * label, 60)
            document["annotations"].append(entry)
        Image.fromarray(pixels).save(root / "images" / name)
    return write_document(root, document, split)


def write_document(root: Path, document: Any, split: str = "train") -> Path:
    """Write any JSON value as the annotation file of a split (NaN and infinity as Python spells them)."""
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def read_document(root: Path, split: str = "train") -> dict[str, Any]:
    """The JSON that `make_set` wrote."""
    document: dict[str, Any] = json.loads((root / "annotations" / f"instances_{split}.json").read_text("utf-8"))
    return document


def _shape(rng: np.random.Generator, size: tuple[int, int], place: int, places: int, *, disc: bool) -> dict[str, Any]:
    """bbox, area, segmentation and mask of one object in the place-th of `places` columns of the image."""
    height, cell = size[0], size[1] // places
    side = int(rng.integers(min(cell, height) // 2, min(cell, height) - 1))
    left = place * cell + int(rng.integers(0, cell - side + 1))
    top = int(rng.integers(0, height - side + 1))
    y, x = np.mgrid[: size[0], : size[1]]
    if disc:
        mask = (x + 0.5 - left - side / 2) ** 2 + (y + 0.5 - top - side / 2) ** 2 <= (side / 2) ** 2
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation: Any = {"size": list(size), "counts": runs["counts"].decode("ascii")}
    else:
        mask = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        right, bottom = left + side, top + side
        segmentation = [[left, top, right, top, right, bottom, left, bottom]]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return {
        "bbox": [float(value) for value in box],
        "area": float(mask.sum()),
        "segmentation": segmentation,
        "mask": mask,
    }
