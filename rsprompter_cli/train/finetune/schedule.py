"""The decisions of a fit that need no file and no model: resolutions, overlap, schedule, which model is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rsprompter_cli.config import AugmentConfig, Config, TrainConfig
from rsprompter_cli.errors import InputError, UsageError, plural

FEWEST_LABELS = 10
"""To train and validate: with fewer, the held-back ones could not distinguish a better model from a worse one."""

FEWEST_TRAIN, FEWEST_HELD_BACK = 5, 2
"""On either side of the line that divides them: half of FEWEST_LABELS, and two since on a single one F1 is 0 or 1."""

FEW_LABELS = 30
"""Below this the metrics are so coarse that a warning is printed."""

FEW_HELD_BACK = 5
"""With fewer each counts for over a fifth of the metrics; a warning is printed too."""

HELD_BACK = 0.25
"""Share of the labels that validates: of 50 about 12, so that one more found is 8 %, and 38 are left to learn from."""

COARSER = 1.25
"""The second resolution that trains, times the first: real pixels for the smaller half of the scale jitter."""

OVERLAPS = (0.25, 0.45)
"""Of training tiles: the first, or the second where the first gives fewer than _MANY_TILES."""

_OWN_THRESHOLD_WEIGHS = 50

_MANY_TILES = 16
_MOST_EPOCHS = 60
_FEWEST_EPOCHS = 6
"""With fewer the rate, which falls epoch by epoch, ends high: rather fewer tiles than fewer epochs."""

_FEWEST_TILES = 8
_MOST_VIEWS = 16
_SHARE_OF_VIEWS = 0.4
"""Of the time, at most, for encoding augmented views."""

_SHARE_OF_EVALUATIONS = 0.25
_EVALUATIONS = 4
_SPARE = 0.08
"""Of the time, for loading, saving and what takes longer than it first did."""


@dataclass(frozen=True)
class Figures:
    """What an evaluation on the held-back tiles found, masks at IoU 0.5.

    f1: at the score that makes it largest, `score_threshold`; that is None when nothing right was found.
    """

    f1: float
    ap50: float
    ap: float
    score_threshold: float | None

    def holds_against(self, start: Figures, *, labels: int) -> bool:
        """Whether these figures of a fitted model leave it the better guess than the one that it began with.

        Some dozen held-back labels cannot tell two good models apart, and one that has seen the place nearly always
        does better on the rest of it. So it is given up only where it finds nothing, or where its F1 is lower by more
        than one standard error.

        Args:
            labels: held back, on which both were measured.
        """
        return self.f1 > 0 and self.f1 >= start.f1 - start.standard_error(labels)

    def standard_error(self, labels: int) -> float:
        """Of F1, taken as a share of so many labels."""
        return math.sqrt(self.f1 * (1 - self.f1) / max(labels, 1))


def choose_threshold(found: float | None, own: float | None, *, labels: int) -> float | None:
    """The score from which a model keeps objects: the best one on the held-back labels, as far as these can tell.

    The best score of few labels is mostly chance, so the model's own pulls on it as if it stood for
    _OWN_THRESHOLD_WEIGHS of them.

    Args:
        found: best on the held-back labels; None when nothing right was found.
        own: of the model that the fit began with; None when that has other classes.
        labels: held back.
    """
    if found is None or own is None:
        return own if found is None else found
    return own + (found - own) * labels / (labels + _OWN_THRESHOLD_WEIGHS)


@dataclass(frozen=True)
class Timing:
    """Seconds per picture on this machine.

    encode: in the frozen encoder, once for each view; 0 when its maps are not kept.
    step: the rest of a training step. evaluate: an evaluation whose maps are kept.
    view_bytes: disk that the maps of one view take.
    """

    encode: float
    step: float
    evaluate: float
    view_bytes: int = 0


@dataclass(frozen=True)
class Schedule:
    """How long to train.

    tiles: training tiles, fewer than there are when the time limit requires it.
    views: augmented views of each whose encoder maps are kept; 0 keeps none.
    seconds: expected, evaluations included.
    """

    tiles: int
    epochs: int
    views: int
    eval_every: int
    seconds: float


def resolutions(main: float) -> tuple[float, ...]:
    """Metres per pixel to train at: `main`, at which `rsp predict` will read the scene, and a coarser one."""
    return main, main * COARSER


def choose_overlap(tiles: Sequence[int]) -> float:
    """The overlap of training tiles, from how many tiles each of OVERLAPS gives."""
    enough = [overlap for overlap, count in zip(OVERLAPS, tiles, strict=True) if count >= _MANY_TILES]
    return enough[0] if enough else OVERLAPS[-1]


def check_labels(usable: int, *, names: str, not_counted: str = "") -> None:
    """Refuse to plan with too few labels.

    Args:
        usable: labels that could train or validate: each once, centred on the imagery, large enough to be seen.
        names: of their files.
        not_counted: how many others there are, in words.

    Raises:
        InputError: too few to learn from and to hold some back.
    """
    if usable < FEWEST_LABELS:
        raise InputError(
            f"{names}: {plural(usable, 'usable label')} on the imagery, at least {FEWEST_LABELS} are needed"
            + (f" (not counted: {not_counted})" if not_counted else ""),
            "outline more objects; 50 are a good start",
        )


def check_split(train: int, held_back: int, *, names: str, way_out: str) -> None:
    """Refuse a division of the labels that leaves too few on one side.

    Raises:
        InputError: too few to learn from, or to measure with.
    """
    if train < FEWEST_TRAIN or held_back < FEWEST_HELD_BACK:
        raise InputError(
            f"{names}: {plural(train, 'label')} for training and {held_back} held back for evaluation, "
            f"at least {FEWEST_TRAIN} and {FEWEST_HELD_BACK} are needed",
            way_out,
        )


def word_on_few(train: int, held_back: int) -> str | None:
    """A warning about the number of labels, None when there are enough."""
    total = train + held_back
    if held_back < FEW_HELD_BACK:
        return (
            f"only {held_back} of {plural(total, 'label')} held back for evaluation: the metrics are not reliable; "
            "50 labels or more are better"
        )
    if total < FEW_LABELS:
        return (
            f"few labels: {total}, {held_back} of them held back for evaluation, so the metrics are coarse; "
            "50 labels or more are better"
        )
    return None


def choose_schedule(timing: Timing, *, train_tiles: int, val_tiles: int, seconds: float, disk_bytes: float) -> Schedule:
    """Fit a schedule into a time.

    Args:
        train_tiles, val_tiles: how many there are.
        seconds: left for training with its evaluations.
        disk_bytes: what the kept maps may take.
    """
    evaluation = timing.evaluate * val_tiles
    usable = (1 - _SPARE) * seconds - evaluation
    further = min(_EVALUATIONS - 1, int(_SHARE_OF_EVALUATIONS * max(usable, 0) / evaluation)) if evaluation else 0
    usable = max(usable - further * evaluation, 0.0)
    tiles, views = train_tiles, _views(timing, train_tiles, usable, disk_bytes)
    epochs = _epochs(timing, tiles, views, usable)
    if epochs < _FEWEST_EPOCHS:
        views = min(views, 2)
        each = _FEWEST_EPOCHS * timing.step + (views or _FEWEST_EPOCHS) * timing.encode
        tiles = min(train_tiles, max(_FEWEST_TILES, int(usable / each)))
        epochs = _epochs(timing, tiles, views, usable)
    views = min(views, epochs)
    spent = tiles * (epochs * timing.step + (views or epochs) * timing.encode) + (1 + further) * evaluation
    return Schedule(tiles, epochs, views, -(-epochs // (1 + further)), spent)


def _views(timing: Timing, tiles: int, usable: float, disk_bytes: float) -> int:
    if not timing.view_bytes:
        return 0
    room = disk_bytes / (tiles * timing.view_bytes)
    by_time = max(1.0, _SHARE_OF_VIEWS * usable / (tiles * timing.encode)) if timing.encode > 0 else _MOST_VIEWS
    return int(min(_MOST_VIEWS, by_time, room))


def _epochs(timing: Timing, tiles: int, views: int, usable: float) -> int:
    if views:
        count = (usable - tiles * views * timing.encode) / (tiles * timing.step)
    else:
        count = usable / (tiles * (timing.step + timing.encode))
    return max(1, min(_MOST_EPOCHS, int(count)))


def fit_config(start: Config, *, new_classes: bool) -> Config:
    """The configuration that trains on from a checkpoint, its schedule still open.

    A full encoder is frozen: a few outlines would not teach it, and its maps can be kept. The rate is half of
    what the bundled model was trained with, unless class weights are newly initialized.

    Raises:
        UsageError: a kind of model that cannot be fitted.
    """
    model = start.model
    if model.kind == "samcls":
        raise UsageError(
            "rsp fit cannot fine-tune a samcls model, which only classifies the masks of a SAM", "use rsp train"
        )
    if getattr(model, "encoder", None) == "full":
        model = model.model_copy(update={"encoder": "frozen"})
    train = TrainConfig(
        epochs=1,
        lr=2e-4 if new_classes else 1e-4,
        batch_size=2,
        weight_decay=start.train.weight_decay,
        warmup_steps=10,
        clip_grad=5.0 if start.train.clip_grad is None else start.train.clip_grad,
        save_minutes=2.0,
        workers=0,
        augment=AugmentConfig(
            vertical_flip=0.5,
            rotate90=True,
            scale=(0.8, 1.3),
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
            hue=0.02,
        ),
    )
    return start.model_copy(update={"name": "fit", "model": model, "train": train})


def scheduled(config: Config, schedule: Schedule, *, maps: str) -> Config:
    """A configuration with its schedule filled in; `maps` is the folder of the encoder's maps."""
    steps = -(-schedule.tiles // config.train.batch_size) * schedule.epochs
    changes: dict[str, Any] = {
        "warmup_steps": min(config.train.warmup_steps, steps // 10),
        "epochs": schedule.epochs,
        "cache_views": schedule.views,
        "eval_every": schedule.eval_every,
        "cache_folder": maps if schedule.views else None,
    }
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})
