"""Measure data loading, scaling and the overhead of the training loop on this machine.

loader    pictures per second of the loader alone: NWPU at 1024 px with its augmentation, by number of workers.
scaling   pictures per second of `rsp train --procs 2` over twice those of `--procs 1`, one thread each: the CPU preset
          at 256 px, with its encoder in every step, and with the encoder's features cached on disk (from epoch 2 on).
overhead  seconds of a step of `rsprompter_cli.train` over those of a bare forward, backward and AdamW step on the same
          pictures, alternating, so that other programs affect both.

python examples/bench_train.py [--only loader,scaling,overhead] [--repeats 3] [--data ../shared/data/nwpu] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from bench_model import processor
from torch import nn

from rsprompter_cli.config import Config, load_config
from rsprompter_cli.data.coco.read import read_coco, read_document
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.data.images import find_annotations
from rsprompter_cli.data.pictures import PictureFinder, picture_names
from rsprompter_cli.data.transforms import train_transform
from rsprompter_cli.models.precision import autocast, resolve_precision
from rsprompter_cli.structures import Batch
from rsprompter_cli.train.dataloader import EpochLoader
from rsprompter_cli.train.loggers import read_log
from rsprompter_cli.train.loop import train
from rsprompter_cli.train.run import StepReport

PARTS = ("loader", "scaling", "overhead")
LOADED = "rsprompter-anchor-nwpu"
TRAINED = "rsprompter-anchor-cpu"
EFFICIENCY, OVERHEAD = 0.85, 0.03
"""The goals: at least, at most."""
WARM = 10
"""Steps before the clock runs: pictures of the loader; the first epoch of a run, after which its log has a line."""
PAIRS = 20


def main() -> None:
    """Measure what is asked for and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated parts")
    parser.add_argument("--repeats", type=int, default=3, help="of the loader and of each number of processes")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="steps of each kind that the overhead is taken from")
    parser.add_argument("--steps", type=int, default=10, help="steps of a run whose speed is taken, a multiple of 10")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nwpu"), help="NWPU VHR-10 as a COCO set")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := [name for name in wanted if name not in PARTS]:
        parser.error(f"--only {unknown[0]}: choose from {', '.join(PARTS)}")
    if options.steps < WARM or options.steps % WARM:
        parser.error(f"--steps {options.steps}: a multiple of {WARM}")
    torch.set_num_threads(1)
    about = {
        "machine": f"{processor()}, {os.cpu_count()} CPUs, one thread a process",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "repeats": options.repeats,
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="rsp-bench-") as folder:
        for row in measure(wanted, options, Path(folder)):
            rows.append(row)
            print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def measure(wanted: list[str], options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """One row after the other."""
    if "loader" in wanted:
        for workers in (0, 1, 2):
            yield bench_loader(options.data, workers, options.repeats)
    if "scaling" in wanted:
        for cached in (False, True):
            yield bench_scaling(options.data, folder, options.steps, options.repeats, cached=cached)
    if "overhead" in wanted:
        yield bench_overhead(options.data, folder, options.pairs)


def bench_loader(data: Path, workers: int, repeats: int, pictures: int = 100) -> dict[str, Any]:
    """Pictures a second of the loader, its workers already at work."""
    loader = build_loader(load_config(LOADED), data, workers=workers)
    rates = []
    for epoch in range(repeats):
        batches = loader.epoch(epoch)
        for _ in range(WARM):  # workers start, or fill their queue anew
            next(batches)
        began = time.perf_counter()
        for _ in range(pictures):
            next(batches)
        rates.append(pictures / (time.perf_counter() - began))
        batches.close()
    return {"name": f"loader, {workers} workers", "images_per_s": statistics.median(rates), "all": rates}


def build_loader(config: Config, data: Path, *, workers: int) -> EpochLoader:
    """The loader of a run, without the run."""
    assert config.model.image_size is not None
    transform = train_transform(image_size=config.model.image_size, **config.train.augment.model_dump())
    coco = read_coco(find_annotations(data, "train"))
    seed = config.train.seed
    dataset = CocoDataset(coco, data, split="train", transform=transform, seed=seed)
    return EpochLoader(dataset, batch_size=config.train.batch_size, seed=seed, workers=workers)


def bench_scaling(data: Path, folder: Path, steps: int, repeats: int, *, cached: bool) -> dict[str, Any]:
    """Pictures a second of real runs in one and in two processes, in turn."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    batch = load_config(TRAINED).train.batch_size
    for _ in range(repeats):
        for count in rates:
            part = cut_set(data, folder / f"set-{count}", train=WARM * batch * count)
            settings = {"epochs": 1 + steps // WARM, "cache_views": int(cached)}
            rates[count].append(batch * count * run_speed(part, folder / "run", count, settings))
    one, two = (statistics.median(rates[count]) for count in (1, 2))
    return {
        "name": "scaling, maps kept" if cached else "scaling, encoder in each step", "images_per_s": two,
        "one_process": one, "ratio": two / (2 * one), "goal_ratio": EFFICIENCY, "all": rates,
    }  # fmt: skip


def run_speed(data: Path, out: Path, count: int, settings: dict[str, int]) -> float:
    """Steps a second of `rsp train --procs COUNT` after its first epoch, by the times in its log."""
    settings = {"workers": 0, "save_minutes": 1000, "eval_every": 1000, **settings}
    command = [sys.executable, "-m", "rsprompter_cli", "train", TRAINED, "--data", str(data), "--out", str(out)]
    command += ["--random-sam", "--procs", str(count)]
    for name, value in settings.items():
        command += ["--set", f"train.{name}={value}"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    lines = [record for record in read_log(out) if record["kind"] == "step"]
    first, last = lines[0], lines[-1]
    assert first["step"] == WARM
    shutil.rmtree(out)
    return float(last["step"] - first["step"]) / float(last["time"] - first["time"])


def bench_overhead(data: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """The real loop with a bare step on the same pictures between each two of its own."""
    config = load_config(TRAINED, ["train.cache_views=0", "train.epochs=1", "train.workers=1", "train.save_minutes=60"])
    part = cut_set(data, folder / "set-overhead", train=(pairs + 2) * config.train.batch_size)
    bare = BareSteps(build_loader(config, part, workers=0).epoch(0), config)
    out = folder / "run-overhead"
    train(config, data=part, out=out, random_sam=True, device="cpu", on_model=bare.take, on_step=bare.step)
    # Not the first two, in which things are built.
    ours, theirs = bare.loop_took[2:], bare.took[2:]
    ratios = [mine[0] / plain[0] - 1 for mine, plain in zip(ours, theirs, strict=True)]
    busy = [mine[1] / plain[1] - 1 for mine, plain in zip(ours, theirs, strict=True)]
    return {
        "name": "overhead", "seconds": statistics.median(one[0] for one in ours),
        "bare_seconds": statistics.median(one[0] for one in theirs), "ratio": statistics.median(ratios),
        "cpu_ratio": statistics.median(busy), "goal_ratio": OVERHEAD, "pairs": len(ratios), "all": ratios,
    }  # fmt: skip


class BareSteps:
    """A copy of a run's model that makes the same steps without the run.

    took, loop_took: seconds on the clock and of the CPU of each bare step, and of each step of the loop.

    Args:
        batches: what the run is going to see.
    """

    def __init__(self, batches: Iterator[Batch], config: Config) -> None:
        self.took: list[tuple[float, float]] = []
        self.loop_took: list[tuple[float, float]] = []
        self._batches = batches
        self._clip_grad = config.train.clip_grad
        self._dtype = resolve_precision(config.train.precision, torch.device("cpu"))
        self._began = (0.0, 0.0)

    def take(self, model: nn.Module) -> None:
        """Copy the model before its first step."""
        self._model = copy.deepcopy(model).train()
        self._moved = [value for value in self._model.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(self._moved, lr=1e-6)
        self._start()

    def step(self, _report: StepReport) -> None:
        """Called after each step of the loop: note its time, and make the same step bare."""
        self.loop_took.append(self._since())
        batch = next(self._batches)
        self._start()
        with autocast(torch.device("cpu"), self._dtype):
            losses = self._model(batch.images, batch.targets)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self._moved, self._clip_grad or float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.took.append(self._since())
        self._start()

    def _start(self) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def _since(self) -> tuple[float, float]:
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def cut_set(data: Path, out: Path, *, train: int, val: int = 2) -> Path:
    """A COCO set of some pictures of another, the same ones each time; more than there are come again."""
    if out.exists():
        return out
    for split, count in (("train", train), ("val", val)):
        path = find_annotations(data, split)
        document, finder = read_document(path), PictureFinder(data, path, split=split)
        images = random.Random(0).sample(document["images"], len(document["images"]))
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in document["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        kept: dict[str, Any] = {"images": [], "annotations": [], "categories": document["categories"]}
        (out / "images").mkdir(parents=True, exist_ok=True)
        (out / "annotations").mkdir(exist_ok=True)
        for number in range(count):
            image = images[number % len(images)]
            name = f"{split}_{number}{Path(image['file_name']).suffix}"
            source = finder.find(picture_names(image))
            shutil.copyfile(source, out / "images" / name)
            kept["images"].append({**image, "id": number, "file_name": name})
            for annotation in by_image.get(image["id"], []):
                entry = {**annotation, "id": len(kept["annotations"]) + 1, "image_id": number}
                kept["annotations"].append(entry)
        text = json.dumps(kept)
        (out / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    return out


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    words = [f"{row['name']:<32}"]
    if "images_per_s" in row:
        words.append(f"{row['images_per_s']:.2f} images/s")
    if "one_process" in row:
        words.append(f"one process {row['one_process']:.2f}, efficiency {row['ratio']:.3f}")
        words.append(verdict(row["ratio"] >= row["goal_ratio"], f"at least {row['goal_ratio']}"))
    if "bare_seconds" in row:
        words.append(f"{row['seconds']:.3f} s a step, bare {row['bare_seconds']:.3f} s, overhead {row['ratio']:.1%}")
        words.append(f"(of CPU time {row['cpu_ratio']:.1%})")
        words.append(verdict(row["ratio"] <= row["goal_ratio"], f"at most {row['goal_ratio']:.0%}"))
        if row["bare_seconds"] < 1:
            words.append("(steps are shorter than a second here)")
    return "  ".join(words)


def verdict(met: bool, goal: str) -> str:
    """Whether a goal is met."""
    return f"{'meets' if met else 'misses'} the goal of {goal}"


if __name__ == "__main__":
    main()
