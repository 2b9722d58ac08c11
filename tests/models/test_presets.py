"""The presets: all there, with the original's numbers, and each trains at tiny size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rsprompter_cli.config import PRESET_FOLDER, Config, SamModelConfig, list_presets, load_config, parse_config
from rsprompter_cli.models.build import build_model
from rsprompter_cli.structures import Batch, Target
from rsprompter_cli.train.distributed.ddp import Engine
from rsprompter_cli.train.setup import build_optimizer
from tests.make.segmenters import see_bright_shapes
from tests.make.tiny_models import PLAIN_QUERY, TINY_QUERY, TINY_RESNET, TINY_TINY_VIT, TINY_VIT

# Epochs, learning rate, pictures per process and step, largest gradient norm, queries.
ORIGINAL: dict[str, tuple[int, float, int, float | None, int | None]] = {
    "rsprompter-anchor-whu": (300, 2e-4, 2, None, None),
    "rsprompter-anchor-nwpu": (500, 2e-4, 1, None, None),
    "rsprompter-anchor-ssdd": (600, 2e-4, 2, None, None),
    "rsprompter-anchor-nwpu-peft-512": (500, 2e-4, 2, None, None),
    "rsprompter-query-whu": (300, 1e-4, 1, 0.1, 100),
    "rsprompter-query-nwpu": (600, 1e-4, 1, 0.1, 70),
    "rsprompter-query-ssdd": (600, 1e-4, 1, 0.1, 30),
    "rsprompter-query-nwpu-peft-512": (600, 1e-4, 1, 0.1, 70),
    "samseg-maskrcnn-whu": (150, 2e-4, 4, None, None),
    "samseg-maskrcnn-nwpu": (250, 2e-4, 2, None, None),
    "samseg-maskrcnn-ssdd": (250, 2e-4, 2, None, None),
    "samseg-mask2former-whu": (300, 1e-4, 4, 0.1, 100),
    "samseg-mask2former-nwpu": (600, 1e-4, 2, 0.1, 70),
    "samseg-mask2former-ssdd": (600, 1e-4, 1, 0.1, 30),
    "samdet-whu": (200, 1e-4, 4, None, None),
    "samdet-nwpu": (300, 1e-4, 4, None, None),
    "samdet-ssdd": (300, 1e-4, 4, None, None),
}

TINY_SIZES: dict[str, dict[str, Any]] = {
    "neck": {"hidden_channels": 8, "out_channels": 16},
    "rpn": {"nms_pre_train": 100, "nms_pre_test": 50, "max_proposals": 30, "samples": 32},
    "roi": {"fc_channels": 16, "samples": 16},
    "lora": {"r": 2, "alpha": 4},
    "automask": {"points_per_side": 4},
    "backbone": TINY_RESNET.model_dump(mode="json"),
}
TINY_VALUES: dict[str, Any] = {
    "backbone_weights": "random",
    "crop_size": 64,
    "crop_samples": 6,
    "out_channels": 16,
    # torchvision's Mask R-CNN stays as deep and wide as it is: it takes its time for regions.
    "roi_samples": 4,
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_preset_has_the_numbers_of_the_original(name: str) -> None:
    config = load_config(name)
    train, model = config.train, config.model
    queries = getattr(getattr(model, "query", None), "queries", None)
    assert (train.epochs, train.lr, train.batch_size, train.clip_grad, queries) == ORIGINAL[name]
    assert (train.weight_decay, train.warmup_steps) == (0.05, 50)
    assert train.eval_every == (3 if name.startswith("rsprompter") else 2)
    assert config.data.val_split == ("test" if name.endswith("-whu") else "val")
    lora = name.endswith("-peft-512")
    assert getattr(model, "image_size", None) == (512 if lora else 1024)
    assert getattr(model, "encoder", "frozen") == ("lora" if lora else "frozen")
    assert getattr(model, "sam", None) == "base"
    if rpn := getattr(model, "rpn", None):
        assert rpn.anchor_area == "original"
    samdet = name.startswith("samdet")
    assert train.boxes == ("annotations" if samdet else "masks")
    assert (train.augment.eight_bit, train.augment.flip) == (samdet, 0.5)
    assert train.augment.scale == ((1.0, 1.0) if samdet else (0.1, 2.0))


def test_every_data_set_has_its_classifier() -> None:
    assert {f"samcls-{data}" for data in ("whu", "nwpu", "ssdd")} <= set(list_presets())


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_opens_with_the_command_that_runs_it(name: str) -> None:
    config = load_config(name)
    first = (PRESET_FOLDER / f"{name}.toml").read_text(encoding="utf-8").split("\n")[0]
    assert first == f"# rsp train {name} --data {config.data.root}"
    assert config.name == name
    assert name.startswith(config.model.kind)


def shrunk(config: Config) -> Config:
    """The preset with small sizes; what is frozen, adapted or clipped stays as it is."""
    tree = config.model_dump(mode="json")
    model = tree["model"]
    # The presets for 512 px take a SAM of 1024 px: here too the input is not what SAM was made for.
    model["image_size"] = 96 if model["image_size"] == 512 else 64
    if "sam_arch" in model:
        model["sam_arch"] = (TINY_TINY_VIT if model["sam"] == "tiny-vit" else TINY_VIT).model_dump(mode="json")
    if "query" in model:
        sizes = PLAIN_QUERY if config.model.kind == "mask2former" else TINY_QUERY
        model["query"] |= {key: value for key, value in sizes.items() if key != "queries"}
    for key in model.keys() & TINY_SIZES.keys():
        model[key] |= TINY_SIZES[key]
    model |= {key: value for key, value in TINY_VALUES.items() if key in model}
    return parse_config(tree, origin=config.name)


def made_batch(side: int) -> Batch:
    """Two pictures, one with two bright squares, one with nothing."""
    pictures = torch.randint(0, 60, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[8.0, 8.0, 24.0, 28.0], [36.0, 30.0, 60.0, 56.0]])
    masks = torch.zeros(2, side, side, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
        pictures[0, :, top:bottom, left:right] += 190
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, side, side, dtype=torch.bool))
    return Batch(list(pictures), [Target(boxes, torch.tensor([0, 1]), masks), nothing], [1, 2])


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_trains_two_steps_at_tiny_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random SAM makes no masks, and SAM-cls has crops to train on only where it has masks.
    see_bright_shapes(monkeypatch)
    config = shrunk(load_config(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.model, num_classes=2).train()
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        optimizer = build_optimizer(model, lr=config.train.lr, weight_decay=config.train.weight_decay)
        engine = Engine(
            model,
            optimizer,
            device=torch.device("cpu"),
            dtype=torch.float32,
            clip_grad=config.train.clip_grad,
        )
        learned: set[str] = set()
        for _ in range(2):
            losses = engine.forward(made_batch(config.model.image_size or 64))
            assert all(bool(torch.isfinite(value)) for value in losses.values()), losses
            assert float(losses["loss_cls"].detach()) > 0
            engine.backward(losses, weight=1.0)
            learned |= {key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()}
            assert engine.step(1.0) > 0
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    # Weight decay moves weights too: what counts are those that got a gradient.
    assert learned & moved
    assert learned | moved <= trained
    blocks = {key.partition(".")[0] for key in trained}
    assert {key.partition(".")[0] for key in learned & moved} == blocks
    encoder = getattr(config.model, "encoder", None)
    if encoder == "full":
        assert any(key.startswith("encoder.") for key in learned & moved)
    elif encoder == "lora":
        assert {key for key in trained if key.startswith("encoder.")} == {key for key in trained if ".lora_" in key}
    elif isinstance(config.model, SamModelConfig):
        assert not [key for key in trained if key.startswith("encoder.")]
