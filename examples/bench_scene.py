"""Measure the overhead of a scene: wall time of `predict_scene` over that of the model on the same windows.

    python examples/bench_scene.py [SCENE.tif ...] [--windows 200] [--rounds 3] [--threads 1,2] [--precision auto]

The scenes (by default examples/scene/town.tif) are tiled into one GeoTIFF of at least the given number of windows,
which is resampled as usual. Alternating in one process, the bundled model runs on the windows, which were read before,
and `predict_scene` runs from the file to a GeoJSON file, without start-up. The script prints the medians, their ratio
and the shares of the stages. Goal: a ratio of at most 1.10 with one thread for the model and one in parallel.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
import torch

from rsprompter_cli import load_model
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.models.base import with_score_floor
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.models.precision import resolve_precision
from rsprompter_cli.predict.detect import run_model
from rsprompter_cli.predict.options import Reading
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.stats import RunStats, Stage
from rsprompter_cli.structures import Tile

GOAL = 1.10
TOWN = Path(__file__).parent / "scene" / "town.tif"
PIECE, GSD = 512, 0.2
"""Pixels: side of the pieces of the mosaic; metres of its pixels."""


def write_mosaic(path: Path, sources: Sequence[Path], side: int) -> None:
    """A tiled GeoTIFF of side x side px whose pieces are those of the sources, in turn, as often as needed."""
    pieces = [piece for source in sources for piece in pieces_of(source)]
    if not pieces:
        sys.exit(f"no scene has {PIECE} x {PIECE} px with data at {GSD} m")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=side,
        width=side,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=(GSD, 0, 500_000, 0, -GSD, 5_000_000),
        tiled=True,
        blockxsize=PIECE,
        blockysize=PIECE,
        compress="deflate",
        photometric="RGB",
    ) as raster:
        number = 0
        for top in range(0, side, PIECE):
            for left in range(0, side, PIECE):
                tall, wide = min(PIECE, side - top), min(PIECE, side - left)
                place = rasterio.windows.Window(left, top, wide, tall)
                raster.write(pieces[number % len(pieces)][:, :tall, :wide], window=place)
                number += 1


def pieces_of(source: Path) -> list[np.ndarray]:
    """uint8 [3, PIECE, PIECE]: the pieces of a scene that are valid everywhere, read at GSD metres."""
    found = []
    with open_scene(source, gsd=GSD) as scene:
        for window in Reading(overlap=0).windows(scene, None).windows():
            if window.top % PIECE or window.left % PIECE:
                continue
            box = PieceBox(window.top, window.left)
            if box.top + PIECE <= scene.height and box.left + PIECE <= scene.width:
                tile = scene.read(box)
                if tile.valid is None:
                    found.append(np.rint(tile.pixels).astype(np.uint8))
    return found


class PieceBox:
    """A square of the scene's grid."""

    height = width = PIECE

    def __init__(self, top: int, left: int) -> None:
        self.top, self.left = top, left


class Measured:
    """One scene and the two ways over its windows."""

    def __init__(self, loaded: LoadedModel, scene: Path, *, precision: str, batch: int) -> None:
        """Read the windows."""
        self.loaded, self.scene, self.precision, self.batch = loaded, scene, precision, batch
        reading = Reading()
        with reading.open(scene, loaded.meta) as opened:
            grid = reading.windows(opened, loaded.meta)
            self.size, self.tiles = grid.size, [opened.read(window) for window in grid.windows()]
            print(f"{opened.path}: pixels of {GSD} m read at {opened.working_gsd}, {len(self.tiles)} windows")

    def model_alone(self) -> float:
        """Seconds of the model on all windows, called as predicting calls it."""
        device = next(self.loaded.model.parameters()).device
        dtype = resolve_precision(self.precision, device)
        groups: list[list[Tile]] = [
            self.tiles[start : start + self.batch] for start in range(0, len(self.tiles), self.batch)
        ]
        began = time.perf_counter()
        with with_score_floor(self.loaded.model, self.loaded.meta.score_threshold):
            for group in groups:
                run_model(self.loaded.model, group, pad_to=self.size, dtype=dtype)
        return time.perf_counter() - began

    def scene_whole(self) -> tuple[float, dict[str, float]]:
        """Seconds from the open file to the finished output, and those of the stages."""
        stats = RunStats()
        out = self.scene.with_suffix(".geojson")
        predict_scene(
            self.scene,
            out,
            model=self.loaded,
            stats=stats,
            precision=self.precision,
            batch=self.batch,
            overwrite=True,
        )
        stages = stats.seconds()
        return stages["total"] - stages[Stage.START_UP.value], stages


def compare(measured: Measured, rounds: int) -> None:
    """Both ways in turn, and what they took."""
    alone: list[float] = []
    whole: list[tuple[float, dict[str, float]]] = []
    for _ in range(rounds):
        alone.append(measured.model_alone())
        whole.append(measured.scene_whole())
        print(f"  model alone {alone[-1]:.1f} s, scene {whole[-1][0]:.1f} s", flush=True)
    seconds = statistics.median(spent for spent, _ in whole)
    ratio = statistics.median(spent / model for (spent, _), model in zip(whole, alone, strict=True))
    shares = {name: statistics.median(stages[name] for _, stages in whole) for name in whole[0][1] if name != "total"}
    print(
        f"  medians: model alone {statistics.median(alone):.1f} s, scene {seconds:.1f} s, "
        f"ratio {ratio:.3f} (goal {GOAL:.2f}: {'met' if ratio <= GOAL else 'missed'})"
    )
    print("  of the scene's time: " + ", ".join(f"{name} {spent / seconds:.1%}" for name, spent in shares.items()))


def processor() -> str:
    """The CPU's name where it can be read."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """A comparison for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="*", default=[TOWN])
    parser.add_argument("--windows", type=int, default=200, help="at least so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="of the model, one comparison each")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    loaded = load_model(None)
    print(f"{processor()}, {os.cpu_count()} CPUs, {datetime.now(UTC).date()}, torch {torch.__version__}", flush=True)
    size, (finest, _) = loaded.meta.image_size, loaded.meta.gsd_range or (GSD, GSD)
    rows = math.isqrt(options.windows - 1) + 1
    side = math.ceil((size + (rows - 1) * (size - round(size * 0.25))) * max(1.0, finest / GSD))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        write_mosaic(path, options.scenes, side)
        measured = Measured(loaded, path, precision=options.precision, batch=options.batch)
        run_model(loaded.model, measured.tiles[:1], pad_to=measured.size, dtype=torch.float32)
        for threads in (int(word) for word in options.threads.split(",")):
            torch.set_num_threads(threads)
            print(f"{threads} thread{'s' if threads > 1 else ''} for the model", flush=True)
            compare(measured, options.rounds)


if __name__ == "__main__":
    main()
