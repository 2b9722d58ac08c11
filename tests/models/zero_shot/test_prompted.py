"""SAM asked with boxes and points: equal to transformers' SamModel, and where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from rsprompter_cli.errors import CheckpointError, UsageError
from rsprompter_cli.io.model_files.sam_folder import config_from_arch, read_sam_folder, write_sam_folder
from rsprompter_cli.io.network.hub import sam_folder_for
from rsprompter_cli.models.image_transform import normalise
from rsprompter_cli.models.masks import inflate
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD
from rsprompter_cli.models.zero_shot.prompted import PromptedSam, find_prompted, knows_points, load_prompted
from tests.make.boxed import noise_images
from tests.make.sam_files import SMALL_SAM, small_sam_tensors
from tests.make.tiny_models import TINY_TINY_VIT, TINY_VIT

SOURCE: dict[str, str | None] = {"origin": "fabricated", "file": "none", "file_sha256": "0" * 64}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SAM on the machine."""
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sam(tmp_path: Path) -> PromptedSam:
    write_sam_folder(tmp_path / "sam", small_sam_tensors(), SMALL_SAM, SOURCE)
    return load_prompted(read_sam_folder(tmp_path / "sam"))


def _reference() -> Any:
    model = SamModel(SamConfig.from_dict(config_from_arch(SMALL_SAM)))
    model.load_state_dict(small_sam_tensors())
    return model.eval()


def _asked(picture: Tensor, **prompts: Any) -> tuple[Tensor, Tensor]:
    pixels = normalise(picture.float(), IMAGENET_MEAN, IMAGENET_STD)[None]
    with torch.no_grad():
        out = _reference()(pixel_values=pixels, **prompts)
    return out.pred_masks[0], out.iou_scores[0]


@torch.no_grad()
def test_boxes_are_answered_as_by_transformers(sam: PromptedSam) -> None:
    (picture,) = noise_images((64, 64))
    boxes = torch.tensor([[3.0, 5, 20, 40], [10, 10, 60, 50], [0, 0, 64, 64]])
    masks, quality = sam.answer_boxes(sam.see(picture), boxes)
    # SAM names the last pixel of a box, ours end one later.
    named = boxes - torch.tensor([0.0, 0, 1, 1])
    logits, scores = _asked(picture, input_boxes=named[None], multimask_output=False)
    torch.testing.assert_close(masks.values, logits[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quality, scores[:, 0].clamp(0, 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_point_is_answered_with_the_best_of_its_masks(sam: PromptedSam) -> None:
    (picture,) = noise_images((64, 64))
    points = torch.tensor([[[10.5, 20.5]], [[63.5, 0.5]]])  # the centres of pixels
    masks, quality = sam.answer_points(sam.see(picture), points)
    logits, scores = _asked(picture, input_points=(points - 0.5)[None], multimask_output=True)
    best = scores.argmax(dim=1)
    torch.testing.assert_close(masks.values, logits[[0, 1], best], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quality, scores[[0, 1], best].clamp(0, 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_several_points_on_one_object_have_one_mask(sam: PromptedSam) -> None:
    (picture,) = noise_images((64, 64))
    points = torch.tensor([[[10.5, 20.5], [30.5, 22.5], [40.5, 2.5]]])
    masks, _ = sam.answer_points(sam.see(picture), points)
    logits, _ = _asked(picture, input_points=(points - 0.5)[None], multimask_output=False)
    torch.testing.assert_close(masks.values, logits[:, 0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_prompts_are_in_pixels_of_the_picture_whatever_its_size(sam: PromptedSam) -> None:
    (picture,) = noise_images((32, 24))
    larger = picture.repeat_interleave(2, 1).repeat_interleave(2, 2)
    small, _ = sam.answer_boxes(sam.see(picture), torch.tensor([[4.0, 4, 12, 20]]))
    large, _ = sam.answer_boxes(sam.see(larger), torch.tensor([[8.0, 8, 24, 40]]))
    assert inflate(small).shape == (1, 32, 24)
    assert inflate(large).shape == (1, 64, 48)
    same = (inflate(large)[:, ::2, ::2] > 0) == (inflate(small) > 0)
    assert same.float().mean() > 0.8


def test_the_sam_is_the_named_one_or_base(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'base' .*rsp download-sam base; .*--sam tiny-vit"):
        find_prompted(None)
    with pytest.raises(CheckpointError, match="rsp download-sam huge"):
        find_prompted("huge")
    with pytest.raises(UsageError, match="no SAM named 'bsae'"):
        find_prompted("bsae")
    write_sam_folder(sam_folder_for("base"), small_sam_tensors(), SMALL_SAM, SOURCE)
    assert find_prompted(None).path == sam_folder_for("base")
    write_sam_folder(tmp_path / "mine", small_sam_tensors(), SMALL_SAM, SOURCE)
    assert find_prompted(str(tmp_path / "mine")).path == tmp_path / "mine"


def test_who_knows_points() -> None:
    assert knows_points(TINY_VIT)
    assert not knows_points(TINY_TINY_VIT)
