"""Runs that keep their encoder maps: the same numbers, disk told before, nothing left over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rsprompter_cli.config import Config, TrainConfig
from rsprompter_cli.errors import OutputError
from rsprompter_cli.train import feature_caches, loop
from rsprompter_cli.train.run_folder import ENCODER_MAPS
from tests.make.tiny_models import tiny_config, tiny_samcls_config
from tests.train.runs import make_data, run

OPTIONS = {"epochs": 2, "cache_views": 1, "eval_every": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", train=4)


def _lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(feature_caches._log, "info", lambda text, *values: lines.append(text % values))
    return lines


def test_maps_stay_while_the_run_goes_on_and_go_with_its_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = _lines(monkeypatch)
    out = tmp_path / "run"
    assert not run(data, out, OPTIONS, minutes=0.0).finished
    assert len(list((out / ENCODER_MAPS).iterdir())) == 2
    assert run(data, out, OPTIONS, resume=True).finished
    assert not (out / ENCODER_MAPS).exists()
    assert len(lines) == 2
    assert all("still to write" in line for line in lines)
    # A finished run needs no maps.
    assert run(data, out, OPTIONS, resume=True).finished
    assert len(lines) == 2


def test_maps_in_a_named_folder_are_kept_for_other_runs(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    assert run(data, tmp_path / "run", OPTIONS | {"cache_folder": str(folder)}).finished
    assert len(list(folder.iterdir())) == 4 + 2


def test_a_cache_folder_that_cannot_be_written_is_told_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    named = {"cache_folder": str(tmp_path / "file" / "maps")}
    monkeypatch.setattr(loop, "prepare", lambda *_, **__: pytest.fail("the model was built"))
    samcls = Config(name="tiny", model=tiny_samcls_config(), train=TrainConfig(**named))
    for config in (tiny_config(train=OPTIONS | named), samcls):
        with pytest.raises(
            OutputError, match=r"train\.cache_folder = .*file/maps: cannot be written: .*file is not a"
        ) as caught:
            loop.train(config, data=data, out=tmp_path / "run", device="cpu", random_sam=True)
        assert "run folder" in caught.value.hint
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    # Nothing is stored there by a run that keeps no maps.
    assert run(data, tmp_path / "run", named | {"epochs": 1}).finished


def test_a_disk_that_is_too_small_is_told_before_anything_is_touched(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    first = run(data, out, OPTIONS | {"epochs": 1})
    monkeypatch.setattr(feature_caches.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"encoder maps need .* [kMG]B more, the disk has 1 kB free") as caught:
        run(data, out, OPTIONS, overwrite=True)
    assert "train.cache_views" in caught.value.hint
    assert first.last.is_dir()
    assert not (out / ENCODER_MAPS).exists()


def test_maps_that_cannot_be_removed_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(feature_caches._log, "warning", lambda text, *values: warnings.append(text % values))

    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(feature_caches.shutil, "rmtree", refuse)
    feature_caches.remove_maps(tmp_path)
    assert "Permission denied" in warnings[0]
    feature_caches.remove_maps(tmp_path / "none")
    assert len(warnings) == 1
