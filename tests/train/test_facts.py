"""Facts that a run finds out about its model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rsprompter_cli.data.coco.entries import CocoImage
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.train import evaluation
from rsprompter_cli.train.evaluation import WindowClock
from tests.train.runs import make_data, run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def _images(*sizes: tuple[int, int]) -> list[CocoImage]:
    return [CocoImage(number, f"{number}.png", height, width, {}) for number, (height, width) in enumerate(sizes)]


def _measure(clock: list[float], images: list[CocoImage], cache: Any = None) -> float | None:
    measured = WindowClock(images, 64, cache)
    for done in range(1, len(images) + 1):
        clock[0] += 3
        measured.count(done)
    # Scoring after the last picture is not the model's time.
    clock[0] += 1000
    return measured.seconds_per_window()


def test_the_time_of_a_picture_is_that_of_a_window_when_it_is_as_large(clock: list[float]) -> None:
    assert _measure(clock, _images((64, 64), (60, 70), (500, 500))) == 3
    assert _measure(clock, _images((96, 20))) == 3
    assert _measure(clock, _images((97, 20))) is None
    assert _measure(clock, _images((42, 42))) is None
    assert _measure(clock, []) is None


def test_stored_encoder_maps_make_no_measurement(clock: list[float]) -> None:
    cache = SimpleNamespace(hits=5)
    assert _measure(clock, _images((64, 64)), cache) == 3
    measured = WindowClock(_images((64, 64)), 64, cache)  # type: ignore[arg-type]
    measured.count(1)
    cache.hits += 1
    assert measured.seconds_per_window() is None


def test_a_trained_model_knows_its_speed(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", train=4)
    # The second evaluation finds its maps stored: the time of the first one stays.
    options = {"epochs": 2, "eval_every": 1, "cache_views": 1}
    result = run(data, tmp_path / "run", options)
    provenance = read_checkpoint(result.last).meta.provenance
    assert provenance["seconds_per_window"] > 0
    assert provenance["seconds_per_window_on"] == "cpu"
