"""A scene predicted by several workers; here they are one after the other in this process, see test_workers.py."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from rsprompter_cli.errors import InputError, OutputError
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.predict.backends.base import Backend, Job, ProgressAggregator, RunRanges
from rsprompter_cli.predict.options import PredictOptions
from rsprompter_cli.predict.scene import predict_scene
from rsprompter_cli.predict.shard import WindowRange
from rsprompter_cli.predict.shards import ShardDone, open_run
from rsprompter_cli.predict.stats import RunStats
from rsprompter_cli.predict.store import journal as journals
from rsprompter_cli.predict.store import parts as parts_module
from rsprompter_cli.predict.store.parts import parts_of, split_ranges
from tests.make.layers import house, write_layer
from tests.make.stub_model import BlobModel, blob_model
from tests.predict.test_resume import stopped_at, town

WINDOWS = 36
"""Of `town` at its own resolution."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_FLUSH_SECONDS", 0.0)


def in_turn(
    job: Job,
    ranges: Sequence[WindowRange],
    aggregator: ProgressAggregator,
    *,
    stop: Callable[[int], None] | None = None,
) -> None:
    """One worker; `stop` is called after each window with the number of them done, and may raise."""
    windows = 0
    with open_run(job.source, job.options, job.model) as run:
        for windows_of in ranges:
            stats = RunStats()

            def progress(done: int, _total: int, one: WindowRange = windows_of, stats: RunStats = stats) -> None:
                nonlocal windows
                aggregator.note(one, done, stats.counts())
                windows += 1
                if stop is not None:
                    stop(windows)

            aggregator.finish(run.write_part(windows_of, job.part(windows_of), progress=progress, stats=stats))


def after(count: int, error: BaseException) -> RunRanges:
    """Workers that end with an error after so many windows."""

    def stop(windows: int) -> None:
        if windows == count:
            raise error

    return partial(in_turn, stop=stop)


def predicted(
    scene: Path, out: Path, run: RunRanges = in_turn, *, workers: int = 2, model: LoadedModel | None = None, **more: Any
) -> Any:
    options = PredictOptions().changed(native=True, **more)
    return predict_scene(scene, out, options, model=model or blob_model(), backend=Backend(run, workers))


def seen(model: LoadedModel) -> int:
    assert isinstance(model.model, BlobModel)
    return model.model.seen


@pytest.mark.parametrize(
    ("name", "workers"), [("a.geojson", 1), ("a.fgb", 3), ("a.gpkg", 50), ("a.json", 2), ("a.png", 2)]
)
def test_any_number_of_workers_gives_the_bytes_of_one_run(tmp_path: Path, name: str, workers: int) -> None:
    scene = town(tmp_path)
    whole, out = tmp_path / "whole" / name, tmp_path / "apart" / name
    alone = predict_scene(scene, whole, model=blob_model(), native=True)
    steps: list[tuple[int, int]] = []
    options = PredictOptions().changed(native=True)
    result = predict_scene(
        scene,
        out,
        options,
        model=blob_model(),
        backend=Backend(in_turn, workers),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert out.read_bytes() == whole.read_bytes()
    assert (result.objects, result.plan) == (alone.objects, alone.plan)
    assert steps[-1] == (WINDOWS, WINDOWS)
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_map_report_area_and_classes_are_those_of_one_run(tmp_path: Path) -> None:
    scene = town(tmp_path)
    aoi = write_layer(tmp_path / "aoi.gpkg", [house(20, -120, 60, 50)], epsg=32633)
    reports = []
    for name in ("whole", "apart"):
        folder = tmp_path / name
        folder.mkdir()
        beside = {"preview": str(folder / "map.html"), "report": str(folder / "report.json")}
        options = PredictOptions().changed(native=True, aoi=str(aoi), aoi_cut=True, classes=("red",), **beside)
        if name == "whole":
            predict_scene(scene, folder / "a.geojson", options, model=blob_model())
        else:
            predict_scene(scene, folder / "a.geojson", options, model=blob_model(), backend=Backend(in_turn, 3))
        reports.append(json.loads((folder / "report.json").read_text()))
    for name in ("a.geojson", "map.html"):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert reports[1]["counts"] == reports[0]["counts"]
    assert reports[1]["counts"]["windows_outside_area"] > 0
    assert reports[1]["scene"] == reports[0]["scene"]
    assert reports[1]["seconds"]["model"] > 0


def test_a_dry_run_starts_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    result = predicted(scene, out, after(0, AssertionError()), dry_run=True)
    assert result.plan.windows == WINDOWS
    assert [path.name for path in tmp_path.iterdir()] == ["town.tif"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_stopped_it_goes_on_with_another_number_of_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    scene, out, whole = town(tmp_path), tmp_path / "out" / "a.geojson", tmp_path / "whole.geojson"
    predict_scene(scene, whole, model=blob_model(), native=True)
    with pytest.raises(type(error)), caplog.at_level("INFO"):
        predicted(scene, out, after(14, error), workers=3)
    # A hint, no warning.
    assert {one.levelname for one in caplog.records if "keeps the" in one.getMessage()} == {"INFO"}
    assert "keeps the 14 windows done so far: run the same command again to resume" in caplog.text
    assert not out.exists()
    loaded = blob_model()
    with caplog.at_level("INFO"):
        predicted(scene, out, workers=1, model=loaded, batch=3)
    assert "resuming after 14 windows" in caplog.text
    assert seen(loaded) == WINDOWS - 14
    assert out.read_bytes() == whole.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["a.geojson"]


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"

    def broken(_job: Job, _ranges: Sequence[WindowRange], _aggregator: ProgressAggregator) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        predicted(scene, out, broken)
    assert "keeps" not in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["town.tif"]


def test_a_damaged_file_leaves_nothing(tmp_path: Path) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    with pytest.raises(InputError):
        predicted(scene, out, after(5, InputError("town.tif: damaged")))
    assert [path.name for path in tmp_path.iterdir()] == ["town.tif"]


def test_a_fault_while_joining_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    with monkeypatch.context() as patch:
        patch.setattr("rsprompter_cli.predict.scene.write_found", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predicted(scene, out)
    loaded = blob_model()
    assert predicted(scene, out, model=loaded).objects > 10
    assert seen(loaded) == 0


def test_another_run_is_refused_by_name_until_overwrite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    with pytest.raises(KeyboardInterrupt):
        predicted(scene, out, after(9, KeyboardInterrupt()))
    caplog.clear()
    with pytest.raises(OutputError, match=r"score 0\.5 instead of 0\.7.*--overwrite"):
        predicted(scene, out, score=0.7)
    with pytest.raises(OutputError, match="a different model"):
        predicted(scene, out, model=blob_model(gsd_range=(0.1, 0.9)))
    os.utime(scene, ns=(1, 1))
    with pytest.raises(OutputError, match="a different input"):
        predicted(scene, out)
    assert caplog.text == ""
    assert parts_of(out).windows_done() == 9
    assert predicted(scene, out, overwrite=True).objects > 10
    assert "starting over" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.geojson", "town.tif"]


def test_one_process_and_several_go_on_with_each_other(tmp_path: Path) -> None:
    scene, whole = town(tmp_path), tmp_path / "whole.geojson"
    predict_scene(scene, whole, model=blob_model(), native=True)
    one, many, all_in_turn = (tmp_path / "out" / name for name in ("one.geojson", "many.geojson", "all.geojson"))
    stopped_at(7, scene, one)
    loaded = blob_model()
    predicted(scene, one, model=loaded)
    assert seen(loaded) == WINDOWS - 7
    with pytest.raises(KeyboardInterrupt):
        predicted(scene, many, after(8, KeyboardInterrupt()), workers=3)
    loaded = blob_model()
    predict_scene(scene, many, model=loaded, native=True)
    assert seen(loaded) == WINDOWS - 8
    stopped_at(5, scene, all_in_turn)
    with pytest.raises(KeyboardInterrupt):
        predicted(scene, all_in_turn, after(6, KeyboardInterrupt()), workers=2)
    stopped_at(4, scene, all_in_turn)
    with pytest.raises(KeyboardInterrupt):
        predicted(scene, all_in_turn, after(9, KeyboardInterrupt()), workers=1)
    loaded = blob_model()
    predict_scene(scene, all_in_turn, model=loaded, native=True)
    assert seen(loaded) == WINDOWS - 24
    assert one.read_bytes() == many.read_bytes() == all_in_turn.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in one.parent.iterdir()) == ["all.geojson", "many.geojson", "one.geojson"]


@pytest.mark.parametrize("name", [".a.geojson.journal", ".a.geojson.shards/3-of-8"])
def test_what_an_earlier_version_left_is_refused_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'rsp journal 1\n{"input": {}, "settings": {}}\n')
    with pytest.raises(OutputError, match=r"was left by an earlier version of rsp.*--overwrite"):
        predict_scene(scene, out, model=blob_model(), native=True)
    assert (tmp_path / name).exists()
    predict_scene(scene, out, model=blob_model(), native=True, overwrite=True)
    assert "starting over" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.geojson", "town.tif"]


def test_ranges_cover_what_is_missing_and_are_of_nearly_one_length() -> None:
    missing = [range(0, 7), range(9, 10), range(12, 36)]
    ranges = split_ranges(missing, 8)
    covered = [position for one in ranges for position in one.windows(36)]
    assert covered == [position for stretch in missing for position in stretch]
    assert max(len(one.windows(36)) for one in ranges) <= 5
    assert split_ranges([range(3)], 50) == [WindowRange(0, 1), WindowRange(1, 2), WindowRange(2, 3)]


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"

    def again(job: Job, ranges: Sequence[WindowRange], aggregator: ProgressAggregator) -> None:
        with pytest.raises(OutputError, match="another run is using it"):
            predicted(scene, out)
        with pytest.raises(OutputError, match="another run is using it"):
            predict_scene(scene, out, model=blob_model(), native=True)
        in_turn(job, ranges, aggregator)

    assert predicted(scene, out, again).objects > 10


def test_workers_of_a_killed_run_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, out = town(tmp_path), tmp_path / "a.geojson"
    folder = parts_of(out).folder
    folder.mkdir()
    lock = FileLock(folder / ".0-8.lock", thread_local=False)
    lock.acquire()
    monkeypatch.setattr(parts_module, "PATIENCE", 0.1)
    with pytest.raises(OutputError, match="workers of an earlier run are still writing it"):
        predicted(scene, out)
    assert Path(lock.lock_file).exists()  # they go on in their folder
    monkeypatch.setattr(parts_module, "PATIENCE", 30.0)
    ended = threading.Timer(1.0, lock.release)
    ended.start()
    assert predicted(scene, out).objects > 10
    assert not lock.is_locked
    assert not folder.exists()


def test_what_workers_report_is_added_up_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    stats, steps, said = RunStats(), [], ["known"]
    aggregator = ProgressAggregator(10, stats, lambda done, total: steps.append((done, total)), said)
    aggregator.started(2.0)
    aggregator.started(0.5)
    assert stats.seconds()["start_up"] == 2.5
    aggregator.note(WindowRange(0, 5), 3, {"instances": 4, "bytes_read": 10})
    aggregator.note(WindowRange(5, 10), 1, {"instances": 1})
    aggregator.finish(ShardDone(WindowRange(0, 5), 5, {"instances": 6, "bytes_read": 30}, {"model": 1.5, "total": 9.0}))
    assert steps == [(0, 10), (3, 10), (4, 10), (6, 10)]
    assert (stats.instances, stats.bytes_read) == (7, 30)
    assert stats.seconds()["model"] == 1.5
    aggregator.say(30, "known")
    aggregator.say(30, "new")
    assert caplog.messages == ["new"]
