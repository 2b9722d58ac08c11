"""Measure `rsp predict` with the bundled model against what the machine can do.

    python examples/bench_predict.py ../shared/data/buildings/zanzibar_b.tif ../shared/data/buildings/kampala_a.tif

It first measures the machine (matrix products in the precisions the CPU is made for, a copy, a result in fresh memory),
then the parts of the model on a window of the first scene and a training step, in turn with the matrix products,
because the rate of a shared machine moves. A part's operations are counted by torch's FLOP counter, which is told of
oneDNN's layers; those of the encoder are checked against a formula. Then each scene runs as the plain command with
default settings in each precision, once to measure wall time and peak memory and once with timers around the parts of
the model; their seconds are those of all threads that compute windows at the same time.

    --against FOLDER   another checkout, whose command runs in turn with this one (medians of --runs)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SIDE = 256
PARTS = {
    "encoder": "encoder",
    "neck": "neck",
    "rpn": "heads",
    "box_head": "heads",
    "prompt_head": "heads",
    "mask_decoder": "decoder",
}
"""Submodules of the bundled model and the rows of the tables."""
ROWS = ("encoder", "neck", "heads", "decoder")


def machine(precisions: Sequence[str]) -> None:
    """Print the rates of the machine."""
    import torch

    from rsprompter_cli.doctor.models import device_findings

    for finding in device_findings():
        print(f"{finding.name}: {finding.text}")
    values = torch.ones(50_000_000 // 4)
    into = torch.empty_like(values)
    copied = fastest(lambda: into.copy_(values), 10)
    fresh = fastest(lambda: values + values, 10)
    print(
        f"copy of 50 MB: {0.1 / copied:.1f} GB/s read and written; 50 MB added into a fresh tensor: {0.15 / fresh:.1f}"
    )
    print(f"precisions: {', '.join(precisions)}\n")


def parts(scene: Path, precisions: Sequence[str], repeats: int) -> None:
    """Print seconds, GFLOP/s and share of the machine's rate of the parts on one window."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from rsprompter_cli import load_model
    from rsprompter_cli.models.cpu.matrix_rate import matrix_rate
    from rsprompter_cli.predict.detect import concurrency_of

    model = load_model(None).model
    window = middle_window(scene)
    at_once, threads = concurrency_of(model), torch.get_num_threads()
    spent: dict[str, float] = dict.fromkeys(ROWS, 0.0)
    for name, row in PARTS.items():
        watch(model.get_submodule(name), row, spent)
    counter = FlopCounterMode(display=False, custom_mapping=onednn_formulas())
    with torch.no_grad(), counter:
        (found,) = model([window])
    by_module = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    counted = dict.fromkeys(ROWS, 0)
    for name, row in PARTS.items():
        counted[row] += by_module.get(f"{type(model).__name__}.{name}", 0)
    counted["whole"] = counter.get_total_flops()
    formula = encoder_flops(model.encoder, SIDE)
    print(
        f"a window of {SIDE} px, {len(found.scores)} objects, {at_once} at a time as in rsp predict; "
        f"encoder by formula: {formula / 1e9:.2f} GFLOP"
    )
    print(f"{'part':10}{'':6}{'GFLOP':>8}{'s':>8}{'GFLOP/s':>9}{'share':>7}")
    for precision in precisions:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        seconds: dict[str, list[float]] = {row: [] for row in (*ROWS, "whole")}
        rates = []
        for _ in range(repeats + 1):  # the first one warms up
            rates.append(matrix_rate(dtype))
            spent.clear()
            spent.update(dict.fromkeys(ROWS, 0.0))
            began = time.perf_counter()
            with ThreadPoolExecutor(at_once, "window", torch.set_num_threads, (threads // at_once,)) as pool:
                list(pool.map(run_window, [model] * at_once, [window] * at_once, [precision] * at_once))
            torch.set_num_threads(threads)
            seconds["whole"].append((time.perf_counter() - began) / at_once)
            for row in ROWS:  # the mean over the threads, of which each has its part of the machine
                seconds[row].append(spent[row] / at_once / at_once)
        for row, taken in seconds.items():
            median = statistics.median(taken[1:])
            work = counted[row] / 1e9
            share = statistics.median(work * 1e9 / one / rate for one, rate in zip(taken[1:], rates[1:], strict=True))
            print(f"{row:10}{precision:6}{work:8.2f}{median:8.3f}{work / median:9.1f}{share:7.0%}")
        print(f"{'product':10}{precision:6}{'':16}{statistics.median(rates[1:]) / 1e9:9.1f}{1:7.0%}", flush=True)


def run_window(model: Any, window: Any, precision: str) -> None:
    """A forward pass in this thread."""
    import torch

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model([window])


def training(scene: Path, precisions: Sequence[str], repeats: int) -> None:
    """Print the same of a training step: losses, gradients and AdamW for the window four times, 16 objects in each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from rsprompter_cli import load_model
    from rsprompter_cli.models.cpu.matrix_rate import matrix_rate
    from rsprompter_cli.structures import Target

    model = load_model(None).model
    model.get_submodule("encoder").requires_grad_(False)  # as in the preset rsprompter-anchor-cpu
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-8)
    window = middle_window(scene)
    places = torch.arange(16)
    corners = 8 + 62 * torch.stack([places % 4, places // 4], dim=1)
    boxes = torch.cat([corners, corners + 30], dim=1)
    masks = torch.zeros(16, SIDE, SIDE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    target = Target(boxes.float(), torch.zeros(16, dtype=torch.int64), masks)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = model([window] * 4, [target] * 4)
        sum(losses.values()).backward()
        optimizer.step()

    for precision in precisions:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            step()  # warms up
            with FlopCounterMode(display=False, custom_mapping=onednn_formulas()) as counter:
                step()
            work, taken, rates = counter.get_total_flops() / 1e9, [], []
            for _ in range(repeats):
                rates.append(matrix_rate(dtype) / 1e9)
                began = time.perf_counter()
                step()
                taken.append(time.perf_counter() - began)
        median = statistics.median(taken)
        share = statistics.median(work / one / rate for one, rate in zip(taken, rates, strict=True))
        print(f"{'training':10}{precision:6}{work:8.2f}{median:8.3f}{work / median:9.1f}{share:7.0%}", flush=True)


def middle_window(scene: Path) -> Any:
    """The window in the middle of the scene, uint8 [3, SIDE, SIDE], at the resolution of the bundled model."""
    import numpy as np
    import torch

    from rsprompter_cli.geo.raster.scene import open_scene
    from rsprompter_cli.geo.windows import Window

    with open_scene(scene, gsd=0.25) as opened:
        left, top = (opened.width - SIDE) // 2, (opened.height - SIDE) // 2
        pixels = opened.read(Window(0, 0, top, left, SIDE, SIDE)).pixels
    return torch.from_numpy(np.ascontiguousarray(pixels))


def onednn_formulas() -> dict[Any, Callable[..., int]]:
    """Operations of the layers that torch's counter does not know, a multiplication and an addition as two."""
    import torch

    Shape = Sequence[int]

    def linear(values: Shape, weight: Shape, third: Any, fourth: Any, *_: Any, out_shape: Shape = (), **__: Any) -> int:
        # With a second operand, which is added, the weight comes third and the bias fourth.
        return 2 * math.prod(values[:-1]) * math.prod(weight if isinstance(fourth, str) else third)

    def convolution(values: Shape, weight: Shape, *_: Any, out_shape: Shape = (), **__: Any) -> int:
        return 2 * out_shape[0] * math.prod(out_shape[2:]) * math.prod(weight)

    def attention(queries: Shape, keys: Shape, values: Shape, *_: Any, out_shape: Shape = (), **__: Any) -> int:
        batch, heads, cells, width = queries
        return 2 * batch * heads * cells * keys[2] * (width + values[3])

    found: dict[Any, Callable[..., int]] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    for name, formula in (("_linear_pointwise", linear), ("_convolution_pointwise", convolution)):
        if hasattr(torch.ops.mkldnn, name):
            found[getattr(torch.ops.mkldnn, name)] = formula
    return found


def encoder_flops(encoder: Any, side: int) -> int:
    """Operations of the products in TinyViT on a square image: convolutions, linear layers and attention."""
    total, cells, channels = 0, side * side, 3

    def convolution(out: int, kernel: int = 1, groups: int = 1) -> None:
        nonlocal total, channels
        total += 2 * cells * out * (channels // groups) * kernel**2
        channels = out

    stem = encoder.patch_embed[2].conv.out_channels
    convolution(stem // 2)
    convolution(stem)
    for block in encoder.stages[0].blocks:
        inner = block.conv1.conv.out_channels
        convolution(inner)
        convolution(inner, 3, inner)
        convolution(stem)
    length = side
    for stage in encoder.stages[1:]:
        wide = stage.downsample.conv1.conv.out_channels
        convolution(wide)
        stride = stage.downsample.conv2.conv.stride[0]
        length //= stride
        cells = length * length
        convolution(wide, 3, wide)
        convolution(wide)
        for block in stage.blocks:
            window = block.window_size
            padded = (math.ceil(length / window) * window) ** 2
            hidden = block.mlp.fc1.out_features
            total += 2 * padded * wide * (3 * wide + wide)  # queries, keys and values; projection
            total += 2 * padded * window**2 * 2 * wide  # their products
            convolution(wide, 3, wide)
            total += 2 * cells * wide * hidden * 2
    out = encoder.neck[0].out_channels
    convolution(out)
    convolution(out, 3)
    return total


def as_typed(scene: Path, precision: str, folder: Path, root: Path) -> tuple[float, float, int]:
    """Wall seconds, peak gigabytes and objects of the command of a checkout."""
    out = folder / f"{scene.stem}.geojson"
    words = [str(scene.resolve()), "--out", str(out), "--precision", precision, "--overwrite", "--json"]
    watched = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "done = subprocess.run([sys.executable, '-m', 'rsprompter_cli', '-q', 'predict', *sys.argv[1:]],"
        " check=True, capture_output=True, text=True)\n"
        "seconds = time.perf_counter() - began\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([seconds, peak / 1e6, json.loads(done.stdout)['objects']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, *words],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    seconds, gigabytes, objects = json.loads(done.stdout)
    return seconds, gigabytes, objects


def timed(scene: Path, precision: str, folder: Path) -> dict[str, float]:
    """Seconds of the parts, in this process: loading, the rows of PARTS, the model as a whole, and predict_scene."""
    began = time.perf_counter()
    from rsprompter_cli import load_model, predict_scene
    from rsprompter_cli.cli.output import set_up_torch

    set_up_torch(None)
    loaded = load_model(None)
    spent: dict[str, float] = dict.fromkeys(["start-up", "model", *ROWS], 0.0)
    spent["start-up"] = time.perf_counter() - began
    watch(loaded.model, "model", spent)
    for name, row in PARTS.items():
        watch(loaded.model.get_submodule(name), row, spent)
    began = time.perf_counter()
    predict_scene(scene, folder / f"{scene.stem}.geojson", model=loaded, precision=precision, overwrite=True)
    return spent | {"whole": time.perf_counter() - began}


_ADDING = threading.Lock()


def watch(module: Any, row: str, spent: dict[str, float]) -> None:
    """Add the time of every call of a module to a row; calls may be made by several threads at the same time."""
    began = threading.local()

    def before(*_: Any) -> None:
        began.__dict__.setdefault("times", []).append(time.perf_counter())

    def after(*_: Any) -> None:
        seconds = time.perf_counter() - began.times.pop()
        with _ADDING:
            spent[row] += seconds

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def fastest(call: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of several calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


def scenes(paths: Sequence[Path], precisions: Sequence[str], runs: int, against: Path | None) -> None:
    """Print a row for every scene and precision, and, where asked, how the other checkout does in turn."""
    here = Path(__file__).resolve().parents[1]
    print(f"\n{'scene':14}{'':6}{'wall s':>8}{'GB':>6}{'objects':>9}{'against s':>11}{'ratio':>7}  after start-up:"
          f"{'s':>7}  in the model:{'s':>7}" + "".join(f"{row:>9}" for row in (*ROWS, "rest")))  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for scene in paths:
            for precision in precisions:
                ours, theirs = [], []
                for _ in range(runs):
                    ours.append(as_typed(scene, precision, folder, here))
                    if against is not None:
                        theirs.append(as_typed(scene, precision, folder, against.resolve()))
                seconds, gigabytes = (statistics.median(run[column] for run in ours) for column in (0, 1))
                other = statistics.median(run[0] for run in theirs) if theirs else math.nan
                command = [sys.executable, __file__, str(scene), "--timed", precision]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                spent = json.loads(text.splitlines()[-1])
                model = spent["model"]
                rest = model - sum(spent[row] for row in ROWS)
                shares = [*(spent[row] for row in ROWS), rest]
                print(
                    f"{scene.stem:14}{precision:6}{seconds:8.1f}{gigabytes:6.2f}{ours[-1][2]:9}{other:11.1f}"
                    f"{seconds / other:7.2f}{spent['whole']:24.1f}{model:22.1f}"
                    + "".join(f"{share / model:9.0%}" for share in shares),
                    flush=True,
                )


def main() -> None:
    """Measure the machine, the parts and the scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--against", type=Path, help="another checkout to run in turn")
    parser.add_argument("--runs", type=int, default=1, help="of each command")
    parser.add_argument("--repeats", type=int, default=5, help="of the window")
    parser.add_argument("--no-scenes", action="store_true", help="the machine and the parts alone")
    parser.add_argument("--timed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.timed:
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(timed(options.scenes[0], options.timed, Path(name))))
        return
    from rsprompter_cli.cli.output import set_up_torch

    set_up_torch(None)
    import torch

    from rsprompter_cli.models.precision import resolve_precision

    fast_bf16 = resolve_precision("auto", torch.device("cpu")) == torch.bfloat16
    precisions = ("bf16", "fp32") if fast_bf16 else ("fp32",)
    machine(precisions)
    parts(options.scenes[0], precisions, options.repeats)
    training(options.scenes[0], precisions, options.repeats)
    if not options.no_scenes:
        scenes(options.scenes, precisions, options.runs, options.against)


if __name__ == "__main__":
    main()
