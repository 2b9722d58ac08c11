"""A prediction that was stopped goes on where it was and gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rsprompter_cli.errors import OutputError
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.store import journal as journals
from rsprompter_cli.predict.store.parts import parts_of
from rsprompter_cli.structures import Detections, Target
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import BlobModel, blob_model


class Stopping(BlobModel):
    """Raises in place of the call number `at`."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def forward(self, images: list[torch.Tensor], targets: list[Target] | None = None) -> list[Detections]:
        if self.seen == self.at:
            raise self.error
        return super().forward(images, targets)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_FLUSH_SECONDS", 0.0)


def town(folder: Path, side: int = 300) -> Path:
    rng = np.random.default_rng(5)
    corners, sizes = rng.integers(0, side - 40, (40, 2)), rng.integers(5, 40, (40, 2))
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    return write_scene(folder / "town.tif", paint(side, side, {"red": boxes[::2], "blue": boxes[1::2]}))


def stopped_at(model_calls: int, scene: Path, out: Path, error: BaseException | None = None, **options: object) -> None:
    loaded = blob_model()
    stopping = type(loaded)(Stopping(model_calls, error or KeyboardInterrupt()), loaded.config, loaded.meta)
    stopping.model.__class__.__qualname__ = BlobModel.__qualname__  # to the journal it is the same model
    with pytest.raises(type(error or KeyboardInterrupt())):
        predict_scene(scene, out, model=stopping, native=True, **options)


@pytest.mark.parametrize("name", ["a.geojson", "a.fgb", "a.json"])
def test_stopped_at_any_window_the_file_is_the_same(tmp_path: Path, name: str) -> None:
    scene = town(tmp_path)
    whole = tmp_path / "whole" / name
    windows = predict_scene(scene, whole, model=blob_model(), native=True).plan.windows
    assert windows == 36
    out = tmp_path / "stopped" / name
    for calls in (3, 11, 9, 1):  # four times in a row, each after some windows more
        stopped_at(calls, scene, out)
        assert not out.exists()
    loaded = blob_model()
    predict_scene(scene, out, model=loaded, native=True)
    assert isinstance(loaded.model, BlobModel)
    assert loaded.model.seen == windows - 24
    assert out.read_bytes() == whole.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_another_score_is_refused_and_another_batch_is_not(tmp_path: Path) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    stopped_at(5, scene, out)
    kept = kept_beside(out)
    with pytest.raises(OutputError, match=r"score 0\.5 instead of 0\.7"):
        predict_scene(scene, out, model=blob_model(), native=True, score=0.7)
    with pytest.raises(OutputError, match="a different model"):
        predict_scene(scene, out, model=blob_model(gsd_range=(0.1, 0.9)), native=True)
    with pytest.raises(
        OutputError, match="the scene at another resolution or with other bounds, gsd null instead of 1"
    ) as got:
        predict_scene(scene, out, model=blob_model(), gsd=1.0)
    assert "extent" not in got.value.message
    os.utime(scene, ns=(1, 1))
    with pytest.raises(OutputError, match="a different input"):
        predict_scene(scene, out, model=blob_model(), native=True)
    assert kept_beside(out) == kept
    result = predict_scene(scene, out, model=blob_model(), native=True, overwrite=True, batch=4)
    assert result.objects > 10
    assert not parts_of(out).folder.exists()


def test_a_fault_while_writing_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    with monkeypatch.context() as patch:
        patch.setattr("rsprompter_cli.predict.output.write.write_output", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_scene(scene, out, model=blob_model(), native=True)
    loaded = blob_model()
    assert predict_scene(scene, out, model=loaded, native=True).objects > 10
    assert isinstance(loaded.model, BlobModel)
    assert loaded.model.seen == 0


def test_what_a_killed_run_left_of_its_output_goes(tmp_path: Path) -> None:
    scene, out = town(tmp_path), tmp_path / "out" / "a.geojson"
    out.parent.mkdir()
    for name in (".a.0123abcd.tmp.geojson", ".a.geojson.lock"):
        (out.parent / name).write_text("")
    predict_scene(scene, out, model=blob_model(), native=True)
    assert [path.name for path in out.parent.iterdir()] == ["a.geojson"]


PROGRAM = """
import os, sys, time
from rsprompter_cli.cli import app
from rsprompter_cli.predict import scene
from rsprompter_cli.predict.store import journal
from tests.make.stub_model import BlobModel, blob_model

class Slow(BlobModel):
    def forward(self, images, targets=None):
        time.sleep(300 if self.seen == int(os.environ["STOP_AT"]) else 0.03)
        return super().forward(images, targets)

def load(model, device):
    loaded = blob_model()
    slow = Slow()
    return type(loaded)(slow, loaded.config, loaded.meta)

journal._FLUSH_SECONDS = 0.0
scene.load_chosen = load
scene.meta_of = lambda model: blob_model().meta
sys.exit(app.run(sys.argv[1:]))
"""


def start(arguments: list[str], stop_at: int = -1) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "STOP_AT": str(stop_at)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        # Tests that a shell runs in the background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def kept_beside(out: Path) -> dict[str, bytes]:
    """The parts of an output."""
    folder = parts_of(out).folder
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def size_beside(out: Path) -> int:
    """Bytes of the parts of an output."""
    folder = parts_of(out).folder
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def wait_for(out: Path, process: subprocess.Popen[str], size: int) -> None:
    """Until more than so many bytes lie in the parts of an output."""
    for _ in range(15000):
        if process.poll() is not None or size_beside(out) > size:
            return
        time.sleep(0.02)
    raise AssertionError("the program does not get on")


@pytest.mark.e2e
def test_ctrl_c_exits_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    predict_scene(scene, tmp_path / "whole.geojson", model=blob_model(), native=True)
    arguments = ["predict", str(scene), "--out", str(out), "--native"]
    with start(arguments, stop_at=6) as rsp:
        wait_for(out, rsp, 0)
        rsp.send_signal(signal.SIGINT)
        _, talk = rsp.communicate(timeout=120)
    assert rsp.returncode == 130, talk
    assert "done so far: run the same command again to resume" in talk
    assert "interrupted" in talk
    assert not out.exists()
    with start(arguments) as rsp:
        _, talk = rsp.communicate(timeout=120)
    assert rsp.returncode == 0, talk
    assert out.read_bytes() == (tmp_path / "whole.geojson").read_bytes()


@pytest.mark.slow
@pytest.mark.e2e
def test_thirty_kills_at_random_moments(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    scene, out = town(tmp_path, 900), tmp_path / "a.geojson"
    predict_scene(scene, tmp_path / "whole.geojson", model=blob_model(), native=True)
    arguments = ["predict", str(scene), "--out", str(out), "--native"]
    kills = 0
    while not out.exists():
        with start(arguments) as rsp:
            wait_for(out, rsp, size_beside(out))
            time.sleep(rng.uniform(0, 0.4))
            rsp.kill()
            kills += rsp.wait() == -signal.SIGKILL
    assert kills >= 8
    while kills < 30:  # with --overwrite it starts over; the old file is there until the new one is whole
        with start([*arguments, "--overwrite"]) as rsp:
            time.sleep(rng.uniform(0, 12))
            rsp.kill()
            kills += rsp.wait() == -signal.SIGKILL
        assert out.read_bytes() == (tmp_path / "whole.geojson").read_bytes()
