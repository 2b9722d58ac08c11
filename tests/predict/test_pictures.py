"""Pictures without georeference: predicted as they are evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.structures import Detections, LowResMasks
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model


@pytest.mark.parametrize(("height", "width"), [(75, 100), (100, 61), (64, 48), (30, 40)])
def test_a_picture_that_goes_whole_is_predicted_as_in_evaluation(tmp_path: Path, height: int, width: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model = tiny_model(num_classes=2)
    calls: list[Any] = []
    handle = model.register_forward_hook(lambda _module, inputs, output: calls.append((inputs[0], output)))
    loaded = LoadedModel(model, tiny_config(), tiny_meta(num_classes=2))
    predict_scene(tmp_path / "photo.png", tmp_path / "out.json", model=loaded, score=0.0, precision="fp32")
    handle.remove()

    ((images, (found,)),) = calls
    assert [tuple(image.shape) for image in images] == [(3, height, width)]
    with torch.inference_mode():
        (expected,) = model([torch.from_numpy(pixels).permute(2, 0, 1)], None)
    assert len(expected) > 0
    _assert_same(found, expected)


def _assert_same(found: Detections, expected: Detections) -> None:
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.boxes, expected.boxes)
    assert isinstance(found.masks, LowResMasks)
    assert isinstance(expected.masks, LowResMasks)
    assert found.masks.frame == expected.masks.frame
    torch.testing.assert_close(found.masks.values, expected.masks.values)
