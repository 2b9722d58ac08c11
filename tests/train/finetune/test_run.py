"""A few polygons to a model, end to end with a tiny one of random weights."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rsprompter_cli import fit, predict_scene
from rsprompter_cli.data.coco.read import read_coco
from rsprompter_cli.errors import InputError, OutputError, TrainingError, UsageError
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.train.finetune import dry_run
from rsprompter_cli.train.finetune import run as fit_module
from rsprompter_cli.train.finetune.dry_run import plan_fit
from rsprompter_cli.train.finetune.record import FitResult, read_record, result_of
from rsprompter_cli.train.finetune.run import FitCallbacks
from rsprompter_cli.train.finetune.schedule import Figures
from rsprompter_cli.train.run import StepReport
from tests.make.fits import make_start, make_town, squares

SHORT = 0.001
"""Minutes: the shortest schedule there is, one epoch of eight tiles."""

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_start(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_town(tmp_path_factory.mktemp("town"))


def _fit(pairs: list[Pair], out: Path, start: Path, **keywords: Any) -> FitResult:
    return fit(pairs, out, **({"model": start, "minutes": SHORT, "device": "cpu"} | keywords))


def _interrupt(report: StepReport) -> None:
    if report.step == 2:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_model_comes_out_that_predicts(town: Pair, start: Path, tmp_path: Path, monkeypatch: Any) -> None:
    # Random weights learn nothing in four steps; whichever is better, the fitted one is what is looked at here.
    monkeypatch.setattr(Figures, "holds_against", lambda _self, _start, labels: True)
    result = _fit([town], tmp_path / "mine", start)
    assert (result.written, result.finished, result.steps) == ("fitted", True, 4)
    assert result.labels == {"train": 30, "val": 10}
    assert result.tiles["train"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine-run"]
    left = sorted(path.name for path in (tmp_path / "mine-run").iterdir() if path.name != ".lock")
    assert left == ["fit.json", "tiles", "train"]
    mine = read_checkpoint(tmp_path / "mine")
    assert mine.meta.class_names == ("building",)
    assert mine.meta.gsd_range == pytest.approx((0.5, 0.625), rel=0.01)
    assert mine.config.train.cache_folder is None
    facts = mine.meta.provenance["fit"]
    assert (facts["from"], facts["written"], facts["labels"]) == (str(start), "fitted", {"train": 30, "val": 10})
    assert facts["before"]["f1"] == 0.0
    assert facts["verdict"] == result.as_dict()["verdict"]
    assert "labels from other regions" in facts["verdict"]["would_help"]
    assert mine.meta.provenance["seconds_per_window"] > 0
    predict_scene(town[0], tmp_path / "found.geojson", model=tmp_path / "mine", score=0.0, device="cpu")
    assert (tmp_path / "found.geojson").is_file()
    assert result_of(json.loads(json.dumps(result.as_dict()))) == result


def test_held_back_ground_is_shown_to_no_training(town: Pair, start: Path, tmp_path: Path) -> None:
    _fit([town], tmp_path / "mine", start)
    tiles = tmp_path / "mine-run" / "tiles"
    last = {"train": 0.0, "val": 1e9}
    for split in ("train", "val"):
        coco = read_coco(tiles / "annotations" / f"instances_{split}.json")
        for image in coco.images:
            left, gsd = image.extra["georef"]["transform"][2] - 5e5, image.extra["gsd"]
            for annotation in coco.by_image[image.id]:
                x, _, width, _ = annotation.bbox
                if split == "train":
                    last[split] = max(last[split], left + gsd * (x + width))
                else:
                    last[split] = min(last[split], left + gsd * x)
    assert last["train"] <= last["val"] + 0.7


def test_the_model_it_began_with_is_written_where_fitting_is_no_better(town: Pair, start: Path, tmp_path: Path) -> None:
    result = _fit([town], tmp_path / "mine", start)
    assert result.written == "start"
    assert "verdict: nothing found: no model finds any of the 10 held-back labels" in result.summary()
    mine, first = read_checkpoint(tmp_path / "mine"), read_checkpoint(start)
    assert all((mine.tensors()[key] == value).all() for key, value in first.tensors().items())
    assert mine.meta.gsd_range == first.meta.gsd_range
    assert "f1" in mine.meta.metrics
    assert (result.run / "train" / "best").is_dir()


def test_a_stopped_run_goes_on_and_knows_what_it_was(
    town: Pair, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsprompter_cli")
    out = tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt):
        _fit([town], out, start, watch=FitCallbacks(step=_interrupt))
    assert not out.exists()
    record = read_record(tmp_path / "mine-run")
    with pytest.raises(OutputError, match="already contains a run"):
        _fit([town], out, start)
    with pytest.raises(UsageError, match="--complete differs from that of the run"):
        _fit([], out, start, resume=True, complete=True)
    with pytest.raises(UsageError, match="SCENE LABELS differs from that of the run"):
        _fit([(town[0], town[0])], out, start, resume=True)
    steps: list[int] = []
    result = fit(
        [], out, minutes=SHORT, device="cpu", resume=True, watch=FitCallbacks(step=lambda r: steps.append(r.step))
    )
    assert (result.steps, steps) == (4, [3, 4])
    assert "time limit: 0 s from now" in caplog.text
    assert ("at the score that is best there" in result.summary()) == (result.fitted.f1 > 0)
    assert (result.start, result.epochs) == (record.start, record.schedule.epochs if record.schedule else None)
    assert read_checkpoint(out).meta.class_names == ("building",)
    # Once more: it has ended, and says the same.
    assert fit([], out, resume=True) == result
    with pytest.raises(OutputError, match="already exists"):
        _fit([town], out, start)
    assert _fit([town], out, start, overwrite=True).finished


@pytest.mark.parametrize("stage", ["tile_areas", "evaluate_start", "measure", "write_checkpoint"])
def test_a_stop_at_any_stage_can_be_resumed(
    town: Pair, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            _fit([town], tmp_path / "mine", start)
    assert not (tmp_path / "mine").exists()
    assert _fit([], tmp_path / "mine", start, resume=True).finished


def test_a_starting_model_is_evaluated_once(
    town: Pair, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            _fit([town], tmp_path / "mine", start)
    found = read_record(tmp_path / "mine-run").start
    assert found is not None
    monkeypatch.setattr(fit_module, "evaluate_start", stop)
    assert _fit([], tmp_path / "mine", start, resume=True).start == found


@pytest.mark.parametrize("other_classes", [False, True])
def test_a_slow_computer_evaluates_on_fewer_tiles(
    town: Pair,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    other_classes: bool,
) -> None:
    caplog.set_level("INFO", logger="rsprompter_cli")
    every = plan_fit([town], model=start)["val"]["tiles"]
    monkeypatch.setattr(fit_module, "most_held_back", lambda *_: every)
    monkeypatch.setattr(dry_run, "_FEWEST_HELD_BACK", 2)
    result = _fit([town], tmp_path / "mine", start, class_name="barn" if other_classes else None)
    assert every > result.tiles["val"] == 2
    assert f"the time limit allows 2 of {every} held-back tiles" in caplog.text
    if not other_classes:
        assert 0 < read_checkpoint(tmp_path / "mine").meta.provenance["seconds_per_window"] < 60


def test_a_limit_too_short_for_any_training_is_warned_of(
    town: Pair, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_fit([town], model=start, minutes=SHORT)
    assert plan["expected_minutes"] > plan["budget_minutes"]
    assert plan_fit([town], model=start, minutes=30)["expected_minutes"] < 30
    _fit([town], tmp_path / "mine", start)
    assert "the shortest training with its evaluations takes about" in caplog.text
    assert "the shortest training takes about" in caplog.text
    assert "the time limit allows" not in caplog.text


def test_without_a_run_there_is_nothing_to_resume(start: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run to resume"):
        _fit([], tmp_path / "mine", start, resume=True)
    (tmp_path / "mine-run").mkdir()
    (tmp_path / "mine-run" / "fit.json").write_text("{")
    with pytest.raises(TrainingError, match=r"fit.json: is not JSON"):
        _fit([], tmp_path / "mine", start, resume=True)


def test_too_few_labels_are_refused_and_leave_nothing(start: Path, tmp_path: Path) -> None:
    pair = make_town(tmp_path, rows=3, cols=3)
    with pytest.raises(InputError, match="9 usable labels on the imagery"):
        _fit([pair], tmp_path / "mine", start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["town.gpkg", "town.tif"]


def test_few_labels_are_warned_of(start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = make_town(tmp_path, rows=3, cols=5)
    plan = plan_fit([pair], model=start)
    assert "only 4 of 15 labels held back" in caplog.text
    assert (plan["train"]["labels"], plan["val"]["labels"]) == (11, 4)


def test_labels_of_another_place_are_refused_with_both_extents(town: Pair, start: Path, tmp_path: Path) -> None:
    from affine import Affine

    _, elsewhere = make_town(tmp_path, "far", transform=Affine(0.5, 0, 6e5, 0, -0.5, 5.1e6))
    with pytest.raises(InputError, match=r"none of its 40 footprints.*labels longitude.*scene longitude") as error:
        _fit([(town[0], elsewhere)], tmp_path / "mine", start)
    assert "coordinate reference system" in error.value.hint


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32634"])
def test_labels_in_any_crs_give_the_same_tiles(crs: str, start: Path, tmp_path: Path) -> None:
    plan = plan_fit([make_town(tmp_path, label_crs=crs)], model=start)
    assert (plan["train"]["labels"], plan["val"]["labels"]) == (30, 10)
    assert plan["scenes"][0]["labelled_share"] == 1.0


def test_labels_of_a_part_leave_the_rest_alone(start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = make_town(tmp_path, polygons=squares(5, 8), height=500, width=500)
    part = plan_fit([pair], model=start)
    assert 0.1 < part["scenes"][0]["labelled_share"] < 0.3
    assert "the labelled ground is about" in caplog.text
    caplog.clear()
    whole = plan_fit([pair], model=start, complete=True)
    assert whole["scenes"][0]["labelled_share"] == 1.0
    assert whole["train"]["tiles"] > 2 * part["train"]["tiles"]
    assert "cover" not in caplog.text


def test_other_classes_start_anew_and_are_not_compared(start: Path, tmp_path: Path) -> None:
    pair = make_town(tmp_path, classes=["house", "shed"] * 20)
    result = _fit([pair], tmp_path / "mine", start, class_column="kind")
    assert (result.start, result.written, result.classes) == (None, "fitted", ("house", "shed"))
    mine = read_checkpoint(tmp_path / "mine")
    assert mine.meta.class_names == ("house", "shed")
    rows = result.rows()
    assert rows[0][1] == "other classes"
    assert rows[1][-1] == "written"


def test_classes_come_from_a_column_or_a_name(start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds: list[str | None] = ["house", None, *["house"] * 30, *["shed"] * 8]
    pair = make_town(tmp_path, classes=kinds)
    assert plan_fit([pair], model=start)["classes"] == {"building": 40}
    assert plan_fit([pair], model=start, class_name="roof")["classes"] == {"roof": 40}
    caplog.clear()
    assert plan_fit([pair], model=start, class_column="kind")["classes"] == {"building": 1, "house": 31, "shed": 8}
    assert "no value in 'kind' for 1 label, counted as building" in caplog.text
    assert "class shed has only 8 labels, hardly enough" in caplog.text
    with pytest.raises(UsageError, match="no attribute 'knid'"):
        plan_fit([pair], model=start, class_column="knid")


def test_a_column_named_class_is_taken_unasked(start: Path, tmp_path: Path) -> None:
    import geopandas

    scene, labels = make_town(tmp_path, classes=["house"] * 40)
    geopandas.read_file(labels).rename(columns={"kind": "class"}).to_file(tmp_path / "named.gpkg")
    assert plan_fit([(scene, tmp_path / "named.gpkg")], model=start)["classes"] == {"house": 40}
    other = make_town(tmp_path, "other", label_suffix=".geojson")
    with pytest.raises(UsageError, match=r"other.geojson has none"):
        plan_fit([(scene, tmp_path / "named.gpkg"), other], model=start)


def test_several_scenes_hold_back_a_part_each_and_never_train_on_it(start: Path, tmp_path: Path) -> None:
    from affine import Affine

    one = make_town(tmp_path, "one")
    other = make_town(tmp_path, "other", transform=Affine(0.5, 0, 5.1e5, 0, -0.5, 5e6))
    plan = plan_fit([one, other], model=start)
    assert [scene["labels_held_back"] for scene in plan["scenes"]] == [10, 10]
    # Half a scene further east: what the first holds back the second may not train on.
    shifted = make_town(tmp_path, "shifted", transform=Affine(0.5, 0, 5e5 + 64, 0, -0.5, 5e6))
    plan = plan_fit([one, shifted], model=start)
    assert plan["scenes"][1]["labels_train"] < 30
    with pytest.raises(UsageError, match="given twice"):
        plan_fit([one, one], model=start)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(town: Pair, start: Path, tmp_path: Path, minutes: float) -> None:
    with pytest.raises(UsageError, match="--minutes"):
        _fit([town], tmp_path / "mine", start, minutes=minutes)


def test_an_output_replaces_no_input(town: Pair, start: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is the input"):
        _fit([town], start, start, overwrite=True)
    assert read_checkpoint(start).meta.class_names == ("building",)
    with pytest.raises(OutputError, match="has no name"):
        _fit([town], Path(), start)


def test_when_the_time_is_up_before_any_evaluation_the_last_weights_are_looked_at(
    town: Pair, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fit_module.train
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "train", lambda *a, **k: original(*a, **(k | {"minutes": 0.0})))
        result = _fit([town], tmp_path / "mine", start)
    assert (result.finished, result.steps) == (False, 1)
    assert result.fitted.f1 >= 0
    assert read_checkpoint(tmp_path / "mine").meta.metrics
    again = _fit([], tmp_path / "mine", start, resume=True)
    assert (again.finished, again.steps) == (True, 4)
