"""Make the bundled model from trained checkpoints: half precision, measured speed, credits.

    python examples/bundle_model.py runs/buildings/run/best --out rsprompter_cli/weights --gsd 0.25 0.3 --score 0.4

The weights of several checkpoints of one run are averaged, which reduces noise if the learning rate is still high at
the end. --data names the set on which the averaged model is evaluated, since the metrics of the checkpoints do not
apply to it. The script stops unless the half-precision model finds the same objects on the example scene as the
original. MODEL_CARD.md beside the weights is written by hand: update it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rsprompter_cli import evaluate_coco
from rsprompter_cli.geo.vector.write import read_footprints
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.predict.scene import ScenePrediction, predict_scene

SCENE = Path(__file__).parent / "scene" / "town.tif"
LARGEST_BYTES = 32 * 1000 * 1000
CREDITS = {
    "imagery": "(c) OpenAerialMap / Open Imagery Network contributors, CC-BY 4.0",
    "footprints": "(c) OpenStreetMap contributors, ODbL",
    "encoder and mask decoder": "LiteMedSAM, Apache-2.0",
}


def predict(model: Path, folder: Path) -> tuple[ScenePrediction, list[Any]]:
    """A prediction on the example scene and its polygons, written to a throw-away file."""
    out = folder / "out.gpkg"
    done = predict_scene(SCENE, out, model=model, overwrite=True, device="cpu", precision="fp32")
    return done, read_footprints(out).polygons


def same(one: list[Any], other: list[Any]) -> bool:
    """Equal up to what half precision may change: 2 % of the polygons, each within IoU 0.95."""
    pairs = zip(one, other, strict=False)
    alike = sum(a.intersection(b).area > 0.95 * a.union(b).area for a, b in pairs)
    return len(one) == len(other) and alike >= 0.98 * len(one)


def mean(checkpoints: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of the weights of checkpoints of one run; counters are those of the last."""
    *_, last = checkpoints
    return {
        key: torch.stack([one[key].double() for one in checkpoints]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in last.items()
    }


def main() -> None:
    """Write the bundle and say what was compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument(
        "--data", type=Path, help="COCO set whose validation split is measured; for several checkpoints"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--gsd", type=float, nargs=2, metavar=("LOW", "HIGH"), help="metres per pixel to read scenes at"
    )
    parser.add_argument("--score", type=float, help="lowest score of an object; default: the checkpoint's own")
    options = parser.parse_args()
    if len(options.checkpoints) > 1 and options.data is None:
        parser.error("--data: the mean of several checkpoints needs figures of its own")
    source = read_checkpoint(options.checkpoints[-1])
    tensors = mean([read_checkpoint(path).tensors() for path in options.checkpoints])
    meta = source.meta
    if options.gsd is not None:
        meta = replace(meta, gsd_range=tuple(options.gsd))
    if options.score is not None:
        meta = replace(meta, score_threshold=options.score)
    half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(Path(scratch) / "whole", tensors, source.config, meta)
        if options.data is not None:
            figures = evaluate_coco(Path(scratch) / "whole", options.data, "val").metrics.flat()
            meta = replace(meta, metrics=figures, provenance={**meta.provenance, "mean_of": len(options.checkpoints)})
        done, full = predict(Path(scratch) / "whole", Path(scratch))
        facts = {**meta.provenance, "credits": CREDITS, "licence": "Apache-2.0 (weights)"}
        facts["seconds_per_window"] = round(done.seconds / done.plan.windows, 3)
        facts["seconds_per_window_on"] = "cpu"
        # Folders of the machine it was trained on are nobody else's business.
        if "load_from" in facts:
            facts["load_from"] = Path(facts["load_from"]).name
        settings = source.config.train.model_copy(update={"cache_folder": None})
        config = source.config.model_copy(update={"train": settings})
        write_checkpoint(Path(scratch) / "model", half, config, replace(meta, provenance=facts))
        _, bundled = predict(Path(scratch) / "model", Path(scratch))
        if not same(full, bundled):
            sys.exit(f"half precision changes the result: {len(full)} objects, {len(bundled)} bundled")
        options.out.mkdir(parents=True, exist_ok=True)
        for path in (Path(scratch) / "model").iterdir():
            shutil.copy(path, options.out / path.name)
            (options.out / path.name).chmod(0o644)
    size = (options.out / "model.safetensors").stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(f"{options.out}: {size / 1e6:.1f} MB is over the limit of {LARGEST_BYTES / 1e6:.0f} MB")
    print(f"{options.out}: {size / 1e6:.1f} MB, {len(bundled)} objects on the example scene, as in full precision")


if __name__ == "__main__":
    main()
