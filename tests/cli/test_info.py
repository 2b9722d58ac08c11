"""`rsp info`."""

from __future__ import annotations

import json

import pytest

from rsprompter_cli.cli.app import run
from tests.make.rasters import pattern, vrt_text, write_raster


@pytest.fixture
def scene(tmp_path):
    return write_raster(tmp_path / "scene.tif", pattern(600, 900))


@pytest.fixture
def model(tmp_path):
    import torch

    from rsprompter_cli.config import load_config
    from rsprompter_cli.io.model_files.checkpoint import CheckpointMeta, write_checkpoint

    speed = {"seconds_per_window": 2.0, "seconds_per_window_on": "cuda"}
    meta = CheckpointMeta(("house",), (1,), 128, gsd_range=(0.8, 1.0), provenance=speed)
    write_checkpoint(tmp_path / "model", {"a": torch.zeros(1)}, load_config("rsprompter-anchor-cpu"), meta)
    return tmp_path / "model"


def test_json_has_facts_and_plan_of_the_model(scene, model, capsys):
    assert run(["info", str(scene), "--model", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["bands"], facts["dtype"]) == (900, 600, 3, "uint8")
    assert (facts["crs"], facts["georeference"]) == ("EPSG:32631", "affine")
    assert facts["gsd"] == pytest.approx([0.5, 0.5], rel=1e-3)
    plan = facts["plan"]
    assert (plan["width"], plan["height"], plan["window_size"]) == (563, 375, 128)
    assert plan["gsd"] == pytest.approx([0.8, 0.8], rel=1e-2)
    assert plan["windows"] == plan["windows_with_data"] == 24
    assert (plan["est_seconds"], plan["measured_on"]) == (48, "cuda")
    assert plan["share_with_data"] == 1


def test_native_and_gsd_change_the_working_grid(scene, model, capsys):
    sizes = []
    for option in (["--native"], ["--gsd", "1.5"]):
        assert run(["info", str(scene), "--model", str(model), "--json", *option]) == 0
        plan = json.loads(capsys.readouterr().out)["plan"]
        sizes.append((plan["width"], plan["height"]))
    assert sizes == [(900, 600), (300, 200)]


def test_refused_scene_has_each_notice_once(tmp_path, model, capsys):
    path = write_raster(tmp_path / "four.tif", pattern(60, 70, bands=4), photometric="MINISBLACK")
    assert run(["info", str(path), "--model", str(model), "--gsd", "90"]) == 0
    out, err = capsys.readouterr()
    assert "refused" in out
    assert err.count("does not state which bands") == 1


def test_refusal_is_one_line_without_notices(tmp_path, model, capsys):
    path = write_raster(tmp_path / "radar.tif", pattern(60, 70, bands=2).astype("complex64"))
    assert run(["info", str(path), "--model", str(model)]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "complex" in err


def test_empty_name_is_said_to_be_empty(capsys):
    assert run(["info", ""]) == 3
    assert "the name of the raster is empty" in capsys.readouterr().err


def test_score_that_holds_by_default_is_shown(scene, model, capsys):
    assert run(["info", str(scene), "--model", str(model)]) == 0
    assert "0.5, stored with the model (see rsp predict --score)" in capsys.readouterr().out


def test_table_on_stdout_talk_on_stderr(tmp_path, capsys, model):
    path = write_raster(tmp_path / "deep.tif", pattern(60, 70, dtype="uint16"), crs=None, transform=None)
    assert run(["info", str(path), "--model", str(model)]) == 0
    out, err = capsys.readouterr()
    assert "70 x 60 px" in out
    assert "3 of uint16, read 1,2,3" in out
    assert "percentiles" in err
    assert "about 2 s on the machine that trained the model (cuda)" in out
    assert run(["-q", "info", str(path), "--model", str(model), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["gsd"] is None
    assert err == ""


def test_a_scene_the_model_cannot_take_is_described_all_the_same(tmp_path, model, capsys):
    from affine import Affine

    path = write_raster(tmp_path / "coarse.tif", pattern(60, 70), transform=Affine(10, 0, 5e5, 0, -10, 5e6))
    assert run(["info", str(path), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert "refused" in out
    assert "--native" in out


def test_bad_input_is_one_line(tmp_path, capsys, scene):
    (tmp_path / "evil.tif").write_text(vrt_text(scene))
    cases = [
        (["info", str(tmp_path / "none.tif")], 3, "none.tif: no such file"),
        (["info", str(tmp_path / "evil.tif")], 3, "--allow-vrt"),
        (["info", str(scene), "--model", str(tmp_path / "nowhere")], 4, "nowhere"),
        (["info", str(scene), "--gsd", "0.5", "--native"], 2, "mutually exclusive"),
        (["info", str(scene), "--bands", "1,2"], 2, "--bands"),
        (["info", str(scene), "--scale", "percentil"], 2, "percentile"),
        (["info", str(scene), "--overlap", "0.7"], 2, "overlap"),
    ]
    for arguments, code, words in cases:
        assert run(arguments) == code, arguments
        out, err = capsys.readouterr()
        assert out == ""
        lines = [line for line in err.splitlines() if line.startswith("rsp: error:")]
        assert len(lines) == 1
        assert words in lines[0]
        assert "Traceback" not in err
