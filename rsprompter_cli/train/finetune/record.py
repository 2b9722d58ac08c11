"""The arguments of a fit, its results so far (kept in its run folder), and its final result; without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rsprompter_cli.documents import read_json
from rsprompter_cli.errors import OutputError, TrainingError, UsageError
from rsprompter_cli.geo.vector.class_values import class_name_of
from rsprompter_cli.io.atomic import write_text
from rsprompter_cli.io.model_files.checkpoint import find_checkpoint, model_argument, model_name
from rsprompter_cli.train.finetune.defaults import FIT_MINUTES, MOST_MINUTES
from rsprompter_cli.train.finetune.schedule import Figures, Schedule
from rsprompter_cli.train.finetune.stored_record import check_fit_record
from rsprompter_cli.train.finetune.verdict import Verdict
from rsprompter_cli.train.run_folder import remove_own

RECORD_FILE = "fit.json"
TILES = "tiles"
TRAINING = "train"
MAPS = "encoder-maps"
_OWN_NAMES = (RECORD_FILE, TILES, TRAINING, MAPS)
_FORMAT_VERSION = 1
_START_OVER = "start over with --overwrite instead of --resume"


def run_folder(out: Path) -> Path:
    """The folder of a run's own files, beside its checkpoint.

    Raises:
        OutputError: the checkpoint has no name.
    """
    if out.name in ("", ".."):
        raise OutputError(f"the output {str(out)!r} has no name", "add one")
    return out.with_name(f"{out.name}-run")


@dataclass(frozen=True)
class FitOptions:
    """The arguments of a fit; a resumed run takes them from its record.

    pairs: absolute paths of scenes and their labels. model: absolute path of the checkpoint to start from, or
        `bundled`; None: the bundled model.
    class_column: column of the labels with their class; None: `class` where all label files have it.
    class_name: class of labels without such a column, or whose value is empty or blank.
    layer: names of layers, for label files that have several; each file is read in the one that it has.
    complete: the labels show every object of the scenes, so ground without any is background.
    minutes: for everything; at least one epoch over some tiles is trained, however short it is. None: see `budget`.
    gsd: metres per pixel on the ground; None: as `rsp predict` reads the scenes with `model`.
    bands, scale: see `open_scene`; None: as `model` knows them.
    page, scene_crs, nodata: what holds of all scenes, see `Stated`.
    """

    pairs: tuple[tuple[str, str], ...]
    model: str | None = None
    class_column: str | None = None
    class_name: str | None = None
    complete: bool = False
    minutes: float | None = None
    gsd: float | None = None
    bands: tuple[int, ...] | None = None
    scale: str | None = None
    page: int | None = None
    scene_crs: str | None = None
    nodata: float | None = None
    layer: tuple[str, ...] = ()

    @property
    def start(self) -> str:
        """The checkpoint to start from: a whole path, or `bundled`."""
        return model_name(self.model)

    @property
    def budget(self) -> float:
        """Minutes for everything."""
        return FIT_MINUTES if self.minutes is None else self.minutes

    def require_fitting(self, began: FitOptions) -> None:
        """Refuse to continue a run with other arguments; omitted ones are those of the run, and minutes may differ.

        Raises:
            UsageError: names the option.
        """
        for one in fields(self):
            now, then = getattr(self, one.name), getattr(began, "start" if one.name == "model" else one.name)
            unsaid = now == (() if one.name == "pairs" else one.default)
            if one.name != "minutes" and not unsaid and now != then:
                name = "SCENE LABELS" if one.name == "pairs" else f"--{one.name.replace('_', '-')}"
                raise UsageError(
                    f"--resume: {name} differs from that of the run",
                    "omit it, or start over with --overwrite",
                )


def wishes_of(
    pairs: Sequence[tuple[str | Path, str | Path]], *, model: str | Path | None = None, **others: Any
) -> FitOptions:
    """The arguments of a fit, with whole paths.

    Args:
        model: "bundled" or None takes the bundled model.
        others: fields of `FitOptions`; `layer` may be one name, too.

    Raises:
        UsageError: a number out of range.
    """
    layer = others.pop("layer", ())
    wishes = FitOptions(
        tuple((str(Path(scene).absolute()), str(Path(labels).absolute())) for scene, labels in pairs),
        None if model is None else model_name(_whole(model)),
        layer=(layer,) if isinstance(layer, str) else tuple(layer or ()),
        **others,
    )
    if not 0 < wishes.budget <= MOST_MINUTES:
        raise UsageError(f"--minutes {wishes.minutes}: must be a number above 0 and at most {MOST_MINUTES:,.0f}")
    if wishes.class_name is not None and class_name_of(wishes.class_name) is None:
        raise UsageError("--class-name is blank", "give the name of the class")
    return wishes


def _whole(model: str | Path) -> Path:
    return find_checkpoint(model).absolute()


@dataclass
class Record:
    """The results of a run so far.

    overwrite: the checkpoint that is written may replace one.
    plan: what it tiled; None until all tiles are there. tiles: (images, objects) by split.
    start: figures of the model it began with, None when that has other classes; start_metrics: all of them.
    speed: entries of a checkpoint's provenance about seconds per window.
    """

    wishes: FitOptions
    overwrite: bool = False
    plan: dict[str, Any] | None = None
    tiles: dict[str, list[int]] = field(default_factory=dict)
    start: Figures | None = None
    start_metrics: dict[str, float] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    result: dict[str, Any] | None = None

    def save(self, run: Path) -> None:
        """Write it into the run folder, atomically."""
        content = {"format_version": _FORMAT_VERSION, **asdict(self)}
        write_text(run / RECORD_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_record(run: Path) -> Record:
    """What a run found before it was stopped.

    Raises:
        TrainingError: no run there, or a damaged record.
    """
    path = run / RECORD_FILE
    if not path.is_file():
        raise TrainingError(f"{run}: no run to resume ({path} is missing)", "omit --resume to start one")
    content = read_json(path, error=TrainingError, hint=_START_OVER, strict=True)
    if isinstance(content, dict):
        if content.get("format_version", _FORMAT_VERSION) != _FORMAT_VERSION:
            raise TrainingError(f"{path}: written by another version of rsp", _START_OVER)
        if isinstance(content.get("result"), dict) and "verdict" not in content["result"]:
            content["result"] = None  # of a version that gave none: the end of the run is done again
    try:
        check_fit_record(content)
    except ValueError as error:
        raise TrainingError(f"{path}: is damaged: {error}", _START_OVER) from error
    return TypeAdapter(Record).validate_python(content)


def check_run_folder(run: Path, *, overwrite: bool) -> None:
    """Refuse to mix two runs in a folder."""
    used = [name for name in _OWN_NAMES if (run / name).exists()]
    if used and not overwrite:
        raise OutputError(
            f"{run} already contains a run ({', '.join(used)})", "--resume continues it, --overwrite starts over"
        )


@contextmanager
def leaving_nothing(run: Path) -> Iterator[None]:
    """Remove a run that fails before it trains, which would block the next one; an interrupted run is kept."""
    with ExitStack() as undo:
        undo.callback(clear_run_folder, run)
        try:
            yield
        except KeyboardInterrupt:
            undo.pop_all()
            raise
        undo.pop_all()


def clear_run_folder(run: Path) -> None:
    """Remove a former run, and nothing else that lies there."""
    remove_own(run, _OWN_NAMES)


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    out: checkpoint folder; run: the run's own files. written: "fitted", or "start" where the model it
        began with is clearly better on the held-back tiles.
    labels, tiles: by split. start: None when that model has other classes. score_threshold: chosen for `written`.
    finished: False when the time limit was reached before the last epoch.
    scene: whole path of the first one. verdict: on the fitted model.
    already_finished: the run had ended before it was resumed; nothing was trained or written.
    """

    out: Path
    run: Path
    written: str
    classes: tuple[str, ...]
    labels: Mapping[str, int]
    tiles: Mapping[str, int]
    gsd_range: tuple[float, float] | None
    start: Figures | None
    fitted: Figures
    score_threshold: float
    epochs: int
    steps: int
    finished: bool
    minutes: float
    scene: str
    verdict: Verdict
    already_finished: bool = field(default=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        del plain["already_finished"]  # about this call; the rest is about the run
        return {**plain, "verdict": self.verdict.as_dict(), "next": self.next_command()}

    def rows(self) -> list[list[str]]:
        """F1, AP50, AP and score threshold of both models on the held-back tiles, for a table."""
        both = [("start", self.start), ("fitted", self.fitted)]
        return [[name, *_cells(figures), "written" if name == self.written else ""] for name, figures in both]

    def summary(self) -> str:
        """The verdict, what was written, the next command, and what would help; a line each."""
        threshold = f"{self.score_threshold:.2f}"
        if self.written == "fitted":
            written = f"{self.out}, the fitted model with score threshold {threshold}"
        else:
            written = f"{self.out}, the starting model with a score threshold for this imagery ({threshold})"
            written += f"; the fitted model is kept in {self.run / TRAINING}"
        lines = [f"verdict: {self.verdict.sentence()}", f"next: {self.next_command()}"]
        if not self.already_finished:
            lines.insert(1, f"wrote {written}")
        if self.fitted.f1 > 0:
            lines.append(
                "F1 is that of the held-back tiles at the score that is best there; expect other figures for a whole "
                f"scene at the stored threshold of {threshold}"
            )
        if self.verdict.would_help:
            lines.append(f"would help: {'; '.join(self.verdict.would_help)}")
        return "\n".join(lines)

    def next_command(self) -> str:
        """The prediction with the model that was written, as it is typed in the working folder."""
        scene = Path(self.scene)
        if scene.is_relative_to(Path.cwd()):
            scene = scene.relative_to(Path.cwd())
        words = ["rsp", "predict", str(scene), "--model", model_argument(self.out), "--out", "polygons.geojson"]
        return shlex.join(words)


def result_of(fields_of: Mapping[str, Any]) -> FitResult:
    """The inverse of `FitResult.as_dict`."""
    return TypeAdapter(FitResult).validate_python(fields_of)


def _cells(figures: Figures | None) -> list[str]:
    if figures is None:
        return ["other classes", "", "", ""]
    threshold = "-" if figures.score_threshold is None else f"{figures.score_threshold:.3f}"
    return [f"{figures.f1:.3f}", f"{figures.ap50:.3f}", f"{figures.ap:.3f}", threshold]
