"""The recorded models of the original, imported as a user would, answer as recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.config import Config, parse_config
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.masks import inflate, paste
from rsprompter_cli.models.original.checkpoint import export_checkpoint, import_checkpoint
from rsprompter_cli.models.original.rename import TABLES
from rsprompter_cli.structures import Detections, MaskPatches
from tests.make.original_files import save_like_mmengine
from tests.models.parity import assert_masks, assert_same_boxes, read_pack

_PROPOSALS: dict[str, Any] = {"nms_pre_test": 300, "max_proposals": 60}
_TWO_STAGE: dict[str, Any] = {"rpn": _PROPOSALS, "roi": {"max_detections": 20}}
_QUERY: dict[str, Any] = {"query": {"heads": 4, "norm_groups": 8, "max_detections": 20}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rsprompter_anchor": ("rsprompter-anchor", _TWO_STAGE),
    "rsprompter_anchor_lora": (
        "rsprompter-anchor",
        {**_TWO_STAGE, "encoder": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.0}},
    ),
    "rsprompter_query": ("rsprompter-query", _QUERY),
    "samdet": ("samdet", _TWO_STAGE),
    "samseg_mask2former": ("samseg-mask2former", _QUERY),
    "samseg_maskrcnn": ("samseg-maskrcnn", _TWO_STAGE),
}
"""What no tensor shows; all other sizes are the preset's for whole models and are read off the file."""


def test_every_kind_with_an_original_has_a_pack() -> None:
    assert {kind for kind, _ in CASES.values()} == set(TABLES)


def preset(name: str, shared: Path) -> Config:
    kind, changes = CASES[name]
    model = {"kind": kind, "sam": str(shared / "parity" / "sam"), "image_size": 1024, **changes}
    return parse_config({"name": name, "model": model}, origin=name)


@pytest.mark.parametrize("name", CASES)
def test_an_imported_model_answers_as_recorded(name: str, shared: Path, tmp_path: Path) -> None:
    pack = read_pack(shared / "parity" / name)
    names = [f"class{index}" for index in range(pack.meta["num_classes"])]
    wrapped = {f"module.{key}": value for key, value in pack.weights.items()}
    path = save_like_mmengine(tmp_path / "epoch_300.pth", wrapped, classes=names)
    done = import_checkpoint(path, tmp_path / "imported", preset(name, shared))
    assert done.meta.image_size == pack.meta["image_size"]
    model: Any = load_model(tmp_path / "imported").model
    with torch.no_grad():
        results = model.detect(pack.inputs["images"], pack.metas)
    assert [len(result) for result in results] == pack.meta["detections"]
    for index, result in enumerate(results):
        check(result, pack.predicted(index), f"{name}, image {index}")
    export_checkpoint(tmp_path / "imported", tmp_path / "exported.pth")
    state: dict[str, Tensor] = torch.load(tmp_path / "exported.pth", weights_only=True)["state_dict"]
    assert state.keys() == pack.weights.keys()
    assert all(torch.equal(state[key], value) for key, value in pack.weights.items())
    assert read_checkpoint(tmp_path / "imported").meta.class_names == tuple(names)


def check(result: Detections, recorded: dict[str, Tensor], name: str) -> None:
    """Same detections, in the same order or, for queries, in any."""
    if "query" in name or "mask2former" in name:
        order = by_class_and_score(result.labels, result.scores)
        theirs = by_class_and_score(recorded["labels"], recorded["scores"])
        recorded = {key: value[theirs] for key, value in recorded.items()}
        torch.testing.assert_close(result.scores[order], recorded["scores"], atol=1e-4, rtol=0)
    else:
        order = assert_same_boxes(result.boxes, result.scores, recorded["bboxes"], recorded["scores"], name)
    assert torch.equal(result.labels[order], recorded["labels"].long())
    whole = paste(result.masks) if isinstance(result.masks, MaskPatches) else inflate(result.masks)  # type: ignore[arg-type]
    assert_masks(whole[order], recorded["masks"], name)


def by_class_and_score(labels: Tensor, scores: Tensor) -> Tensor:
    """Rows by class, the best of each first."""
    return torch.tensor(sorted(range(len(labels)), key=lambda row: (int(labels[row]), -float(scores[row]))))
