"""SAM-cls: crops, labels, losses, pairs of mask and class, and masks kept on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rsprompter_cli.config import AutomaskConfig
from rsprompter_cli.data.transforms import train_transform
from rsprompter_cli.errors import InputError, OutputError, UsageError
from rsprompter_cli.models.architectures.crops import mask_crops
from rsprompter_cli.models.architectures.samcls import SamCls
from rsprompter_cli.models.masks import paste
from rsprompter_cli.models.sam.automatic_masks import PictureMasks
from rsprompter_cli.models.sam.mask_cache import AutomaskCache
from rsprompter_cli.models.state_dict import CLASS_ROWS
from rsprompter_cli.models.trainable import trainable_table
from rsprompter_cli.structures import MaskPatches, Target
from tests.make.segmenters import see_bright_shapes
from tests.make.tiny_models import build_seeded, tiny_samcls_config

CPU = torch.device("cpu")


def _model(**changes: Any) -> SamCls:
    model = build_seeded(tiny_samcls_config(**changes), num_classes=2)
    assert isinstance(model, SamCls)
    return model


def _picture(*squares: tuple[int, int, int], size: tuple[int, int] = (48, 64)) -> Tensor:
    """A grey picture with red squares at (left, top) of a side."""
    picture = torch.full((3, *size), 60, dtype=torch.uint8)
    for left, top, side in squares:
        picture[0, top : top + side, left : left + side] = 230
    return picture


def _target(
    *boxes: tuple[int, int, int, int], labels: tuple[int, ...] = (), size: tuple[int, int] = (48, 64)
) -> Target:
    masks = torch.zeros((len(boxes), *size), dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return Target(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels).long().reshape(-1), masks)


def _found(boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (48, 64)) -> PictureMasks:
    """Masks that fill their boxes."""
    values = tuple(torch.ones(y1 - y0, x1 - x0).half() for x0, y0, x1, y1 in boxes)
    patches = MaskPatches(values, tuple((x0, y0) for x0, y0, _, _ in boxes), size)
    return PictureMasks(torch.tensor(boxes).float().reshape(-1, 4), torch.linspace(0.9, 0.5, len(boxes)), patches)


def test_a_crop_is_the_box_twice_as_large_with_everything_outside_the_mask_blurred() -> None:
    picture = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(1)) * 255
    found = _found([(20, 16, 30, 24)])
    crop = mask_crops(picture, found.masks, found.boxes, size=160, scale=2, blur=7, chosen=[0])[0]
    # 20 x 16 pixels from (15, 12) on, each 8 x 10 pixels of the crop: their centres are the pixels themselves.
    centres = crop[:, 5::10, 4::8]
    assert centres.shape == (3, 16, 20)
    inside = torch.zeros(16, 20, dtype=torch.bool)
    inside[4:12, 5:15] = True
    plain = picture[:, 12:28, 15:35]
    blurred = torch.stack(
        [
            torch.stack([picture[:, y - 3 : y + 4, x - 3 : x + 4].mean(dim=(1, 2)) for x in range(15, 35)], dim=1)
            for y in range(12, 28)
        ],
        dim=1,
    )
    # Resizing mixes neighbours a little even at the centres of pixels.
    expected = torch.where(inside, plain, blurred)
    assert float((centres - expected).abs().mean()) < 12
    assert float((centres - plain)[:, ~inside].abs().mean()) > 40


def test_crops_end_where_the_picture_does_and_patches_may_be_wider_than_boxes() -> None:
    picture = torch.full((3, 48, 64), 100.0)
    values = torch.full((12, 12), -1.0)
    values[1:11, 1:11] = 1
    masks = MaskPatches((values.half(), torch.ones(48, 64).half()), ((53, 37), (0, 0)), (48, 64))
    boxes = torch.tensor([[54.0, 38.0, 64.0, 48.0], [0.0, 0.0, 64.0, 48.0]])
    for scale in (1.0, 2.0):
        crops = mask_crops(picture, masks, boxes, size=64, scale=scale, blur=7, chosen=[0, 1, 0])
        torch.testing.assert_close(crops, torch.full((3, 3, 64, 64), 100.0))


def test_a_mask_takes_the_class_of_the_box_it_overlaps_most() -> None:
    model = _model()
    found = _found([(0, 0, 10, 10), (30, 0, 40, 10), (0, 30, 10, 40), (50, 30, 60, 40)])
    # IoU 1; 0.25 with the first and 0.6 with the second; 0.2, which is not more than 0.2; nothing.
    target = _target((0, 0, 10, 10), (36, 0, 46, 10), (32, 0, 42, 10), (0, 30, 50, 40), labels=(1, 0, 1, 0))
    assert model.label_masks(found, target).tolist() == [1, 1, 2, 2]
    assert model.label_masks(found, _target()).tolist() == [2] * 4
    assert model.label_masks(_found([]), target).tolist() == []


def test_training_moves_the_classifier_only(monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    model = _model().train()
    assert {row.block for row in trainable_table(model) if row.trainable} == {"resnet"}
    assert not model.encoder.training
    assert model.resnet.training
    images = [_picture((4, 4, 12), (40, 20, 16)), _picture(size=(64, 30))]
    targets = [_target((4, 4, 16, 16), labels=(1,)), _target(size=(64, 30))]
    losses = model(images, targets)
    assert set(losses) == {"loss_cls"}
    assert losses["loss_cls"].ndim == 0
    assert float(losses["loss_cls"].detach()) > 0
    losses["loss_cls"].backward()
    moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"resnet"}
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_a_batch_without_masks_trains_and_an_empty_picture_gives_no_detections() -> None:
    # A threshold that no mask reaches.
    model = _model(automask=AutomaskConfig(points_per_side=2, min_predicted_iou=1.0)).train()
    losses = model([_picture((4, 4, 12))], [_target((4, 4, 16, 16), labels=(0,))])
    assert float(losses["loss_cls"].detach()) == 0
    losses["loss_cls"].backward()
    assert float(model.resnet.get_parameter("fc.weight").grad.abs().sum()) == 0  # type: ignore[union-attr]
    (found,) = model.eval()([_picture((4, 4, 12))])
    assert len(found) == 0
    assert found.quality is not None
    assert found.labels.dtype == torch.int64
    assert paste(found.masks).shape == (0, 48, 64)


def test_no_ground_truth_in_a_whole_batch_is_all_background(monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    model = _model().train()
    losses = model([_picture((4, 4, 12)), _picture((8, 8, 20))], [_target(), _target()])
    losses["loss_cls"].backward()
    assert bool(torch.isfinite(losses["loss_cls"]))


def test_detections_are_the_best_pairs_and_few_masks_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    see_bright_shapes(monkeypatch)
    model = _model()
    image = _picture((4, 4, 12), (40, 20, 16))
    (found,) = model([image])
    # Two squares and the ground, each with both classes.
    assert len(found) == 6
    assert torch.all(found.scores.diff() <= 0)
    assert isinstance(found.masks, MaskPatches)
    assert found.quality is not None
    masks = model.find_masks(image)
    pixels = paste(found.masks)
    for index in range(6):
        (owner,) = (masks.boxes == found.boxes[index]).all(dim=1).nonzero()[:, 0].tolist()
        assert torch.equal(pixels[index], paste(masks.masks)[owner])
        assert float(found.quality[index]) == float(masks.quality[owner])
        crops = model._crops(image, masks, [owner])
        share = model.classify(crops).softmax(dim=1)[0, found.labels[index]]
        assert float(found.scores[index]) == pytest.approx(float(share.detach()), abs=1e-5)
    assert {round(one, 2) for one in found.quality.tolist()} == {0.9, 0.75}
    model.max_detections = 4
    (fewer,) = model([image])
    assert torch.equal(fewer.scores, found.scores[:4])


def test_of_too_many_crops_half_are_objects_while_there_is_ground() -> None:
    model = _model()
    torch.manual_seed(0)
    for background, objects, expected in ((20, 20, 3), (1, 30, 5), (30, 1, 1), (0, 9, 6)):
        labels = torch.tensor([2] * background + [0] * objects)
        chosen = model._draw(labels, 0)
        assert len(set(chosen)) == 6
        assert sum(int(labels[index]) < 2 for index in chosen) == expected
    assert model._draw(torch.tensor([2, 0, 2]), 0) == [0, 1, 2]


def test_what_is_augmented_is_the_finished_crop() -> None:
    model = _model()
    crop = torch.rand(3, 64, 64) * 255
    assert model._augmented(crop, 0) is crop
    still = {
        "vertical_flip": 0.0,
        "rotate90": False,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "coarsen": 1.0,
        "eight_bit": False,
    }
    model.crop_transform = train_transform(image_size=64, flip=1.0, scale=(1, 1), **still)  # type: ignore[arg-type]
    torch.testing.assert_close(model._augmented(crop, 0), crop.round().flip(2))


def test_bad_pictures_and_settings_are_named() -> None:
    with pytest.raises(InputError, match="image 1 of the batch"):
        _model()([_picture(), torch.zeros(1, 4, 4)])
    with pytest.raises(UsageError, match=r"model\.blur = 4"):
        _model(blur=4)


def _same(first: PictureMasks, second: PictureMasks) -> bool:
    return (
        torch.equal(first.boxes, second.boxes)
        and torch.equal(first.quality, second.quality)
        and torch.equal(paste(first.masks), paste(second.masks))
        and first.masks.corners == second.masks.corners
    )


def test_masks_are_made_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = see_bright_shapes(monkeypatch)
    model = _model()
    fresh = model.find_masks(_picture((4, 4, 12), (40, 20, 16)))
    model.mask_cache = cache = AutomaskCache(
        tmp_path / "masks", model.segmenter, model.automask, device=CPU, dtype=torch.float32
    )
    picture = _picture((4, 4, 12), (40, 20, 16))
    assert _same(model.find_masks(picture), fresh)
    count = len(seen)
    assert _same(model.find_masks(picture.clone()), fresh)
    assert len(seen) == count
    assert (cache.hits, cache.misses) == (1, 1)
    (file,) = (tmp_path / "masks").iterdir()
    # A damaged file is made anew.
    file.write_bytes(file.read_bytes()[:100])
    assert _same(model.find_masks(picture), fresh)
    assert (cache.hits, cache.misses) == (1, 2)
    assert len(model.find_masks(_picture((0, 0, 40)))) > 0
    assert len(list((tmp_path / "masks").iterdir())) == 2


def test_the_key_holds_weights_settings_and_picture(tmp_path: Path) -> None:
    model = _model(automask=AutomaskConfig(points_per_side=2))

    def is_stored(picture: Tensor, **changes: Any) -> bool:
        settings = replace(model.automask, **changes)
        cache = AutomaskCache(tmp_path, model.segmenter, settings, device=CPU, dtype=torch.float32)
        cache.masks(picture, model.segmenter, settings)
        return cache.hits == 1

    assert not is_stored(_picture())
    assert is_stored(_picture())
    assert is_stored(_picture(), chunk=3)
    assert not is_stored(_picture((1, 1, 3)))
    assert not is_stored(_picture(), min_region_area=3)
    with torch.no_grad():
        model.mask_decoder.no_mask_embed.weight += 1
    assert not is_stored(_picture())


def test_a_picture_without_masks_is_kept_too(tmp_path: Path) -> None:
    model = _model(automask=AutomaskConfig(points_per_side=2, min_predicted_iou=1.0))
    model.mask_cache = AutomaskCache(tmp_path, model.segmenter, model.automask, device=CPU, dtype=torch.float32)
    assert len(model.find_masks(_picture())) == 0
    assert len(model.find_masks(_picture())) == 0
    assert model.mask_cache.hits == 1


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = _model(automask=AutomaskConfig(points_per_side=2))
    cache = AutomaskCache(tmp_path / "file", model.segmenter, model.automask, device=CPU, dtype=torch.float32)
    with pytest.raises(OutputError, match="automatic masks cannot be stored"):
        cache.masks(_picture(), model.segmenter, model.automask)


def test_the_table_of_class_rows_knows_the_classifier() -> None:
    assert _model().get_parameter(CLASS_ROWS["samcls"]).shape[0] == 3
