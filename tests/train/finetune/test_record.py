"""The record of a fit: what the program itself writes is read back, and what is damaged is refused by its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli.cli.app import run as rsp
from rsprompter_cli.errors import TrainingError, UsageError
from rsprompter_cli.train.finetune.record import FitOptions, FitResult, Record, read_record, result_of, wishes_of
from rsprompter_cli.train.finetune.resume import check_resume
from rsprompter_cli.train.finetune.schedule import Figures, Schedule
from rsprompter_cli.train.finetune.verdict import judge

FIGURES = Figures(0.5, 0.4, 0.3, 0.45)
LABELS = {"train": 30, "val": 10}
SCENE = {
    "scene": "town.tif",
    "labels": "town.gpkg",
    "gsd": [0.5, 0.625],
    "labels_on_scene": 40,
    "labels_train": 30,
    "labels_held_back": 10,
    "tiles_train": 21,
    "tiles_held_back": 3,
    "labelled_share": 1.0,
}
PLAN = {
    "scenes": [SCENE],
    "classes": {"building": 40},
    "tile": 64,
    "overlap": 0.25,
    "train": {"tiles": 21, "labels": 30},
    "val": {"tiles": 3, "labels": 10},
}
NEW = Record(FitOptions((("/a/town.tif", "/a/town.gpkg"),), "/a/start", minutes=5.0))
TILED = replace(NEW, plan=PLAN, tiles={"train": [21, 130], "val": [3, 12]})
MEASURED = replace(
    TILED,
    start=FIGURES,
    start_metrics={"segm_AP": 0.3, "f1": 0.5},
    speed={"seconds_per_window": 0.1, "seconds_per_window_on": "cpu"},
)
TRAINED = replace(MEASURED, schedule=Schedule(8, 6, 2, 3, 17.5))
RESULT = FitResult(
    Path("mine"), Path("mine-run"), "fitted", ("building",), LABELS, {"train": 8, "val": 3}, (0.5, 0.625), FIGURES,
    FIGURES, 0.5, 6, 24, True, 0.3, "/a/town.tif", judge(FIGURES, FIGURES, labels=LABELS),
)  # fmt: skip
FINISHED = replace(TRAINED, result=RESULT.as_dict())
ASKED = FitOptions(
    NEW.wishes.pairs,
    class_column="kind",
    class_name="roof",
    complete=True,
    minutes=10,
    gsd=0.25,
    bands=(4, 3, 2),
    scale="0,3000",
    page=2,
    scene_crs="EPSG:32633",
    nodata=-9999,
    layer=("roofs",),
)
NOT_STARTED: dict[str, Any] = {"result": None, "plan": None, "tiles": {}, "start": None, "schedule": None}


def _content(record: Record, folder: Path) -> dict[str, Any]:
    record.save(folder)
    return json.loads((folder / "fit.json").read_text(encoding="utf-8"))


def _write(folder: Path, content: Any) -> None:
    (folder / "fit.json").write_text(json.dumps(content), encoding="utf-8")


def _changed(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    *parts, last = (int(part) if part.isdigit() else part for part in key.split("."))
    node: Any = content
    for part in parts:
        node = node[part]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    return content


def _keys(tree: Any, before: str = "") -> Iterator[str]:
    """The dotted path of every value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield f"{before}{key}"
        yield from _keys(value, f"{before}{key}.")


@pytest.mark.parametrize(
    "record",
    [
        NEW,
        replace(NEW, wishes=ASKED, overwrite=True),
        replace(NEW, wishes=replace(ASKED, scale="auto", bands=(1,), minutes=None)),
        TILED,
        MEASURED,
        replace(TRAINED, start=None, start_metrics={}, speed={}),
        TRAINED,
        replace(TRAINED, result=replace(RESULT, finished=False, start=None, gsd_range=None, epochs=0).as_dict()),
        FINISHED,
    ],
)
def test_a_record_of_any_stage_is_read_back(record: Record, tmp_path: Path) -> None:
    _content(record, tmp_path)
    assert read_record(tmp_path) == replace(record, result=json.loads(json.dumps(record.result)))


def test_a_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    content = _content(FINISHED, tmp_path)
    for name in ("page", "scene_crs", "nodata", "layer"):
        del content["wishes"][name]
    for name in ("verdict", "next", "scene"):
        del content["result"][name]
    _write(tmp_path, content)
    assert read_record(tmp_path) == TRAINED
    _write(tmp_path, content | {"format_version": 2})
    with pytest.raises(TrainingError, match=r"fit\.json: written by another version of rsp"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wishes.model", -1),
        ("wishes.model", []),
        ("wishes.model", KeyError),
        ("wishes.pairs", []),
        ("wishes.pairs.0", ["town.tif"]),
        ("wishes.minutes", "x"),
        ("wishes.minutes", float("nan")),
        ("wishes.minutes", -1),
        ("wishes.minutes", 1e308),
        ("wishes.class_column", 3),
        ("wishes.class_name", 3),
        ("wishes.class_name", " "),
        ("wishes.gsd", "x"),
        ("wishes.gsd", -1),
        ("wishes.bands", "abc"),
        ("wishes.bands", [1, 2]),
        ("wishes.scale", 3),
        ("wishes.scale", "x"),
        ("wishes.page", -1),
        ("wishes.scene_crs", 5),
        ("wishes.scene_crs", "nonsense"),
        ("wishes.nodata", "x"),
        ("wishes.nodata", float("inf")),
        ("wishes.layer", "abc"),
        ("wishes.colour", "red"),
        ("overwrite", "x"),
        ("plan", "x"),
        ("plan.classes", None),
        ("plan.val", None),
        ("plan.train", {"labels": "x"}),
        ("plan.scenes.0.labelled_share", "x"),
        ("tiles", []),
        ("tiles", {}),
        ("tiles.val", "x"),
        ("start.f1", "x"),
        ("start.f1", float("nan")),
        ("start.f1", 1.5),
        ("start_metrics", 3),
        ("start_metrics.f1", "x"),
        ("speed", [1]),
        ("speed.seconds_per_window", "x"),
        ("schedule.tiles", 10**18),
        ("schedule.epochs", -1),
        ("schedule.eval_every", 0),
        ("schedule.seconds", "x"),
        ("result.fitted", None),
        ("result.out", KeyError),
        ("result.minutes", float("nan")),
        ("result.gsd_range", [0.5]),
        ("result.verdict.outcome", "x"),
        ("result.verdict.f1_after", KeyError),
        ("format_version", KeyError),
    ],
)
def test_a_damaged_field_is_named_with_the_file(key: str, value: Any, tmp_path: Path) -> None:
    content = _content(FINISHED, tmp_path)
    if not key.startswith("result"):
        content |= {"result": None}
    if key.startswith("wishes"):
        content |= NOT_STARTED
    _write(tmp_path, _changed(content, key, value))
    with pytest.raises(TrainingError) as caught:
        read_record(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path}/fit.json: is damaged: {key}")
    assert "--" not in caught.value.message
    assert caught.value.hint == "start over with --overwrite instead of --resume"


@pytest.mark.parametrize("value", [KeyError, None, "x", -1, float("nan"), float("inf"), [], {}, 10**18, True, [[1]]])
def test_any_value_anywhere_is_refused_or_understood(value: Any, tmp_path: Path) -> None:
    run, out = tmp_path / "mine-run", tmp_path / "mine"
    for folder in (run, out):
        folder.mkdir()
    (out / "meta.json").touch()
    content = _content(FINISHED, run)
    refused = 0
    for key in _keys(content):
        _write(run, _changed(content, key, value))
        try:
            read_record(run)
        except TrainingError as error:
            told = error.message
        else:
            told = ""
        if told:
            assert f"{run}/fit.json: " in told
            refused += 1
            continue
        if key == "result" or (key, value) == ("result.verdict", KeyError) or key == "result.finished":
            continue  # the fit is not finished and goes on
        result = check_resume([], out)
        assert result is not None
        assert json.dumps(result.as_dict(), allow_nan=False)
        assert result.rows()
        assert result.summary()
        assert result_of(result.as_dict()) == result
    assert refused > 30


@pytest.mark.parametrize("content", [[], 3, None, "x", {}])
def test_a_file_that_is_no_record(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine-run").mkdir()
    _write(tmp_path / "mine-run", content)
    assert rsp(["fit", "--resume", "--out", str(tmp_path / "mine")]) == TrainingError.exit_code
    told = capsys.readouterr().err
    assert "fit.json: is damaged: " in told
    assert told.count("\n") == 1


def test_a_time_limit_that_no_record_may_have_is_refused() -> None:
    with pytest.raises(UsageError, match="--minutes 1e"):
        wishes_of([("a.tif", "a.gpkg")], minutes=1e308)
