"""Shards and runs over many scenes that are killed at any moment: the same command again gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from rsprompter_cli.predict.scenes import predict_scenes
from rsprompter_cli.predict.shard import Shard
from rsprompter_cli.predict.shards import predict_shard
from tests.make.scenes import paint, write_scene
from tests.make.stub_model import blob_model

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

PROGRAM = """
import sys, time
from rsprompter_cli.cli import app
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict import scene, scenes, shards
from rsprompter_cli.predict.store import journal
from tests.make.stub_model import BlobModel, blob_model

class Slow(BlobModel):
    def forward(self, images, targets=None):
        time.sleep(0.03)
        return super().forward(images, targets)

Slow.__qualname__ = BlobModel.__qualname__  # to a part it is the same model

def load(model, device):
    loaded = blob_model()
    return model if isinstance(model, LoadedModel) else type(loaded)(Slow(), loaded.config, loaded.meta)

journal._FLUSH_SECONDS = 0.0
scenes.load_chosen = scene.load_chosen = shards.load_chosen = load
scenes.meta_of = scene.meta_of = lambda model: blob_model().meta
sys.exit(app.run(sys.argv[1:]))
"""


def town(path: Path, side: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    corners, sizes = rng.integers(0, side - 40, (40, 2)), rng.integers(5, 40, (40, 2))
    boxes = [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_scene(path, paint(side, side, {"red": boxes[::2], "blue": boxes[1::2]}))


def content(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it went while we looked
                total += os.stat(os.path.join(root, name)).st_size
    return total


def killed(arguments: Sequence[str], folder: Path, seconds: float) -> bool:
    """Run rsp and kill it so many seconds after it has written into a folder; False when it ended before."""
    before = content(folder)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    ) as rsp:
        deadline = time.monotonic() + 300
        while rsp.poll() is None and content(folder) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            rsp.wait(seconds)
        except subprocess.TimeoutExpired:
            rsp.kill()
        _, talk = rsp.communicate()
    assert rsp.returncode in (0, -signal.SIGKILL), talk
    return rsp.returncode != 0


def kill_and_end(arguments: Sequence[str], folder: Path, *, times: int, longest: float, seed: int) -> int:
    """Kill runs of one command at random moments until it has been killed so often or has ended; then let it end."""
    rng = np.random.default_rng(seed)
    kills = 0
    while kills < times:
        if not killed(arguments, folder, rng.uniform(0, longest)):
            return kills
        kills += 1
    assert not killed(arguments, folder, 300)
    return kills


def test_a_part_that_is_killed_ten_times(tmp_path: Path) -> None:
    scene, out = town(tmp_path / "town.tif", 800, 3), tmp_path / "parts" / "2.part"
    predict_shard(scene, tmp_path / "whole.part", Shard(2, 3), model=blob_model(), native=True)
    arguments = ["predict", str(scene), "--shard", "2/3", "--out", str(out), "--native"]
    out.parent.mkdir()
    assert kill_and_end(arguments, out.parent, times=10, longest=0.4, seed=2) >= 5
    assert out.read_bytes() == (tmp_path / "whole.part").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["2.part"]


@pytest.mark.parametrize("name", ["all.geojson", "all.json", "each"])
def test_many_scenes_that_are_killed_ten_times(tmp_path: Path, name: str) -> None:
    for seed in range(6):
        town(tmp_path / "scenes" / f"{seed}.tif", 250, seed)
    whole, out = tmp_path / "whole" / name, tmp_path / "out" / name
    predict_scenes([tmp_path / "scenes"], whole, model=blob_model(), native=True)
    arguments = ["predict", str(tmp_path / "scenes"), "--out", str(out), "--native"]
    arguments += ["--format", "geojson"] if name == "each" else []
    out.parent.mkdir()
    assert kill_and_end(arguments, out.parent, times=10, longest=0.8, seed=len(name)) >= 5
    if name == "each":
        files = sorted(whole.glob("*.geojson"))
        assert len(files) == 6
        for path in files:
            assert (out / path.name).read_bytes() == path.read_bytes()
    else:
        assert out.read_bytes() == whole.read_bytes()
        assert [path.name for path in out.parent.iterdir()] == [name]
