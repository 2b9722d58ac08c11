"""What a run logs: one JSON object per line, and on request TensorBoard and Weights & Biases (extra `wandb`)."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rsprompter_cli.config import Config
from rsprompter_cli.documents import json_or_none, nan_to_null, read_content
from rsprompter_cli.errors import DependencyError, TrainingError, UsageError
from rsprompter_cli.io.atomic import not_written, write_text

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
BOARD_FOLDER = "tensorboard"
_SPEED_WINDOW = 50

_MOST_LINES = 1_500_000
"""Lines of a log, which has one for every ten steps: the longest preset has 1.4 million steps."""

_MOST_BYTES = 512 << 20
"""Bytes of a log; a line of that preset has 1,500, for the losses of each layer of its decoder."""

MOST_COUNTED = 2**53
"""Steps or pictures of a run; a float holds whole numbers up to here."""

_LARGEST = 1e300
"""Of a loss or a figure, so that sums of all of them stay finite."""

_MOST_LOSSES = 1000
"""Names of losses or figures in a record; a decoder of many layers has dozens."""

_WAY_OUT = "delete the file or move it elsewhere: the run continues without it"


class Board(Protocol):
    """Where curves and pictures of a run are looked at."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by tag, as they are after `step`."""

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """A picture, as it is after `step`."""

    def close(self, *, failed: bool) -> None:
        """Nothing follows; `failed`: because of an error."""


class TensorBoard:
    """`tensorboard/` of a run folder.

    Args:
        folder: the run folder.
        step: the step the run resumes from; what was written of later ones is no longer shown.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder / BOARD_FOLDER
        with _reporting(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """See `Board.numbers`."""
        with _reporting(self._folder):
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """See `Board.picture`."""
        with _reporting(self._folder):
            self._writer.add_image(tag, np.array(picture), step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """See `Board.close`."""
        with _reporting(self._folder, silent=failed):
            self._writer.close()


@contextmanager
def _reporting(path: Path, *, silent: bool = False) -> Iterator[None]:
    """Turn an OSError into an OutputError that names a file; `silent`: drop it, since another error is on its way."""
    try:
        yield
    except OSError as error:
        if not silent:
            raise not_written(path, error) from error


class RunLog:
    """`log.jsonl` of a run folder, and the boards of the run.

    Args:
        folder: the run folder.
        step: the step the run resumes from; what an interrupted run wrote of later steps is removed.
        boards: closed with the log.
    """

    def __init__(self, folder: Path, *, step: int = 0, boards: Sequence[Board] = ()) -> None:
        self._path = folder / LOG_FILE
        with _reporting(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                _drop_after(self._path, step)
            self._file = self._path.open("a", encoding="utf-8")
        self._boards = boards

    def write(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """One line; `kind` is one of: start, step, evaluation, stop, end."""
        record = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), **values}
        with _reporting(self._path):
            self._file.write(json.dumps(nan_to_null(record), allow_nan=False) + "\n")
            self._file.flush()

    def plot(self, values: Mapping[str, float], *, step: int) -> None:
        """Numbers for the boards, by tag."""
        for board in self._boards:
            board.numbers(values, step)

    def show(self, tag: str, picture: Image.Image, *, step: int) -> None:
        """A picture for the boards."""
        for board in self._boards:
            board.picture(tag, picture, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for board in self._boards:
            board.close(failed=error is not None)
        with _reporting(self._path, silent=error is not None):
            self._file.close()


class NoLog:
    """In place of a `RunLog` in the processes that do not speak for the run."""

    def write(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """Nothing."""

    def plot(self, values: Mapping[str, float], *, step: int) -> None:
        """Nothing."""

    def show(self, tag: str, picture: Image.Image, *, step: int) -> None:
        """Nothing."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class Speed:
    """Training pictures per second, over the recent past; pauses (evaluation, saving) are not counted."""

    def __init__(self) -> None:
        self._times: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=_SPEED_WINDOW)

    def count(self, images: int) -> None:
        """So many more pictures are done."""
        self._times.append((time.monotonic(), self._times[-1][1] + images))

    def restart(self) -> None:
        """Something other than training took time."""
        self._times.clear()
        self._times.append((time.monotonic(), 0))

    def images_per_second(self) -> float:
        """Mean over the last steps, 0 before the first."""
        (began, before), (now, done) = self._times[0], self._times[-1]
        return (done - before) / (now - began) if now > began else 0.0


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line cut short by a crash is left out.

    Raises:
        TrainingError: the log cannot be read, is too large, or has a line that no run writes.
    """
    path = Path(folder) / LOG_FILE
    content = read_content(path, max_bytes=_MOST_BYTES, error=TrainingError, hint=_WAY_OUT)
    # A record takes far more memory than the shortest line of the file.
    if content.count(b"\n") > _MOST_LINES:
        raise TrainingError(f"{path}: has more than {_MOST_LINES:,} lines", _WAY_OUT)
    lines = content.split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        record = json_or_none(line)
        if record is None and number == len(lines):
            break
        if reason := _fault_of(record):
            raise TrainingError(f"{path}: line {number}: {reason}", _WAY_OUT)
        records.append(record)
    return records


def _fault_of(record: Any) -> str:
    """What makes a value of the log no record that a run writes, in words; nothing where it is one."""
    if not isinstance(record, dict):
        return "is not a JSON object"
    if type(record.get("kind")) is not str:
        return "kind is not a text"
    step = record.get("step")
    if type(step) is not int or not 0 <= step <= MOST_COUNTED:
        return "step is not a whole number from 0"
    if record["kind"] == "step":
        if not _is_number(record.get("loss")):
            return "loss is not a number"
        if not _are_numbers(record.get("losses")):
            return "losses is not a table of numbers"
    # A figure that could not be found is null.
    if record["kind"] == "evaluation" and not _are_numbers(record.get("metrics"), or_null=True):
        return "metrics is not a table of numbers"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # false of NaN


def _are_numbers(table: Any, *, or_null: bool = False) -> bool:
    return (
        isinstance(table, dict)
        and len(table) <= _MOST_LOSSES
        and all(_is_number(value) or (or_null and value is None) for value in table.values())
    )


def has_ended(folder: Path) -> bool:
    """Whether the log says that a run went to its end."""
    if not (folder / LOG_FILE).is_file():
        return False
    records = read_log(folder)
    return bool(records) and records[-1]["kind"] == "end"


def _drop_after(path: Path, step: int) -> None:
    kept = [record for record in read_log(path.parent) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


WANDB_FOLDER = "wandb"
_ID_FILE = "rsp-run-id.txt"

_HINT = "run: wandb login, set WANDB_MODE=offline, or omit train.wandb"


def require_wandb() -> None:
    """Check before the work whether a run can be logged to W&B.

    Raises:
        DependencyError: the package is missing.
        UsageError: nobody is logged in, and offline mode is not set.
    """
    wandb = _import_wandb()
    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise UsageError(f"train.wandb: {error}", _HINT) from error


class WandbRun:
    """A run at W&B under the name of its folder; without a network (WANDB_MODE=offline) it lies in `wandb/` there.

    Args:
        folder: the run folder.
        config: its settings; `train.wandb` names the project.
        resume: continue the run at W&B that the folder belongs to.

    Raises:
        DependencyError: the package is missing.
        UsageError: W&B does not take the run.
    """

    def __init__(self, folder: Path, config: Config, *, resume: bool) -> None:
        wandb = _import_wandb()
        known = folder / WANDB_FOLDER / _ID_FILE
        # A run that began without W&B has none yet.
        identity = known.read_text(encoding="utf-8").strip() if resume and known.is_file() else secrets.token_hex(6)
        write_text(known, identity + "\n")
        try:
            self._run = wandb.init(
                project=config.train.wandb,
                name=folder.absolute().name,
                id=identity,
                resume="allow",
                dir=str(folder),
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise UsageError(f"train.wandb = {config.train.wandb}: {error}", _HINT) from error
        # Its own count of steps would be one of calls, and only ever grow.
        self._run.define_metric("*", step_metric="step")
        self._image = wandb.Image
        where = Path(self._run.dir).parent if self._run.offline else self._run.url
        _log.info("W&B: %s", where)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """See `Board.numbers`."""
        self._run.log({"step": step, **values})

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """See `Board.picture`."""
        self._run.log({"step": step, tag: self._image(picture)})

    def close(self, *, failed: bool) -> None:
        """See `Board.close`."""
        self._run.finish(exit_code=int(failed))


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise DependencyError(
            f"train.wandb: the package wandb cannot be loaded ({error})",
            "pip install 'rsprompter_cli[wandb]', or omit train.wandb",
        ) from error
    return wandb
