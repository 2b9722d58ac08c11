"""The decisions of a fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsprompter_cli.config import SamclsConfig
from rsprompter_cli.errors import InputError, UsageError, plural
from rsprompter_cli.train.finetune.schedule import (
    Figures,
    Timing,
    check_labels,
    check_split,
    choose_overlap,
    choose_schedule,
    choose_threshold,
    fit_config,
    resolutions,
    scheduled,
    word_on_few,
)
from tests.make.tiny_models import tiny_config

NO_LIMIT = float("inf")


@given(
    st.floats(0, 5), st.floats(0.01, 5), st.floats(0.01, 5), st.integers(1, 500), st.integers(1, 40), st.floats(1, 4000)
)
def test_a_schedule_fits_the_time_unless_it_is_the_shortest(
    encode: float, step: float, evaluate: float, tiles: int, held: int, seconds: float
) -> None:
    timing = Timing(encode, step, evaluate, view_bytes=15_000_000)
    schedule = choose_schedule(timing, train_tiles=tiles, val_tiles=held, seconds=seconds, disk_bytes=4e9)
    assert 1 <= schedule.tiles <= tiles
    assert schedule.epochs >= 1
    assert schedule.views <= schedule.epochs
    assert 1 <= schedule.eval_every <= schedule.epochs
    assert schedule.views * schedule.tiles * timing.view_bytes <= 4e9
    shortest = schedule.epochs == 1 or schedule.tiles <= 8
    assert schedule.seconds <= seconds or shortest


def test_few_tiles_are_shown_often_in_many_views_and_many_are_thinned_out() -> None:
    timing = Timing(encode=1.0, step=1.0, evaluate=1.0, view_bytes=15_000_000)
    few = choose_schedule(timing, train_tiles=10, val_tiles=3, seconds=780, disk_bytes=4e9)
    assert (few.tiles, few.epochs > 30, few.views > 8) == (10, True, True)
    many = choose_schedule(timing, train_tiles=1000, val_tiles=20, seconds=780, disk_bytes=4e9)
    assert many.epochs >= 6
    assert 40 < many.tiles < 120


def test_maps_that_the_disk_cannot_hold_are_not_kept() -> None:
    timing = Timing(encode=1.0, step=1.0, evaluate=1.0, view_bytes=15_000_000)
    assert choose_schedule(timing, train_tiles=10, val_tiles=3, seconds=780, disk_bytes=1e6).views == 0
    no_maps = Timing(encode=0.0, step=2.0, evaluate=1.0)
    assert choose_schedule(no_maps, train_tiles=10, val_tiles=3, seconds=780, disk_bytes=NO_LIMIT).views == 0


@pytest.mark.parametrize(
    ("train", "held_back", "said"),
    [
        (8, 2, "only 2 of 10 labels held back for evaluation: the metrics are not reliable"),
        (22, 7, "few labels: 29, 7 of them held back"),
        (60, 4, "only 4 of 64 labels held back"),
        (22, 8, None),
        (3750, 1250, None),
    ],
)
def test_few_labels_are_said(train: int, held_back: int, said: str | None) -> None:
    warning = word_on_few(train, held_back)
    assert (said is None and warning is None) or (said is not None and warning is not None and said in warning)


def test_too_few_labels_are_refused() -> None:
    check_labels(10, names="labels.gpkg")
    with pytest.raises(InputError, match=r"labels.gpkg: 9 usable labels on the imagery, at least 10") as error:
        check_labels(9, names="labels.gpkg", not_counted="3 under 16 px")
    assert "(not counted: 3 under 16 px)" in error.value.message
    assert "50" in error.value.hint


@pytest.mark.parametrize(("train", "held_back", "refused"), [(5, 2, False), (12, 0, True), (12, 1, True), (4, 8, True)])
def test_a_side_with_hardly_any_label_is_refused(train: int, held_back: int, refused: bool) -> None:
    if not refused:
        check_split(train, held_back, names="labels.gpkg", way_out="more")
        return
    with pytest.raises(InputError, match=f"{plural(train, 'label')} for training and {held_back} held back"):
        check_split(train, held_back, names="labels.gpkg", way_out="more")


def test_a_coarser_resolution_trains_too() -> None:
    assert resolutions(0.3) == (0.3, 0.375)


def test_few_tiles_overlap_more() -> None:
    assert choose_overlap([16, 30]) == 0.25
    assert choose_overlap([5, 9]) == 0.45


def test_a_fitted_model_is_given_up_only_where_the_labels_show_it_to_be_worse() -> None:
    start = Figures(f1=0.64, ap50=0.6, ap=0.3, score_threshold=0.4)
    slightly_worse, worse = Figures(0.6, 0.5, 0.2, 0.4), Figures(0.5, 0.5, 0.2, 0.4)
    assert slightly_worse.holds_against(start, labels=26)  # a standard error is .09
    assert not worse.holds_against(start, labels=26)
    assert not slightly_worse.holds_against(start, labels=2000)
    assert start.holds_against(start, labels=2000)
    nothing = Figures(0.0, 0.0, 0.0, None)
    assert not nothing.holds_against(nothing, labels=26)
    assert not nothing.holds_against(Figures(0.05, 0.0, 0.0, 0.4), labels=1)


def test_few_labels_move_the_threshold_little() -> None:
    assert choose_threshold(0.6, 0.4, labels=5) == pytest.approx(0.4 + 0.2 / 11)
    assert choose_threshold(0.6, 0.4, labels=950) == pytest.approx(0.59)
    assert choose_threshold(None, 0.4, labels=50) == 0.4
    assert choose_threshold(0.6, None, labels=5) == 0.6
    assert choose_threshold(None, None, labels=5) is None


def test_a_full_encoder_is_frozen_and_its_maps_are_kept() -> None:
    config = fit_config(tiny_config(encoder="full"), new_classes=False)
    assert config.model.encoder == "frozen"  # type: ignore[union-attr]
    timing = Timing(encode=1.0, step=1.0, evaluate=1.0, view_bytes=1)
    schedule = choose_schedule(timing, train_tiles=10, val_tiles=3, seconds=200, disk_bytes=4e9)
    whole = scheduled(config, schedule, maps="maps")
    assert (whole.train.epochs, whole.train.cache_views, whole.train.cache_folder) == (
        schedule.epochs,
        schedule.views,
        "maps",
    )
    assert whole.train.warmup_steps == min(10, 5 * schedule.epochs // 10)
    assert type(whole).model_validate(whole.model_dump()) == whole
    assert fit_config(tiny_config(), new_classes=True).train.lr > config.train.lr


def test_a_model_that_finds_nothing_itself_is_refused() -> None:
    config = tiny_config().model_copy(update={"model": SamclsConfig()})
    with pytest.raises(UsageError, match="samcls"):
        fit_config(config, new_classes=False)
