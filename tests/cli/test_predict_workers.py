"""`rsp predict --procs`, `--gpus` and `--ray` as typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.predict.backends import processes as processes
from rsprompter_cli.predict.backends import ray_package
from rsprompter_cli.predict.scene import predict_scene
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "best"
    write_checkpoint(folder, tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2))
    return folder


@pytest.fixture
def scene(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_scene(tmp_path / "scene.tif", paint(150, 130, {"red": [(10, 10, 50, 40), (55, 60, 90, 120)]}))


def test_two_processes_write_what_one_run_writes(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "scene.tif", "--model", str(model), "--native", "--score", "0", "--threads", "2", "--json"]
    before = torch.get_num_threads()
    facts = []
    try:
        for name, more in (("one", []), ("two", ["--procs", "2"])):
            Path(name).mkdir()
            beside = ["--preview", f"{name}/map.html", "--report", f"{name}/report.json"]
            assert run([*words, "--out", f"{name}/a.geojson", *beside, *more]) == 0
            captured = capsys.readouterr()
            # On a busy machine a line of progress comes after 30 seconds.
            assert [line for line in captured.err.splitlines() if " elapsed" not in line] == []
            facts.append(json.loads(captured.out))
    finally:
        torch.set_num_threads(before)
    assert facts[0]["objects"] == facts[1]["objects"] > 0
    assert facts[0]["plan"] == facts[1]["plan"]
    for name in ("a.geojson", "map.html"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes()
    assert sorted(path.name for path in Path("two").iterdir()) == ["a.geojson", "map.html", "report.json"]
    assert run([*words, "--out", "two/a.geojson", "--procs", "2"]) == 7
    assert "--overwrite" in capsys.readouterr().err


def asked(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[dict[str, Any]]:
    """The keywords with which a function is called, which is replaced by a plain prediction."""
    calls: list[dict[str, Any]] = []

    def predict(source: str, out: Path | None, options: Any, **keywords: Any) -> Any:
        calls.append({**keywords, "options": options})
        return predict_scene(source, out, options, model=keywords["model"])

    monkeypatch.setattr(module, name, predict, raising=False)
    return calls


@pytest.mark.parametrize(
    ("words", "procs", "gpus", "threads", "device"),
    [
        (["--procs", "1"], 1, None, None, "cpu"),
        (["--procs", "3", "--device", "cpu", "--threads", "1"], 3, None, 1, "cpu"),
        (["--gpus", "2"], None, 2, None, "cuda"),
    ],
)
def test_the_options_reach_the_processes(
    model: Path,
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    procs: int | None,
    gpus: int | None,
    threads: int | None,
    device: str,
) -> None:
    calls = asked(monkeypatch, processes, "predict_in_processes")
    assert run(["predict", "scene.tif", "--dry-run", "--model", str(model), "--native", *words]) == 0
    (call,) = calls
    assert (call["procs"], call["gpus"], call["threads"]) == (procs, gpus, threads)
    assert (call["options"].device, call["options"].dry_run) == (device, True)


def test_ray_is_asked_with_the_same_words(model: Path, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("rsprompter_cli.predict.backends.ray")
    monkeypatch.setitem(sys.modules, "rsprompter_cli.predict.backends.ray", ray)
    monkeypatch.setattr(ray_package, "find_spec", lambda _name: object())
    calls = asked(monkeypatch, ray, "predict_on_ray")
    words = ["predict", "scene.tif", "--dry-run", "--model", str(model), "--native"]
    assert run([*words, "--ray", "local"]) == 0
    assert run([*words, "--ray", "ray://head:10001", "--procs", "4", "--threads", "1"]) == 0
    assert run([*words, "--ray", "auto", "--gpus", "2"]) == 0
    keys = ("address", "workers", "gpus", "threads")
    assert [tuple(call[key] for key in keys) for call in calls] == [
        ("local", None, None, None),
        ("ray://head:10001", 4, None, 1),
        ("auto", None, 2, None),
    ]
    assert [call["options"].device for call in calls] == ["auto", "cpu", "cuda"]


def test_without_ray_the_extra_is_named(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_package, "find_spec", lambda _name: None)
    assert run(["predict", "scene.tif", "--out", "a.fgb", "--ray", "local"]) == 5
    error = capsys.readouterr().err
    assert error == (
        "rsp: error: --ray: the package ray is not installed (pip install 'rsprompter_cli[ray]', or predict "
        "without --ray)\n"
    )


def test_a_dry_run_says_the_plan(model: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "scene.tif", "--dry-run", "--model", str(model), "--native"]
    assert run([*words, "--procs", "2"]) == 0
    plan = capsys.readouterr().out
    assert run(words) == 0
    assert capsys.readouterr().out == plan
    assert [path.name for path in scene.parent.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["scene.tif", "--procs", "0"], 2, "--procs"),
        (["scene.tif", "--procs", "two"], 2, "--procs"),
        (["scene.tif", "--gpus", "-1"], 2, "--gpus"),
        (["scene.tif", "--procs", "2", "--gpus", "2"], 2, "--gpus and --procs are mutually exclusive"),
        (["scene.tif", "--procs", "2", "--device", "cuda"], 2, "contradict"),
        (["scene.tif", "--gpus", "2", "--device", "cpu"], 2, "contradict"),
        (["scene.tif", "--procs", "2", "--shard", "1/2"], 2, "--shard and --procs are mutually exclusive"),
        (["scene.tif", "--gpus", "2", "--shard", "1/2"], 2, "--shard and --gpus are mutually exclusive"),
        (["scene.tif", "--procs", "2", "--prompts", "p.geojson"], 2, "--prompts and --procs are mutually exclusive"),
        (["scene.tif", "--ray", "local", "--prompts", "p.geojson"], 2, "--prompts and --ray are mutually exclusive"),
        (["scene.tif", "scene.tif", "--procs", "2"], 2, "--procs takes one scene (run the command once per scene)"),
        (["scene.tif", "--format", "fgb", "--gpus", "2"], 2, "--gpus takes one scene"),
        (["scene.tif", "--procs", "2", "--model", "nowhere"], 4, "nowhere"),
        (["nowhere.tif", "--procs", "2"], 3, "nowhere.tif"),
        (["-", "--procs", "2"], 3, "-: no such file"),
        (["scene.tif", "--gpus", "99"], 5, f"--gpus 99: torch sees {torch.cuda.device_count()} CUDA GPU"),
        (["scene.tif", "--gpus", "99", "--dry-run"], 5, "--gpus 99"),
    ],
)
def test_a_mistake_is_one_line(
    scene: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert run(["predict", *words, "--out", "a.fgb"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert [path.name for path in scene.parent.iterdir()] == ["scene.tif"]


REFUSED_EARLY = """
import sys
from rsprompter_cli.cli.app import run
for words in sys.argv[2:]:
    assert run(["predict", sys.argv[1], "--out", "a.fgb", *words.split()]) == 2, words
assert "torch" not in sys.modules
"""


def test_options_are_refused_before_torch_is_imported(scene: Path) -> None:
    mistakes = ["--procs 2 --shard 1/2", "--procs 2 --gpus 2", "scene.tif --procs 2", "--prompts p.shp --gpus 1"]
    command = [sys.executable, "-c", REFUSED_EARLY, "scene.tif", *mistakes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shard", ["3/2", "0/2", "3", "a/b"])
def test_a_bad_shard_is_refused_before_torch_is_loaded(tmp_path: Path, shard: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "rsprompter_cli", "predict", "a.tif", "--shard", shard]
    ended = subprocess.run([*command, "--out", "a.part"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"rsp: error: --shard {shard}: " in ended.stderr
    assert not re.search(r"\| +torch$", ended.stderr, flags=re.MULTILINE)
