"""Measure how well SAM turns the boxes of known buildings into outlines.

    python examples/prompt_boxes.py --shared ../shared --out runs/prompt_boxes

Uses scenes of SHARED/data/buildings with their footprints as prompts (`rsp predict --prompts` uses the box of
a polygon), by default with the small SAM of `rsp download-sam tiny-vit`. Prints for each scene how many boxes
got a polygon, and the IoU of polygon and box with the footprint, clipped to the scene. Writes a GeoJSON of each
scene to OUT (with --pictures also an overlay PNG, which runs the prediction again), and summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from commands import rsp

SCENES = ("kampala_b", "banepa_block")


def compare(scene: Path, footprints: Path, found: Path) -> dict[str, Any]:
    """IoU of the polygons, and of the boxes, with the footprints that asked for them, in the scene's CRS."""
    with rasterio.open(scene) as file:
        frame, crs = shapely.box(*file.bounds), file.crs
    asked, answers = (geopandas.read_file(path) for path in (footprints, found))
    truth = [shapely.intersection(shapely.make_valid(one), frame) for one in asked.to_crs(crs).geometry]
    ids, polygons = answers["id"].tolist(), answers.to_crs(crs).geometry.tolist()
    ious = [_iou(polygon, truth[number - 1]) for number, polygon in zip(ids, polygons, strict=True)]
    boxes = [_iou(shapely.envelope(truth[number - 1]), truth[number - 1]) for number in ids]
    kept = all(
        (answers[name].tolist() == [asked[name][number - 1] for number in ids])
        for name in asked.columns
        if name != asked.geometry.name
    )
    return {
        "boxes": len(asked),
        "polygons": len(answers),
        "one_each": len(set(ids)) == len(ids) and set(answers.geom_type) == {"Polygon"},
        "attributes_kept": kept,
        "mean_iou": round(float(np.mean(ious)), 3),
        "median_iou": round(float(np.median(ious)), 3),
        "above_half": round(float(np.mean(np.array(ious) >= 0.5)), 3),
        "mean_iou_of_boxes": round(float(np.mean(boxes)), 3),
    }


def _iou(one: Any, other: Any) -> float:
    return float(shapely.intersection(one, other).area / shapely.union(one, other).area)


def main() -> None:
    """The comparison, top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RSP_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/prompt_boxes"))
    parser.add_argument("--sam", default="tiny-vit", help="as for rsp download-sam")
    parser.add_argument("--gsd", type=float, help="metres per pixel; default: the scenes' own")
    parser.add_argument("--scenes", nargs="+", default=SCENES)
    parser.add_argument("--pictures", action="store_true", help="overlays too")
    options = parser.parse_args()
    scenes: Path = options.shared / "data" / "buildings"
    if not scenes.is_dir():
        parser.error(f"--shared {options.shared}: there is no folder data/buildings in it")
    if options.sam == "tiny-vit":
        rsp("download-sam", "tiny-vit")

    figures = {}
    reading = [] if options.gsd is None else ["--gsd", str(options.gsd)]
    for name in options.scenes:
        scene, footprints = scenes / f"{name}.tif", scenes / f"{name}.geojson"
        asking = ["predict", scene, "--prompts", footprints, "--sam", options.sam, *reading, "--overwrite"]
        facts = json.loads(rsp(*asking, "--out", options.out / f"{name}.geojson", "--json"))
        if options.pictures:
            rsp(*asking, "--out", options.out / f"{name}.png")
        figures[name] = {key: facts[key] for key in ("windows", "seconds", "without_polygon")}
        figures[name] |= compare(scene, footprints, options.out / f"{name}.geojson")
        print(json.dumps({name: figures[name]}), flush=True)
    (options.out / "summary.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
