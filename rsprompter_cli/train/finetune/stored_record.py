"""What `fit.json` of a fit may contain: the type and range of every field, checked before any of it is used."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rsprompter_cli.config import first_fault
from rsprompter_cli.errors import UsageError
from rsprompter_cli.geo.raster.radiometry.scaling import parse_scale
from rsprompter_cli.geo.raster.resolution import MAX_GSD
from rsprompter_cli.geo.target_crs import check_crs
from rsprompter_cli.geo.vector.class_values import class_name_of
from rsprompter_cli.train.finetune.defaults import MOST_MINUTES
from rsprompter_cli.train.finetune.verdict import Outcome

_Text = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
_Some = Annotated[int, Field(ge=1, le=1_000_000_000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Metres = Annotated[float, Field(gt=0, le=1e6)]
_Amount = Annotated[float, Field(ge=0, le=1e12)]
"""Seconds or minutes."""

_Band = Annotated[int, Field(ge=1, le=999_999_999)]
"""As the option takes it; the scene says which ones it has."""


class _Stored(BaseModel):
    """A table of the file. Fields with a default were added later; they may be absent."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _StoredWishes(_Stored):
    """The fields of `FitOptions`."""

    pairs: Annotated[list[Annotated[list[_Text], Field(min_length=2, max_length=2)]], Field(min_length=1)]
    model: _Text | None
    class_column: str | None
    class_name: str | None
    complete: bool
    minutes: Annotated[float, Field(gt=0, le=MOST_MINUTES)] | None
    gsd: Annotated[float, Field(gt=0, le=MAX_GSD)] | None
    bands: list[_Band] | None
    scale: str | None
    page: Annotated[int, Field(ge=1)] | None = None
    scene_crs: str | None = None
    nodata: float | None = None
    layer: list[str] = []

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(value) not in (1, 3):
            raise ValueError("must be one band or three")
        return value

    @field_validator("class_name")
    @classmethod
    def _check_class_name(cls, value: str | None) -> str | None:
        if value is not None and class_name_of(value) is None:
            raise ValueError("is blank")
        return value

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: str | None) -> str | None:
        try:
            parse_scale(value)
        except UsageError as error:  # names the option, which nobody gave
            raise ValueError("must be auto, none, percentile, or LO,HI") from error
        return value

    @field_validator("scene_crs")
    @classmethod
    def _check_crs(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                check_crs(value)
        except UsageError as error:
            raise ValueError("is not a 2D geographic or projected CRS of the earth") from error
        return value


class _StoredScene(_Stored):
    """A scene of `FitPlan.as_dict`."""

    scene: str
    labels: str
    gsd: Annotated[list[_Metres], Field(min_length=1)]
    labels_on_scene: _Count
    labels_train: _Count
    labels_held_back: _Count
    tiles_train: _Count
    tiles_held_back: _Count
    labelled_share: _Amount


class _StoredSplit(_Stored):
    tiles: _Count
    labels: _Count


class _StoredPlan(_Stored):
    """The fields of `FitPlan.as_dict`."""

    scenes: Annotated[list[_StoredScene], Field(min_length=1)]
    classes: Annotated[dict[_Text, _Count], Field(min_length=1)]
    tile: _Some
    overlap: _Share
    train: _StoredSplit
    val: _StoredSplit


class _StoredTiles(_Stored):
    """Images and objects of both splits, neither while there are no tiles."""

    train: Annotated[list[_Count], Field(min_length=2, max_length=2)] = []
    val: Annotated[list[_Count], Field(min_length=2, max_length=2)] = []


class _StoredFigures(_Stored):
    """The fields of `Figures`."""

    f1: _Share
    ap50: _Share
    ap: _Share
    score_threshold: _Share | None


class _StoredSpeed(_Stored):
    """Entries of a checkpoint's provenance, both or neither."""

    seconds_per_window: Annotated[float, Field(gt=0, lt=1e9)] = 1.0
    seconds_per_window_on: str = ""


class _StoredSchedule(_Stored):
    """The fields of `Schedule`."""

    tiles: _Some
    epochs: _Some
    views: _Count
    eval_every: _Some
    seconds: _Amount


class _StoredVerdict(_Stored):
    """The fields of `Verdict.as_dict`."""

    outcome: Annotated[Outcome, Field(strict=False)]
    f1_before: _Share | None
    f1_after: _Share
    standard_error: _Share
    labels_held_back: _Count
    would_help: list[str]
    sentence: str = ""


class _StoredResult(_Stored):
    """The fields of `FitResult.as_dict`."""

    out: str
    run: str
    written: Literal["fitted", "start"]
    classes: Annotated[list[_Text], Field(min_length=1)]
    labels: dict[str, _Count]
    tiles: dict[str, _Count]
    gsd_range: Annotated[list[_Metres], Field(min_length=2, max_length=2)] | None
    start: _StoredFigures | None
    fitted: _StoredFigures
    score_threshold: _Share
    epochs: _Count
    steps: _Count
    finished: bool
    minutes: _Amount
    scene: _Text
    verdict: _StoredVerdict
    next: str = ""


class _StoredFit(_Stored):
    """The fields of `Record`."""

    format_version: int
    wishes: _StoredWishes
    overwrite: bool
    plan: _StoredPlan | None
    tiles: _StoredTiles
    start: _StoredFigures | None
    start_metrics: dict[str, float]
    speed: _StoredSpeed
    schedule: _StoredSchedule | None
    result: _StoredResult | None

    @model_validator(mode="after")
    def _check_tiles(self) -> _StoredFit:
        if self.plan is not None and not (self.tiles.train and self.tiles.val):
            raise ValueError("tiles: has no count of what was planned")
        return self


def check_fit_record(content: Any) -> None:
    """Refuse a record of a fit with a field that is unknown, missing, of another type or out of range.

    Args:
        content: the value in the file.

    Raises:
        ValueError: the first such field, in one line that names it.
    """
    try:
        _StoredFit.model_validate(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error
