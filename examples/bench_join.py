"""Measure time and memory of joining: fabricated houses are cut into windows, outlined, joined and written.

Each size runs in its own process. The time to make the label images that stand for the model's output is excluded.
`cpu` is processor time, which other programs affect less than wall time. With --sahi the same polygons are also merged
by sahi's GREEDYNMM (pip install sahi), in the same process.

python examples/bench_join.py [--sizes 100000,300000,1000000] [--sahi]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio.features import rasterize

from rsprompter_cli.geo.crs import areas_m2, to_map
from rsprompter_cli.geo.polygonize import label_polygons
from rsprompter_cli.geo.stitch.joiner import Instance, JoinedInstance
from rsprompter_cli.geo.vector.write import Feature, object_feature, write_features
from rsprompter_cli.geo.windows import Window, WindowGrid, make_grid
from rsprompter_cli.structures import Georef
from tests.make.joining import join_rows

SIDE, PITCH, SEEN_BY = 512, 31, 1.9
"""Pixels of a window; pixels from house to house; windows that see a house, on average (measured)."""

GEOREF = Georef((0.3, 0.0, 500_000.0, 0.0, -0.3, 5_000_000.0), "EPSG:32633", "affine")


class Clock:
    """Wall and processor seconds of named stages."""

    def __init__(self) -> None:
        """Nothing was timed yet."""
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in a block to a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        spent = self.seconds.setdefault(name, [0.0, 0.0])
        spent[0] += time.perf_counter() - wall
        spent[1] += time.process_time() - cpu

    def each(self, name: str, items: Iterator[Any]) -> Iterator[Any]:
        """The items of an iterator, the time to make them counted for a stage."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item


class Town:
    """Houses on a wavering grid; a quarter stand wall to wall, half are turned, a third have an L shape."""

    def __init__(self, side: int) -> None:
        """A square of `side` x `side` pixels."""
        rng = np.random.default_rng(7)
        self.cells = side // PITCH
        count = self.cells**2
        rows, cols = np.divmod(np.arange(count), self.cells)
        wide, high = rng.integers(14, 26, (2, count))
        wall = rng.random(count) < 0.25
        wide = np.where(wall, PITCH, wide)
        turn = np.where(wall | (rng.random(count) < 0.4), 0.0, rng.uniform(-0.5, 0.5, count))
        notch = np.where(rng.random(count) < 1 / 3, 0.55, 1.0)
        x = np.stack([0 * wide, wide, wide, notch * wide, notch * wide, 0 * wide], axis=1) - wide[:, None] / 2
        y = np.stack([0 * high, 0 * high, notch * high, notch * high, high, high], axis=1) - high[:, None] / 2
        cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
        centre = (np.stack([cols, rows]) + 0.5) * PITCH
        self.xy = np.stack([centre[0][:, None] + cos * x - sin * y, centre[1][:, None] + sin * x + cos * y], axis=2)

    def labels(self, window: Window) -> tuple[np.ndarray, int]:
        """What a model sees in a window, each house up to a pixel off: int32 [H, W] label image, labels."""
        x0, y0, x1, y1 = window.box
        spans = [
            np.arange(max(0, low // PITCH - 1), min(self.cells, high // PITCH + 1))
            for low, high in ((y0, y1), (x0, x1))
        ]
        which = (spans[0][:, None] * self.cells + spans[1]).ravel()
        rng = np.random.default_rng([window.row, window.col])
        seen = self.xy[which] - (x0, y0) + rng.normal(0, 0.5, (len(which), 1, 2))
        shapes = zip(shapely.polygons(seen), range(1, len(which) + 1), strict=True)
        return rasterize(shapes, out_shape=(window.height, window.width), dtype="int32"), len(which)


def outlines(labels: np.ndarray, count: int, window: Window) -> list[Instance]:
    """The instances of a window."""
    found = label_polygons(labels, count)
    there = [index for index, polygon in enumerate(found) if polygon is not None]
    corner = np.array([window.left, window.top])
    polygons = shapely.transform(np.array([found[index] for index in there], dtype=object), lambda xy: xy + corner)
    return [
        Instance(window.row, window.col, index, 0, 0.5 + index % 50 / 100, polygon)
        for index, polygon in zip(there, polygons, strict=True)
    ]


def detections(town: Town, grid: WindowGrid, clock: Clock, counted: list[int]) -> Iterator[Instance]:
    """The instances of all windows."""
    for window in grid.windows():
        with clock.stage("made up"):
            labels, count = town.labels(window)
        with clock.stage("outline"):
            found = outlines(labels, count, window)
        counted[0] += len(found)
        yield from found


def features(objects: Iterator[JoinedInstance], clock: Clock) -> Iterator[Feature]:
    """Objects as features on the map, measured; in blocks, which is how arrays are quick."""
    block: list[JoinedInstance] = []
    for one in objects:
        block.append(one)
        if len(block) == 4096:
            yield from _placed(block, clock)
            block = []
    yield from _placed(block, clock)


def _placed(block: list[JoinedInstance], clock: Clock) -> list[Feature]:
    with clock.stage("place and measure"):
        polygons = [one.polygon for one in block]
        areas = areas_m2(polygons, GEOREF)
        return [
            object_feature(polygon, class_name="building", score=one.score, area_m2=area)
            for polygon, one, area in zip(to_map(polygons, GEOREF), block, areas, strict=True)
        ]


def run(size: int, out: Path, *, with_sahi: bool) -> None:
    """One size, stage by stage, printed as a row."""
    side = int(np.ceil((size / SEEN_BY) ** 0.5)) * PITCH
    town, grid, clock, counted = Town(side), make_grid(side, side, size=SIDE), Clock(), [0]
    start = time.perf_counter()
    seen: Iterable[Instance] = detections(town, grid, clock, counted)
    if with_sahi:
        seen = list(seen)
    before = {name: list(spent) for name, spent in clock.seconds.items()}
    objects: list[JoinedInstance] = []
    with clock.stage("join"):
        objects.extend(join_rows(seen, grid))
    for name in ("made up", "outline"):  # joining pulls its input: what that took in between is taken off again
        for kind in (0, 1):
            clock.seconds["join"][kind] -= clock.seconds[name][kind] - before.get(name, [0.0, 0.0])[kind]
    objects.sort(key=lambda one: one.key)
    with clock.stage("write"):
        written = write_features(out, features(iter(objects), clock), GEOREF.crs_wkt)
    for kind in (0, 1):
        clock.seconds["write"][kind] -= clock.seconds["place and measure"][kind]
    made_up = clock.seconds.pop("made up")[0]
    wall, cpu = time.perf_counter() - start - made_up, sum(stage[1] for stage in clock.seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    stages = "  ".join(f"{name} {spent[0]:.1f} (cpu {spent[1]:.1f})" for name, spent in clock.seconds.items())
    total = f"{counted[0]:>9} instances -> {written} objects in {wall:.1f} s (cpu {cpu:.1f}), peak {peak:.2f} GB"
    print(f"{total}: {stages}", flush=True)
    if with_sahi:
        compare_with_sahi(list(seen), grid, clock)


def compare_with_sahi(seen: list[Instance], grid: WindowGrid, clock: Clock) -> None:
    """The same polygons through sahi; making its objects of them is not counted."""
    from join_quality import sahi_predictions
    from sahi.postprocess.combine import GreedyNMMPostprocess

    predictions = sahi_predictions(seen, grid)
    with clock.stage("sahi"):
        found = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(predictions)
    (wall, cpu), (own_wall, own_cpu) = clock.seconds["sahi"], clock.seconds["join"]
    print(
        f"{'':>9} sahi GREEDYNMM: {wall:.1f} s (cpu {cpu:.1f}), {len(found)} objects; "
        f"joining here {own_wall:.1f} s (cpu {own_cpu:.1f})",
        flush=True,
    )


def main() -> None:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100000,300000,1000000", help="instances, comma-separated")
    parser.add_argument("--sahi", action="store_true", help="merge the same polygons with sahi, too")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.one:
            run(options.one, Path(folder) / "houses.fgb", with_sahi=options.sahi)
            return
        for size in options.sizes.split(","):
            more = ["--sahi"] if options.sahi else []
            subprocess.run([sys.executable, __file__, "--one", size, *more], check=True)


if __name__ == "__main__":
    main()
