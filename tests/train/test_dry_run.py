"""What a training would take, without a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsprompter_cli.config import Config, TrainConfig
from rsprompter_cli.errors import InputError, OutputError, TrainingError
from rsprompter_cli.train import dry_run as module
from rsprompter_cli.train import feature_caches
from rsprompter_cli.train.dry_run import dry_run
from tests.make.tiny_models import tiny_config, tiny_samcls_config
from tests.train.runs import make_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", train=6, val=3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 2 s and batches of the evaluation of 3 s; 0.5 s and 1 s from the disk."""
    monkeypatch.setattr(module, "_time_steps", lambda run, again: (2.0, 0.5 if again else None))
    monkeypatch.setattr(module, "_time_batch", lambda run, again: (3.0, 1.0 if again else None))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_two_steps_are_taken_and_nothing_is_left(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    out = tmp_path / "run"
    before = _files(tmp_path)
    steps = []
    original = module.take_step

    def take_step(run, batches, group, cursor):
        steps.append((cursor.epoch, cursor.done, cursor.step))
        weights = {key: value.clone() for key, value in run.engine.model.state_dict().items()}
        losses = original(run, batches, group, cursor)
        moved = [key for key, value in run.engine.model.state_dict().items() if not torch.equal(value, weights[key])]
        assert moved
        return losses

    monkeypatch.setattr(module, "take_step", take_step)
    found = dry_run(
        tiny_config(train={"accumulate": 2, "epochs": 5}), data=data, out=out, random_sam=True, device="cpu"
    )
    assert steps == [(0, 0, 0), (0, 4, 1)]
    assert (found.engine, found.processes, found.device, found.precision) == ("one process", 1, "cpu", "float32")
    assert 0 < found.trainable < found.parameters
    assert found.memory_bytes is None or found.memory_bytes > 1 << 20
    assert (found.step_images, found.steps_per_epoch, found.steps) == (4, 2, 10)
    assert found.seconds >= 10 * found.seconds_per_step > 0
    assert found.seconds_per_step_with_maps is None
    assert _files(tmp_path) == before


def test_an_epoch_of_one_step_goes_on_with_the_next(data: Path, tmp_path: Path) -> None:
    options = {"batch_size": 6, "cache_views": 1}
    found = dry_run(tiny_config(train=options), data=data, out=tmp_path / "run", random_sam=True, device="cpu")
    assert found.steps_per_epoch == 1
    assert found.seconds_per_step_with_maps is not None


def test_the_whole_is_the_sum_of_its_parts(data: Path, tmp_path: Path, clock: None) -> None:
    keywords = {"data": data, "out": tmp_path / "run", "random_sam": True, "device": "cpu"}
    # 3 steps in an epoch, evaluations of 2 batches after epochs 2, 4 and 5.
    options = {"epochs": 5, "eval_every": 2}
    assert dry_run(tiny_config(train=options), **keywords).seconds == 5 * 3 * 2 + 3 * 2 * 3
    kept = dry_run(tiny_config(train=options | {"cache_views": 2}), **keywords)
    assert kept.seconds == 3 * (2 * 2 + 3 * 0.5) + 2 * (3 + 2 * 1)
    # What SAM-cls keeps of a picture is made in the first epoch.
    samcls = Config(name="tiny", model=tiny_samcls_config(), train=TrainConfig(workers=0, batch_size=2, **options))
    assert dry_run(samcls, **keywords).seconds == 3 * (1 * 2 + 4 * 0.5) + 2 * (3 + 2 * 1)
    assert dict(kept.rows())["total time"] == "about 0:00:26"


def test_errors_are_those_of_a_training(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keywords = {"data": data, "out": tmp_path / "run", "random_sam": True, "device": "cpu"}
    with pytest.raises(InputError, match="no such folder"):
        dry_run(tiny_config(), **(keywords | {"data": tmp_path / "nowhere"}))
    with pytest.raises(TrainingError, match="not finite at step 2") as caught:
        dry_run(tiny_config(train={"lr": 1000.0, "warmup_steps": 0}), **keywords)
    assert "no checkpoint was written yet" in caught.value.message
    monkeypatch.setattr(feature_caches.shutil, "disk_usage", lambda _path: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match="encoder maps need"):
        dry_run(tiny_config(train={"cache_views": 1}), **keywords)
    assert not (tmp_path / "run").exists()
