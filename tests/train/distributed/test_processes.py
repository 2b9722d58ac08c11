"""Runs of two real processes against runs of one, and against themselves after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.train.loggers import read_log
from rsprompter_cli.train.loop import train
from rsprompter_cli.train.run import TrainResult
from rsprompter_cli.train.state import load_state
from tests.make.norms import freeze_norms
from tests.make.ranks import Job, run_ranks
from tests.make.tiny_models import tiny_config
from tests.train.runs import equal, make_data, tensors

# Ten pictures: a batch of both ranks is 4, 4 and 2, of which the second rank gets none.
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 2, "eval_every": 2, "warmup_steps": 4}
EACH = {"normalise": "each-rank"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("ranks"), train=10, val=5)


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs by DistributedDataParallel in two processes."""
    root = tmp_path_factory.mktemp("two")

    def job(name: str, options: dict[str, Any] | None = None, stop_at: int | None = None, **keywords: Any) -> Job:
        return Job(str(data), str(root / name), OPTIONS | (options or {}), keywords, stop_at)

    run_ranks(
        [
            job("whole"),
            job("parts", stop_at=3),
            job("parts", resume=True),
            job("fewer", stop_at=2),
            job("one-step", minutes=0.0),
            job("each", EACH),
            job("each-one-step", EACH, minutes=0.0),
        ]
    )
    return root


def _alone(data: Path, out: Path, options: dict[str, Any], **keywords: Any) -> TrainResult:
    config = tiny_config(train=OPTIONS | options)
    settings = {"device": "cpu", "random_sam": not keywords.get("resume"), "on_model": freeze_norms} | keywords
    return train(config, data=data, out=out, **settings)


def _gradients(out: Path) -> dict[str, torch.Tensor]:
    """The gradients of a run that stopped after its first step: AdamW's first moments are a tenth of them."""
    return {name: 10 * moments["exp_avg"] for name, moments in load_state(out).engine["optimizer"].items()}


def _losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_log(out) if record["kind"] == "step"]


def _require_close(a: Path, b: Path) -> None:
    """The first step's losses and gradients are the same within 1e-5."""
    assert _losses(a) == pytest.approx(_losses(b), rel=1e-5)
    one, other = _gradients(a), _gradients(b)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        largest = max(1.0, float(gradient.abs().max()))
        assert float((gradient - other[name]).abs().max()) <= 1e-5 * largest, name


def test_normalisers_of_all_ranks_make_two_processes_equal_one(data: Path, two: Path, tmp_path: Path) -> None:
    _alone(data, tmp_path / "step", {"batch_size": 4}, minutes=0.0)
    _require_close(tmp_path / "step", two / "one-step")
    alone = _alone(data, tmp_path / "run", {"batch_size": 4})
    assert _losses(two / "whole") == pytest.approx(_losses(alone.folder), rel=1e-3)


def test_a_process_of_its_own_counts_is_like_an_accumulated_batch(data: Path, two: Path, tmp_path: Path) -> None:
    _alone(data, tmp_path / "step", EACH | {"accumulate": 2}, minutes=0.0)
    _require_close(tmp_path / "step", two / "each-one-step")
    alone = _alone(data, tmp_path / "run", EACH | {"accumulate": 2})
    assert _losses(two / "each") == pytest.approx(_losses(alone.folder), rel=1e-3)
    # The two ways of counting are not the same.
    assert _losses(two / "each-one-step") != pytest.approx(_losses(two / "one-step"), rel=1e-5)


def test_two_ranks_stopped_and_resumed_equal_two_that_never_stopped(two: Path) -> None:
    a, b = load_state(two / "whole"), load_state(two / "parts")
    assert a.cursor == b.cursor
    assert a.cursor.step == 6
    assert equal(a.engine, b.engine)
    assert len(a.random) == 2
    assert equal(a.random, b.random)
    for name in ("last", "best"):
        assert equal(tensors(two / "whole" / name), tensors(two / "parts" / name))


def test_another_number_of_ranks_goes_on(data: Path, two: Path) -> None:
    assert load_state(two / "fewer").cursor.done == 8
    resumed = _alone(data, two / "fewer", {}, resume=True)
    assert resumed.finished
    # The last 2 pictures of the first epoch, then 10 in batches of 2.
    assert resumed.steps == 2 + 1 + 5


def test_ranks_together_find_what_one_finds(data: Path, two: Path) -> None:
    from rsprompter_cli.evaluate.coco import evaluate_coco

    stored = read_checkpoint(two / "whole" / "last").meta.metrics
    alone = evaluate_coco(two / "whole" / "last", data, "val", batch=2, device="cpu", precision="fp32")
    assert alone.results
    assert alone.metrics.flat() == stored


def test_only_rank_0_writes_the_log(two: Path) -> None:
    kinds = [record["kind"] for record in read_log(two / "whole")]
    assert kinds == ["start", "step", "step", "evaluation", "end"]
    assert len(list((two / "whole" / "tensorboard").iterdir())) == 1
    assert [path.name for path in (two / "whole" / "pictures").iterdir()] == ["epoch-0002.png"]
    assert (two / "whole" / "curves.png").is_file()
