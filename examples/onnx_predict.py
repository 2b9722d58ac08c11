"""Find objects in a picture with a model that `rsp checkpoint export --format onnx` wrote, without PyTorch.

Needs numpy, pillow and onnxruntime only:

    rsp checkpoint export bundled --format onnx --out buildings-onnx
    python examples/onnx_predict.py buildings-onnx examples/scene/town.tif found.png --part 0 0 256 256

The picture should have the ground resolution of the model's training, see gsd_range in meta.json, and is seen whole,
its longer side reduced or enlarged to image_size pixels. For scenes of any size use `rsp predict`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from PIL import Image

OBJECTS_AT_ONCE = 8
"""How many objects a mask decoder is given at a time: more need more memory."""


class Objects(NamedTuple):
    """Boxes float [N, 4] xyxy in pixels of the picture, labels [N], scores [N], masks bool [N, H, W]."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray


class OnnxModel:
    """The graphs of a folder, ready to run."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / graph["file"], providers=["CPUExecutionProvider"])
            for name, graph in self.meta["graphs"].items()
        }

    def __call__(self, picture: np.ndarray, score_threshold: float | None = None) -> Objects:
        """Find the objects of a picture uint8 [H, W, 3] RGB; by default those that reach the model's own threshold."""
        meta, side = self.meta, self.meta["image_size"]
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        rows, columns = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
        resized = bilinear(picture.transpose(2, 0, 1).astype(np.float32), rows, columns)
        if meta["rounds_pixels"]:
            resized = np.floor(resized + 0.5)
        image = np.empty((1, 3, side, side), np.float32)
        image[:] = np.array(meta["padding"], np.float32)[None, :, None, None]
        image[0, :, :rows, :columns] = resized
        threshold = meta["score_threshold"] if score_threshold is None else score_threshold
        values = {"image": image, "score_threshold": np.array(threshold, np.float32)}
        for name, session in self.sessions.items():
            values |= self._run(name, session, values)
        labels, scores = values["labels"], values["scores"]
        ratio = np.array([columns / width, rows / height] * 2, np.float32)
        boxes = values["boxes"] / ratio if "boxes" in values else np.zeros((len(labels), 4), np.float32)
        # As the masks were made in training: the part of the square that shows the picture, truncated.
        content = max(int(height * (rows / height)), 1), max(int(width * (columns / width)), 1)
        masks = np.zeros((len(boxes), height, width), bool)
        for number, (low, box) in enumerate(zip(values["masks"], boxes, strict=True)):
            if meta["masks"] == "over the box":
                stretched = paste(low, box, height, width)
            else:
                whole = bilinear(low, side, side)[: content[0], : content[1]]
                stretched = bilinear(whole, height, width)
            masks[number] = stretched >= meta["mask_threshold"]
            if meta["by_mask"]:
                boxes[number], certainty = bounds_and_certainty(masks[number], stretched)
                scores[number] *= certainty
        order = np.argsort(-scores, kind="stable")
        return Objects(boxes[order], labels[order], scores[order], masks[order])

    def _run(self, name: str, session: Any, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self.meta["graphs"][name]
        inputs = {key: values[key] for key in graph["inputs"]}
        each = graph["per_object"]
        if not each:
            return dict(zip(graph["outputs"], session.run(None, inputs), strict=True))
        count = len(inputs[each[0]])
        parts = [
            session.run(None, inputs | {key: inputs[key][first : first + OBJECTS_AT_ONCE] for key in each})
            for first in range(0, max(count, 1), OBJECTS_AT_ONCE)
        ]
        return {key: np.concatenate(some) for key, some in zip(graph["outputs"], zip(*parts, strict=True), strict=True)}


def bounds_and_certainty(mask: np.ndarray, logits: np.ndarray) -> tuple[tuple[float, ...], float]:
    """The box of a mask, zeros for an empty one, and the mean probability over it."""
    if not mask.any():
        return (0.0, 0.0, 0.0, 0.0), 0.0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    certainty = float((1 / (1 + np.exp(-logits[mask]))).mean())
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)), certainty


def bilinear(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Maps [.., h, w] at another size, pixel areas aligned, without smoothing."""
    for axis, count in ((-2, rows), (-1, columns)):
        size = maps.shape[axis]
        if size == count:
            continue
        place = np.clip((np.arange(count, dtype=np.float32) + 0.5) * np.float32(size / count) - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape(-1, *[1] * (-1 - axis))
        first, second = maps.take(low, axis), maps.take(np.minimum(low + 1, size - 1), axis)
        maps = first * (1 - share) + second * share
    return maps


def paste(low: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [h, w] over a box, at the pixels of the picture; 0 outside."""
    padded = np.pad(low, 1)
    result = np.zeros((height, width), np.float32)
    x0, y0, x1, y1 = box
    left, right = max(int(np.floor(x0)) - 1, 0), min(int(np.ceil(x1)) + 1, width)
    top, bottom = max(int(np.floor(y0)) - 1, 0), min(int(np.ceil(y1)) + 1, height)
    if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
        return result
    across = (np.arange(left, right) + 0.5 - x0) / (x1 - x0) * low.shape[1] + 0.5
    down = (np.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * low.shape[0] + 0.5
    across, down = np.clip(across, 0, low.shape[1] + 0.999), np.clip(down, 0, low.shape[0] + 0.999)
    j, i = across.astype(int), down.astype(int)
    u, v = across - j, (down - i)[:, None]
    upper = padded[i][:, j] * (1 - u) + padded[i][:, j + 1] * u
    lower = padded[i + 1][:, j] * (1 - u) + padded[i + 1][:, j + 1] * u
    result[top:bottom, left:right] = upper * (1 - v) + lower * v
    return result


def main() -> None:
    """Print what is found, and write the picture with the masks over it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="written by rsp checkpoint export --format onnx")
    parser.add_argument("picture")
    parser.add_argument("out", help="the picture to write")
    parser.add_argument("--part", type=int, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="see these pixels only")
    parser.add_argument("--score", type=float, help="keep objects of at least this score (default: the model's own)")
    options = parser.parse_args()
    model = OnnxModel(options.folder)
    image = Image.open(options.picture).convert("RGB")
    picture = np.asarray(image.crop(options.part) if options.part else image)
    found = model(picture, options.score)
    for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        print(f"{model.meta['class_names'][label]} {score:.3f}", *(f"{value:.1f}" for value in box))
    shown = picture.astype(np.float32)
    inside = found.masks.any(axis=0)
    shown[inside] = shown[inside] * 0.5 + np.array((255, 0, 255)) * 0.5
    Image.fromarray(shown.astype(np.uint8)).save(options.out)
    print(f"{len(found.scores)} objects, {options.out}")


if __name__ == "__main__":
    main()
