"""Shards handed out to workers that may be lost: the same bytes, or one line that says what is wrong."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.errors import DependencyError, OutputError, ResourceError, RspError, UsageError
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.backends import ray_schedule, ray_worker
from rsprompter_cli.predict.backends.base import Backend, Job
from rsprompter_cli.predict.backends.ray_schedule import WorkerLostError
from rsprompter_cli.predict.backends.ray_worker import RayWorker
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.scene import ScenePrediction, predict_scene
from rsprompter_cli.predict.stats import RunStats
from rsprompter_cli.predict.store.parts import parts_of
from tests.make.fatal_model import fatal_model
from tests.make.stub_model import BlobModel, blob_model
from tests.predict.test_shards import town


@dataclass
class HereCrew:
    """Workers of this process, which are lost when `loses` says so of a method call and how often it was made.

    starts: workers that were ever started; without_room: those from this number on are never ready.
    """

    job: Job
    count: int = 2
    loses: Callable[[str, int], bool] = lambda _method, _number: False
    without_room: int = 99
    starts: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    _asked: dict[int, Any] = field(default_factory=dict)

    def start(self) -> RayWorker | None:
        self.starts += 1
        return RayWorker(self.job, "cpu", 1) if self.starts <= self.without_room else None

    def ask(self, worker: RayWorker | None, method: str, *arguments: Any) -> int:
        self.calls[method] += 1
        number = sum(self.calls.values())
        lost = self.loses(method, self.calls[method])
        self._asked[number] = (worker, method, arguments, lost)
        return number

    def answered(self, questions: Sequence[int], seconds: float) -> Sequence[int]:
        return [question for question in questions if self._asked[question][0] is not None]

    def answer(self, question: int) -> Any:
        worker, method, arguments, lost = self._asked.pop(question)
        if lost:
            raise WorkerLostError("its machine burnt down")
        return getattr(worker, method)(*arguments)

    def end(self, workers: Sequence[tuple[RayWorker | None, bool]]) -> None:
        for worker, _ in workers:
            if worker is not None:
                worker.close()
                self.closed += 1


@dataclass
class Run:
    """Predicting by `HereCrew`, which the last run leaves in `crew`."""

    scene: Path
    out: Path
    changed: Callable[[Job], Job] = lambda job: job
    crew: HereCrew | None = None

    def __call__(self, model: LoadedModel | None = None, options: Any = None, **crew: Any) -> ScenePrediction:
        chosen = PredictOptions().changed(native=True, **(options or {}))

        def run(job: Job, shards: Any, aggregator: Any) -> None:
            self.crew = HereCrew(self.changed(job), **crew)
            ray_schedule.hand_out(job, shards, aggregator, self.crew)

        backend = Backend(run, 2)
        return predict_scene(
            self.scene, self.out, chosen, model=model or blob_model(), backend=backend, stats=RunStats()
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(town(tmp_path), tmp_path / "out" / "town.geojson")


@pytest.fixture
def whole(run: Run, tmp_path: Path) -> bytes:
    """What one process writes."""
    predict_scene(run.scene, tmp_path / "whole.geojson", model=blob_model(), native=True)
    return (tmp_path / "whole.geojson").read_bytes()


def left_behind(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def test_the_bytes_of_one_process(run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "PIECE", 100)
    result = run()
    assert run.out.read_bytes() == whole
    assert result.objects > 10
    assert left_behind(run.out) == []
    assert run.crew is not None
    assert run.crew.closed == run.crew.starts == 2
    assert run.crew.calls["hear"] > 50  # the pieces


@pytest.mark.parametrize("number", [1, 2, 8, 9])
@pytest.mark.parametrize("method", ["start", "begin"])
def test_what_a_lost_worker_was_at_is_done_by_another(
    run: Run, whole: bytes, method: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    run(loses=lambda called, times: called == method and times == number)
    assert run.out.read_bytes() == whole
    assert run.crew is not None
    lost = number <= 2 or method == "begin"  # two workers start, and eight shards are begun
    if number == 9:
        return
    assert ("its machine burnt down" in caplog.text) == lost
    assert run.crew.starts <= 3


def does_only_what_is_missing(run: Run, whole: bytes, **crew: Any) -> None:
    known, loaded = parts_of(run.out).windows_done(), blob_model()
    assert known > 0
    done = run(loaded, **crew)
    assert run.out.read_bytes() == whole
    assert isinstance(loaded.model, BlobModel)
    assert loaded.model.seen == done.plan.windows - known


def test_windows_that_lose_every_worker_end_the_run_and_the_rest_is_kept(run: Run, whole: bytes) -> None:
    with pytest.raises(ResourceError, match=r"^3 workers were lost at windows \d+-\d+: its machine burnt down") as lost:
        run(loses=lambda method, number: method == "begin" and number > 5, count=1)
    assert "the same command resumes the run" in lost.value.hint
    does_only_what_is_missing(run, whole)


def test_workers_that_never_start_end_the_run(run: Run) -> None:
    with pytest.raises(ResourceError, match="6 workers were lost at startup"):
        run(loses=lambda method, _: method == "start")


def test_a_crew_without_room_for_all_does_it_with_some(run: Run, whole: bytes) -> None:
    run(count=5, without_room=1)
    assert run.out.read_bytes() == whole


def test_a_cluster_without_room_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_schedule, "_LONG", -1.0)

    looks = itertools.count()

    def interrupt(self: HereCrew, questions: Sequence[int], seconds: float) -> Sequence[int]:
        if "wait for resources" in caplog.text:
            raise KeyboardInterrupt
        assert next(looks) < 100, caplog.text
        return []

    monkeypatch.setattr(HereCrew, "answered", interrupt)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        run(without_room=0)
    assert left_behind(run.out) == []


def test_an_error_of_a_worker_is_the_error_of_the_run(run: Run, whole: bytes, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the model wants more memory"):
        run(fatal_model(tmp_path, fails_after=20))
    assert run.crew is not None
    assert run.crew.closed == run.crew.starts
    assert not list(run.out.parent.glob(".*.parts/.*.coming"))


def test_an_interrupted_run_goes_on(run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(method: str, number: int) -> bool:
        if method == "begin" and number == 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(loses=interrupt)
    assert not run.out.exists()
    does_only_what_is_missing(run, whole, count=3)


def test_what_is_left_of_another_run_is_refused_or_given_up(run: Run, whole: bytes) -> None:
    with pytest.raises(ResourceError):
        run(loses=lambda method, number: method == "begin" and number > 4, options={"score": 0.2})
    with pytest.raises(OutputError, match=r"score 0\.2 instead of 0\.5"):
        run()
    run(options={"overwrite": True})
    assert run.out.read_bytes() == whole


def _refused(run: Run, changed: Callable[[Job], Job]) -> RspError:
    run.changed = changed
    with pytest.raises((UsageError, DependencyError)) as refused:
        run()
    assert not run.out.exists()
    return refused.value


def test_another_version_on_a_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "__version__", "0.0.1")
    refused = _refused(run, lambda job: job)
    assert "has version 0.0.1 of rsprompter_cli" in refused.message


def test_a_file_that_a_machine_lacks(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ray_schedule.files_needed
    monkeypatch.setattr(ray_schedule, "files_needed", lambda job: [*there(job), str(tmp_path / "model")])
    refused = _refused(run, lambda job: job)
    assert refused.message.startswith(f"{tmp_path / 'model'}: no such file or folder on ")


def test_another_file_at_the_same_place_of_a_machine(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = town(tmp_path / "other", side=310)
    refused = _refused(run, lambda job: replace(job, source=str(other)))
    assert "differs from the file on" in refused.message


def test_machines_with_different_models(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(job: Job) -> Job:
        assert isinstance(job.model, LoadedModel)
        return replace(job, model=replace(job.model, meta=replace(job.model.meta, class_names=("red", "green"))))

    def start(self: HereCrew) -> RayWorker:
        self.starts += 1
        return RayWorker(self.job if self.starts == 1 else changed(self.job), "cpu", 1)

    monkeypatch.setattr(HereCrew, "start", start)
    refused = _refused(run, lambda job: job)
    assert "would predict with a different model" in refused.message
