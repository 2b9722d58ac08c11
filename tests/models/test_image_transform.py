"""Pictures to the square batch, in evaluation and in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from rsprompter_cli.errors import InputError
from rsprompter_cli.models.image_transform import boxes_to_image, make_meta, pad_batch, resize_batch
from rsprompter_cli.models.sam.modules import IMAGENET_MEAN, IMAGENET_STD

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["nwpu_001_512", "nwpu_089_512"])
def test_equals_the_recorded_pipeline(shared: Path, name: str) -> None:
    folder = shared / "parity" / "preprocess"
    meta = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with Image.open(shared / "data" / "nwpu" / "images" / meta["image"]) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    batch, metas = resize_batch([pixels], 512, IMAGENET_MEAN, IMAGENET_STD, CPU)
    recorded = load_file(folder / f"{name}.safetensors")["input"].float()
    assert float((batch - recorded).abs().max()) <= 2e-3
    assert metas[0].scale == pytest.approx(tuple(reversed(meta["scale_factor"])), abs=1e-12)
    assert metas[0].frame.image == tuple(meta["ori_shape"])


def test_padding_is_the_mean_colour_and_floats_are_not_clipped() -> None:
    image = torch.full((3, 30, 60), 400.0)
    batch, metas = resize_batch([image], 64, IMAGENET_MEAN, IMAGENET_STD, CPU)
    assert batch.shape == (1, 3, 64, 64)
    assert torch.all(batch[0, :, 32:] == 0)
    expected = (400 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(batch[0, :, :32].mean(dim=(1, 2)), expected, atol=1e-4)
    assert metas[0].scale == (32 / 30, 64 / 60)


def test_bytes_and_floats_are_the_same_picture() -> None:
    image = torch.randint(0, 256, (3, 17, 23), dtype=torch.uint8)
    from_bytes, _ = resize_batch([image], 32, IMAGENET_MEAN, IMAGENET_STD, CPU)
    from_floats, _ = resize_batch([image.float()], 32, IMAGENET_MEAN, IMAGENET_STD, CPU)
    assert torch.equal(from_bytes, from_floats)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.sampled_from([64, 512, 1024]))
@settings(max_examples=60, deadline=None)
def test_the_image_fills_the_square_in_one_direction(height: int, width: int, side: int) -> None:
    longest = max(height, width)
    rows, columns = (max(int(length * (side / longest) + 0.5), 1) for length in (height, width))
    meta = make_meta((height, width), (rows / height, columns / width), side)
    content = meta.frame.content
    assert max(rows, columns) == side
    # Truncation may lose one row or column, never more.
    assert rows - 1 <= content[0] <= rows
    assert columns - 1 <= content[1] <= columns
    assert min(content) >= 1
    corner = boxes_to_image(torch.tensor([[0.0, 0.0, columns, rows]]), meta)
    assert torch.allclose(corner, torch.tensor([[0.0, 0.0, width, height]], dtype=torch.float32), rtol=1e-5)


def test_training_pads_and_never_resizes() -> None:
    images = [torch.randint(0, 256, (3, 20, 64), dtype=torch.uint8), torch.rand(3, 64, 1) * 255]
    batch, sizes = pad_batch(images, 64, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), CPU)
    assert sizes == [(20, 64), (64, 1)]
    assert torch.allclose(batch[0, :, :20] * 255, images[0].float(), atol=1e-4)
    assert torch.all(batch[0, :, 20:] == 0)
    assert torch.all(batch[1, :, :, 1:] == 0)


def test_a_larger_training_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"image 1 of the batch has 65 x 10 pixels, the model takes 64"):
        pad_batch([torch.zeros(3, 64, 64), torch.zeros(3, 65, 10)], 64, IMAGENET_MEAN, IMAGENET_STD, CPU)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8), (3, 0, 8), (4, 8, 8)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="image 0 of the batch has shape"):
        resize_batch([torch.zeros(shape)], 64, IMAGENET_MEAN, IMAGENET_STD, CPU)
