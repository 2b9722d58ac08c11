"""Measure the parts of `rsp predict`: start-up, encoder, decoder and the rest, and the peak memory.

    python examples/bench_predict.py ../shared/data/buildings/zanzibar_b.tif ../shared/data/buildings/kampala_a.tif

Each scene and precision runs in its own process with the bundled model and default settings, once as the plain command
(wall time, peak resident memory) and once with timers around the parts of the model. Of the time after the weights are
loaded, it prints the shares of the encoder, of the mask decoder with its prompts, of the boxes between them, of the
rest of the model, and of everything outside the model that does not run in parallel with it. The goals are for an idle
machine with two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRECISIONS = ("bf16", "fp32")
GOALS = {"bf16": 40.0, "fp32": 75.0}
"""Seconds from start to end."""
PARTS = {
    "encoder": "encoder",
    "neck": "boxes",
    "rpn": "boxes",
    "box_head": "boxes",
    "prompt_head": "decoder",
    "mask_decoder": "decoder",
}
"""Submodules of the model in the box and the rows of the table."""


def as_typed(scene: Path, precision: str, folder: Path) -> tuple[float, float, int]:
    """Wall seconds, peak gigabytes and objects of the command."""
    out = folder / f"{scene.stem}.geojson"
    words = [str(scene), "--out", str(out), "--precision", precision, "--overwrite", "--json"]
    watched = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "done = subprocess.run([sys.executable, '-m', 'rsprompter_cli', '-q', 'predict', *sys.argv[1:]],"
        " check=True, capture_output=True, text=True)\n"
        "seconds = time.perf_counter() - began\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([seconds, peak / 1e6, json.loads(done.stdout)['objects']]))"
    )
    done = subprocess.run([sys.executable, "-c", watched, *words], check=True, capture_output=True, text=True)
    seconds, gigabytes, objects = json.loads(done.stdout)
    return seconds, gigabytes, objects


def clocked(scene: Path, precision: str, folder: Path) -> dict[str, float]:
    """Seconds of the parts, in this process: loading, the rows of PARTS, the model as a whole, and predict_scene."""
    began = time.perf_counter()
    from rsprompter_cli import load_model, predict_scene

    loaded = load_model(None)
    spent: dict[str, float] = dict.fromkeys(["start-up", "model", *PARTS.values()], 0.0)
    spent["start-up"] = time.perf_counter() - began
    watch(loaded.model, "model", spent)
    for name, row in PARTS.items():
        watch(loaded.model.get_submodule(name), row, spent)
    began = time.perf_counter()
    predict_scene(scene, folder / f"{scene.stem}.geojson", model=loaded, precision=precision, overwrite=True)
    return spent | {"whole": time.perf_counter() - began}


def watch(module: Any, row: str, spent: dict[str, float]) -> None:
    """Add the time of every call of a module to a row."""
    began: list[float] = []

    def before(*_: Any) -> None:
        began.append(time.perf_counter())

    def after(*_: Any) -> None:
        spent[row] += time.perf_counter() - began.pop()

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def main() -> None:
    """A row for every scene and arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--clocked", choices=PRECISIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.clocked:
            print(json.dumps(clocked(options.scenes[0], options.clocked, folder)))
            return
        print(
            f"{'scene':14}{'':6}{'wall s':>8}{'goal':>6}{'GB':>6}{'objects':>9}  after start-up:"
            f"{'s':>7}{'encoder':>9}{'decoder':>9}{'boxes':>7}{'rest':>6}{'outside':>9}"
        )
        for scene in options.scenes:
            for precision in PRECISIONS:
                seconds, gigabytes, objects = as_typed(scene, precision, folder)
                command = [sys.executable, __file__, str(scene), "--clocked", precision]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                spent = json.loads(text.splitlines()[-1])
                whole = spent["whole"]
                rest = spent["model"] - sum(spent[row] for row in dict.fromkeys(PARTS.values()))
                shares = [spent["encoder"], spent["decoder"], spent["boxes"], rest, whole - spent["model"]]
                print(
                    f"{scene.stem:14}{precision:6}{seconds:8.1f}{GOALS[precision]:6.0f}{gigabytes:6.2f}{objects:9}"
                    f"{whole:24.1f}"
                    + "".join(
                        f"{share / whole:{width}.0%}" for share, width in zip(shares, (9, 9, 7, 6, 9), strict=True)
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
