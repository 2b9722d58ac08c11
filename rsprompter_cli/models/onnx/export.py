"""A checkpoint written as ONNX graphs, which are run once and compared with the model before they are kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.atomic import atomic_folder
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta, find_checkpoint
from rsprompter_cli.io.model_files.onnx_folder import FORMAT, META_FILE, refuse_other_onnx, require_packages
from rsprompter_cli.models.layers.boxes import box_overlaps
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.onnx.graphs import (
    BOXES,
    IMAGE,
    LABELS,
    MASKS,
    SCORES,
    THRESHOLD,
    Found,
    Graph,
    OnnxModel,
    anchor_graphs,
    mask2former_graphs,
    maskrcnn_graphs,
    query_graphs,
    samdet_graphs,
)

_KINDS: Mapping[str, Callable[[Any], OnnxModel]] = {
    "rsprompter-anchor": anchor_graphs,
    "rsprompter-query": query_graphs,
    "samseg-maskrcnn": maskrcnn_graphs,
    "samseg-mask2former": mask2former_graphs,
    "samdet": samdet_graphs,
}
_SAME_BOX = 0.9
"""Overlap above which two boxes of a label are of the same object."""

_PAIRED = 0.95
"""Share of the objects that both must have found; rounding changes which of two equal ones a suppression keeps."""

_CLOSE = 1e-3
"""By how much scores and masks, as probabilities, may differ at most."""

_OBJECTS = 8
"""Objects decoded at a time: at 1024 pixels each takes some 30 MB."""

_RECTANGLES = 40
"""Of the test picture."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The graphs and their model on a test picture.

    found: objects of the model; paired: those of them that the graphs found too.
    boxes, scores, masks: largest differences of those, in pixels and as probabilities.
    """

    found: int
    paired: int
    boxes: float
    scores: float
    masks: float


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """What was written: bytes by the name of the file, and how it compares with the model."""

    files: Mapping[str, int]
    compared: Comparison


def export_onnx(folder: str | Path, out: str | Path, *, overwrite: bool = False) -> OnnxExport:
    """Write the graphs of a checkpoint folder, and `meta.json` with what a caller must know of them.

    Raises:
        CheckpointError: no checkpoint folder, a kind of model that has no graphs, or graphs with other results.
        DependencyError: the packages of the extra `onnx` are not installed.
        OutputError: the folder exists, contains something else, or cannot be written.
    """
    require_packages()
    out = Path(out)
    refuse_other_onnx(out, overwrite=overwrite, inputs=[find_checkpoint(folder)])
    loaded = load_model(folder)
    kind = loaded.config.model.kind
    make = _KINDS.get(kind)
    if make is None:
        raise CheckpointError(
            f"{folder}: a {kind} model cannot be written as ONNX", "these can: " + ", ".join(sorted(_KINDS))
        )
    exported = make(loaded.model)
    with atomic_folder(out) as temporary:
        for name, graph in exported.graphs.items():
            _trace(graph).save(temporary / f"{name}.onnx")
        description = _describe(exported, kind, loaded.meta, loaded.model)
        (temporary / META_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        try:
            compared = _compare(loaded.model, exported, temporary)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error.message}", error.hint) from error
    return OnnxExport(files, compared)


def _trace(graph: Graph) -> Any:
    """The ONNX program of a graph."""
    dynamic = {name: {0: torch.export.Dim.DYNAMIC} if name in graph.per_object else None for name in graph.inputs}
    # With gradients models compute by plain operators of torch, without those that are faster on one processor.
    with _quiet(), torch.enable_grad():
        return torch.onnx.export(
            graph.module.eval(),
            (),
            kwargs=dict(graph.inputs),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the exporter for those who write operators."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _describe(exported: OnnxModel, kind: str, meta: CheckpointMeta, model: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind,
        "class_names": list(meta.class_names),
        "image_size": model.image_size,
        "padding": list(exported.pad),
        "rounds_pixels": exported.rounds_pixels,
        "score_threshold": meta.score_threshold,
        "mask_threshold": exported.mask_threshold,
        "masks": "over the box" if exported.masks_in_boxes else "over the square",
        "by_mask": exported.by_mask,
        "gsd_range": meta.gsd_range,
        "graphs": {
            name: {
                "file": f"{name}.onnx",
                "inputs": list(graph.inputs),
                "outputs": list(graph.outputs),
                "per_object": list(graph.per_object),
            }
            for name, graph in exported.graphs.items()
        },
        "versions": dict(meta.versions),
    }


def _compare(model: Any, exported: OnnxModel, folder: Path) -> Comparison:
    """The model and its graphs on the same picture, in which every candidate counts as found.

    Raises:
        CheckpointError: they find different things.
    """
    image = _test_picture(model.image_size)
    if not exported.by_mask:
        model.box_head.score_threshold = 0.0
    with torch.no_grad():
        wanted = exported.find(image)
    found = _run(exported, folder, image)
    rows, columns = _pairs(wanted, found)
    result = Comparison(
        found=len(wanted.scores),
        paired=len(rows),
        boxes=_box_difference(wanted, found, rows, columns),
        scores=_largest(wanted.scores[rows] - found.scores[columns]),
        masks=_largest(_chances(exported, wanted.masks[rows]) - _chances(exported, found.masks[columns])),
    )
    most = max(result.found, len(found.scores))
    # Written so that a difference that is not a number is too large.
    close = result.scores <= _CLOSE and result.masks <= _CLOSE
    if not result.found or result.paired < _PAIRED * most or not close:
        raise CheckpointError(
            f"its ONNX graphs find {len(found.scores)} objects, {result.paired} of the {result.found} that the model "
            f"finds, with scores that differ by up to {result.scores:.1g} and masks by up to {result.masks:.1g}",
            "are onnxruntime and onnxscript up to date?",
        )
    return result


def _test_picture(side: int) -> Tensor:
    """Bright and dark rectangles on a rough ground, [1, 3, S, S] on the 0..255 scale; the same at each call."""
    random = np.random.default_rng(0)
    picture = random.normal(110, 12, (side, side, 3))
    for _ in range(_RECTANGLES):
        top, left = random.integers(0, side - side // 8, 2)
        rows, columns = random.integers(side // 32 + 1, side // 8 + 1, 2)
        picture[top : top + rows, left : left + columns] = random.uniform(0, 255, 3)
    return torch.from_numpy(picture.clip(0, 255).astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def _run(exported: OnnxModel, folder: Path, image: Tensor) -> Found:
    """What the graphs in a folder find."""
    import onnxruntime

    values: dict[str, np.ndarray] = {IMAGE: image.numpy(), THRESHOLD: np.zeros((), np.float32)}
    for name, graph in exported.graphs.items():
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        results = _run_one(session, graph, values)
        values |= dict(zip(graph.outputs, results, strict=True))
    boxes, labels, scores, masks = (
        torch.from_numpy(values[name]) if name in values else None for name in (BOXES, LABELS, SCORES, MASKS)
    )
    return Found(boxes, *(one for one in (labels, scores, masks) if one is not None))


def _run_one(session: Any, graph: Graph, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph; for a few objects at a time where it takes any number of them."""
    inputs = {name: values[name] for name in graph.inputs}
    if not graph.per_object:
        return list(session.run(None, inputs))
    count = len(values[graph.per_object[0]])
    parts = [
        session.run(None, inputs | {name: inputs[name][first : first + _OBJECTS] for name in graph.per_object})
        for first in range(0, max(count, 1), _OBJECTS)
    ]
    return [np.concatenate(some) for some in zip(*parts, strict=True)]


def _pairs(wanted: Found, found: Found) -> tuple[Tensor, Tensor]:
    """Which objects are the same: indices into either, int64 [M] each.

    Without boxes those of the same place in the order, if they have the same label.
    """
    if wanted.boxes is None or found.boxes is None:
        count = min(len(wanted.labels), len(found.labels))
        same = (wanted.labels[:count] == found.labels[:count]).nonzero().squeeze(1)
        return same, same
    overlaps = box_overlaps(wanted.boxes, found.boxes)
    overlaps = overlaps * (wanted.labels[:, None] == found.labels[None, :])
    rows, columns = linear_sum_assignment(overlaps.numpy(), maximize=True)
    same = overlaps[rows, columns] > _SAME_BOX
    return torch.from_numpy(rows)[same], torch.from_numpy(columns)[same]


def _chances(exported: OnnxModel, masks: Tensor) -> Tensor:
    return masks.sigmoid() if exported.mask_threshold == 0 else masks


def _box_difference(wanted: Found, found: Found, rows: Tensor, columns: Tensor) -> float:
    if wanted.boxes is None or found.boxes is None:
        return 0.0
    return _largest(wanted.boxes[rows] - found.boxes[columns])


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max()) if differences.numel() else 0.0
