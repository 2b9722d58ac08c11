"""Which SAM everything is found with: one of its own, or that within a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rsprompter_cli.config import Config, ModelConfig
from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rsprompter_cli.io.model_files.sam_folder import SamFolder, write_sam_folder
from rsprompter_cli.io.network.hub import sam_folder_for
from rsprompter_cli.models.zero_shot import everything
from rsprompter_cli.models.zero_shot.everything import CLASS_NAME, Everything, find_everything, load_everything
from tests.make.boxed import noise_images
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.tiny_models import (
    TINY_TINY_VIT,
    build_seeded,
    tiny_mask2former_config,
    tiny_maskrcnn_config,
    tiny_meta,
    tiny_model_config,
    tiny_query_config,
    tiny_samcls_config,
    tiny_samdet_config,
)

ON_BOXES = {"sam": "tiny-vit", "sam_arch": TINY_TINY_VIT, "box_prompts": True}


@pytest.fixture(autouse=True)
def no_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SAM is on the machine."""
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))


def _checkpoint(folder: Path, config: ModelConfig) -> Path:
    meta = tiny_meta(gsd_range=(0.1, 0.3), bands=(3, 2, 1), provenance={"seconds_per_window": 3.0})
    model = build_seeded(config, seed=4)
    write_checkpoint(folder, model.state_dict(), Config(name="tiny", model=config), meta)
    return folder


@pytest.mark.parametrize("config", [tiny_samcls_config(), tiny_samdet_config(), tiny_model_config(**ON_BOXES)])
def test_the_sam_within_a_checkpoint_is_taken_as_it_was_trained(config: ModelConfig, tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "model", config)
    choice = find_everything(model=folder)
    assert isinstance(choice.origin, Checkpoint)
    assert choice.path == folder
    loaded = load_everything(choice)
    stored = read_checkpoint(folder).tensors()
    assert all(torch.equal(value, stored[key]) for key, value in loaded.model.state_dict().items())
    meta = loaded.meta
    assert (meta.class_names, meta.category_ids, meta.score_threshold) == ((CLASS_NAME,), (1,), 0.0)
    # Pictures are read as the model's are; its speed says nothing of automatic masks.
    assert (meta.image_size, meta.gsd_range, meta.bands, meta.provenance) == (64, (0.1, 0.3), (3, 2, 1), {})
    (found,) = loaded.model(noise_images((40, 64)))
    assert found.boxes.shape == (len(found), 4)


def test_adapters_stay_with_their_encoder(tmp_path: Path) -> None:
    config = tiny_model_config(**ON_BOXES, encoder="lora")
    trained = build_seeded(config, seed=4)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".lora_" in name:
                parameter.fill_(0.3)
    write_checkpoint(tmp_path / "model", trained.state_dict(), Config(name="tiny", model=config), tiny_meta())
    model = load_everything(find_everything(model=tmp_path / "model")).model
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trained.get_submodule("encoder")(batch).embedding
        assert torch.equal(model.get_submodule("encoder")(batch).embedding, expected)


def test_a_sam_cls_asks_as_it_was_trained_to(tmp_path: Path) -> None:
    asked = {"prompts": "boxes", "box_sizes": (0.5,), "min_stability": 0.3}
    loaded = load_everything(find_everything(model=_checkpoint(tmp_path / "m", tiny_samcls_config(automask=asked))))
    assert isinstance(loaded.model, Everything)
    settings = loaded.model.automask
    assert (settings.prompts, settings.box_sizes, settings.min_stability) == ("boxes", (0.5,), 0.3)


@pytest.mark.parametrize(
    ("config", "lacking"),
    [
        (tiny_model_config(), "a rsprompter-anchor has no embeddings of points"),
        (tiny_query_config(), "a rsprompter-query has no embeddings of points"),
        (tiny_mask2former_config(), "a samseg-mask2former has no mask decoder"),
    ],
)
def test_what_a_checkpoint_lacks_is_told_and_the_named_sam_taken(
    config: ModelConfig, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(everything._log, "warning", lambda text, *values: lines.append(text % values))
    folder = _checkpoint(tmp_path / "model", config)
    with pytest.raises(CheckpointError) as caught:
        find_everything(model=folder)
    assert caught.value.hint == "run: rsp download-sam base"
    source = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}
    write_sam_folder(sam_folder_for("base"), small_sam_tensors(), SMALL_SAM, source)
    choice = find_everything(model=folder)
    assert isinstance(choice.origin, SamFolder)
    assert choice.path == sam_folder_for("base")
    assert lines[1:] == [f"{folder}: {lacking}; segmenting everything with the SAM base, as it was before training"]


def test_a_model_without_a_sam_and_two_sams_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", {}, Config(name="tiny", model=tiny_maskrcnn_config()), tiny_meta())
    with pytest.raises(UsageError, match="a maskrcnn has no SAM"):
        find_everything(model=tmp_path / "m")
    with pytest.raises(UsageError, match=r"--sam and --model give two different SAMs \(give one of the two\)"):
        find_everything("base", tmp_path / "m")
