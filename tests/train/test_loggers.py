"""What a run shows of itself: log, TensorBoard, Weights & Biases, pictures, curves."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsprompter_cli.config import TrainConfig
from rsprompter_cli.data.coco.read import labels_for, read_coco
from rsprompter_cli.data.dataset import CocoDataset
from rsprompter_cli.errors import DependencyError, UsageError
from rsprompter_cli.train.evaluation import pictures_due, save_curves, shown_pictures
from rsprompter_cli.train.loggers import RunLog, read_log
from rsprompter_cli.train.run import StepReport
from tests.make.coco_sets import make_set
from tests.train.runs import make_data, run

OPTIONS: dict[str, Any] = {"epochs": 4, "eval_every": 1, "pictures_every": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", train=4, val=3)


class _KilledError(Exception):
    """In place of kill -9."""


def _kill_at(step: int):
    def watch(report: StepReport) -> None:
        if report.step == step:
            raise _KilledError

    return watch


def _scalars(folder: Path) -> dict[str, list[int]]:
    """Steps of each curve that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    curves = {tag: [event.step for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return curves | {tag: [event.step for event in events.Images(tag)] for tag in tags["images"]}


def test_a_run_shows_pictures_and_curves(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, OPTIONS | {"epochs": 5})
    # Every second epoch and the last.
    assert [path.name for path in sorted((out / "pictures").iterdir())] == [
        "epoch-0002.png",
        "epoch-0004.png",
        "epoch-0005.png",
    ]
    with Image.open(out / "pictures" / "epoch-0005.png") as sheet:
        # Two pictures of 64 x 48 have objects; truth and found side by side, each below a title.
        assert sheet.width == 2 * 64 + 8
        assert sheet.height > 2 * 48
    with Image.open(out / "curves.png") as curves:
        colours = np.asarray(curves.convert("RGB"), dtype=int)
    assert (np.ptp(colours, axis=2) > 100).sum() > 500
    shown = _scalars(out / "tensorboard")
    assert shown["val/pictures"] == [4, 8, 10]
    assert shown["val/segm_AP"] == [2, 4, 6, 8, 10]
    assert {"loss/total", "lr", "images_per_s"} <= shown.keys()


def test_no_pictures_where_none_are_wanted(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", {"epochs": 1, "pictures_every": 0})
    assert not (tmp_path / "run" / "pictures").exists()


def test_a_killed_run_that_goes_on_appends_to_its_series(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(_KilledError):
        # Saved at the evaluations after 2, 4 and 6 steps.
        run(data, out, OPTIONS, on_step=_kill_at(7))
    assert (out / "pictures" / "epoch-0002.png").is_file()
    run(data, out, OPTIONS, resume=True)
    records = read_log(out)
    assert [record["step"] for record in records if record["kind"] == "evaluation"] == [2, 4, 6, 8]
    steps = [record["step"] for record in records if record["kind"] == "step"]
    assert steps == sorted(set(steps))
    shown = _scalars(out / "tensorboard")
    assert shown["val/segm_AP"] == [2, 4, 6, 8]
    assert shown["loss/total"] == steps
    assert shown["val/pictures"] == [4, 8]


def test_a_new_run_in_the_folder_begins_anew(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, OPTIONS)
    run(data, out, OPTIONS | {"epochs": 1}, overwrite=True)
    assert [path.name for path in (out / "pictures").iterdir()] == ["epoch-0001.png"]
    assert _scalars(out / "tensorboard")["val/segm_AP"] == [2]


@pytest.mark.parametrize(
    ("every", "eval_every", "epochs", "due"),
    [(10, 3, 24, [12, 21, 24]), (1, 4, 9, [4, 8, 9]), (5, 5, 11, [5, 10, 11]), (50, 2, 6, [6]), (0, 1, 3, [])],
)
def test_pictures_are_due_at_the_first_evaluation_after_so_many_epochs(
    every: int, eval_every: int, epochs: int, due: list[int]
) -> None:
    options = TrainConfig(epochs=epochs, eval_every=eval_every, pictures_every=every)
    evaluated = [done for done in range(1, epochs + 1) if done % eval_every == 0 or done == epochs]
    assert [done for done in evaluated if pictures_due(options, done - 1)] == due


def test_the_shown_pictures_have_objects_and_stay_the_same(tmp_path: Path) -> None:
    def places(count: int, objects: int = 3) -> list[int]:
        root = tmp_path / f"{count}-{objects}"
        coco = read_coco(make_set(root, split="val", count=count, objects=objects))
        return shown_pictures(CocoDataset(coco, root, split="val", labels=labels_for(coco, list(coco.class_names))))

    assert places(9) == [0, 2, 4, 6]
    assert places(3) == [0, 1]
    # Where nothing is to be found it is worth seeing what is found all the same.
    assert places(6, objects=0) == [0, 1, 3, 4]


def test_curves_of_a_long_run_and_of_none(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in range(1, 2001):
            losses = {"loss_mask": 1 / step, "loss_mask.0": 0.1, "loss_mask.1": 0.2}
            log.write("step", step=10 * step, epoch=0, loss=sum(losses.values()), losses=losses)
        log.write("evaluation", step=20_000, epoch=0, metrics={"segm_AP": 0.3, "bbox_AP": None})
    save_curves(tmp_path)
    both = _height(tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text("".join(lines[:-1]))
    save_curves(tmp_path)
    losses = _height(tmp_path)
    (tmp_path / "log.jsonl").write_text(lines[-1])
    save_curves(tmp_path)
    assert losses < both, "an empty panel is left out"
    assert _height(tmp_path) < both
    (tmp_path / "log.jsonl").write_text("")
    save_curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()


def _height(folder: Path) -> int:
    with Image.open(folder / "curves.png") as picture:
        return picture.height


class _FakeWandb:
    """The part of the package that a run uses."""

    def __init__(self, *, logged_in: bool = True) -> None:
        self.errors = SimpleNamespace(Error=RuntimeError)
        self.Settings = dict
        self.Image = lambda picture: picture.size
        self.logged: list[dict[str, Any]] = []
        self.started: list[dict[str, Any]] = []
        self.ended: list[int] = []
        self._logged_in = logged_in

    def login(self) -> None:
        if not self._logged_in:
            raise self.errors.Error("No API key configured.")

    def init(self, **keywords: Any) -> Any:
        self.started.append(keywords)
        return SimpleNamespace(
            define_metric=lambda name, step_metric: None,
            log=self.logged.append,
            finish=lambda exit_code: self.ended.append(exit_code),
            offline=True,
            dir="somewhere/files",
        )


def test_weights_and_biases_is_told_the_same_run_after_a_stop(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, out = _FakeWandb(), tmp_path / "run"
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    options = OPTIONS | {"wandb": "buildings"}
    with pytest.raises(_KilledError):
        run(data, out, options, on_step=_kill_at(5))
    run(data, out, options, resume=True)
    run(data, out, options, overwrite=True)
    first, again, anew = wandb.started
    assert (first["project"], first["name"], first["dir"]) == ("buildings", "run", str(out))
    assert first["config"]["train"]["wandb"] == "buildings"
    assert first["id"] == again["id"] != anew["id"]
    assert wandb.ended == [1, 0, 0]
    assert {"step": 8, "val/pictures": (136, 144)}.keys() in [told.keys() for told in wandb.logged]
    assert [told["step"] for told in wandb.logged if "val/segm_AP" in told] == [2, 4, 6, 8, 2, 4, 6, 8]


def test_without_the_package_or_an_account_nothing_is_touched(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DependencyError, match="the package wandb") as missing:
        run(data, out, {"wandb": "p"})
    assert "rsprompter_cli[wandb]" in missing.value.hint
    monkeypatch.setitem(sys.modules, "wandb", _FakeWandb(logged_in=False))
    with pytest.raises(UsageError, match="No API key") as unknown:
        run(data, out, {"wandb": "p"})
    assert "WANDB_MODE=offline" in unknown.value.hint
    assert not out.exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run(data, out, {"wandb": "p", "epochs": 1}).finished


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed")
def test_the_real_package_writes_offline(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    out = tmp_path / "run"
    options = OPTIONS | {"wandb": "buildings"}
    assert run(data, out, options, minutes=0.0).steps == 1
    assert run(data, out, options, resume=True).finished
    folders = sorted(path for path in (out / "wandb").iterdir() if path.name.startswith("offline-run-"))
    identity = (out / "wandb" / "rsp-run-id.txt").read_text().strip()
    assert len(folders) == 2
    for folder in folders:
        (stored,) = folder.glob("*.wandb")
        assert stored.name == f"run-{identity}.wandb"
        assert stored.stat().st_size > 0
    pictures = [path for folder in folders for path in folder.rglob("*.png")]
    assert len(pictures) == 2
    assert b"val/segm_AP" in b"".join(path.read_bytes() for path in out.rglob("*.wandb"))
    assert json.loads((out / "log.jsonl").read_text().splitlines()[0])["kind"] == "start"
