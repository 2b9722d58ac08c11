"""Which labels of a fit count, and what happens where they do not suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rasterio

from rsprompter_cli import fit
from rsprompter_cli.errors import InputError, ResourceError
from rsprompter_cli.io.model_files.checkpoint import read_checkpoint
from rsprompter_cli.train.finetune import run as fit_module
from rsprompter_cli.train.finetune.dry_run import plan_fit
from rsprompter_cli.train.finetune.record import FitOptions, FitResult, Record, read_record, wishes_of
from rsprompter_cli.train.finetune.scenes import plan_scenes
from rsprompter_cli.train.finetune.schedule import Figures
from rsprompter_cli.train.finetune.verdict import judge
from tests.make.fits import make_start, make_town, squares
from tests.make.labelled import rectangle


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_start(tmp_path_factory.mktemp("start") / "model")


def _refused(folder: Path, start: Path, polygons: list[Any]) -> str:
    """What is said of a scene of 160 x 256 px with these labels."""
    pair = make_town(folder, polygons=polygons)
    with pytest.raises(InputError) as error:
        plan_fit([pair], model=start)
    return error.value.message


def test_labels_on_one_spot_are_one_label(start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    message = _refused(tmp_path, start, [rectangle(100, 100, 16, 16)] * 12)
    assert "town.gpkg: 1 usable label on the imagery, at least 10 are needed" in message
    assert "not counted: 11 duplicated" in message
    assert caplog.text == ""


def test_labels_that_no_line_divides_are_refused(start: Path, tmp_path: Path) -> None:
    rings = [rectangle(100 - grown, 80 - grown, 12 + 2 * grown, 12 + 2 * grown) for grown in range(0, 24, 2)]
    message = _refused(tmp_path, start, rings)
    assert "held back for evaluation, at least 5 and 2 are needed" in message


def test_labels_too_small_to_be_seen_do_not_count(start: Path, tmp_path: Path) -> None:
    message = _refused(tmp_path, start, [rectangle(10 * place, 50 + place, 3, 3) for place in range(1, 13)])
    assert "0 usable labels" in message
    assert "12 smaller than 16 px" in message


def test_labels_centred_off_the_scene_and_copies_are_neither_counted_nor_announced(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inside, off = squares(5, 8), [rectangle(-12, 32 * row, 16, 16) for row in range(5)]
    assert "5 centred outside the scene" in _refused(tmp_path, start, [*inside[:9], *off])
    pair = make_town(tmp_path, polygons=[*inside, *inside[:7], *off])
    plan = plan_fit([pair], model=start)
    assert "labels not counted: 7 duplicated, 5 centred outside the scene" in caplog.text
    assert plan["classes"] == {"building": 40}
    assert plan["train"]["labels"] + plan["val"]["labels"] == 40
    assert plan["scenes"][0]["labels_on_scene"] == 45
    (scene,) = plan_scenes(wishes_of([pair], model=start), read_checkpoint(start).meta).scenes
    assert len(scene.polygons) == 45


def test_the_number_held_back_is_the_one_that_is_announced(
    start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_fit([make_town(tmp_path, rows=3, cols=4)], model=start)
    assert f"only {plan['val']['labels']} of 12 labels held back" in caplog.text


def test_a_run_that_is_refused_after_planning_leaves_nothing(start: Path, tmp_path: Path) -> None:
    pair = make_town(tmp_path, nodata=0)
    with rasterio.open(pair[0], "r+") as file:
        pixels = file.read()
        pixels[:, :, 150:] = 0
        file.write(pixels)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"town.tif: no held-back tile contains a footprint"):
        fit([pair], tmp_path / "mine", model=start, minutes=0.001, device="cpu")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("stage", ["tile_areas", "_measure"])
def test_a_failure_before_the_training_leaves_nothing(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ResourceError("no memory")

    pair = make_town(tmp_path)
    monkeypatch.setattr(fit_module, stage, fail)
    with pytest.raises(ResourceError):
        fit([pair], tmp_path / "mine", model=start, minutes=0.001, device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["town.gpkg", "town.tif"]


class _ToldError(Exception):
    """Carries the minutes that a clock was given."""


@pytest.mark.parametrize(("said", "minutes"), [(None, 60.0), (15.0, 15.0), (5.0, 5.0)])
def test_the_default_said_aloud_is_no_silence(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: float | None, minutes: float
) -> None:
    def clock(told: float) -> None:
        raise _ToldError(told)

    (tmp_path / "mine-run").mkdir()
    Record(FitOptions((("a.tif", "b.gpkg"),), str(start), minutes=60.0)).save(tmp_path / "mine-run")
    monkeypatch.setattr(fit_module, "_Clock", clock)
    with pytest.raises(_ToldError) as told:
        fit([], tmp_path / "mine", resume=True, minutes=said)
    assert told.value.args == (minutes,)
    assert read_record(tmp_path / "mine-run").wishes.budget == 60.0
    assert FitOptions(()).budget == 15.0


def test_the_last_word_doubts_figures_on_few_labels(tmp_path: Path) -> None:
    figures = Figures(1.0, 1.0, 1.0, 0.5)
    labels = {"train": 10, "val": 2}
    verdict = judge(figures, figures, labels=labels)
    result = FitResult(
        tmp_path,
        tmp_path,
        "start",
        ("a",),
        labels,
        {},
        None,
        figures,
        figures,
        0.5,
        1,
        1,
        True,
        1.0,
        scene="a.tif",
        verdict=verdict,
    )
    assert (
        "the noise of 2 held-back labels (standard error 0.000); too few labels for a reliable answer"
        in result.summary()
    )
