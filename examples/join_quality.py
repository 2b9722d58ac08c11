"""Measure the quality of joining: a simulated detector with errors on real footprints, and several joining rules.

In every window, independently of the others, an object may be missed or merged with a close neighbour, and its outline
is perturbed. F1 compares the joined objects with the footprints (IoU >= 0.5). "one window" is the same detector on the
whole scene at once, where there is nothing to join.

sahi's GREEDYNMM (defaults: intersection over the smaller area, 0.5) is skipped if sahi is not installed.

python examples/join_quality.py --shared ../shared [--window 256] [--seeds 2] [--scenes banepa_core,zanzibar_a]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from shapely import box

sys.path.insert(0, str(Path(__file__).parents[1]))

from rsprompter_cli.geo.crs import to_pixels
from rsprompter_cli.geo.geometry import polygon_parts
from rsprompter_cli.geo.stitch.joiner import Instance
from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.geo.windows import WindowGrid, make_grid
from rsprompter_cli.structures import Georef
from tests.make.joining import join
from tests.make.shapes import Noise, SceneObject, detect_noisily, matched_f1

MERGE = (0.0, 0.05, 0.15)
"""Chances that an object swallows a close neighbour."""

Method = Callable[[Sequence[Instance], WindowGrid], list[Any]]


def by_the_rule(instances: Sequence[Instance], grid: WindowGrid) -> list[Any]:
    """What `rsp predict` does."""
    return [one.polygon for one in join(instances, grid)]


def by_suppression(instances: Sequence[Instance], grid: WindowGrid) -> list[Any]:
    """Plain NMS: by score, each goes whose IoU with a better one is 0.5 or more."""
    polygons, ranked, near = _pairs(instances)
    gone = np.zeros(len(polygons), bool)
    for one in ranked.tolist():
        if not gone[one]:
            for other, iou, _ in near.get(one, ()):
                gone[other] |= bool(iou >= 0.5 and instances[other].score <= instances[one].score)
    return [polygon for polygon, left_out in zip(polygons, gone, strict=True) if not left_out]


def by_union(instances: Sequence[Instance], grid: WindowGrid) -> list[Any]:
    """Whatever overlaps by IoU 0.5, or lies in another to 80 %, is one object."""
    polygons, _, near = _pairs(instances)
    parent = list(range(len(polygons)))

    def root(one: int) -> int:
        while parent[one] != one:
            one = parent[one]
        return one

    for one, others in near.items():
        for other, iou, within in others:
            if iou >= 0.5 or within >= 0.8:
                parent[root(one)] = root(other)
    groups: dict[int, list[Any]] = {}
    for one, polygon in enumerate(polygons):
        groups.setdefault(root(one), []).append(polygon)
    return [polygon_parts(shapely.union_all(group)) for group in groups.values()]


def by_sahi(instances: Sequence[Instance], grid: WindowGrid) -> list[Any]:
    """GREEDYNMM of the sahi package."""
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.postprocess.utils import coco_segmentation_to_shapely

    merge = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)
    found = merge(sahi_predictions(instances, grid))
    return [polygon_parts(coco_segmentation_to_shapely(one.mask.segmentation)) for one in found]


def sahi_predictions(instances: Sequence[Instance], grid: WindowGrid) -> list[Any]:
    """Instances as sahi has them; it knows no holes."""
    from sahi.prediction import ObjectPrediction

    return [
        ObjectPrediction(
            segmentation=[
                shapely.get_coordinates(part.exterior)[:-1].ravel().tolist() for part in shapely.get_parts(one.polygon)
            ],
            score=one.score,
            category_id=one.label,
            category_name="building",
            full_shape=[grid.height, grid.width],
        )
        for one in instances
    ]


def _pairs(instances: Sequence[Instance]) -> tuple[np.ndarray, np.ndarray, dict[int, list[tuple[int, float, float]]]]:
    """Polygons, their order by score, and of each the others it meets: which, IoU, share of the smaller in both."""
    polygons = np.array([one.polygon for one in instances], dtype=object)
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    different = first != second
    first, second = first[different], second[different]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    a, b = shapely.area(polygons[first]), shapely.area(polygons[second])
    near: dict[int, list[tuple[int, float, float]]] = {}
    numbers = zip(first, second, shared / (a + b - shared), shared / np.minimum(a, b), strict=True)
    for one, other, iou, within in numbers:
        near.setdefault(int(one), []).append((int(other), float(iou), float(within)))
    return polygons, np.argsort([-one.score for one in instances], kind="stable"), near


def footprints(scene: Path) -> tuple[list[SceneObject], int, int]:
    """The buildings of a scene in its pixels, cut to it."""
    with rasterio.open(scene) as raster:
        georef = Georef(tuple(raster.transform)[:6], raster.crs.to_wkt(), "affine")
        height, width = raster.shape
    polygons = read_footprints(scene.with_suffix(".geojson"), to_crs_wkt=georef.crs_wkt).polygons
    cut = [polygon_parts(polygon.intersection(box(0, 0, width, height))) for polygon in to_pixels(polygons, georef)]
    return [SceneObject(polygon) for polygon in cut if polygon is not None and polygon.area >= 40], height, width


def main() -> None:
    """One row of the table for each way to join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--window", type=int, default=256, help="side of a window, pixels")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scenes", default="", help="comma-separated names; default: all")
    options = parser.parse_args()
    folder = options.shared / "data/buildings"
    names = [name for name in options.scenes.split(",") if name] or sorted(p.stem for p in folder.glob("*.tif"))
    scenes = {name: footprints(folder / f"{name}.tif") for name in names}
    methods: dict[str, Method] = {"rsp": by_the_rule, "IoU or containment, union": by_union, "NMS": by_suppression}
    try:
        import sahi  # noqa: F401

        methods["sahi GREEDYNMM"] = by_sahi
    except ImportError:
        print("sahi is not installed: left out", file=sys.stderr)
    rows: dict[str, list[float]] = {name: [] for name in (*methods, "one window")}
    for merge in MERGE:
        scores: dict[str, list[float]] = {name: [] for name in rows}
        for things, height, width in scenes.values():
            truth = [thing.polygon for thing in things]
            grid = make_grid(height, width, size=options.window)
            whole = make_grid(height, width, size=max(height, width))
            for seed in range(options.seeds):
                seen = list(detect_noisily(things, grid, Noise(merge=merge), seed=seed))
                for name, method in methods.items():
                    scores[name].append(matched_f1(method(seen, grid), truth))
                alone = detect_noisily(things, whole, Noise(merge=merge), seed=seed)
                scores["one window"].append(matched_f1([one.polygon for one in alone], truth))
        for name, values in scores.items():
            rows[name].append(float(np.mean(values)))
    objects = sum(len(things) for things, _, _ in scenes.values())
    print(f"{len(scenes)} scenes, {objects} footprints, windows of {options.window} px, {options.seeds} seeds")
    print(f"{'mean F1 at merge errors of':32}" + "".join(f"{merge:8.0%}" for merge in MERGE))
    for name, values in rows.items():
        print(f"{name:32}" + "".join(f"{value:8.3f}" for value in values))


if __name__ == "__main__":
    main()
