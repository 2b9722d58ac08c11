"""Ctrl-C that waits for the end of a call into another language."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import safetensors.torch
import shapely
import torch

from rsprompter_cli.geo.vector.write import Feature, write_features
from rsprompter_cli.io.interrupt import deferred_interrupt
from rsprompter_cli.io.model_files.checkpoint import read_safetensors


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def own_handler() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_it_is_raised_when_asked_for() -> None:
    steps: list[str] = []

    def work() -> None:
        with deferred_interrupt() as check:
            check()
            press()
            steps.append("after Ctrl-C")
            check()
            steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["after Ctrl-C"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_raised_at_the_end_at_the_latest() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        press()
    with deferred_interrupt() as check:
        check()


def test_other_handlers_and_threads_keep_theirs() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    with deferred_interrupt():
        press()
    assert seen == [signal.SIGINT]

    def work() -> None:
        with deferred_interrupt() as check:
            check()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("name", ["a.gpkg", "a.fgb", "a.shp", "a.geojson", "a.parquet"])
def test_ctrl_c_while_features_are_written_is_an_interruption(name: str, tmp_path: Path) -> None:
    def features() -> object:
        for place in range(20_000):
            if place == 15_000:
                press()
            yield Feature(shapely.box(place, 0, place + 1, 1), {"n": place})

    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path / name, features(), "EPSG:32633", attributes={"n": int})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_weights_are_read_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(3)}, path)
    load = safetensors.torch.load_file

    def interrupted(file: Path) -> dict[str, torch.Tensor]:
        press()
        return load(file)

    monkeypatch.setattr(safetensors.torch, "load_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_safetensors(path)
    monkeypatch.undo()
    assert read_safetensors(path)["weight"].tolist() == [1, 1, 1]
