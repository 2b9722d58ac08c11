"""The folder through which the processes of one run and the process that started them communicate.

It holds the error line of each process that failed, and a file that asks them all to save and end.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from rsprompter_cli.documents import read_json
from rsprompter_cli.errors import InputError

EXCHANGE = "RSP_EXCHANGE"
"""Environment variable: where the folder is; only processes that were started by another one have it."""

_STOP = "stop"


@dataclass(frozen=True)
class Told:
    """The error line of a process, the exit code it ends with, and the time of that, seconds since the epoch."""

    line: str
    exit_code: int
    when: float


def tell(line: str, exit_code: int) -> bool:
    """Leave an error line, and the exit code to come, for the process that started this one.

    Returns:
        False when nobody started it: the line is then to be shown here.
    """
    folder = os.environ.get(EXCHANGE)
    if not folder:
        return False
    content = json.dumps({"line": line, "exit_code": exit_code, "when": time.time()})
    _error_file(Path(folder), int(os.environ.get("RANK", "0"))).write_text(content, encoding="utf-8")
    return True


def told(folder: Path, rank: int) -> Told | None:
    """What a process left, None when it left nothing."""
    try:
        content = read_json(_error_file(folder, rank))
        return Told(str(content["line"]), int(content["exit_code"]), float(content["when"]))
    except (InputError, ValueError, TypeError, KeyError):
        return None


def stop_file(folder: Path | None = None) -> Path | None:
    """The file whose existence asks the processes to end; None for a process that nobody started.

    Args:
        folder: the exchange folder, None for that of this process.
    """
    named = folder or os.environ.get(EXCHANGE)
    return Path(named) / _STOP if named else None


def _error_file(folder: Path, rank: int) -> Path:
    return folder / f"error-{rank}.json"
