"""What a killed or failing `rsp predict` leaves behind, in the real program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

pytestmark = pytest.mark.e2e

STOPPED_AT = """
import sys, time
from rsprompter_cli.cli.app import main

def stop(*_):
    print("here", flush=True)
    time.sleep(300)

if sys.argv.pop(1) == "detecting":
    from rsprompter_cli.predict import shards
    real, calls = shards.outline, []
    def outline(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            stop()
        return real(*arguments, **options)
    shards.outline = outline
else:
    import os
    os.replace = stop
main()
"""
"""The program, held still at the third window or when all is written but the last rename."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "best"
    write_checkpoint(folder, tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2))
    return folder


def arguments(scene: Path, out: Path, model: Path) -> list[str]:
    return ["predict", str(scene), "--out", str(out), "--model", str(model), "--native", "--score", "0"]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    ("name", "moment"), [("old.geojson", "detecting"), ("old.gpkg", "replacing"), ("new.geojson", "replacing")]
)
def test_killed_predict_leaves_what_was_there(tmp_path: Path, model: Path, name: str, moment: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", paint(200, 200, {"red": [(10, 10, 150, 140)]}))
    out = tmp_path / name
    if name.startswith("old"):
        out.write_bytes(b"precious")
    before = visible(tmp_path)
    command = [sys.executable, "-c", STOPPED_AT, moment, *arguments(scene, out, model), "--overwrite"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as rsp:
        assert rsp.stdout is not None
        assert rsp.stderr is not None
        reached = rsp.stdout.readline()
        rsp.kill()
        assert reached == "here\n", rsp.stderr.read()
    assert rsp.returncode != 0
    assert visible(tmp_path) == before
    if name.startswith("old"):
        assert out.read_bytes() == b"precious"
    if moment == "replacing":  # it was at work on a hidden file beside the output
        assert [path for path in tmp_path.iterdir() if path.name.startswith(f".{out.stem}.")]


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_truncated_scene_leaves_no_output(tmp_path: Path, model: Path, keep: float) -> None:
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    scene = write_scene(tmp_path / "scene.tif", paint(300, 300, {"red": [(10, 10, 150, 140)]}), **layout)
    content = scene.read_bytes()
    scene.write_bytes(content[: int(len(content) * keep)])
    # -q: on a busy machine there would be lines of progress.
    command = [sys.executable, "-m", "rsprompter_cli", "-q", *arguments(scene, tmp_path / "out.geojson", model)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert "scene.tif" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
