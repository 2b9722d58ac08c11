"""Log records, errors and results, each on its stream."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from rsprompter_cli.cli.console import is_quiet, set_quiet, without_control, write_message
from rsprompter_cli.errors import OutputError, RspError, with_hint
from rsprompter_cli.io.allocator import keep_freed_memory
from rsprompter_cli.io.atomic import not_written, reason_of
from rsprompter_cli.io.exchange import tell

ROOT_LOGGER = "rsprompter_cli"

_LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OWN_LOG = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ rsprompter_cli[\w.]*: ")
"""How a line of `_LOG_LINE` begins."""
_STYLES = {"warning": "yellow", "error": "bold red", "debug": "dim"}


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
    set_quiet(quiet)
    shown = _ConsoleHandler(level)
    logger.addHandler(shown)
    if log_file is not None:
        try:
            _refuse_foreign_log(log_file)
            log_file.parent.mkdir(parents=True, exist_ok=True)
            record = _LogFile(log_file)
        except OSError as error:
            raise not_written(f"--log-file {log_file}", error) from error
        record.setLevel(logging.DEBUG)
        record.setFormatter(logging.Formatter(_LOG_LINE))
        logger.addHandler(record)


def route_foreign_messages() -> None:
    """Send what other packages warn of and log through the console, where control characters are spelled out.

    Their warnings are for programmers: `-v` shows them.
    """
    logging.lastResort = _ConsoleHandler(logging.WARNING)

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
    ) -> None:
        logging.getLogger(ROOT_LOGGER).debug("%s:%d: %s: %s", filename, lineno, category.__name__, message)

    warnings.showwarning = show
    threading.excepthook = _report_thread
    sys.excepthook = _report_escaped
    sys.unraisablehook = _report_unraisable


def _report_escaped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an exception that compiled code of a library prints and goes on from, as rasterio does of broken texts.

    What leaves our own code ends in `run`, so that here is nothing of it; if there were, Python would print it.
    """
    last = trace
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    # One that was raised and caught in compiled code alone has no trace.
    foreign = last is None or not last.tb_frame.f_globals.get("__name__", "").startswith(ROOT_LOGGER)
    if os.environ.get("RSP_DEBUG") == "1" or not foreign:
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger(ROOT_LOGGER).debug("%s: %s", kind.__name__, error)


def _report_unraisable(ended: sys.UnraisableHookArgs) -> None:
    """Log an exception that nobody can catch, as one in a destructor or a callback of a library."""
    if os.environ.get("RSP_DEBUG") == "1":
        sys.__unraisablehook__(ended)
    else:
        name = ended.exc_type.__name__
        logging.getLogger(ROOT_LOGGER).debug("%s was ignored in %r: %s", name, ended.object, ended.exc_value)


def _report_thread(ended: threading.ExceptHookArgs) -> None:
    """Report the failure of a background thread of a library in one line, unless the thread hands it to its owner."""
    if os.environ.get("RSP_DEBUG") == "1":
        threading.__excepthook__(ended)
    elif getattr(ended.thread, "exception", None) is not ended.exc_value:
        name = "a thread" if ended.thread is None else ended.thread.name
        logging.getLogger(ROOT_LOGGER).warning("%s failed: %s: %s", name, ended.exc_type.__name__, ended.exc_value)


def _refuse_foreign_log(path: Path) -> None:
    """Raise OutputError when `path` is a file that does not begin as our logs do; an empty one is free."""
    if not path.is_file():
        if path.is_fifo() or path.is_socket():  # opening a pipe waits for somebody who reads it
            raise OutputError(f"--log-file {path} is not a regular file", "name another file")
        return
    with path.open("rb") as file:
        head = file.read(256)
    if head and not _OWN_LOG.match(head):
        raise OutputError(f"--log-file {path} exists and is not a log of rsp", "name another file")


class _LogFile(logging.FileHandler):
    """The log file; where it cannot be written, that is reported once and the command goes on."""

    def __init__(self, path: Path) -> None:
        # A file name that is no UTF-8 is logged too.
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._shown = path

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error, logger = sys.exc_info()[1], logging.getLogger(ROOT_LOGGER)
        logger.removeHandler(self)
        reason = reason_of(error) if isinstance(error, OSError) else error
        logger.warning("--log-file %s cannot be written: %s (it lacks the messages from here on)", self._shown, reason)


class _ConsoleHandler(logging.Handler):
    """Writes records to stderr, each above the progress display where one is shown.

    What is noticed about a file is written once, however often a command opens the file.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._noticed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if is_quiet() and record.levelno < logging.ERROR:
            return
        try:
            text = record.getMessage()
            if record.name.startswith(f"{ROOT_LOGGER}.geo."):
                if text in self._noticed:
                    return
                self._noticed.add(text)
            if record.levelno == logging.INFO:
                write_message(text)
            else:
                name = record.levelname.lower()
                write_message(text, label=f"{name}:", style=_STYLES.get(name, ""))
        except Exception:  # of any kind: a message that cannot be shown stops no work
            self.handleError(record)


@contextmanager
def unlogged() -> Iterator[None]:
    """Log no message but errors inside the block, for a look at files that are opened again afterwards."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(former)


@contextmanager
def logged_on_success() -> Iterator[None]:
    """Hold the log messages of the block back until it has ended well: an input that is refused gives one line."""
    logger, held = logging.getLogger(ROOT_LOGGER), BufferingHandler(sys.maxsize)
    former = list(logger.handlers)
    logger.handlers[:] = [held]
    try:
        yield
    finally:
        logger.handlers[:] = former
    for record in held.buffer:
        logger.handle(record)


def print_error(
    message: str, hint: str = "", *, label: str = "rsp: error:", exit_code: int = RspError.exit_code
) -> int:
    """One line on stderr, and in the log file when there is one.

    Args:
        label: comes first; an interruption, which is no error, has another one.

    Returns:
        `exit_code`, with which the process is about to end.
    """
    text = with_hint(" ".join(message.split()), hint)
    # What a file or a command line holds is shown, never obeyed by the terminal.
    text = without_control(text)
    line = f"{label} {text}"
    # One process of several leaves it to the one that started it, which shows that of the first to fail.
    if not tell(text, exit_code):
        write_message(text, label=label, style="bold red" if label == "rsp: error:" else "")
    for handler in logging.getLogger(ROOT_LOGGER).handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.LogRecord(ROOT_LOGGER, logging.ERROR, "", 0, line, None, None))
    return exit_code


def print_json(value: Any) -> None:
    """`value` as one JSON document on stdout; NaN is refused because JSON has none."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str), flush=True)


def set_up_torch(threads: int | None) -> None:
    """Let tensors reuse freed memory, and limit the CPU threads of torch where that is asked for."""
    keep_freed_memory()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
