"""Evaluating a model: with a stub that repeats the truth, and with the tiny model from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.errors import InputError
from rsprompter_cli.evaluate.coco import (
    detect_part,
    evaluate_coco,
    evaluate_model,
    evaluate_results,
    match_classes,
    to_results,
)
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.structures import Detections, LowResMasks, MaskFrame, Target
from tests.make.coco_sets import CLASSES, make_set
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model


class Oracle(nn.Module):
    """Finds in each picture, in order, exactly what the data set says."""

    def __init__(self, dataset: CocoDataset, *, score: float = 0.8) -> None:
        super().__init__()
        self._targets = [dataset[index][1] for index in range(len(dataset))]
        self._next = 0
        self._score = score
        self.batches: list[int] = []

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        assert not self.training
        assert not torch.is_grad_enabled()
        found = self._targets[self._next : self._next + len(images)]
        self._next += len(images)
        self.batches.append(len(images))
        return [
            Detections(one.boxes, one.labels, torch.full((len(one.labels),), self._score), one.masks) for one in found
        ]


def _dataset(root: Path, **keywords: object) -> CocoDataset:
    make_set(root, split="val", count=5, **keywords)  # type: ignore[arg-type]
    return CocoDataset(read_coco(root / "annotations" / "instances_val.json"), root)


@pytest.mark.parametrize("first_id", [0, 1, 700])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_truth_scores_one_whatever_its_ids(tmp_path: Path, first_id: int, batch: int) -> None:
    dataset = _dataset(tmp_path, first_id=first_id)
    model = Oracle(dataset).train()
    told: list[tuple[int, int]] = []
    evaluation = evaluate_model(
        model,
        dataset,
        batch=batch,
        device=torch.device("cpu"),
        dtype=torch.float32,
        on_progress=lambda done, total: told.append((done, total)),
    )
    metrics = evaluation.metrics
    assert metrics.mask["AP"] == pytest.approx(1.0)
    assert metrics.box["AP"] == pytest.approx(1.0)
    assert (metrics.images, metrics.objects, metrics.detections) == (5, 12, 12)
    assert metrics.score_threshold == pytest.approx(0.8)
    assert [one.name for one in metrics.per_class] == list(CLASSES)
    assert model.batches == ([1] * 5 if batch == 1 else [3, 2])
    assert told[-1] == (5, 5)
    assert model.training


def test_low_resolution_masks_are_inflated_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    masks = LowResMasks(torch.rand(5, 8, 8), 0.5, MaskFrame((32, 32), (32, 20), (48, 30)))
    found = Detections(torch.zeros(5, 4), torch.tensor([0, 1, 0, 1, 0]), torch.linspace(0.9, 0.1, 5), masks)
    whole = to_results(4, found, {0: 10, 1: 20})
    monkeypatch.setattr("rsprompter_cli.evaluate.coco._PIXELS_AT_ONCE", 2 * 48 * 30)
    parts = to_results(4, found, {0: 10, 1: 20})
    assert whole == parts
    for result, mask in zip(whole, inflate(masks), strict=True):
        assert np.array_equal(coco_mask.decode(result["segmentation"]), mask.numpy())
    assert [result["category_id"] for result in whole] == [10, 20, 10, 20, 10]
    json.dumps(whole)


def test_boxes_become_x_y_width_height() -> None:
    found = Detections(
        torch.tensor([[2.0, 3.0, 7.0, 13.0]]), torch.tensor([0]), torch.tensor([0.5]), torch.ones(1, 4, 6).bool()
    )
    (result,) = to_results(9, found, {0: 3})
    assert result["bbox"] == [2.0, 3.0, 5.0, 10.0]
    assert result["segmentation"]["size"] == [4, 6]
    assert result["image_id"] == 9


def test_classes_are_matched_by_name_and_mismatches_listed(tmp_path: Path) -> None:
    coco = _dataset(tmp_path).coco
    assert match_classes(coco, ("tank", "house")) == {10: 1, 20: 0}
    with pytest.raises(InputError, match="only in the file: tank; only in the model: ship, tree"):
        match_classes(coco, ("house", "tree", "ship"))


def _checkpoint(folder: Path, class_names: tuple[str, ...] = CLASSES) -> Path:
    model = tiny_model(num_classes=len(class_names))
    meta = tiny_meta(num_classes=len(class_names), class_names=class_names)
    write_checkpoint(folder, model.state_dict(), tiny_config(), meta)
    return folder


def test_a_folder_and_a_loaded_model_give_the_same_and_nothing_depends_on_the_batch(tmp_path: Path) -> None:
    make_set(tmp_path, split="test", count=4)
    folder = _checkpoint(tmp_path / "model")
    a = evaluate_coco(folder, tmp_path, device="cpu", precision="fp32")
    b = evaluate_coco(load_model(folder), tmp_path, "test", batch=3, device="cpu", precision="fp32")
    assert a.metrics.detections > 0
    assert len(a.results) == len(b.results)
    assert a.metrics.flat() == pytest.approx(b.metrics.flat(), abs=1e-6)
    a.save_detections(tmp_path / "found.json")
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored == list(a.results)
    assert {result["category_id"] for result in stored} <= {10, 20}


def test_labels_follow_the_model_not_the_order_of_the_file(tmp_path: Path) -> None:
    coco = _dataset(tmp_path).coco
    dataset = CocoDataset(coco, tmp_path, labels=match_classes(coco, ("tank", "house")))
    assert dataset[0][1].labels.tolist() == [1, 0, 1]  # house, tank, house
    evaluation = evaluate_model(Oracle(dataset), dataset, batch=1, device=torch.device("cpu"), dtype=torch.float32)
    assert evaluation.metrics.mask["AP"] == pytest.approx(1.0)
    assert [one.name for one in evaluation.metrics.per_class] == ["house", "tank"]


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_several_processes_are_what_one_finds(tmp_path: Path, parts: int) -> None:
    dataset, model = _dataset(tmp_path), tiny_model(num_classes=2)
    how = {"batch": 2, "device": torch.device("cpu"), "dtype": torch.float32}
    whole = evaluate_model(model, dataset, **how)  # type: ignore[arg-type]
    told: list[tuple[int, int]] = []
    found = [
        detect_part(
            model,
            dataset,
            **how,  # type: ignore[arg-type]
            part=part,
            parts=parts,
            on_progress=lambda done, total: told.append((done, total)),
        )
        for part in range(parts)
    ]
    # Of five pictures in batches of two, the seventh process gets none.
    assert sorted(number for part in found for number in part) == [0, 1, 2]
    assert [total for done, total in told if done == total] == [[3, 2], [2, 2, 1], [2, 2, 1]][[2, 3, 7].index(parts)]
    together = evaluate_results(dataset, found[::-1])
    assert together.results == whole.results
    assert together.results
    assert together.metrics.flat() == whole.metrics.flat()
