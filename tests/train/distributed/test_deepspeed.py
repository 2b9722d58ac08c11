"""DeepSpeed's ZeRO in two real processes on the CPU: the mathematics, the checkpoints and the resume of DDP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rsprompter_cli.errors import DependencyError
from rsprompter_cli.models.load import load_model
from rsprompter_cli.train.distributed.deepspeed import import_deepspeed
from rsprompter_cli.train.state import load_state
from tests.make.ranks import Job, run_ranks
from tests.train.runs import equal, make_data, tensors

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the test extra has deepspeed on Linux only")

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 2, "eval_every": 2, "warmup_steps": 4, "accumulate": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same run without DeepSpeed, with ZeRO-2, with ZeRO-3, and of the last two in two parts."""
    root = tmp_path_factory.mktemp("zero")
    data = make_data(root / "data", train=14, val=5)

    def job(name: str, stage: int, stop_at: int | None = None, **keywords: Any) -> Job:
        return Job(str(data), str(root / name), OPTIONS | {"zero_stage": stage}, keywords, stop_at)

    jobs = [job("ddp", 0)]
    for stage in (2, 3):
        jobs += [job(f"zero{stage}", stage), job(f"parts{stage}", stage, stop_at=2)]
        jobs += [job(f"parts{stage}", stage, resume=True)]
    # Any engine goes on with the state of any other.
    jobs += [job("changed", 3, stop_at=2), job("changed", 2, resume=True)]
    said = run_ranks(jobs)
    assert said == ["", ""]  # what DeepSpeed prints is no data
    return root


def _differing(a: Path, b: Path) -> list[str]:
    """Which parts of two runs' states and checkpoints are not equal bit for bit."""
    one, other = load_state(a), load_state(b)
    same = {
        "cursor": one.cursor == other.cursor,
        "engine": equal(one.engine, other.engine),
        "random": equal(one.random, other.random),
        **{folder: equal(tensors(a / folder), tensors(b / folder)) for folder in ("last", "best")},
    }
    return [name for name, is_same in same.items() if not is_same]


@needs_linux
def test_zero_3_equals_ddp_bit_for_bit(runs: Path) -> None:
    assert load_state(runs / "ddp").cursor.step == 4
    assert _differing(runs / "ddp", runs / "zero3") == []


@needs_linux
@pytest.mark.parametrize("name", ["zero2", "changed"])
def test_zero_2_equals_ddp_but_for_rounding(runs: Path, name: str) -> None:
    """Its weights lie in one piece of memory, so that products may take other paths through the same numbers."""
    one, other = load_state(runs / "ddp"), load_state(runs / name)
    assert one.cursor == other.cursor
    for key, value in one.engine["changing"].items():
        torch.testing.assert_close(other.engine["changing"][key], value, rtol=1e-5, atol=1e-6, msg=key)


@needs_linux
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_stopped_and_resumed_equals_zero_that_never_stopped(runs: Path, stage: int) -> None:
    assert load_state(runs / f"zero{stage}").cursor.step == 4
    assert _differing(runs / f"zero{stage}", runs / f"parts{stage}") == []


@needs_linux
def test_the_exported_weights_are_those_of_the_engine_in_float32(runs: Path) -> None:
    for name in ("zero2", "zero3"):
        stored = tensors(runs / name / "last")
        assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float32}
        changing = load_state(runs / name).engine["changing"]
        assert equal({key: stored[key] for key in changing}, changing)
        load_model(runs / name / "last")
        assert [path.name for path in (runs / name / "state").iterdir()] == ["resume.pt"]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(DependencyError, match="the package deepspeed") as caught:
        import_deepspeed(torch.device("cpu"))
    assert "rsprompter_cli[deepspeed]" in caught.value.hint
