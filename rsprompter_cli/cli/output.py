"""Data on stdout, talk on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.errors import OutputError, RspError
from rsprompter_cli.io.exchange import tell

if TYPE_CHECKING:
    from rich.progress import Progress

ROOT_LOGGER = "rsprompter_cli"

_LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OWN_LOG = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ rsprompter_cli[\w.]*: ")
"""How a line of `_LOG_LINE` begins."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def set_up_logging(*, verbose: int = 0, quiet: bool = False, log_file: Path | None = None) -> None:
    """Send the package's log records to stderr (and to `log_file`), at the level the user asked for.

    Raises:
        OutputError: `log_file` cannot be written, or holds something else than such a log, which is appended to.
    """
    level = logging.ERROR if quiet else (logging.INFO, logging.DEBUG)[min(verbose, 1)]
    logger = logging.getLogger(ROOT_LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    talk = logging.StreamHandler(sys.stderr)
    talk.setLevel(level)
    talk.setFormatter(_LevelFormatter())
    logger.addHandler(talk)
    if log_file is not None:
        try:
            _refuse_foreign_log(log_file)
            log_file.parent.mkdir(parents=True, exist_ok=True)
            # A file name that is no UTF-8 is logged too.
            record = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise OutputError(f"--log-file {log_file}: cannot be written: {error.strerror or error}") from error
        record.setLevel(logging.DEBUG)
        record.setFormatter(logging.Formatter(_LOG_LINE))
        logger.addHandler(record)


def _refuse_foreign_log(path: Path) -> None:
    """Raise OutputError when `path` is a file that does not begin as our logs do; an empty one is free."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(256)
    if head and not _OWN_LOG.match(head):
        raise OutputError(f"--log-file {path} exists and is no log of rsp", "choose another file")


class _LevelFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return prefix + record.getMessage()


def print_error(message: str, hint: str = "", *, exit_code: int = RspError.exit_code) -> int:
    """One line on stderr, and in the log file when there is one.

    Returns:
        `exit_code`, with which the process is about to end.
    """
    text = " ".join(message.split()) + (f" ({hint})" if hint else "")
    # What a file or a command line holds is shown, never obeyed by the terminal.
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    line = f"rsp: error: {text}"
    # One process of several leaves it to the one that started it, which shows that of the first to fail.
    if not tell(text, exit_code):
        print(line, file=sys.stderr, flush=True)
    for handler in logging.getLogger(ROOT_LOGGER).handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.LogRecord(ROOT_LOGGER, logging.ERROR, "", 0, line, None, None))
    return exit_code


def print_json(value: Any) -> None:
    """`value` as one JSON document on stdout; NaN is refused because JSON has none."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str), flush=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A rich progress bar on stderr that is silent when stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[also]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield progress


@contextmanager
def counted_progress(
    description: str, *, also: Callable[[], str] | None = None
) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a function of (done, total); `also` gives words that are shown beside it."""
    with progress_bar() as progress:
        task = progress.add_task(description, total=None, also="")

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, also=also() if also is not None else "")

        yield update


@contextmanager
def scene_progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[int, int, Any], None]]]:
    """A progress bar over the windows of one scene after the other.

    As functions of (windows done, windows in all), and of (place of the scene that begins, scenes, its meter).
    """
    said: list[Callable[[], str]] = []
    with counted_progress("windows", also=lambda: said[-1]() if said else "") as update:

        def on_scene(place: int, count: int, meter: Any) -> None:
            said[:] = [lambda: f"scene {place} of {count}, {meter.said()}"]
            update(0, 1)

        yield update, on_scene


def set_threads(threads: int | None) -> None:
    """Limit the CPU threads of the tensor library."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
