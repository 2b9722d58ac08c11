"""Train the bundled building model: the recipe from scenes to metrics, with the commands of `rsp`.

    python examples/train_buildings.py --shared ../shared --out runs/buildings --minutes 70

Uses the georeferenced scenes of SHARED/data/buildings: four for training, two of them also rotated by 30 and 60
degrees, and three others as a whole for validation. Renders synthetic training scenes (other seeds, roofs and textures
than the example scene), cuts all scenes into tiles of 0.2 and 0.3 m/px, continues from the model of --start with all
weights trainable, and compares the result with that model on the whole validation scenes at several ground
resolutions. Those scenes also choose resolution and score threshold, so their metrics are slightly optimistic.
--resume continues an interrupted run; `examples/bundle_model.py` makes the bundled model from it. Writes to OUT:
synthetic/, turned/, set/ (COCO), run/, and summary.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from commands import rsp
from rasterio.enums import Resampling
from rasterio.warp import reproject

TRAIN_SCENES = ("banepa_core", "kampala_a", "zanzibar_a", "zanzibar_b")
VALIDATION_SCENES = ("banepa_block", "catanduanes", "kampala_b")
SYNTHETIC_SEEDS = (1001, 1002)
TURNED_SCENES = ("banepa_core", "kampala_a")
"""The dense ones; the others give more tiles, of fewer buildings, as they are."""
TURNS = (30, 60)
"""Degrees; flips and quarter turns in training make every multiple of 30 of them."""
PRESET = "rsprompter-anchor-buildings"
TILE_GSDS = (0.2, 0.3)
READ_GSDS = (0.15, 0.2, 0.25, 0.3)
LOWEST_SCORE = 0.05


def pair(folder: Path, name: str) -> list[Path]:
    """A scene and its footprints."""
    return [folder / f"{name}.tif", folder / f"{name}.geojson"]


def turn(source: Path, path: Path, degrees: float) -> None:
    """The same scene on a grid turned about its centre, with an alpha band for the corners that it leaves empty."""
    with rasterio.open(source) as file:
        pixels, transform, crs = file.read((1, 2, 3)), file.transform, file.crs
    _, height, width = pixels.shape
    angle = math.radians(degrees)
    across = math.ceil(width * math.cos(angle) + height * math.sin(angle))
    down = math.ceil(width * math.sin(angle) + height * math.cos(angle))
    about = Affine.translation(width / 2, height / 2) @ Affine.rotation(degrees)
    turned = transform @ about @ Affine.translation(-across / 2, -down / 2)
    shown = np.zeros((4, down, across), dtype="uint8")
    given = np.concatenate([pixels, np.full((1, height, width), 255, dtype="uint8")])
    places = {"src_transform": transform, "dst_transform": turned, "src_crs": crs, "dst_crs": crs}
    reproject(given, shown, resampling=Resampling.bilinear, **places)
    shown[3] = np.where(shown[3] > 127, 255, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"width": across, "height": down, "count": 4, "dtype": "uint8"}
    colours = {"photometric": "RGB", "alpha": "yes"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=turned, tiled=True, **size, **colours) as file:
        file.write(shown)


def make_set(scenes: Path, out: Path) -> Path:
    """One COCO set of tiles, at several resolutions; validation scenes are whole scenes that training never sees."""
    synthetic = out / "synthetic"
    renderer = str(Path(__file__).with_name("make_scene.py"))
    for seed in SYNTHETIC_SEEDS:
        words = ["--out", str(synthetic), "--seed", str(seed), "--train", "--gsd", "0.2", "--size", "1024", "768"]
        subprocess.run([sys.executable, renderer, *words], check=True)
    pairs = [path for name in TRAIN_SCENES + VALIDATION_SCENES for path in pair(scenes, name)]
    for name in TURNED_SCENES:
        for degrees in TURNS:
            turned = out / "turned" / f"{name}_turned_{degrees}.tif"
            turn(scenes / f"{name}.tif", turned, degrees)
            pairs += [turned, scenes / f"{name}.geojson"]
    pairs += [path for seed in SYNTHETIC_SEEDS for path in pair(synthetic, f"scene_{seed}")]
    held_out = [word for name in VALIDATION_SCENES for word in ("--val-scene", name)]
    sizes = [word for gsd in TILE_GSDS for word in ("--gsd", str(gsd))]
    options = ["--overlap", "0.15", "--min-data", "0.5", "--overwrite"]
    print(rsp("convert", "vector2coco", *pairs, "--out", out / "set", *held_out, *sizes, *options))
    return out / "set"


def compare(model: Path | None, scenes: Path, out: Path) -> list[dict[str, Any]]:
    """A row for each resolution: F1 at IoU 0.5 over thresholds and AP50 of every validation scene, and their means."""
    from rsprompter_cli import evaluate_polygons

    rows = []
    chosen = [] if model is None else ["--model", model]
    for gsd in READ_GSDS:
        row: dict[str, Any] = {"gsd": gsd, "scenes": {}}
        by_threshold = {round(0.05 * step, 2): [] for step in range(2, 18)}  # type: ignore[var-annotated]
        for name in VALIDATION_SCENES:
            scene, truth = pair(scenes, name)
            found = out / f"{name}_{gsd}.geojson"
            words = ["--gsd", str(gsd), "--score", str(LOWEST_SCORE), "--overwrite", "--json"]
            facts = json.loads(rsp("predict", scene, *chosen, "--out", found, *words))
            for threshold, values in by_threshold.items():
                values.append(evaluate_polygons(found, truth, score=threshold, scene=scene).counts.f1 or 0.0)
            whole = evaluate_polygons(found, truth, scene=scene)
            row["scenes"][name] = {"AP50": (whole.ap or {}).get("AP50"), "seconds": facts.get("seconds")}
        best = max(by_threshold, key=lambda one: sum(by_threshold[one]))
        row["threshold"], row["f1"] = best, sum(by_threshold[best]) / len(VALIDATION_SCENES)
        for name, value in zip(VALIDATION_SCENES, by_threshold[best], strict=True):
            row["scenes"][name]["f1"] = value
        each = ", ".join(f"{name} {facts['f1']:.3f}" for name, facts in row["scenes"].items())
        print(f"{gsd} m/px: mean F1 {row['f1']:.3f} at score {best} ({each})", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """The recipe, top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RSP_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/buildings"))
    parser.add_argument("--start", type=Path, help="checkpoint to go on from; default: the model in the box")
    parser.add_argument("--minutes", type=float, default=70, help="time to train for")
    parser.add_argument("--epochs", type=int, default=5, help="length of the schedule, which should fit the time")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was ended")
    options = parser.parse_args()
    scenes, out = options.shared / "data" / "buildings", options.out
    if not scenes.is_dir():
        parser.error(f"--shared {options.shared}: there is no folder data/buildings in it")
    rsp("download-sam", "tiny-vit")
    run, minutes = out / "run", ["--minutes", str(options.minutes)]
    if options.resume:
        rsp("train", "--resume", "--out", run, *minutes)
    else:
        data = make_set(scenes, out)
        start = options.start or Path(__file__).parents[1] / "rsprompter_cli" / "weights"
        length = ["--set", f"train.epochs={options.epochs}", "--overwrite"]
        rsp("train", PRESET, "--data", data, "--out", run, "--load-from", start, *length, *minutes)
    trained = run / "best" if (run / "best").is_dir() else run / "last"
    summary = {"before": compare(options.start, scenes, out), "after": compare(trained, scenes, out)}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    best = max(summary["after"], key=lambda row: row["f1"])
    print(f"best: {best['gsd']} m/px, score {best['threshold']}, mean F1 {best['f1']:.3f}")


if __name__ == "__main__":
    main()
