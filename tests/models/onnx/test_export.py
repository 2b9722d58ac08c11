"""Checkpoints as ONNX graphs: what they find without PyTorch is what the model finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.onnx_predict import OnnxModel
from rsprompter_cli.cli.app import run
from rsprompter_cli.config import Config, ModelConfig
from rsprompter_cli.io.model_files import onnx_folder
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.models.load import load_model
from rsprompter_cli.models.masks import inflate, paste
from rsprompter_cli.models.onnx import export
from rsprompter_cli.models.trainable import keep_frozen_in_eval
from rsprompter_cli.structures import Detections, LowResMasks, MaskPatches
from tests.make.tiny_models import (
    TINY_TINY_VIT,
    TINY_VIT,
    build_seeded,
    tiny_mask2former_config,
    tiny_meta,
    tiny_model,
    tiny_model_config,
    tiny_query_config,
    tiny_samcls_config,
    tiny_samdet_config,
    tiny_samseg_maskrcnn_config,
)

SHALLOW = TINY_VIT.model_copy(update={"num_layers": 2, "global_attn_indexes": (1,)})

GRAPHS = {
    "anchor": (tiny_model_config, ["detector", "mask_decoder"]),
    "anchor-tiny-vit": (
        lambda: tiny_model_config(sam_arch=TINY_TINY_VIT, box_prompts=True, encoder="frozen"),
        ["detector", "mask_decoder"],
    ),
    "samseg-maskrcnn": (lambda: tiny_samseg_maskrcnn_config(sam_arch=SHALLOW), ["detector"]),
    "query": (tiny_query_config, ["detector", "mask_decoder"]),
    "samseg-mask2former": (tiny_mask2former_config, ["detector"]),
    "samdet": (lambda: tiny_samdet_config(sam_arch=SHALLOW), ["detector", "encoder", "mask_decoder"]),
}
"""By name: the configuration, and its graphs. Tracing one takes a quarter of a minute."""

SLOW = ("anchor", "query", "samseg-mask2former")


def checkpoint(folder: Path, config: ModelConfig) -> Path:
    model = build_seeded(config)
    write_checkpoint(folder, model.state_dict(), Config(name="tiny", model=config), tiny_meta())
    return folder


def picture() -> np.ndarray:
    """Smaller than the model's input and not square: it is enlarged and padded."""
    random = np.random.default_rng(3)
    cells = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.kron(cells, np.ones((7, 7, 1), np.uint8))


def masks_of(found: Detections) -> np.ndarray:
    masks = found.masks
    if isinstance(masks, LowResMasks):
        masks = inflate(masks)
    elif isinstance(masks, MaskPatches):
        masks = paste(masks)
    return masks.numpy()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in GRAPHS]
)
def test_graphs_find_what_the_model_finds(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, graphs = GRAPHS[name]
    folder = checkpoint(tmp_path / "model", make())
    command = ["checkpoint", "export", str(folder), "--format", "onnx", "--out", str(tmp_path / "onnx"), "--json"]
    assert run(command) == 0
    written = json.loads(capsys.readouterr().out)
    assert sorted(written["files"]) == sorted(["meta.json", *(f"{graph}.onnx" for graph in graphs)])
    compared = written["compared"]
    assert compared["found"] == compared["paired"] >= 8
    assert compared["boxes"] < 1e-3
    assert max(compared["scores"], compared["masks"]) < 1e-5

    shown = picture()
    model = load_model(folder).model
    with torch.no_grad():
        (wanted,) = model([torch.from_numpy(shown).permute(2, 0, 1)])
    runtime = OnnxModel(tmp_path / "onnx")
    assert list(runtime.sessions) == graphs
    by_mask = runtime.meta["by_mask"]
    found = runtime(shown, score_threshold=0.0 if by_mask else model.box_head.score_threshold)
    assert len(wanted) >= 8
    np.testing.assert_array_equal(found.labels, wanted.labels.numpy())
    np.testing.assert_allclose(found.boxes, wanted.boxes.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted.scores.numpy(), atol=1e-5)
    masks = masks_of(wanted)
    assert masks.shape == found.masks.shape
    assert 0.01 < masks.mean() < 0.99
    assert (masks == found.masks).mean() > 0.999
    # Where nothing reaches the threshold there is nothing, not an error.
    assert [len(part) for part in runtime(shown, score_threshold=1.0)] == [0, 0, 0, 0]


def test_a_kind_without_graphs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(tmp_path / "model", tiny_samcls_config())
    assert run(["checkpoint", "export", str(folder), "--format", "onnx", "--out", str(tmp_path / "onnx")]) == 4
    assert "a samcls model cannot be written as ONNX" in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_folder, "_PACKAGES", ("onnx", "not_there"))
    assert run(["checkpoint", "export", "bundled", "--format", "onnx", "--out", str(tmp_path / "onnx")]) == 5
    message = capsys.readouterr().err
    assert (
        "--format onnx needs 1 package that is not installed: not_there (pip install 'rsprompter_cli[onnx]')" in message
    )


def test_other_files_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "mine.txt").write_text("kept")
    command = ["checkpoint", "export", "bundled", "--format", "onnx", "--out", str(tmp_path / "onnx")]
    assert run([*command, "--overwrite"]) == 7
    assert "contains 'mine.txt', which is not part of such a model" in capsys.readouterr().err
    assert run(command) == 7


NO_OBJECTS = torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found._replace(scores=found.scores + 0.01),
        lambda found: found._replace(scores=found.scores * torch.nan),
        lambda found: found._replace(masks=found.masks * torch.nan),
        lambda found: found._replace(boxes=found.boxes + 20),
        lambda found: type(found)(*(torch.cat([part, part]) for part in found)),
        lambda found: type(found)(*(part[NO_OBJECTS] for part in found)),
    ],
)
def test_graphs_that_give_other_results_are_not_kept(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Traced:
        def save(self, path: Path) -> None:
            path.write_bytes(b"")

    @torch.no_grad()
    def wrong(exported: Any, folder: Path, image: torch.Tensor) -> Any:
        return change(exported.find(image))

    monkeypatch.setattr(export, "_trace", lambda graph: Traced())
    monkeypatch.setattr(export, "_run", wrong)
    folder = checkpoint(tmp_path / "model", tiny_samdet_config())
    assert run(["checkpoint", "export", str(folder), "--format", "onnx", "--out", str(tmp_path / "onnx")]) == 4
    assert "its ONNX graphs find " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_is_frozen_throughout_can_be_put_in_evaluation_mode() -> None:
    model = tiny_model()
    model.requires_grad_(False)
    model.train()
    assert not any(module.training for module in model.modules())
    keep_frozen_in_eval(model)
