"""Measure time and memory of the models on this machine, compared with the SAM modules of transformers.

SAM-base, 1024 px, batch 1, 100 instances, random weights. Timings of parts alternate with the plain path, so that other
programs affect both; each whole model runs in its own process, to measure its peak memory.

python examples/bench_model.py [--only encoder,decoder,models,training] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionLayer

from rsprompter_cli.config import KNOWN_SAM
from rsprompter_cli.models import build
from rsprompter_cli.models.builders.sam import build_decoder, build_encoder
from rsprompter_cli.models.cpu.linear import use_fast_linear
from rsprompter_cli.models.sam import modules
from rsprompter_cli.structures import Target

SIDE, OBJECTS, PROMPTS, CLASSES, TRAINED_OBJECTS = 1024, 100, 5, 10, 20
PARTS = ("encoder", "decoder", "models", "training")

# The original's seconds (None where it has no such model) and the goals: seconds fp32, seconds bf16, gigabytes.
MODELS: dict[str, tuple[float | None, float | None, float | None, float | None]] = {
    "rsprompter-anchor": (44, 14, 6, 3),
    "rsprompter-query": (103, 18, 8, 3),
    "samseg-maskrcnn": (17.5, 11, None, 3),
    "samseg-mask2former": (13.5, 10, None, 3),
    "samdet": (28, 14, None, 3),
    "samcls": (None, None, None, None),
    "maskrcnn": (None, None, None, None),
    "mask2former": (None, None, None, None),
}
TRAINING = (27.0, 15.0, 7.0, 4.0)
RATIOS = {  # to the plain path: fp32, bf16
    "encoder": (0.85, 0.75),
    "decoder anchor": (0.17, 0.09),
    "decoder query": (0.25, 0.13),
}


def main() -> None:
    """Measure what is asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated: parts, or kinds of models")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each part; whole models take half as many")
    parser.add_argument("--no-plain", action="store_true", help="whole models without the plain path beside them")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    wanted = options.only.split(",")
    if unknown := [name for name in wanted if name not in (*PARTS, *MODELS)]:
        parser.error(f"--only {unknown[0]}: choose from {', '.join((*PARTS, *MODELS))}")
    about = {
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "repeats": options.repeats,
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    precisions = ["fp32"]
    slower = half_cost()
    if slower < 1:
        precisions.append("bf16")
    else:
        print(f"bf16 left out: a matrix product in it takes {slower:.1f} times the float32 one here", flush=True)
    rows: list[dict[str, Any]] = []
    for precision in precisions:
        for row in measure(wanted, precision, options.repeats, plain=not options.no_plain):
            rows.append(row)
            print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def measure(wanted: list[str], precision: str, repeats: int, *, plain: bool) -> Any:
    """One row after the other."""
    if "encoder" in wanted:
        yield bench_encoder(precision, repeats)
    if "decoder" in wanted:
        yield bench_decoder("decoder anchor", precision, repeats)
        yield bench_decoder("decoder query", precision, repeats)
    runs = (repeats + 1) // 2
    for kind, figures in MODELS.items():
        if "models" in wanted or kind in wanted:
            yield whole({"kind": kind, "training": False, "precision": precision, "runs": runs}, figures, plain=plain)
    if "training" in wanted:
        asked = {"kind": "rsprompter-anchor", "training": True, "precision": precision, "runs": runs}
        yield whole(asked, TRAINING, plain=plain)


def bench_encoder(precision: str, repeats: int) -> dict[str, Any]:
    """SAM's encoder against transformers'."""
    torch.manual_seed(0)
    encoder: Any = build_encoder(KNOWN_SAM["base"], SIDE).eval()
    shaken(encoder)
    plain_encoder = copy.deepcopy(encoder)
    use_fast_linear(encoder)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    return pair(
        "encoder",
        precision,
        repeats,
        plain=lambda: plain_encoder.vit(pixels).last_hidden_state,
        ours=lambda: encoder(pixels).embedding,
        plain_in=precision,
    )


def bench_decoder(name: str, precision: str, repeats: int) -> dict[str, Any]:
    """The decoder of 100 prompts against transformers' in one float32 batch."""
    torch.manual_seed(0)
    decoder = build_decoder(KNOWN_SAM["base"], default_chunk()).eval()
    plain_decoder = copy.deepcopy(decoder)
    use_fast_linear(decoder)
    cells, width = SIDE // 16, KNOWN_SAM["base"].output_channels
    embedding, prompts = torch.randn(1, width, cells, cells), torch.randn(OBJECTS, PROMPTS, width)
    dense = torch.randn(OBJECTS, width, cells, cells) if name == "decoder query" else None
    return pair(
        name,
        precision,
        repeats,
        plain=lambda: plain_with_quality(plain_decoder, embedding, prompts, dense=dense, multimask=False)[0][:, 0],
        ours=lambda: decoder(embedding, prompts, dense),
        plain_in="fp32",
    )


def pair(
    name: str,
    precision: str,
    repeats: int,
    *,
    plain: Callable[[], Tensor],
    ours: Callable[[], Tensor],
    plain_in: str,
) -> dict[str, Any]:
    """Medians of both in turn, and how far apart their answers are."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    answers = {}
    with torch.no_grad():
        for _ in range(repeats):
            for which, run, kind in (("plain", plain, plain_in), ("ours", ours, precision)):
                began = time.perf_counter()
                with arithmetic(kind):
                    answers[which] = run()
                seconds[which].append(time.perf_counter() - began)
    theirs, mine = (statistics.median(seconds[which]) for which in ("plain", "ours"))
    apart = float((answers["plain"].float() - answers["ours"].float()).abs().max())
    goal = RATIOS[name][precision == "bf16"]
    return {
        "name": name, "precision": precision, "seconds": mine, "plain_seconds": theirs, "ratio": mine / theirs,
        "goal_ratio": goal, "largest_difference": apart, "largest_value": float(answers["plain"].abs().max()),
    }  # fmt: skip


def whole(asked: dict[str, Any], figures: tuple[float | None, ...], *, plain: bool) -> dict[str, Any]:
    """A whole model in a process of its own, and once more with the plain modules where it has a SAM."""
    original, goal_fp32, goal_bf16, goal_memory = figures
    name = f"{asked['kind']}{' training step' if asked['training'] else ''}"
    row = {
        "name": name, "precision": asked["precision"], "original_seconds": original,
        "goal_seconds": goal_bf16 if asked["precision"] == "bf16" else goal_fp32, "goal_gb": goal_memory,
    }  # fmt: skip
    found = in_process({**asked, "plain": False})
    row |= found
    if plain and "error" not in found and asked["kind"] not in ("maskrcnn", "mask2former", "samcls"):
        theirs = in_process({**asked, "plain": True, "runs": 1})
        row |= {f"plain_{key}": value for key, value in theirs.items()}
        if "seconds" in theirs:
            row["ratio"] = found["seconds"] / theirs["seconds"]
    return row


def in_process(asked: dict[str, Any]) -> dict[str, Any]:
    """What `child` says in a fresh interpreter."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """Median seconds, instances and peak memory of a model or of a training step."""
    if asked["plain"]:
        use_plain_modules()
    torch.manual_seed(0)
    model = build.build_model(configuration(asked["kind"]), num_classes=CLASSES)
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    seconds, count = [], None
    for _ in range(asked["runs"]):
        began = time.perf_counter()
        with arithmetic(asked["precision"]):
            if asked["training"]:
                train_once(model.train(), image)
            else:
                (found,) = model.eval()([image])
                count = int(found.scores.shape[0])
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "instances": count, "peak_gb": peak_gigabytes()}


def configuration(kind: str) -> Any:
    """The default configuration of a kind, its score threshold away so that random weights find things."""
    from pydantic import TypeAdapter

    from rsprompter_cli.config import ModelConfig

    values: dict[str, Any] = {"kind": kind}
    if kind in ("samdet", "samcls", "maskrcnn", "mask2former"):
        values["backbone_weights"] = "random"
    if kind in ("rsprompter-anchor", "samseg-maskrcnn", "samdet"):
        values["roi"] = {"score_threshold": 0.0}
    if kind == "maskrcnn":
        values["score_threshold"] = 0.0
    return TypeAdapter(ModelConfig).validate_python(values)


def train_once(model: nn.Module, image: Tensor) -> None:
    """Losses, gradients and a step of AdamW for one picture with 20 objects."""
    corners = torch.arange(TRAINED_OBJECTS)
    start = SIDE * torch.stack([0.04 + 0.19 * (corners % 5), 0.04 + 0.24 * (corners // 5)], dim=1)
    boxes = torch.cat([start, start + 0.12 * SIDE], dim=1).round()
    masks = torch.zeros(TRAINED_OBJECTS, SIDE, SIDE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-6)
    losses = model([image], [Target(boxes, corners % CLASSES, masks)])
    sum(losses.values()).backward()
    optimizer.step()


def use_plain_modules() -> None:
    """From here on this process runs transformers' own encoder layers and mask decoder, and torch's linear layers."""

    def layer_of_transformers(layer: SamVisionLayer, cells: Tensor) -> Tensor:
        result: Tensor = layer(cells)
        return result

    modules.vit_layer = layer_of_transformers  # type: ignore[attr-defined]
    modules.PromptedDecoder.with_quality = plain_with_quality  # type: ignore[method-assign]
    build.use_fast_linear = lambda model: None  # type: ignore[attr-defined]


def plain_with_quality(
    self: modules.PromptedDecoder, embedding: Tensor, prompts: Tensor, *, dense: Tensor | None = None, multimask: bool
) -> tuple[Tensor, Tensor]:
    """As PromptedDecoder's, by transformers' decoder in one batch."""
    rows, columns = embedding.shape[-2:]
    if dense is None:
        dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(prompts.shape[0], -1, rows, columns)
    masks, quality = self.decoder(
        image_embeddings=embedding.expand(prompts.shape[0], -1, -1, -1),
        image_positional_embeddings=self.positions(rows, columns),
        sparse_prompt_embeddings=prompts[:, None],
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return masks[:, 0].float(), quality[:, 0].float()


def default_chunk() -> int:
    """Prompts decoded at a time where the user says nothing."""
    chunk: int = configuration("rsprompter-anchor").mask_chunk
    return chunk


def shaken(encoder: nn.Module) -> None:
    """Random position tables, which start at zero."""
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if "pos" in name:
                value.normal_(std=0.1)


def arithmetic(precision: str) -> AbstractContextManager[Any]:
    """Autocast for bf16, nothing for fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def half_cost(side: int = 512) -> float:
    """Time of a bf16 matrix product over that of a float32 one."""
    times = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(side, side).to(dtype)
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            matrix @ matrix
            taken.append(time.perf_counter() - began)
        times.append(min(taken))
    return times[1] / times[0]


def peak_gigabytes() -> float | None:
    """The most memory this process has held; None on Windows."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        # Of this program alone: getrusage's figure starts from that of the program that started it.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(one.split()[1]) * 1024 / 1e9 for one in lines if one.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024) / 1e9


def processor() -> str:
    """The CPU's name where it can be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((one.split(":", 1)[1].strip() for one in lines if one.startswith("model name")), platform.machine())


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    head = f"{row['name']:<32} {row['precision']}"
    if "error" in row:
        return f"{head}  {row['error']}"
    words = [f"{row['seconds']:.2f} s"]
    if "plain_seconds" in row:
        words.append(f"transformers {row['plain_seconds']:.2f} s, ratio {row['ratio']:.3f}")
    elif "plain_error" in row:
        words.append(f"transformers: {row['plain_error']}")
    if "largest_difference" in row:
        words.append(f"differs by {row['largest_difference']:.1e} of {row['largest_value']:.1f}")
        words.append(verdict(row["ratio"], row["goal_ratio"], "x"))
    else:
        if row["original_seconds"]:
            words.append(f"the original {row['original_seconds']} s")
        words.append(verdict(row["seconds"], row["goal_seconds"], " s"))
        if row["peak_gb"] is not None:
            words.append(f"peak {row['peak_gb']:.2f} GB {verdict(row['peak_gb'], row['goal_gb'], ' GB')}".strip())
        if row["instances"] is not None:
            words.append(f"{row['instances']} instances")
    return f"{head}  " + ", ".join(word for word in words if word)


def verdict(value: float, goal: float | None, unit: str) -> str:
    """Whether a goal is met."""
    return "" if goal is None else f"(goal {goal}{unit}: {'met' if value <= goal else 'MISSED'})"


if __name__ == "__main__":
    main()
