"""A run that is stopped and resumed equals one that never stopped."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsprompter_cli.errors import InputError, OutputError, TrainingError
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint, write_checkpoint
from rsprompter_cli.train.interrupts import StopRequest
from rsprompter_cli.train.loggers import read_log
from rsprompter_cli.train.run import StepReport, TrainResult
from rsprompter_cli.train.run_folder import STATE_FILE, only_run
from rsprompter_cli.train.state import load_state
from tests.train.runs import equal, make_data, run, tensors

OPTIONS = {"epochs": 2, "batch_size": 2, "eval_every": 2, "warmup_steps": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Six steps without a stop."""
    return run(data, tmp_path_factory.mktemp("whole"), OPTIONS)


def _signal_at(step: int, number: int = signal.SIGINT):
    def watch(report: StepReport) -> None:
        if report.step == step:
            os.kill(os.getpid(), number)

    return watch


def _require_equal(whole: TrainResult, resumed: TrainResult) -> None:
    assert resumed.finished
    assert resumed.steps == whole.steps
    assert equal(tensors(whole.last), tensors(resumed.last))
    a, b = load_state(whole.folder), load_state(resumed.folder)
    assert equal(a.engine, b.engine)
    assert equal(a.random, b.random)
    assert a.cursor == b.cursor
    assert whole.metrics == resumed.metrics


@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (2, 1)])
def test_six_steps_equal_three_and_three(
    data: Path, whole: TrainResult, tmp_path: Path, stop: int, workers: int
) -> None:
    options = OPTIONS | {"workers": workers}
    first = run(data, tmp_path, options, on_step=_signal_at(stop))
    assert (first.finished, first.interrupted, first.steps) == (False, True, stop)
    # A resumed process starts with generators of its own.
    torch.manual_seed(999)
    _require_equal(whole, run(data, tmp_path, options, resume=True))


def test_a_stop_between_accumulated_steps_is_exact_too(data: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"accumulate": 2}
    whole = run(data, tmp_path / "whole", options)
    assert whole.steps == 4
    run(data, tmp_path / "parts", options, on_step=_signal_at(1))
    _require_equal(whole, run(data, tmp_path / "parts", options, resume=True))


def test_sigterm_and_a_time_budget_leave_a_state_too(data: Path, tmp_path: Path) -> None:
    killed = run(data, tmp_path / "a", OPTIONS, on_step=_signal_at(1, signal.SIGTERM))
    assert killed.interrupted
    assert (killed.folder / STATE_FILE).is_file()
    timed = run(data, tmp_path / "b", OPTIONS, minutes=0.0)
    assert (timed.interrupted, timed.finished, timed.steps) == (False, False, 1)
    assert run(data, tmp_path / "b", OPTIONS, resume=True).finished


def test_a_stop_during_the_evaluation_repeats_it_on_resume(data: Path, whole: TrainResult, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    cut = run(data, tmp_path / "cut", OPTIONS, on_evaluation=interrupt)
    assert cut.interrupted
    assert cut.best is None
    resumed = run(data, tmp_path / "cut", OPTIONS, resume=True)
    _require_equal(whole, resumed)
    assert equal(tensors(whole.folder / "best"), tensors(resumed.folder / "best"))


@pytest.mark.parametrize("eval_every", [1, 2])
def test_a_run_gets_on_however_short_its_time_limit(data: Path, tmp_path: Path, eval_every: int) -> None:
    options = OPTIONS | {"eval_every": eval_every}
    result, steps = run(data, tmp_path, options, minutes=0.0), [1]
    while not result.finished:
        result = run(data, tmp_path, options, minutes=0.0, resume=True)
        steps.append(result.steps)
        assert len(steps) <= 8, "a step or an evaluation in each call is enough"
    # At the end of an epoch the first call takes its last step, the second one evaluates.
    assert steps == ([1, 2, 3, 3, 4, 5, 6, 6] if eval_every == 1 else [1, 2, 3, 4, 5, 6, 6])
    assert equal(tensors(result.last), tensors(run(data, tmp_path / "whole", options).last))


def test_the_time_limit_ends_an_evaluation_that_resume_then_finishes(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts: list[int] = []
    seconds = [1e9]

    def left(_stop: StopRequest) -> float:
        return seconds[0]

    def time_is_up(done: int, _total: int) -> None:
        counts.append(done)
        seconds[0] = -1.0

    caplog.set_level("INFO", logger="rsprompter_cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "seconds_left", property(left))
        options = OPTIONS | {"batch_size": 1, "eval_every": 1}
        cut = run(data, tmp_path, options, minutes=1.0, on_evaluation=time_is_up)
        assert (cut.finished, cut.interrupted, cut.best, counts) == (False, False, None, [0])
        assert "time limit reached before the end of the evaluation of epoch 1, with which --resume" in caplog.text
        counts.clear()
        resumed = run(data, tmp_path, options, minutes=1.0, resume=True, on_evaluation=time_is_up)
        assert (resumed.epochs_done, resumed.steps, resumed.best is not None, counts) == (1, cut.steps, True, [0, 1, 2])
    assert "the evaluation of epoch 1 of 2, which is finished even beyond the time limit" in caplog.text
    assert "time limit reached after epoch 1; the state is saved" in caplog.text


def test_a_finished_run_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 1}
    first = run(data, tmp_path, options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(data, tmp_path, options, resume=True, minutes=1.0)
    assert again == replace(first, already_finished=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    # A run that was killed before its last words says them.
    (tmp_path / "curves.png").unlink()
    log = tmp_path / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert run(data, tmp_path, options, resume=True) == first
    assert (tmp_path / "curves.png").exists()


def _press_at_evaluation(_done: int, _total: int) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("resumed", [False, True])
def test_ctrl_c_says_what_is_stopped_and_what_is_kept(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, resumed: bool
) -> None:
    caplog.set_level("INFO", logger="rsprompter_cli")
    if resumed:
        run(data, tmp_path, OPTIONS, on_step=_signal_at(2))
        assert "stopping after this training step and saving the state (interrupt again" in caplog.text

    def twice(_report: StepReport) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, OPTIONS, on_step=twice, resume=resumed)
    kept = "--resume continues after step 2" if resumed else "no training step is saved yet"
    assert f"stopped at once; {kept}" in caplog.text


def test_ctrl_c_in_an_evaluation_speaks_of_the_evaluation(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsprompter_cli")
    run(data, tmp_path, OPTIONS | {"epochs": 1}, on_evaluation=_press_at_evaluation)
    assert "stopping the evaluation and saving the state" in caplog.text
    assert "after this" not in caplog.text


def test_a_kill_in_an_evaluation_costs_no_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def twice(_done: int, _total: int) -> None:
        _press_at_evaluation(_done, _total)
        _press_at_evaluation(_done, _total)

    caplog.set_level("INFO", logger="rsprompter_cli")
    monkeypatch.setattr("rsprompter_cli.train.loop._WORTH_SAVING", 0.0)
    options = OPTIONS | {"epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, options, on_evaluation=twice)
    assert "stopped at once; --resume continues after step 3" in caplog.text
    steps: list[int] = []
    resumed = run(data, tmp_path, options, resume=True, on_step=lambda report: steps.append(report.step))
    assert (resumed.finished, resumed.steps, steps) == (True, 3, [])
    assert "resuming after 3 steps, with the evaluation of epoch 1 of 1" in caplog.text


def test_a_stop_between_epochs_is_described_as_one(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsprompter_cli")
    assert run(data, tmp_path, OPTIONS, on_step=_signal_at(3)).epochs_done == 1
    assert "stopped after epoch 1; the state is saved" in caplog.text
    assert run(data, tmp_path, OPTIONS, resume=True).finished
    assert "resuming after 3 steps, at the end of epoch 1 of 2" in caplog.text


def test_the_log_of_a_lost_stretch_is_taken_back(data: Path, tmp_path: Path) -> None:
    cut = run(data, tmp_path, OPTIONS, on_step=_signal_at(2))
    with (cut.folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "step": 5, "epoch": 1, "loss": 1.0, "losses": {"a": 1.0}}\n{"kind": "st')
    run(data, tmp_path, OPTIONS, resume=True)
    steps = [record["step"] for record in read_log(tmp_path) if record["kind"] == "step"]
    assert steps == sorted(set(steps))


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(
    data: Path, whole: TrainResult, tmp_path: Path
) -> None:
    a = run(data, tmp_path / "a", OPTIONS | {"workers": 2})
    assert equal(tensors(a.last), tensors(whole.last))
    b = run(data, tmp_path / "b", OPTIONS | {"seed": 1})
    assert not equal(tensors(b.last), tensors(whole.last))


def test_other_settings_or_data_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", OPTIONS, on_step=_signal_at(1))
    with pytest.raises(TrainingError, match=r"train\.lr was 0\.0002, is 0\.001"):
        run(data, tmp_path / "run", OPTIONS | {"lr": 1e-3}, resume=True)
    other = make_data(tmp_path / "data", train=5)
    with pytest.raises(TrainingError, match="training annotations"):
        run(other, tmp_path / "run", OPTIONS, resume=True)
    many = OPTIONS | {"lr": 1e-3, "seed": 1, "epochs": 3, "batch_size": 1, "warmup_steps": 9, "clip_grad": 1.0}
    with pytest.raises(TrainingError) as caught:
        run(data, tmp_path / "run", many, resume=True)
    told = caught.value.message
    assert "train.batch_size was 2, is 1; train.clip_grad was None, is 1.0; train.epochs was 2, is 3" in told
    assert told.endswith("; train.seed, train.warmup_steps differ too")
    # What does not touch the numbers may change.
    assert run(data, tmp_path / "run", OPTIONS | {"eval_every": 1, "workers": 1}, resume=True).finished


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_one_run_at_a_time_in_a_folder(data: Path, tmp_path: Path, how: dict[str, bool]) -> None:
    with only_run(tmp_path / "run"), pytest.raises(OutputError, match="another training run is using"):
        run(data, tmp_path / "run", **how)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run(tmp_path / "none", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_restored_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no saved state"):
        run(data, tmp_path / "nothing", OPTIONS, resume=True)
    run(data, tmp_path / "run", OPTIONS, on_step=_signal_at(1))
    path = tmp_path / "run" / STATE_FILE
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match="cannot be restored") as caught:
        run(data, tmp_path / "run", OPTIONS, resume=True)
    assert caught.value.exit_code == 8
    assert "--load-from" in caught.value.hint


def test_a_state_that_would_run_code_is_refused(data: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    run(data, tmp_path / "run", OPTIONS, on_step=_signal_at(1))
    torch.save({"format_version": 1, "cursor": Bomb()}, tmp_path / "run" / STATE_FILE)
    with pytest.raises(TrainingError, match="cannot be restored"):
        run(data, tmp_path / "run", OPTIONS, resume=True)
    assert not marker.exists()


def test_a_stop_between_evaluations_keeps_what_the_last_one_found(data: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 3, "eval_every": 1}
    start = run(data, tmp_path / "start", OPTIONS | {"epochs": 1}).last
    out = tmp_path / "run"
    first = run(data, out, options, on_step=_signal_at(4), load_from=start, random_sam=False)
    before = read_checkpoint(first.last).meta
    assert before.metrics
    # As if the first part had been evaluated well and begun long ago.
    known = {"started": "2020-01-01T00:00:00+00:00", "load_from": str(start)}
    assert before.provenance["load_from"] == known["load_from"]
    changed = replace(before, score_threshold=0.35, provenance={**before.provenance, **known})
    write_checkpoint(first.last, tensors(first.last), read_checkpoint(first.last).config, changed)
    second = run(data, out, options, on_step=_signal_at(5), resume=True)
    after = read_checkpoint(second.last).meta
    assert (after.metrics, after.score_threshold) == (before.metrics, 0.35)
    assert {name: after.provenance[name] for name in known} == known
    assert after.provenance["steps"] == 5
    assert second.metrics == before.metrics


def test_a_finished_run_resumes_to_itself_and_a_folder_holds_one_run(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "run", OPTIONS | {"epochs": 1})
    before = tensors(done.last)
    again = run(data, tmp_path / "run", OPTIONS | {"epochs": 1}, resume=True)
    assert again.finished
    assert again.metrics == done.metrics != {}
    assert equal(before, tensors(again.last))
    with pytest.raises(OutputError, match="already contains a run"):
        run(data, tmp_path / "run", OPTIONS)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run(data, tmp_path / "run", OPTIONS | {"epochs": 1}, overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
