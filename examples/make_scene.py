"""Render an aerial scene with its building outlines: a GeoTIFF and a GeoJSON beside it.

    python examples/make_scene.py --out examples/scene --name town --seed 24
    python examples/make_scene.py --out data/synthetic --seed 1001 --train

The first line made examples/scene. Synthetic training scenes come from `--train`: they have
other seeds, roof kinds, roof coverings and grounds than the example (see scene_render/style.py),
so the example stays unseen. The same arguments give the same pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin
from scene_render.render import Picture, render_scene
from scene_render.style import EXAMPLE_STYLE, TRAIN_STYLE
from shapely import affinity, transform
from shapely.geometry import box, mapping
from shapely.geometry.polygon import orient

CRS = "EPSG:32631"
# Open water in the Gulf of Guinea, so that nobody takes the town for a real one.
ORIGIN = (500_000.0, 300_000.0)
"""Easting and northing of the picture's top left corner."""


def write_scene(picture: Picture, folder: Path, name: str) -> tuple[Path, Path]:
    """Write NAME.tif (JPEG in tiles) and NAME.geojson (RFC 7946); returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    raster, vector = folder / f"{name}.tif", folder / f"{name}.geojson"
    height, width, _ = picture.pixels.shape
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "crs": CRS,
        "transform": from_origin(*ORIGIN, picture.gsd, picture.gsd), "tiled": True, "blockxsize": 256,
        "blockysize": 256, "compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 88,
    }  # fmt: skip
    with rasterio.open(raster, "w", **profile) as file:
        file.write(np.moveaxis(picture.pixels, -1, 0))
    vector.write_text(json.dumps(_collection(picture), separators=(",", ":")) + "\n", encoding="utf-8")
    return raster, vector


def _collection(picture: Picture) -> dict[str, object]:
    """Every building's outline inside the picture, longitude and latitude with 7 decimals."""
    height, width, _ = picture.pixels.shape
    frame = box(0, 0, width * picture.gsd, height * picture.gsd)
    to_lonlat = Transformer.from_crs(CRS, "OGC:CRS84", always_xy=True).transform
    features = []
    for number, house in enumerate(picture.town.houses, 1):
        outline = house.outline.intersection(frame)
        on_map = affinity.affine_transform(outline, (1, 0, 0, -1, *ORIGIN))
        polygon = orient(transform(on_map, lambda x, y: np.round(to_lonlat(x, y), 7), interleaved=False))
        properties = {"class": "building", "roof": house.kind, "covering": house.material}
        features.append({"type": "Feature", "id": number, "properties": properties, "geometry": mapping(polygon)})
    return {"type": "FeatureCollection", "features": features}


def main() -> None:
    """Read the arguments, draw, write, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, required=True, help="below 1000 for the example, from 1000 with --train")
    parser.add_argument("--name", help="file name without extension; default: scene_SEED")
    parser.add_argument("--train", action="store_true", help="a training scene: nothing in common with the example")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("W", "H"), help="pixels")
    parser.add_argument("--gsd", type=float, default=0.25, help="metres per pixel")
    options = parser.parse_args()
    style = TRAIN_STYLE if options.train else EXAMPLE_STYLE
    if options.seed not in style.seeds:
        parser.error(f"--seed {options.seed}: {style.name} scenes take seeds {style.seeds.start} to {style.seeds[-1]}")
    width, height = options.size
    picture = render_scene(style, options.seed, width=width, height=height, gsd=options.gsd)
    raster, vector = write_scene(picture, options.out, options.name or f"scene_{options.seed}")
    print(f"{raster}: {width} x {height} px, {raster.stat().st_size / 1e3:.0f} kB")
    print(f"{vector}: {len(picture.town.houses)} buildings")


if __name__ == "__main__":
    main()
