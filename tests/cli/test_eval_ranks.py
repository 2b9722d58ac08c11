"""`rsp eval` in several processes: the figures of one, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rsprompter_cli.cli.app import run
from rsprompter_cli.io.exchange import EXCHANGE, stop_file
from rsprompter_cli.io.model_files.checkpoint import write_checkpoint
from rsprompter_cli.train.distributed.evaluate import evaluate_together
from tests.conftest import ROOT
from tests.make.coco_sets import CLASSES, make_set, read_document, write_document
from tests.make.ranks import free_port
from tests.make.tiny_models import tiny_config, tiny_meta, tiny_model

COMMAND = ["eval", "model", "--data", "data", "--batch", "2", "--precision", "fp32"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tiny checkpoint and a test split of five pictures in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_set(tmp_path / "data", split="test", count=5)
    meta = tiny_meta(num_classes=2, class_names=CLASSES)
    write_checkpoint("model", tiny_model(num_classes=2).state_dict(), tiny_config(), meta)
    # Sums of floats depend on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield "model"
    torch.set_num_threads(threads)


def _let_it_be_right(found: str) -> None:
    """Make every third detection a true object, so that an untrained model has figures of its own."""
    document = read_document(Path("data"), "test")
    results = json.loads(Path(found).read_text(encoding="utf-8"))
    document["annotations"] = []
    for result in results[::3]:
        left, top, width, height = result["bbox"]
        box = [left, top, min(width, 64 - left), min(height, 48 - top)]
        if min(box[2:]) > 1:
            kept = {key: result[key] for key in ("image_id", "category_id", "segmentation")}
            number = len(document["annotations"]) + 1
            document["annotations"].append({"id": number, "iscrowd": 0, "bbox": box, "area": box[2] * box[3], **kept})
    write_document(Path("data"), document, "test")


def test_two_processes_find_and_score_what_one_does(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--save-detections", "found.json"]) == 0
    _let_it_be_right("found.json")
    capfd.readouterr()
    assert run([*COMMAND, "--json"]) == 0
    alone = capfd.readouterr().out
    # Of three batches the second process gets one.
    extras = ["--save-detections", "two.json", "--pr-curve", "pr.png", "--show-dir", "show"]
    assert run([*COMMAND, "--procs", "2", *extras, "--json"]) == 0
    together = capfd.readouterr()
    assert together.out == alone
    assert 0.1 < json.loads(alone)["segm"]["AP"] < 0.9
    assert Path("two.json").read_bytes() == Path("found.json").read_bytes()
    assert Path("pr.png").is_file()
    assert list(Path("show").iterdir())


def test_more_processes_than_batches_and_a_table(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["eval", model, "--data", "data", "--batch", "5"]
    assert run([*command, "--procs", "2"]) == 0
    together = capfd.readouterr()
    assert run(command) == 0
    assert together.out == capfd.readouterr().out
    assert "5 images, " in together.out


def test_an_error_of_any_process_is_the_one_line(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("data/images/test_2.png").write_bytes(b"no picture")  # the second process reads it
    assert run([*COMMAND, "--procs", "2", "--save-detections", "found.json"]) == 3
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()]
    assert line.startswith("rsp: error: ")
    assert "test_2.png" in line
    assert not Path("found.json").exists()


def test_outputs_are_refused_before_processes_start(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = "rsprompter_cli.train.distributed.launch.launch"
    monkeypatch.setattr(launch, lambda *_: pytest.fail("processes were started"))
    Path("found.json").write_text("[]")
    assert run([*COMMAND, "--procs", "2", "--save-detections", "found.json"]) == 7
    assert "found.json already exists" in capsys.readouterr().err


def test_a_process_ends_when_the_one_that_started_it_asks(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "exchange").mkdir()
    monkeypatch.setenv(EXCHANGE, str(tmp_path / "exchange"))
    path = stop_file()
    assert path is not None
    path.touch()
    with pytest.raises(KeyboardInterrupt):
        evaluate_together(model, "data", "test", batch=2, device="cpu")
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.device_count() >= 8, reason="this machine has the GPUs")
def test_more_gpus_than_there_are(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--gpus", "8"]) == 5
    error = capsys.readouterr().err.strip()
    assert error.startswith("rsp: error: --gpus 8: torch sees ")
    assert "\n" not in error


@pytest.mark.parametrize("options", [["--gpus", "2", "--procs", "2"], ["--procs", "2", "--device", "cuda"]])
def test_options_that_name_two_devices_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "model", "--data", "data", *options]) == 2
    assert options[0] in capsys.readouterr().err
