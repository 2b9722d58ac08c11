"""Measure the peak memory of predicting large scenes, with a stub instead of the model.

1. A sparse GeoTIFF of 100,000 x 100,000 px (10 gigapixels) of which 0.1 % is stored: peak under 1.5 GB.
2. Dense scenes of one width, 10,000 and 40,000 rows high: peaks equal within 10 %.

Each scene is predicted in its own process; the files are made in a temporary folder and take up to 3 GB.

python examples/bench_memory.py [--only sparse,dense] [--width 20000] [--heights 10000,40000] [--side 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window as RasterWindow
from torch import nn

from rsprompter_cli.config import load_config
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.stats import RunStats
from rsprompter_cli.structures import Detections, MaskPatches

BLOCK, WINDOW = 512, 1024
"""Pixels: side of the file's blocks and of the windows."""


class Squares(nn.Module):
    """A model without weights: what is brighter than 200 on a lattice of 64 px is an object."""

    def forward(self, images: list[torch.Tensor], targets: object = None) -> list[Detections]:
        """Detections of each image: the bright squares at the lattice's points."""
        return [self._squares(image) for image in images]

    def _squares(self, image: torch.Tensor) -> Detections:
        bright = image[0] > 200
        rows, cols = np.nonzero(bright[32::64, 32::64].numpy())
        corners = list(zip((cols * 64).tolist(), (rows * 64).tolist(), strict=True))
        logits = bright.float() * 20 - 10
        values = tuple(logits[y : y + 64, x : x + 64] for x, y in corners)
        patches = MaskPatches(values, tuple(corners), (int(logits.shape[0]), int(logits.shape[1])))
        boxes = torch.tensor(np.stack([cols, rows, cols + 1, rows + 1], axis=1) * 64.0, dtype=torch.float32)
        return Detections(
            boxes.reshape(-1, 4), torch.zeros(len(rows), dtype=torch.int64), torch.full((len(rows),), 0.9), patches
        )


def write_scene(path: Path, height: int, width: int, *, share: float) -> None:
    """A GeoTIFF with a bright square every 64 px, of which `share` of the blocks is stored."""
    block = np.full((3, BLOCK, BLOCK), 90, np.uint8)
    for top in range(0, BLOCK, 64):
        for left in range(0, BLOCK, 64):
            block[:, top + 18 : top + 46, left + 20 : left + 44] = 230
    rng = np.random.default_rng(3)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=(0.3, 0, 500_000, 0, -0.3, 5_000_000),
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
        interleave="pixel",
        sparse_ok=True,
        bigtiff="yes",
    ) as raster:
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                if share < 1 and rng.random() >= share:
                    continue
                tall, wide = min(BLOCK, height - top), min(BLOCK, width - left)
                raster.write(block[:, :tall, :wide], window=RasterWindow(left, top, wide, tall))


def predict(scene: Path) -> None:
    """Predict, in this process, and print what it took as JSON."""
    meta = CheckpointMeta(class_names=("square",), category_ids=(1,), image_size=WINDOW)
    stub = LoadedModel(Squares(), load_config("rsprompter-anchor-cpu"), meta)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stats = RunStats()
    result = predict_scene(scene, scene.with_suffix(".fgb"), model=stub, native=True, stats=stats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {"objects": result.objects, "windows": result.plan.windows, "seconds": time.perf_counter() - start}
    facts |= {"empty": stats.without_data, "stages": stats.seconds()}
    print(json.dumps({**facts, "libraries_gb": before / 1e6, "peak_gb": peak / 1e6}))


def measure(folder: Path, height: int, width: int, *, share: float) -> float:
    """Print a row and return the peak in gigabytes."""
    scene = folder / f"{height}x{width}.tif"
    write_scene(scene, height, width, share=share)
    done = subprocess.run([sys.executable, __file__, "--one", str(scene)], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    stages = ", ".join(f"{name} {spent:.1f}" for name, spent in facts["stages"].items() if spent >= 0.05)
    print(
        f"{height:>7} x {width:<7} {scene.stat().st_size / 1e9:5.2f} GB on disk, {facts['windows']} windows, "
        f"{facts['empty']} of them without data, {facts['objects']} objects, {facts['seconds']:.0f} s: "
        f"peak {facts['peak_gb']:.2f} GB (libraries alone {facts['libraries_gb']:.2f})\n{'':18}seconds: {stages}",
        flush=True,
    )
    scene.unlink()
    return float(facts["peak_gb"])


def main() -> None:
    """Both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="sparse,dense")
    parser.add_argument("--side", type=int, default=100_000, help="of the sparse scene, pixels")
    parser.add_argument("--width", type=int, default=20_000, help="of the dense scenes, pixels")
    parser.add_argument("--heights", default="10000,40000", help="of the dense scenes, pixels")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        predict(options.one)
        return
    print(f"{datetime.now(UTC).date()}, {platform.machine()}, {os.cpu_count()} CPUs", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "sparse" in options.only:
            measure(folder, options.side, options.side, share=0.001)
        if "dense" in options.only:
            heights = [int(height) for height in options.heights.split(",")]
            peaks = [measure(folder, height, options.width, share=1.0) for height in heights]
            print(f"peak of the tallest over that of the lowest: {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
