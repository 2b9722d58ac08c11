"""Running a model over a COCO split and scoring what it finds; masks are kept as runs, never all as pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsprompter_cli.config import Config, SamdetConfig
from rsprompter_cli.data.coco.read import CocoFile, labels_for, read_coco, warn_of_crowds
from rsprompter_cli.data.coco.rle import Rle, to_rle
from rsprompter_cli.data.dataset import CocoDataset, Item
from rsprompter_cli.data.images import find_annotations
from rsprompter_cli.errors import InputError, UsageError
from rsprompter_cli.evaluate.scores import CocoMetrics, score_results
from rsprompter_cli.io.activity import announce
from rsprompter_cli.io.atomic import write_text
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.models.architectures.samdet import SamDet
from rsprompter_cli.models.load import LoadedModel, load_model
from rsprompter_cli.models.masks import inflate, paste
from rsprompter_cli.models.precision import autocast, resolve_device, resolve_precision
from rsprompter_cli.structures import Detections, LowResMasks, MaskPatches, Progress

_READ_AHEAD = 2
_PIXELS_AT_ONCE = 1 << 26
"""Bool pixels of masks held at full size: 64 MiB."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures, and the detections they were taken from.

    results: as in a COCO results file, with the file's image and category ids; `segmentation` is
        compressed RLE with text counts.
    """

    metrics: CocoMetrics
    results: Sequence[Mapping[str, Any]]
    dataset: CocoDataset

    def save_detections(self, path: str | Path) -> None:
        """Write the detections as a COCO results file, atomically."""
        write_text(path, json.dumps(list(self.results), allow_nan=False) + "\n")


def evaluate_coco(
    model: str | Path | LoadedModel,
    data: str | Path,
    split: str = "test",
    *,
    batch: int = 1,
    device: str = "auto",
    precision: str = "auto",
    image_folder: str | None = None,
    crowds_are_objects: bool | None = None,
    oracle: bool = False,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a checkpoint folder (or a loaded model) on a split of a COCO set.

    Args:
        data: folder with `annotations/*{split}.json` and the pictures.
        batch: pictures per forward pass.
        image_folder: where the pictures lie below `data`; None: as the checkpoint's configuration
            says, then the usual places.
        crowds_are_objects: annotations with iscrowd 1 are objects like the others; None: as in the training.
        oracle: masks from the true boxes instead of the model's own; SAMDet only.

    Raises:
        UsageError: `oracle` for another kind of model.
        InputError: the set is faulty, or its classes are not those of the model.
        CheckpointError: the model cannot be read.
    """
    where = resolve_device(device)
    loaded, dataset = open_split(
        model,
        data,
        split,
        device=where,
        image_folder=image_folder,
        crowds_are_objects=crowds_are_objects,
        oracle=oracle,
    )
    return evaluate_model(
        loaded.model,
        dataset,
        batch=batch,
        device=where,
        dtype=resolve_precision(precision, where),
        oracle=oracle,
        on_progress=on_progress,
    )


def open_split(
    model: str | Path | LoadedModel,
    data: str | Path,
    split: str,
    *,
    device: torch.device,
    image_folder: str | None = None,
    crowds_are_objects: bool | None = None,
    oracle: bool = False,
) -> tuple[LoadedModel, CocoDataset]:
    """A model on a device, and the pictures that it is evaluated on; arguments and errors of `evaluate_coco`."""
    if oracle:
        _require_oracle(model.config if isinstance(model, LoadedModel) else read_checkpoint(model).config)
    announce("loading the model")
    loaded = model if isinstance(model, LoadedModel) else load_model(model, device=str(device))
    trained = loaded.config.data
    folder = image_folder or trained.image_folder
    coco = read_coco(
        find_annotations(data, split),
        crowds_are_objects=trained.crowds_are_objects if crowds_are_objects is None else crowds_are_objects,
        known_classes=loaded.meta.class_names,
        root=data,
        image_folder=folder,
    )
    warn_of_crowds(coco)
    dataset = CocoDataset(
        coco,
        data,
        image_folder=folder,
        split=split,
        labels=match_classes(coco, loaded.meta.class_names),
    )
    return loaded, dataset


def _require_oracle(config: Config) -> None:
    if not isinstance(config.model, SamdetConfig):
        raise UsageError(
            f"--oracle: the model is {config.model.kind}, but only samdet predicts masks from given boxes",
            "omit --oracle",
        )


def evaluate_model(
    model: nn.Module,
    dataset: CocoDataset,
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    oracle: bool = False,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model in memory on a data set without augmentation; its training mode is put back.

    With `oracle`, a SAMDet is given the boxes that the file states.
    """
    found = detect_part(model, dataset, batch=batch, device=device, dtype=dtype, oracle=oracle, on_progress=on_progress)
    return evaluate_results(dataset, [found])


Part = Mapping[int, Sequence[Mapping[str, Any]]]
"""Entries of a COCO results file by the number of the batch they were found in; masks as RLE."""


def evaluate_results(dataset: CocoDataset, parts: Sequence[Part]) -> Evaluation:
    """Score what several processes found, each in its part of the batches; the order of the parts does not matter."""
    announce("matching detections with the annotations")
    batches = {number: found for part in parts for number, found in part.items()}
    results = [result for number in sorted(batches) for result in batches[number]]
    return Evaluation(score_results(truth_of(dataset.coco), results), results, dataset)


def detect_part(
    model: nn.Module,
    dataset: CocoDataset,
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    part: int = 0,
    parts: int = 1,
    oracle: bool = False,
    on_progress: Progress | None = None,
) -> dict[int, list[dict[str, Any]]]:
    """What a model finds in every `parts`-th batch of a data set, from number `part` on.

    The batches are those of a single process, so that their numbers are the same to the bit.
    """
    announce("detecting objects in the images")
    categories = {label: category for category, label in dataset.labels.items()}
    results: dict[int, list[dict[str, Any]]] = {}
    groups = {
        number: list(range(first, min(first + batch, len(dataset))))
        for number, first in enumerate(range(0, len(dataset), batch))
        if number % parts == part
    }
    total = sum(map(len, groups.values()))
    answer = _oracle(model, dataset) if oracle else lambda images, _: model(images, None)
    was_training = model.training
    model.eval()
    try:
        done = 0
        if on_progress is not None and total:
            on_progress(0, total)
        for (number, group), items in zip(groups.items(), _read_ahead(dataset, groups.values()), strict=True):
            images = [image.to(device) for image, _, _ in items]
            # no_grad, not inference_mode: what a model caches here it may use in training.
            with torch.no_grad(), autocast(device, dtype):
                found: list[Detections] = answer(images, group[0])
            results[number] = [
                result
                for (_, _, image_id), detections in zip(items, found, strict=True)
                for result in to_results(image_id, detections, categories)
            ]
            done += len(items)
            if on_progress is not None:
                on_progress(done, total)
    finally:
        model.train(was_training)
    return results


def _oracle(model: nn.Module, dataset: CocoDataset) -> Callable[[list[Tensor], int], list[Detections]]:
    """What a SAMDet makes of the true boxes of pictures, of which the first has that place in the data set."""
    assert isinstance(model, SamDet)

    def answer(images: list[Tensor], first: int) -> list[Detections]:
        truth = [dataset.annotated_boxes(first + place) for place in range(len(images))]
        return model.oracle(images, [boxes for boxes, _ in truth], [labels for _, labels in truth])

    return answer


def to_results(image_id: int, detections: Detections, categories: Mapping[int, int]) -> list[dict[str, Any]]:
    """The detections of one image as entries of a COCO results file; `quality` beside `score` where there is one.

    Args:
        categories: label to category id.
    """
    runs = _runs(detections.masks)
    boxes = detections.boxes.float().cpu().tolist()
    labels, scores = detections.labels.tolist(), detections.scores.float().cpu().tolist()
    quality = detections.quality
    guesses = [{}] * len(labels) if quality is None else [{"quality": one} for one in quality.float().cpu().tolist()]
    return [
        {
            "image_id": image_id,
            "category_id": categories[label],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
            **guess,
            "segmentation": run,
        }
        for (x0, y0, x1, y1), label, score, guess, run in zip(boxes, labels, scores, guesses, runs, strict=True)
    ]


def truth_of(coco: CocoFile) -> dict[str, Any]:
    """A checked COCO file as the tree that `score_results` takes."""
    sizes = {image.id: (image.height, image.width) for image in coco.images}
    return {
        "images": [{"id": image.id, "height": image.height, "width": image.width} for image in coco.images],
        "categories": [{"id": category.id, "name": category.name} for category in coco.categories],
        "annotations": [
            {
                "image_id": annotation.image_id,
                "category_id": annotation.category_id,
                "bbox": list(annotation.bbox),
                "area": annotation.area,
                "iscrowd": int(annotation.iscrowd),
                "segmentation": to_rle(annotation.segmentation, *sizes[annotation.image_id]).as_dict(),
            }
            for annotation in coco.annotations
        ],
    }


def match_classes(coco: CocoFile, class_names: Sequence[str]) -> dict[int, int]:
    """Category id of the file to label of the model, matched by name, both having the same classes.

    Raises:
        InputError: a class that only one of them knows; all are listed.
    """
    extra = sorted(set(coco.class_names) - set(class_names))
    missing = sorted(set(class_names) - set(coco.class_names))
    if extra or missing:
        sides = [f"only in the file: {', '.join(extra)}"] * bool(extra)
        sides += [f"only in the model: {', '.join(missing)}"] * bool(missing)
        raise InputError(
            f"{coco.path}: its classes differ from those of the model: {'; '.join(sides)}",
            "classes are matched by name; rename the categories of the file, or evaluate another model",
        )
    return labels_for(coco, list(class_names))


def _runs(masks: Tensor | LowResMasks | MaskPatches) -> list[dict[str, Any]]:
    """Masks as runs, only a few of them at full size at a time."""
    if isinstance(masks, Tensor):
        return _encode(masks)
    rows, columns = masks.frame.image if isinstance(masks, LowResMasks) else masks.image
    step = max(1, _PIXELS_AT_ONCE // (rows * columns))
    runs = []
    for start in range(0, len(masks.values), step):
        some = slice(start, start + step)
        if isinstance(masks, LowResMasks):
            runs += _encode(inflate(LowResMasks(masks.values[some], masks.threshold, masks.frame)))
        else:
            runs += _encode(paste(MaskPatches(masks.values[some], masks.corners[some], masks.image)))
    return runs


def _encode(masks: Tensor) -> list[dict[str, Any]]:
    """Bool masks [N, H, W] as compressed RLE with text counts."""
    from pycocotools import mask as coco_mask

    # pycocotools reads memory as [H, W, N] in column-major order, and only that.
    stacked = np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    size = (int(masks.shape[1]), int(masks.shape[2]))
    runs = [Rle(size, bytes(run["counts"])) for run in coco_mask.encode(stacked)]
    return [{"size": list(run.size), "counts": run.counts.decode("ascii")} for run in runs]


def _read_ahead(dataset: CocoDataset, batches: Iterable[Sequence[int]]) -> Iterator[list[Item]]:
    """The items of batches of indices, read ahead in one thread while the model works."""
    groups = iter(batches)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsp-read") as reader:
        pending = [reader.submit(_read, dataset, group) for group in islice(groups, _READ_AHEAD)]
        while pending:
            ready = pending.pop(0).result()
            pending += [reader.submit(_read, dataset, group) for group in islice(groups, 1)]
            yield ready


def _read(dataset: CocoDataset, indices: Sequence[int]) -> list[Item]:
    return [dataset[index] for index in indices]
