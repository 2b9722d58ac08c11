"""What predicting on a scene will take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsprompter_cli.config import load_config
from rsprompter_cli.geo.raster.scene import open_scene
from rsprompter_cli.geo.windows import make_grid
from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta, write_checkpoint
from rsprompter_cli.predict import plan as plan_module
from rsprompter_cli.predict.options import Reading, window_size
from rsprompter_cli.predict.plan import format_gsd, format_seconds, plan_scene, scene_info
from tests.make.rasters import pattern, write_raster, write_sparse
from tests.make.scenes import paint, write_scene

META = CheckpointMeta(
    ("house",), (1,), 256, gsd_range=(0.4, 0.6), provenance={"seconds_per_window": 0.5, "seconds_per_window_on": "cpu"}
)


def test_windows_with_data_are_counted_and_timed(tmp_path):
    path = write_sparse(tmp_path / "a.tif", 2048, 2048, stored=(slice(0, 256), slice(0, 512)))
    with open_scene(path) as scene:
        plan = plan_scene(scene, make_grid(2048, 2048, size=256, overlap=0), META)
    assert (plan.windows, plan.windows_with_data, plan.counted) == (64, 2, True)
    assert plan.share_with_data == 2 / 64
    assert plan.est_seconds == 1.0
    assert "64 windows of 256 px, 2 with data; about 1 s on the machine that trained the model (cpu)" in plan.summary()


def test_a_time_measured_on_one_device_is_not_told_of_another(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(300, 400))
    with open_scene(path) as scene:
        grid = make_grid(300, 400, size=256)
        here, there = (plan_scene(scene, grid, META, device=device) for device in ("cpu", "cuda"))
        nowhere = plan_scene(scene, grid, replace(META, provenance={"seconds_per_window": 0.5}), device="cuda")
    assert (here.est_seconds, here.measured_on) == (2.0, "cpu")
    assert (there.est_seconds, there.measured_on) == (None, "cpu")
    assert "time unknown (measured on cpu only)" in there.summary()
    # Models that do not say where: the figure, and that it is theirs.
    assert "about 2 s on the machine that trained the model" in nowhere.summary()


def test_windows_that_share_nothing_are_warned_of_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(plan_module._log, "warning", lambda text, *values: said.append(text % values))
    path = write_raster(tmp_path / "a.tif", pattern(300, 400))
    with open_scene(path) as scene:
        plan_scene(scene, make_grid(300, 400, size=512, overlap=0), META)
        plan_scene(scene, make_grid(300, 400, size=256), META)
        assert said == []
        plan_scene(scene, make_grid(300, 400, size=256, overlap=0), META)
    assert [text.count("--overlap") for text in said] == [1]


def test_many_windows_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "_COUNTED_WINDOWS", 100)
    path = write_sparse(tmp_path / "a.tif", 8192, 8192, stored=(slice(0, 4096), slice(0, 8192)))
    with open_scene(path) as scene:
        plan = plan_scene(scene, make_grid(8192, 8192, size=256, overlap=0), None)
    assert (plan.windows, plan.counted, plan.est_seconds) == (1024, False, None)
    assert plan.windows_with_data == pytest.approx(512, rel=0.1)
    assert "about" in plan.summary()
    assert "time unknown" in plan.summary()


def test_memory_grows_with_the_window_and_not_beyond_the_cache(tmp_path):
    path = write_sparse(tmp_path / "a.tif", 400_000, 400_000, stored=(slice(0, 256), slice(0, 256)), block=1024)
    with open_scene(path) as scene:
        small = plan_scene(scene, make_grid(2048, 2048, size=256), META).est_memory_bytes
        large = plan_scene(scene, make_grid(2048, 2048, size=1024), META, batch=8).est_memory_bytes
    assert small < large < 2 << 30


def test_a_picture_goes_whole_unless_it_shrinks_too_much(tmp_path):
    near = write_raster(tmp_path / "near.tif", pattern(700, 1000), crs=None, transform=None)
    far = write_raster(tmp_path / "far.tif", pattern(700, 1100), crs=None, transform=None)
    placed = write_raster(tmp_path / "placed.tif", pattern(700, 1000))
    pictures = replace(META, gsd_range=None)
    with open_scene(near) as scene:
        assert window_size(scene, pictures, native=False) == 1000
        assert window_size(scene, pictures, native=True) == 256
        assert window_size(scene, META, native=False) == 256  # it knows objects by their size on the ground
    with open_scene(far) as scene:
        assert window_size(scene, pictures, native=False) == 256
    with open_scene(placed) as scene:
        assert window_size(scene, None, native=False) == 256


def test_info_tells_a_refusal_with_its_way_out(tmp_path):
    path = write_raster(tmp_path / "a.tif", pattern(300, 400))
    info = scene_info(path, Reading(gsd=0.05))
    assert info.plan is None
    assert info.facts["width"] == 400
    assert "omit --gsd to read it at 0.3 m" in (info.refusal or "")
    assert ("prediction", f"refused: {info.refusal}") in info.rows()
    assert scene_info(path, Reading(max_windows=1)).refusal is not None


def test_info_describes_a_file_that_lacks_the_bands_of_the_model(tmp_path):
    meta = replace(META, bands=(4, 3, 2))
    write_checkpoint(tmp_path / "model", {"a": torch.zeros(1)}, load_config("rsprompter-anchor-cpu"), meta)
    path = write_raster(tmp_path / "a.tif", pattern(300, 400))
    info = scene_info(path, Reading(native=True), model=tmp_path / "model")
    assert (info.plan, info.facts["bands_read"]) == (None, [1, 2, 3])
    assert "trained on bands 4,3,2" in (info.refusal or "")
    assert scene_info(path, Reading(native=True, bands=(1, 2, 3)), model=tmp_path / "model").plan is not None


def test_formats():
    assert format_gsd((0.3, 0.301)) == "0.3005 m"
    assert format_gsd((0.5, 0.25)) == "0.25 x 0.5 m"
    assert [format_seconds(value) for value in (3, 600, 9000)] == ["3 s", "10 min", "2.5 h"]


@pytest.mark.parametrize(
    ("height", "width", "gsd", "told"),
    [(300, 12, None, True), (1, 1, None, True), (16, 16, None, False), (60, 60, 4.0, True)],
)
def test_scenes_too_small_for_an_object_are_said(tmp_path, caplog, height, width, gsd, told):
    path = write_scene(tmp_path / "small.tif", paint(height, width, {}), gsd=0.5 if gsd is None else 1.0)
    with open_scene(path, native=gsd is None, gsd=gsd) as scene:
        plan_scene(scene, make_grid(scene.height, scene.width, size=64), None)
    assert ("too small to contain an object" in caplog.text) == told
    assert caplog.text.count("\n") == told
