"""A town of clear squares with its labels, and a tiny checkpoint to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine import Affine

from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from tests.make.labelled import make_labelled_scene, rectangle
from tests.make.tiny_models import build_seeded, tiny_config, tiny_meta


def squares(rows: int, cols: int, *, step: int = 32, side: int = 16) -> list[Any]:
    """Squares of `side` px in a grid of `step` px, a little off its lines."""
    return [
        rectangle(8 + step * col + (5 * row + col) % 7, 8 + step * row + (3 * col + row) % 7, side, side)
        for row in range(rows)
        for col in range(cols)
    ]


def make_town(folder: Path, name: str = "town", *, rows: int = 5, cols: int = 8, **keywords: Any) -> tuple[Path, Path]:
    """A scene of 0.5 m pixels, full of squares, with all of them in its labels; their column is `kind`."""
    keywords = {"height": 32 * rows, "width": 32 * cols, "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5e6)} | keywords
    return make_labelled_scene(folder, name, keywords.pop("polygons", None) or squares(rows, cols), **keywords)


def make_start(folder: Path, *, classes: tuple[str, ...] = ("building",), **meta: Any) -> Path:
    """A checkpoint of random weights that knows pixels of 0.5 m."""
    config = tiny_config()
    model = build_seeded(config.model, num_classes=len(classes))
    facts = {"class_names": classes, "gsd_range": (0.5, 0.5)} | meta
    write_checkpoint(folder, model.state_dict(), config, tiny_meta(num_classes=len(classes), **facts))
    return folder
