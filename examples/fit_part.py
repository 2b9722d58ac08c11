"""Measure `rsp fit` on a part of a scene by its effect on the rest of the scene.

    python examples/fit_part.py --shared ../shared --out runs/fit_part

Takes the footprints in the western 40 % of banepa_block and in the southern 40 % of catanduanes, fits the bundled model
to each within --minutes, predicts the whole scene with both models, and compares F1 at IoU 0.5 on the area that the
labels did not cover. Writes labels, models, polygons, error maps and summary.json to OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import geopandas
import rasterio
import shapely
from commands import rsp

PART = 0.4
PARTS = {"banepa_block": "west", "catanduanes": "south"}


def split(scene: Path, side: str) -> tuple[Any, Any, Any]:
    """The labelled part of a scene, the rest of it, and the CRS of both."""
    with rasterio.open(scene) as file:
        west, south, east, north = file.bounds
        crs = file.crs
    if side == "west":
        border = west + PART * (east - west)
        return shapely.box(west, south, border, north), shapely.box(border, south, east, north), crs
    border = south + PART * (north - south)
    return shapely.box(west, south, east, border), shapely.box(west, border, east, north), crs


def main() -> None:
    """Scene after scene."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RSP_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/fit_part"))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--only", choices=PARTS, help="one of the scenes; default: both")
    options = parser.parse_args()
    buildings, out = options.shared / "data" / "buildings", options.out
    if not buildings.is_dir():
        parser.error(f"--shared {options.shared}: there is no folder data/buildings in it")
    out.mkdir(parents=True, exist_ok=True)
    summary = {}
    for name in [options.only] if options.only else PARTS:
        scene, truth = buildings / f"{name}.tif", buildings / f"{name}.geojson"
        labelled, rest, crs = split(scene, PARTS[name])
        everything = geopandas.read_file(truth)
        inside = everything.to_crs(crs).representative_point().within(labelled)
        labels, aoi = out / f"{name}_labels.geojson", out / f"{name}_rest.geojson"
        everything[inside].to_file(labels, driver="GeoJSON")
        geopandas.GeoSeries([rest], crs=crs).to_crs("EPSG:4326").to_file(aoi, driver="GeoJSON")
        began = time.monotonic()
        rsp("fit", scene, labels, "--out", out / f"{name}_model", "--minutes", str(options.minutes), "--overwrite")
        row: dict[str, Any] = {"labels": int(inside.sum()), "minutes": round((time.monotonic() - began) / 60, 1)}
        for which, model in (("bundled", []), ("fitted", ["--model", out / f"{name}_model"])):
            found = out / f"{name}_{which}.geojson"
            rsp("predict", scene, *model, "--out", found, "--overwrite")
            words = ["--aoi", aoi, "--map", out / f"{name}_{which}.png", "--scene", scene, "--overwrite", "--json"]
            row[which] = json.loads(rsp("eval-polygons", found, truth, *words))["f1"]
        print(f"{name}: {row}", flush=True)
        summary[name] = row
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
