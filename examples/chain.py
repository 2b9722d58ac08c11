"""Run all steps from footprints to a model to polygons, with the commands of the README.

    python examples/chain.py --shared ../shared --out runs/chain --minutes 60

Uses the georeferenced scenes of SHARED/data/buildings: four for training, three others for validation.
Runs vector2coco, train, eval and predict, compares the mask AP50 with that of the untrained model,
and writes to OUT: set/ (COCO), untrained/ and trained/ (run folders), a GeoJSON and an overlay PNG
for each validation scene, worst/best pictures, and summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from commands import rsp

TRAIN_SCENES = ("banepa_core", "kampala_a", "zanzibar_a", "zanzibar_b")
VALIDATION_SCENES = ("banepa_block", "catanduanes", "kampala_b")
PRESET = "rsprompter-anchor-cpu"


def make_set(scenes: Path, folder: Path, gsd: float) -> None:
    """One COCO set of tiles; the validation scenes are whole scenes that training never sees."""
    pairs = [scenes / f"{name}{end}" for name in TRAIN_SCENES + VALIDATION_SCENES for end in (".tif", ".geojson")]
    held_out = [word for name in VALIDATION_SCENES for word in ("--val-scene", name)]
    options = ["--gsd", str(gsd), "--overlap", "0.25", "--overwrite"]
    print(rsp("convert", "vector2coco", *pairs, "--out", folder, *held_out, *options))
    rsp("data", "check", folder)


def train(data: Path, out: Path, minutes: float, *changes: str) -> Path:
    """A run folder's best checkpoint, or its last where the time ended before the first evaluation."""
    settings = [word for change in changes for word in ("--set", change)]
    rsp("train", PRESET, "--data", data, "--out", out, "--minutes", str(minutes), "--overwrite", *settings)
    return out / "best" if (out / "best").is_dir() else out / "last"


def evaluate(checkpoint: Path, data: Path, pictures: Path) -> dict[str, Any]:
    """The figures on the validation scenes' tiles, with overlays of the worst and best of them."""
    options = ["--split", "val", "--show-dir", pictures, "--overwrite", "--json"]
    return json.loads(rsp("eval", checkpoint, "--data", data, *options))


def predict(checkpoint: Path, scene: Path, out: Path) -> dict[str, Any]:
    """Polygons and an overlay of one whole scene; says what the file holds when read back."""
    import pyogrio

    for extension in (".geojson", ".png"):
        rsp("predict", scene, "--model", checkpoint, "--out", out.with_suffix(extension), "--overwrite")
    found = pyogrio.read_dataframe(out.with_suffix(".geojson"))
    area = float(found["area_m2"].sum()) if len(found) else 0.0
    return {"polygons": len(found), "valid": bool(found.geometry.is_valid.all()), "area_m2": round(area, 1)}


def main() -> None:
    """The chain, top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RSP_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/chain"))
    parser.add_argument("--minutes", type=float, default=60, help="time to train for")
    parser.add_argument("--epochs", type=int, help="length of the schedule; default: the preset's")
    parser.add_argument("--gsd", type=float, default=0.3, help="metres per pixel of the tiles")
    options = parser.parse_args()
    scenes, out, data = options.shared / "data" / "buildings", options.out, options.out / "set"
    if not scenes.is_dir():
        parser.error(f"--shared {options.shared}: there is no folder data/buildings in it")

    make_set(scenes, data, options.gsd)
    rsp("download-sam", "tiny-vit")
    # A run of no minutes ends after its first step, here of length nothing: the weights as they start.
    untrained = train(data, out / "untrained", 0, "train.lr=1e-12")
    schedule = [f"train.epochs={options.epochs}"] if options.epochs else []
    trained = train(data, out / "trained", options.minutes, *schedule)
    figures = {
        name: evaluate(checkpoint, data, out / f"shown_{name}")
        for name, checkpoint in (("untrained", untrained), ("trained", trained))
    }
    found = {name: predict(trained, scenes / f"{name}.tif", out / name) for name in VALIDATION_SCENES}

    before, after = (figures[name]["segm"]["AP50"] or 0.0 for name in ("untrained", "trained"))
    print(f"\nmask AP50 on {', '.join(VALIDATION_SCENES)}: untrained {before:.4f}, trained {after:.4f}")
    for name, facts in found.items():
        print(f"{name}: {facts['polygons']} polygons, {facts['area_m2']} m2, overlay {out / name}.png")
    summary = {"checkpoint": str(trained), "gain_AP50": after - before, "figures": figures, "scenes": found}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
