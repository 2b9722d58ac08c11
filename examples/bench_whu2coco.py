"""Measure `rsp convert whu2coco` and a plain loop over instances on the same fabricated tiles.

    python examples/bench_whu2coco.py [--tiles 500]

The plain loop reads the same files, compares the whole picture with every instance number and encodes
the mask with pycocotools. Both results are checked for equality. The exit code is 1 if the converter is less
than 5 times faster, or slower than 20 tiles per second.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from rsprompter_cli.data.convert.whu2coco import convert_whu

BUILDINGS, SIZE, GRID = 60, 512, 8
LEAST_FACTOR, LEAST_RATE = 5.0, 20.0


def fabricate(root: Path, tiles: int) -> None:
    """Write `tiles` pairs of 512 px with 60 separate L-shaped buildings each."""
    rng = np.random.default_rng(0)
    folders = {kind: root / "imgs" / "train" / kind for kind in ("image", "label")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    cell = SIZE // GRID
    for number in range(tiles):
        label = np.zeros((SIZE, SIZE), np.uint8)
        for place in rng.permutation(GRID * GRID)[:BUILDINGS]:
            row, col = divmod(int(place), GRID)
            height, width = rng.integers(cell // 3, cell - 4, 2)
            top, left = row * cell + 2, col * cell + 2
            label[top : top + height, left : left + width] = 255
            label[top : top + height // 2, left + width // 2 : left + width] = 0
        image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(label).save(folders["label"] / f"{number:04d}.tif")
        Image.fromarray(image).save(folders["image"] / f"{number:04d}.tif")


def plain_loop(root: Path) -> list[dict[str, Any]]:
    """The instances of every tile, each found by comparing the whole picture."""
    found = []
    for path in sorted((root / "imgs" / "train" / "label").iterdir()):
        np.asarray(Image.open(root / "imgs" / "train" / "image" / path.name))
        labels, count = ndimage.label(np.asarray(Image.open(path)) > 0)
        for number in range(1, count + 1):
            mask = np.asarray(labels == number, dtype=np.uint8, order="F")
            rle = coco_mask.encode(mask)
            segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
            bbox, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
            found.append({"bbox": bbox, "area": area, "segmentation": segmentation})
    return found


def main() -> int:
    """Time both, compare their results, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=500)
    tiles = parser.parse_args().tiles
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fabricate(root, tiles)
        if hasattr(os, "sync"):
            os.sync()  # or the first one timed pays for writing the tiles out
        seconds = {}
        for name, workers in (("one process", 1), ("one process per CPU", os.cpu_count())):
            start = time.perf_counter()
            convert_whu(root, root / name, splits=["train"], workers=workers)
            seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
        expected = plain_loop(root)
        plain = time.perf_counter() - start
        annotations = json.loads((root / "one process" / "WHU_building_train.json").read_bytes())["annotations"]
    found = [{key: a[key] for key in ("bbox", "area", "segmentation")} for a in annotations]
    # Each counts the instances of a tile in its own order.
    if sorted(map(json.dumps, found)) != sorted(map(json.dumps, expected)):
        print("the results differ")
        return 1
    print(f"{tiles} tiles of {SIZE} px, {len(found)} buildings, {os.cpu_count()} CPUs; equal results")
    print(f"plain loop           {plain:7.2f} s  {tiles / plain:7.1f} tiles/s")
    for name, taken in seconds.items():
        print(f"{name:20s} {taken:7.2f} s  {tiles / taken:7.1f} tiles/s  {plain / taken:5.1f} times faster")
    best = min(seconds.values())
    return 0 if plain / best >= LEAST_FACTOR and tiles / best >= LEAST_RATE else 1


if __name__ == "__main__":
    raise SystemExit(main())
