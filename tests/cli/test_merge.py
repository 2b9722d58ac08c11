"""`rsp predict --shard` and `rsp merge`, driven as a user would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.cli.app import run
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.predict.store.journal import Journal
from tests.make.scenes import paint, write_scene
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "best"
    write_checkpoint(folder, tiny_model(num_classes=2).state_dict(), tiny_config(), tiny_meta(num_classes=2))
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    return write_scene(folder / "scene.tif", paint(150, 130, {"red": [(10, 10, 50, 40), (55, 60, 90, 120)]}))


def _words(scene: Path, model: Path) -> list[str]:
    return ["predict", str(scene), "--model", str(model), "--native", "--score", "0"]


@pytest.fixture(scope="module")
def parts(model: Path, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for number in (2, 3, 1):
        words = [*_words(scene, model), "--shard", f"{number}/3", "--out", str(folder / f"{number}.part")]
        assert run(words) == 0
    return folder


@pytest.mark.parametrize("more", [[], ["--simplify", "1", "--min-area", "20", "--regularize"]])
def test_parts_become_what_one_run_writes(
    model: Path, scene: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    whole, merged = tmp_path / "whole" / "a.geojson", tmp_path / "merged" / "a.geojson"
    assert run([*_words(scene, model), "--out", str(whole), *more]) == 0
    capsys.readouterr()
    assert run(["merge", str(parts), "--out", str(merged), "--json", *more]) == 0
    assert merged.read_bytes() == whole.read_bytes()
    facts = json.loads(capsys.readouterr().out)
    assert facts["parts"] == 3
    assert facts["objects"] == len(json.loads(merged.read_text())["features"]) > 0


def test_a_map_and_a_picture_need_the_scene(
    scene: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge", str(parts), "--out", str(tmp_path / "a.png")]
    assert run(words) == 2
    assert "--scene" in capsys.readouterr().err
    preview = ["--preview", str(tmp_path / "map.html")]
    assert run([*words, "--scene", str(scene), *preview]) == 0
    assert capsys.readouterr().err.endswith(f"wrote {tmp_path / 'map.html'}\n")
    assert (tmp_path / "a.png").is_file()
    assert "<svg" in (tmp_path / "map.html").read_text() or "<canvas" in (tmp_path / "map.html").read_text()
    other = write_scene(tmp_path / "other.tif", paint(150, 130, {"red": [(1, 1, 9, 9)]}))
    assert run([*words, "--overwrite", "--scene", str(other)]) == 3
    assert "other.tif" in capsys.readouterr().err


def test_a_part_that_is_whole_stays(model: Path, scene: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (parts / "2.part").stat().st_mtime_ns
    assert run([*_words(scene, model), "--shard", "2/3", "--out", str(parts / "2.part")]) == 0
    assert (parts / "2.part").stat().st_mtime_ns == before
    assert run([*_words(scene, model), "--shard", "1/3", "--out", str(parts / "2.part")]) == 7
    assert "2.part belongs to a run with shard" in capsys.readouterr().err.splitlines()[-1]


def test_a_shard_that_was_stopped_is_named_and_goes_on(
    model: Path, scene: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "parts" / "1.part"
    words = [*_words(scene, model), "--shard", "1/3", "--out", str(out)]

    def stop(_journal: Journal) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "complete", stop)
        assert run(words) == 130
    assert run(["merge", str(out.parent), "--out", str(tmp_path / "a.fgb")]) == 3
    assert "shard 1/3 was begun" in capsys.readouterr().err
    assert run(words) == 0
    others = [str(parts / "2.part"), str(parts / "3.part")]
    for first, name in ((out, "resumed.fgb"), (parts / "1.part", "at_once.fgb")):
        assert run(["merge", str(first), *others, "--out", str(tmp_path / name[:-4] / "a.fgb")]) == 0
    assert (tmp_path / "resumed" / "a.fgb").read_bytes() == (tmp_path / "at_once" / "a.fgb").read_bytes()


def _merged(tmp_path: Path, *paths: Path) -> int:
    return run(["merge", *map(str, paths), "--out", str(tmp_path / "a.gpkg")])


def test_what_is_missing_twice_or_foreign_is_said_in_one_line(
    model: Path, scene: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, three = (parts / f"{number}.part" for number in (1, 2, 3))
    copy, text, torn, other = (tmp_path / name for name in ("copy.part", "notes.txt", "torn.part", "other.part"))
    copy.write_bytes(two.read_bytes())
    text.write_text("no part")
    torn.write_bytes(three.read_bytes()[:-20])
    words = [*_words(scene, model), "--overlap", "0.1", "--shard", "3/3", "--out", str(other)]
    assert run(words) == 0
    capsys.readouterr()
    for paths, said in [
        ((one, three), "shard 2 of 3 is missing"),
        ((one, two, three, copy), "are the same shard"),
        ((one, two, three, text), "notes.txt"),
        ((one, two, torn), "torn.part"),
        ((one, two, other), "overlap"),
        ((tmp_path / "nothing.part",), "nothing.part"),
    ]:
        assert _merged(tmp_path, *paths) == 3, said
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert said in captured.err
    assert not (tmp_path / "a.gpkg").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "4/3", "--out", "p.part"], "--shard 4/3"),
        (["--shard", "three", "--out", "p.part"], "--shard three"),
        (["--shard", "", "--out", "p.part"], "--shard"),
        (["--shard", "1/3", "--out", "p.geojson"], "rsp merge"),
        (["--shard", "1/3", "--out", "p.part", "--crs", "EPSG:3857"], "pass it to rsp merge"),
        (["--shard", "1/3", "--dry-run"], "--dry-run"),
        (["--shard", "1/3", "--out", "p.part", "--format", "gpkg"], "--format"),
    ],
)
def test_a_mistake_is_one_line(
    model: Path,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*_words(scene, model), *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert list(tmp_path.iterdir()) == []
