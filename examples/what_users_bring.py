"""Compare the predictions on one scene in different bit depths, bands, reference systems and encodings.

    python examples/what_users_bring.py --shared ../shared --out runs/what_users_bring

Uses the validation scenes of SHARED/data/buildings and the town of examples/scene, and writes copies of each in 16
bit, with an alpha band and an empty collar, with a fourth band, in UTM, in longitude and latitude, and as JPEG, and
banepa_block at ground resolutions from 0.15 to 0.5 m. Predicts every file with default settings and prints its F1 at
IoU 0.5 beside that of the unchanged file. Writes the rasters, a GeoJSON of each and summary.json to OUT. The exit code
is 1 if an F1 differs from that of the unchanged file by more than its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import CRS
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import calculate_default_transform, reproject, transform_bounds

from rsprompter_cli import evaluate_polygons, load_model, predict_scene

SCENES = ("kampala_b", "catanduanes", "banepa_block")
RESAMPLED, RESOLUTIONS = "banepa_block", (0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SAME, SAME_RESAMPLED = 0.05, 0.1
"""How far the F1 may move: in another shape, at another ground resolution."""

COLLAR = 150
"""Width of the empty frame, pixels."""


def read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """RGB samples [3, H, W] uint8 of a scene, and the profile of a plain GeoTIFF of them."""
    with rasterio.open(path) as file:
        pixels = file.read((1, 2, 3))
        _, height, width = pixels.shape
        shape = {"count": 3, "width": width, "height": height, "dtype": "uint8"}
        return pixels, {"driver": "GTiff", "crs": file.crs, "transform": file.transform, "tiled": True, **shape}


def write(path: Path, pixels: np.ndarray, profile: dict[str, Any], **changes: Any) -> None:
    """A GeoTIFF of samples [B, H, W]."""
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", **(profile | shape | changes)) as file:
        file.write(pixels)


def as_it_is(source: Path, path: Path) -> None:
    """The same samples without compression."""
    write(path, *read(source))


def sixteen_bit(source: Path, path: Path) -> None:
    """What an 11 bit sensor would have stored: an offset, a gain for each band and noise."""
    pixels, profile = read(source)
    gains = np.array([6.0, 6.6, 5.5])[:, None, None]
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    write(path, (pixels * gains + 180 + noise).clip(1, 2047).astype("uint16"), profile, nodata=0)


def collar(source: Path, path: Path) -> None:
    """RGBA: the scene inside an empty frame that the alpha band calls nodata."""
    pixels, profile = read(source)
    opaque = np.full((1, *pixels.shape[1:]), 255, dtype="uint8")
    framed = np.pad(np.concatenate([pixels, opaque]), ((0, 0), (COLLAR, COLLAR), (COLLAR, COLLAR)))
    shifted = profile["transform"] @ Affine.translation(-COLLAR, -COLLAR)
    write(path, framed, profile, transform=shifted, photometric="RGB", alpha="yes")


def four_bands(source: Path, path: Path) -> None:
    """RGB and a near-infrared band."""
    pixels, profile = read(source)
    infrared = 255 - pixels[:1] // 2
    write(path, np.concatenate([pixels, infrared]), profile, photometric="RGB", alpha="no")


def utm(source: Path, path: Path) -> None:
    """Warped to the UTM zone of its place, with the nodata corners that come of it."""
    with rasterio.open(source) as file:
        west, south, east, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    zone = query_utm_crs_info("WGS 84", AreaOfInterest(west, south, east, north))[0]
    warp(source, path, CRS.from_epsg(zone.code).to_wkt())


def geographic(source: Path, path: Path) -> None:
    """Warped to longitude and latitude, where a pixel is no square on the ground."""
    warp(source, path, "EPSG:4326")


def warp(source: Path, path: Path, crs: str) -> None:
    """The scene in another coordinate reference system, at the resolution that keeps its pixels."""
    with rasterio.open(source) as file:
        transform, width, height = calculate_default_transform(file.crs, crs, file.width, file.height, *file.bounds)
    pixels, profile = read(source)
    opaque = np.full((1, *pixels.shape[1:]), 255, dtype="uint8")
    moved = np.zeros((4, height, width), dtype="uint8")
    reproject(
        np.concatenate([pixels, opaque]),
        moved,
        src_transform=profile["transform"],
        src_crs=profile["crs"],
        dst_transform=transform,
        dst_crs=crs,
        resampling=Resampling.bilinear,
    )
    moved[3] = np.where(moved[3] > 127, 255, 0)
    write(path, moved, profile, crs=crs, transform=transform, photometric="RGB", alpha="yes")


def jpeg(source: Path, path: Path) -> None:
    """Compressed with losses, as most orthophotos come."""
    pixels, profile = read(source)
    write(path, pixels, profile, compress="jpeg", photometric="ycbcr", jpeg_quality=75)


SHAPES: dict[str, Callable[[Path, Path], None]] = {
    "as it is": as_it_is,
    "16 bit": sixteen_bit,
    "RGBA, collar": collar,
    "4 bands": four_bands,
    "UTM": utm,
    "EPSG:4326": geographic,
    "JPEG 75": jpeg,
}


def resample(source: Path, path: Path, gsd: float) -> None:
    """The scene as a camera with pixels of `gsd` metres on the ground would have seen it."""
    pixels, profile = read(source)
    with rasterio.open(source) as file:
        _, south, _, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    own = profile["transform"].a * np.cos(np.radians((south + north) / 2))
    size = [round(length * own / gsd) for length in pixels.shape[1:]]
    coarser = np.zeros((3, *size), dtype="uint8")
    height, width = pixels.shape[1:]
    transform = profile["transform"] @ Affine.scale(width / size[1], height / size[0])
    places = {"src_transform": profile["transform"], "dst_transform": transform}
    crs = {"src_crs": profile["crs"], "dst_crs": profile["crs"]}
    how = Resampling.average if gsd > own else Resampling.bilinear
    reproject(pixels, coarser, resampling=how, **places, **crs)
    write(path, coarser, profile, transform=transform)


def score(model: Any, scene: Path, truth: Path, out: Path) -> float:
    """F1 at IoU 0.5 of the buildings that are found with the default settings, inside the scene."""
    predict_scene(scene, out, model=model, overwrite=True)
    return evaluate_polygons(out, truth, scene=scene).counts.f1 or 0.0


def main() -> None:
    """The files one after the other, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RSP_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/what_users_bring"))
    parser.add_argument("--model", help="checkpoint folder; default: the bundled model")
    options = parser.parse_args()
    buildings, town = options.shared / "data" / "buildings", Path(__file__).parent / "scene"
    if not buildings.is_dir():
        parser.error(f"--shared {options.shared}: there is no folder data/buildings in it")
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_model(options.model)
    rows: list[dict[str, Any]] = []

    def add(name: str, shape: str, path: Path, truth: Path, bound: float) -> None:
        reached = score(model, path, truth, path.with_suffix(".geojson"))
        first = next((row["f1"] for row in rows if row["scene"] == name), reached)
        change = reached - first
        rows.append({"scene": name, "shape": shape, "f1": reached, "change": change, "bound": bound})
        verdict = "pass" if abs(change) <= bound else "FAIL"
        print(f"{name:14}{shape:16}{reached:8.3f}{change:+8.3f}  within {bound}  {verdict}", flush=True)

    for name, folder in [*((name, buildings) for name in SCENES), ("town", town)]:
        truth = folder / f"{name}.geojson"
        for shape, make in SHAPES.items():
            path = options.out / f"{name}_{shape.replace(' ', '_').replace(',', '').replace(':', '')}.tif"
            make(folder / f"{name}.tif", path)
            add(name, shape, path, truth, SAME)
        if name == RESAMPLED:
            for gsd in RESOLUTIONS:
                path = options.out / f"{name}_{gsd}m.tif"
                resample(folder / f"{name}.tif", path, gsd)
                add(name, f"{gsd} m", path, truth, SAME_RESAMPLED)
    (options.out / "summary.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(abs(row["change"]) <= row["bound"] for row in rows) else 1)


if __name__ == "__main__":
    main()
