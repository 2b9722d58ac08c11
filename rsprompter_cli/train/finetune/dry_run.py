"""What a fit would do, and what it would refuse, without its model; knows no torch, so it is quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import shown_path
from rsprompter_cli.geo.raster.source import resolve_source
from rsprompter_cli.geo.vector.read import open_layer
from rsprompter_cli.io.model_files.checkpoint import Checkpoint, find_checkpoint, read_checkpoint, refuse_other_folder
from rsprompter_cli.train.finetune.record import check_run_folder, run_folder, wishes_of
from rsprompter_cli.train.finetune.scenes import FitPlan, plan_scenes
from rsprompter_cli.train.finetune.schedule import Schedule, Timing, choose_schedule, fit_config
from rsprompter_cli.train.run_folder import refuse_used_folder

SHARE_TO_MEASURE = 0.1
"""Of the time, at most, for the first look at the held-back tiles (of more some are drawn), and for timing steps."""

_FEWEST_HELD_BACK = 8
_MINUTES_TO_LOAD = 0.5
_GUESSED_SECONDS = 2.0
"""Per window, for models without a recorded speed: twice that of the bundled one on two cores with bfloat16."""


def plan_fit(
    pairs: Sequence[tuple[str | Path, str | Path]], *, model: str | Path | None = None, **asked: Any
) -> dict[str, Any]:
    """What `fit` would do with these arguments, as plain values; reads labels, writes nothing.

    `train` and `val` count all tiles, `expected_tiles` those that the time limit leaves, as far as can be guessed.

    Raises:
        InputError, UsageError, CheckpointError: as `fit` would.
    """
    wishes = wishes_of(pairs, model=model, **asked)
    minutes = wishes.budget
    start = read_checkpoint(wishes.start)
    fit_config(start.config, new_classes=False)
    plan = plan_scenes(wishes, start.meta)
    expected = expect(start, plan, minutes)
    return {
        **plan.as_dict(),
        "expected_tiles": {"train": expected.schedule.tiles, "val": expected.held_back},
        "model": wishes.start,
        "budget_minutes": minutes,
        "expected_minutes": round(expected.minutes, 1),
        "expected_epochs": expected.schedule.epochs,
    }


@dataclass(frozen=True)
class Expectation:
    """What a fit is expected to take, from the recorded speed of its model.

    held_back: tiles to evaluate on. minutes: of everything; more than the time limit where not even the shortest
        training fits into it.
    """

    held_back: int
    schedule: Schedule
    minutes: float


def expect(start: Checkpoint, plan: FitPlan, minutes: float) -> Expectation:
    """The schedule that a time limit will probably allow."""
    held_back = min(plan.count("val")[0], most_held_back(start, minutes))
    per_window = _seconds_per_window(start)
    # A step of the anchor model takes about what a window takes, and its encoder a third of that.
    guess = Timing(per_window / 3, per_window, per_window, 1)
    looked = per_window * held_back
    schedule = choose_schedule(
        guess,
        train_tiles=plan.count("train")[0],
        val_tiles=held_back,
        seconds=60 * minutes - looked,
        disk_bytes=float("inf"),
    )
    least = (schedule.seconds + looked) / 60
    return Expectation(held_back, schedule, max(least, min(minutes, least + _MINUTES_TO_LOAD)))


def check_fit(
    pairs: Sequence[tuple[str | Path, str | Path]], out: Path, *, overwrite: bool, model: str | None, **asked: Any
) -> FitPlan:
    """The plan of a fit, after a look at everything that `fit` would refuse before it loads the model.

    Raises:
        RspError: as `fit` would.
    """
    wishes = wishes_of(pairs, model=model, **asked)
    start = read_checkpoint(wishes.start)
    for scene, labels in wishes.pairs:
        resolve_source(shown_path(scene))
        open_layer(shown_path(labels), in_pixels=False, layer=wishes.layer or None)
    inputs: list[str | Path] = [find_checkpoint(wishes.start), *(path for pair in wishes.pairs for path in pair)]
    refuse_other_folder(out, overwrite=overwrite, inputs=inputs)
    run = run_folder(out)
    refuse_used_folder(run)
    check_run_folder(run, overwrite=overwrite)
    return plan_scenes(wishes, start.meta)


def most_held_back(start: Checkpoint, minutes: float) -> int:
    """So many held-back tiles can be evaluated in a share of the time limit."""
    return held_back_in(SHARE_TO_MEASURE * 60 * minutes, _seconds_per_window(start))


def held_back_in(seconds: float, per_window: float) -> int:
    """So many held-back tiles can be evaluated in a time; a few are in any case."""
    return max(_FEWEST_HELD_BACK, int(seconds / per_window))


def _seconds_per_window(start: Checkpoint) -> float:
    recorded = start.meta.provenance.get("seconds_per_window")
    return float(recorded) if recorded else _GUESSED_SECONDS
