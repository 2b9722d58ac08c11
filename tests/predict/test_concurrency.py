"""Windows that are computed at the same time: the same objects, in order, and nothing is left changed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsprompter_cli import predict_scene
from rsprompter_cli.config import ModelConfig
from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.raster.scene import Scene, open_scene
from rsprompter_cli.geo.windows import Window
from rsprompter_cli.models.build import build_model
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.detect import concurrency_of
from rsprompter_cli.predict.store import journal as journals
from rsprompter_cli.structures import Detections, Tile
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import BlobModel, blob_model
from tests.make.tiny_models import TINY_TINY_VIT, tiny_config, tiny_meta

OBJECTS = {"red": [(5, 5, 150, 20), (40, 60, 95, 190)], "blue": [(100, 100, 160, 150)]}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(former)


class Concurrent(BlobModel):
    """The stub, two passes at a time, of which the first takes longer; counts those that run together.

    Args:
        fails: number of the pass that fails, from 1 on.
    """

    concurrency = 2

    def __init__(self, fails: int = 0) -> None:
        super().__init__()
        self.fails = fails
        self.running = self.most = self.passes = 0
        self.threads: set[int] = set()
        self.lock = threading.Lock()

    def forward(self, images: list[torch.Tensor], targets: object = None) -> list[Detections]:
        with self.lock:
            self.passes += 1
            number = self.passes
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(torch.get_num_threads())
        if number == self.fails:
            raise UsageError("this window is not liked")
        time.sleep(0.05 if number % 2 else 0.01)
        found = super().forward(images)
        with self.lock:
            self.running -= 1
        return found


def stub(model: BlobModel) -> LoadedModel:
    return replace(blob_model(), model=model)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_bytes_as_one_after_the_other(tmp_path: Path, batch: int) -> None:
    scene = write_scene(tmp_path / "a.tif", paint(200, 170, OBJECTS))
    predict_scene(scene, tmp_path / "one.geojson", model=blob_model(), native=True, batch=batch)
    model = Concurrent()
    predict_scene(scene, tmp_path / "two.geojson", model=stub(model), native=True, batch=batch)
    assert (tmp_path / "one.geojson").read_bytes() == (tmp_path / "two.geojson").read_bytes()
    assert model.most == 2
    assert model.threads == {2}
    assert torch.get_num_threads() == 4


def test_the_threads_have_equal_shares_so_that_results_repeat(tmp_path: Path) -> None:
    torch.set_num_threads(5)
    scene = write_scene(tmp_path / "a.tif", paint(200, 170, OBJECTS))
    model = Concurrent()
    predict_scene(scene, tmp_path / "a.geojson", model=stub(model), native=True)
    assert model.threads == {2}
    assert torch.get_num_threads() == 5


def test_an_error_of_one_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_FLUSH_SECONDS", 0.0)
    scene = write_scene(tmp_path / "a.tif", paint(200, 170, OBJECTS))
    model = Concurrent(fails=4)
    with pytest.raises(UsageError, match="not liked"):
        predict_scene(scene, tmp_path / "a.geojson", model=stub(model), native=True)
    assert model.passes <= 7
    assert not (tmp_path / "a.geojson").exists()
    assert torch.get_num_threads() == 4
    # What was done before the error is kept.
    again, whole = Concurrent(), Concurrent()
    predict_scene(scene, tmp_path / "a.geojson", model=stub(again), native=True)
    predict_scene(scene, tmp_path / "whole.geojson", model=stub(whole), native=True)
    assert again.passes < whole.passes
    predict_scene(scene, tmp_path / "one.geojson", model=blob_model(), native=True)
    assert (tmp_path / "one.geojson").read_bytes() == (tmp_path / "a.geojson").read_bytes()


def test_only_light_encoders_on_a_cpu_with_threads() -> None:
    assert concurrency_of(BlobModel()) == 1
    assert concurrency_of(Concurrent()) == 2
    plain = build_model(tiny_config().model, num_classes=2)
    assert concurrency_of(plain) == 1
    light = build_model(light_config(), num_classes=2)
    assert concurrency_of(light) == 2
    assert concurrency_of(light.to("meta")) == 1
    torch.set_num_threads(1)
    assert concurrency_of(Concurrent()) == 1


def light_config() -> ModelConfig:
    return tiny_config(sam_arch=TINY_TINY_VIT).model


def test_a_real_model_finds_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(light_config(), num_classes=2).eval()
    loaded = LoadedModel(model, tiny_config(sam_arch=TINY_TINY_VIT), tiny_meta(num_classes=2))
    scene = write_scene(tmp_path / "a.tif", paint(200, 170, OBJECTS))
    found = []
    for threads, name in ((2, "two.geojson"), (1, "one.geojson")):  # in both an operation has one thread
        torch.set_num_threads(threads)
        assert concurrency_of(model) == threads
        predict_scene(scene, tmp_path / name, model=loaded, native=True, score=0.0)
        found.append(json.loads((tmp_path / name).read_text())["features"])
    assert found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_thread_reads_the_scene_once_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """Windows that are read ahead are given up with the run; GDAL crashed where it read on."""
    closed: list[bool] = []

    def slow(scene: Scene, window: Window, plain: Callable[..., Tile] = Scene.read) -> Tile:
        time.sleep(0.1)
        closed.append(scene._dataset.closed)
        return plain(scene, window)

    monkeypatch.setattr(Scene, "read", slow)
    model = Concurrent(fails=2)
    monkeypatch.setattr(Concurrent, "concurrency", concurrency)
    scene = write_scene(tmp_path / "a.tif", paint(200, 170, OBJECTS))
    with pytest.raises(UsageError, match="not liked"):  # what it keeps holds the frames, as a caller may
        predict_scene(scene, tmp_path / "a.geojson", model=stub(model), native=True)
    time.sleep(0.4)
    assert closed
    assert not any(closed)


def test_a_closed_scene_is_not_read(tmp_path: Path) -> None:
    scene = open_scene(write_scene(tmp_path / "a.tif", paint(40, 40, {})), native=True)
    scene.read(Window(0, 0, 0, 0, 40, 40))
    scene.close()
    with pytest.raises(RuntimeError, match="is closed"):
        scene.read(Window(0, 0, 0, 0, 40, 40))
