"""Augmentation of which a test names only what it is about."""

from __future__ import annotations

from typing import Any

from rsprompter_cli.data.transforms import TrainTransform, train_transform

NOTHING: dict[str, Any] = {
    "flip": 0.0,
    "vertical_flip": 0.0,
    "rotate90": False,
    "scale": (1.0, 1.0),
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "coarsen": 1.0,
    "eight_bit": False,
}


def transform_with(**changes: Any) -> TrainTransform:
    """A transform that does nothing but resize to `image_size`, changed."""
    return train_transform(**{**NOTHING, **changes})
