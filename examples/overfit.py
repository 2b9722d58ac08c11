"""Overfit every kind of model on eight pictures, with the commands of `rsp`.

    python examples/overfit.py --shared ../shared --out runs/overfit
    python examples/overfit.py --only rsprompter-anchor,samdet

Takes eight pictures of SHARED/data/nwpu, reduces them, and trains each kind on them from random weights
(samdet and samcls with a pretrained, frozen SAM). A kind that cannot fit these pictures has a bug. The
script writes to OUT: set/ (COCO), one run folder per kind with loss.png (its losses) and shown/
(overlays), and summary.json. The exit code is 1 if a model does not reach its goal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chain import rsp
from PIL import Image, ImageDraw

SIDE = 256
"""Longest side of the pictures and side of every model's input, pixels."""
PICTURES = 8
SMALLEST = 24
"""Shorter side of the smallest object in a picture that is taken, pixels at that size."""
OBJECTS = (2, 8)
PER_CLASS = 2
"""A picture is taken for a class that fewer of those before it had."""

SAM_ARCH = (
    'model.sam_arch={kind = "vit", hidden_size = 96, num_layers = 6, num_heads = 4, mlp_dim = 384, '
    "global_attn_indexes = [1, 3, 5], window_size = 8, output_channels = 64, pretrained_image_size = 256, "
    "decoder = {hidden_size = 64, mlp_dim = 128, num_heads = 4, iou_head_hidden_dim = 64}}"
)
COMMON = (
    "data.val_split=val",
    "train.weight_decay=1e-4",
    "train.warmup_steps=20",
    "train.clip_grad=1.0",
    "train.precision=fp32",
    "train.workers=0",
    "train.save_minutes=60",
    "train.batch_size=2",
    "train.augment.flip=0",
    "train.augment.scale=[1.0, 1.0]",
)
SMALL_SAM = (SAM_ARCH, f"model.image_size={SIDE}", "model.encoder=full", "model.neck.out_channels=64")
SMALL_ROI = ("model.roi.fc_channels=256", "model.roi.samples=64")
SMALL_QUERY = (
    "model.query.queries=12",
    "model.query.channels=64",
    "model.query.decoder_layers=3",
    "model.query.encoder_feedforward=128",
    "model.query.decoder_feedforward=128",
    "model.query.loss_points=2048",
)
ALL_OF_THE_RESNET = ("model.frozen_stages=-1", "model.frozen_norms=false")
SMALL_RESNET = ("model.backbone={stem_channels = 32, hidden_sizes = [64, 128, 256, 512], depths = [2, 2, 2, 2]}",)
TINY_SAM = ("model.sam=tiny-vit", f"model.image_size={SIDE}")


COLOURS = ("black", "red", "blue", "green", "orange", "purple", "teal", "brown", "magenta")


@dataclass(frozen=True)
class Recipe:
    """How a kind is trained: words of `rsp train`, settings beside COMMON, length and rate."""

    options: tuple[str, ...]
    settings: tuple[str, ...]
    epochs: int
    lr: float


RANDOM_SAM, RANDOM_RESNET = ("--random-sam",), ("--backbone-weights", "random")
RECIPES = {
    # Its mask decoder starts random too, and its loss is a mean over whole pictures: AP50 0.52 after 700 steps.
    "rsprompter-anchor": Recipe(RANDOM_SAM, (*SMALL_SAM, *SMALL_ROI, "model.roi.mask_samples=16"), 400, 1e-3),
    "rsprompter-query": Recipe(RANDOM_SAM, (*SMALL_SAM, *SMALL_QUERY), 150, 5e-4),
    "samseg-maskrcnn": Recipe(RANDOM_SAM, (*SMALL_SAM, *SMALL_ROI), 125, 8e-4),
    "samseg-mask2former": Recipe(RANDOM_SAM, (*SMALL_SAM, *SMALL_QUERY, "train.batch_size=4"), 200, 5e-4),
    "samdet": Recipe(
        RANDOM_RESNET,
        (*TINY_SAM, *ALL_OF_THE_RESNET, *SMALL_RESNET, *SMALL_ROI, "model.out_channels=64", "train.batch_size=4"),
        150,
        5e-4,
    ),
    "samcls": Recipe(RANDOM_RESNET, (*TINY_SAM, "model.automask.points_per_side=12", "model.crop_size=64"), 40, 5e-4),
    "maskrcnn": Recipe(
        RANDOM_RESNET,
        (
            f"model.image_size={SIDE}",
            *ALL_OF_THE_RESNET,
            "model.roi_samples=32",
            "model.max_proposals=100",
        ),
        85,
        5e-4,
    ),
    "mask2former": Recipe(
        RANDOM_RESNET,
        (f"model.image_size={SIDE}", *ALL_OF_THE_RESNET, *SMALL_RESNET, *SMALL_QUERY, "train.batch_size=4"),
        350,
        5e-4,
    ),
}
ORACLE_GAP = 0.05
"""How far the AP50 of samdet's masks may be from that of SAM's masks for the true boxes."""


@dataclass(frozen=True)
class Finding:
    """One figure of one kind, what it must exceed (or stay below, where `below`), and whether it does."""

    kind: str
    figure: str
    value: float
    bound: float
    below: bool = False

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side of its bound; one that is no number is on neither."""
        return self.value <= self.bound if self.below else self.value > self.bound


def make_set(source: Path, folder: Path) -> None:
    """Eight small pictures with their objects, the same for training and validation."""
    document = json.loads((source / "annotations" / "NWPU_instances_train.json").read_text(encoding="utf-8"))
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for one in document["annotations"]:
        objects[one["image_id"]].append(one)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in choose(document["images"], objects):
        with Image.open(source / "images" / image["file_name"]) as picture:
            factor = SIDE / max(picture.size)
            size = (round(picture.width * factor), round(picture.height * factor))
            name = Path(image["file_name"]).with_suffix(".png").name
            picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(folder / "images" / name)
        scales = (size[0] / image["width"], size[1] / image["height"])
        images.append({"id": image["id"], "file_name": name, "width": size[0], "height": size[1]})
        annotations += [shrink(one, *scales) for one in objects[image["id"]]]
    used = {one["category_id"] for one in annotations}
    categories = [one for one in document["categories"] if one["id"] in used]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories}) + "\n"
    (folder / "annotations").mkdir(exist_ok=True)
    for split in ("train", "val"):
        (folder / "annotations" / f"{split}.json").write_text(text, encoding="utf-8")


def choose(images: list[dict[str, Any]], objects: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first pictures by id with a few objects, none of them tiny, of classes not yet seen enough."""
    chosen: list[dict[str, Any]] = []
    seen: Counter[int] = Counter()
    for image in sorted(images, key=lambda one: one["id"]):
        inside = objects[image["id"]]
        factor = SIDE / max(image["width"], image["height"])
        if not OBJECTS[0] <= len(inside) <= OBJECTS[1]:
            continue
        if min(min(one["bbox"][2:]) for one in inside) * factor < SMALLEST:
            continue
        classes = {one["category_id"] for one in inside}
        if len(chosen) < PICTURES and any(seen[one] < PER_CLASS for one in classes):
            chosen.append(image)
            seen.update(classes)
    return chosen


def shrink(one: dict[str, Any], across: float, down: float) -> dict[str, Any]:
    """An annotation of a picture resized by factors across and down."""
    rings = [[x * (down if index % 2 else across) for index, x in enumerate(ring)] for ring in one["segmentation"]]
    x, y, width, height = one["bbox"]
    box = [x * across, y * down, width * across, height * down]
    return one | {"segmentation": rings, "bbox": box, "area": one["area"] * across * down}


def train(kind: str, data: Path, out: Path, masks: Path) -> Path:
    """A run folder's last checkpoint."""
    recipe = RECIPES[kind]
    settings = [*COMMON, *recipe.settings, f"train.lr={recipe.lr}", f"train.epochs={recipe.epochs}"]
    settings.append(f"train.eval_every={recipe.epochs}")
    if kind == "samcls":
        settings.append(f"train.cache_folder={json.dumps(str(masks))}")
    words = [word for setting in settings for word in ("--set", setting)]
    rsp("train", f"{kind}-nwpu", "--data", data, "--out", out, "--overwrite", *recipe.options, *words)
    draw_losses(out)
    return out / "last"


def evaluate(checkpoint: Path, data: Path, *options: str | Path) -> tuple[float, float]:
    """AP50 of masks and boxes on the pictures that were trained on."""
    text = rsp("eval", checkpoint, "--data", data, "--split", "train", "--json", "--precision", "fp32", *options)
    figures = json.loads(text)
    return figures["segm"]["AP50"] or 0.0, figures["bbox"]["AP50"] or 0.0


def classifier_accuracy(checkpoint: Path, data: Path, masks: Path) -> tuple[float, float]:
    """The share of SAM-cls's masks that its classifier names as their labels do, of all and of objects."""
    import torch

    from rsprompter_cli import load_model
    from rsprompter_cli.data.coco.read import read_coco
    from rsprompter_cli.data.dataset import CocoDataset
    from rsprompter_cli.models.architectures.crops import mask_crops
    from rsprompter_cli.models.sam.mask_cache import AutomaskCache

    model: Any = load_model(checkpoint).model
    device = torch.device("cpu")
    # The masks that the run made: SAM is not asked again.
    model.mask_cache = AutomaskCache(masks, model.segmenter, model.automask, device=device, dtype=torch.float32)
    right: list[bool] = []
    is_object: list[bool] = []
    with torch.no_grad():
        for image, target, _ in CocoDataset(read_coco(data / "annotations" / "train.json"), data):
            found = model.find_masks(image)
            labels = model.label_masks(found, target)
            sizes = {"size": model.crop_size, "scale": model.crop_scale, "blur": model.blur}
            crops = mask_crops(image.float(), found.masks, found.boxes, chosen=range(len(found)), **sizes)
            logits = model.classify(crops)
            right += (logits.argmax(dim=1) == labels).tolist()
            is_object += (labels < logits.shape[1] - 1).tolist()
    named = [hit for hit, real in zip(right, is_object, strict=True) if real]
    print(f"samcls: {len(right)} masks, {len(named)} of them objects")
    return sum(right) / max(len(right), 1), sum(named) / max(len(named), 1)


def check(kind: str, checkpoint: Path, data: Path, masks: Path) -> list[Finding]:
    """The figures that a kind must reach on the pictures that it was trained on."""
    shown = ("--show-dir", checkpoint.parent / "shown", "--overwrite")
    mask, box = evaluate(checkpoint, data, *shown)
    if kind == "samdet":
        best, _ = evaluate(checkpoint, data, "--oracle")
        print(f"samdet: mask AP50 {mask:.4f}, of the true boxes {best:.4f}")
        return [
            Finding(kind, "box AP50", box, 0.8),
            Finding(kind, "mask AP50 from its oracle's", abs(best - mask), ORACLE_GAP, below=True),
        ]
    if kind == "samcls":
        print(f"samcls: mask AP50 {mask:.4f}")
        names = ("accuracy, all masks", "accuracy, objects")
        found = classifier_accuracy(checkpoint, data, masks)
        return [Finding(kind, name, value, 0.95) for name, value in zip(names, found, strict=True)]
    return [Finding(kind, "mask AP50", mask, 0.8)]


def draw_losses(run: Path) -> None:
    """The losses of a run over its steps, on a logarithmic scale, into loss.png."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    curves = {"all": [record["loss"] for record in steps]}
    # Those that the query models have for each layer of the decoder are in the sum only.
    names = [name for name in steps[0]["losses"] if "." not in name]
    curves |= {name: [record["losses"][name] for record in steps] for name in names}
    values = [max(value, 1e-4) for curve in curves.values() for value in curve]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    width, height, edge, legend = 900, 500, 50, 120
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)

    def place(step: float, value: float) -> tuple[float, float]:
        along = step / steps[-1]["step"]
        up = (math.log10(max(value, 1e-4)) - low) / max(high - low, 1)
        return edge + along * (width - edge - legend), height - edge - up * (height - 2 * edge)

    for power in range(low, high + 1):
        pen.line([place(0, 10.0**power), place(steps[-1]["step"], 10.0**power)], fill="lightgray")
        pen.text((4, place(0, 10.0**power)[1]), f"{10.0**power:g}", fill="black", anchor="lm")
    pen.text((width - legend, height - edge / 2), f"step {steps[-1]['step']}", fill="black", anchor="rm")
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        pen.line([place(record["step"], value) for record, value in zip(steps, curve, strict=True)], fill=colour)
        pen.text((width - legend + 8, edge + 14 * index), name, fill=colour, anchor="lm")
    picture.save(run / "loss.png")


def main() -> None:
    """The kinds one after the other, then the table of their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RSP_SHARED", "../shared")))
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--only", default=",".join(RECIPES), help="kinds to train, with commas; default: all")
    options = parser.parse_args()
    source, out, kinds = options.shared / "data" / "nwpu", options.out, options.only.split(",")
    if not source.is_dir():
        parser.error(f"--shared {options.shared}: there is no folder data/nwpu in it")
    if unknown := [kind for kind in kinds if kind not in RECIPES]:
        parser.error(f"--only {', '.join(unknown)}: the kinds are {', '.join(RECIPES)}")

    make_set(source, out / "set")
    rsp("data", "check", out / "set")
    if {"samdet", "samcls"} & set(kinds):
        rsp("download-sam", "tiny-vit")
    findings, minutes = [], {}
    for kind in kinds:
        began = time.monotonic()
        checkpoint = train(kind, out / "set", out / kind, out / "masks")
        minutes[kind] = round((time.monotonic() - began) / 60, 1)
        findings += check(kind, checkpoint, out / "set", out / "masks")

    print(f"\n{'kind':20}{'figure':30}{'reached':>9}  {'must':9}{'minutes':>9}")
    for one in findings:
        must = f"{'<=' if one.below else '>'} {one.bound}"
        verdict = "pass" if one.passed else "FAIL"
        print(f"{one.kind:20}{one.figure:30}{one.value:9.4f}  {must:9}{minutes[one.kind]:9}  {verdict}")
    summary = {"findings": [asdict(one) | {"passed": one.passed} for one in findings], "minutes": minutes}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(one.passed for one in findings) else 1)


if __name__ == "__main__":
    main()
