"""What a run that was stopped keeps beside its output: a journal if one process was at work, parts if several were.

The one cannot go on with what the other has left, so it is never taken for nothing.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from rsprompter_cli.errors import OutputError, plural
from rsprompter_cli.io.atomic import hidden_beside
from rsprompter_cli.predict.store.journal import count_windows, journal_identity, journal_path

_log = logging.getLogger(__name__)

_PART = re.compile(r"\.?(\d+)-of-(\d+)(\.journal)?")
"""Of a part, whole or begun."""


def shards_folder(out: Path) -> Path:
    """Where the parts of an output lie that several workers are at."""
    return hidden_beside(out, ".shards")


def resumable_parts(folder: Path) -> dict[Path, tuple[int, int]]:
    """The parts in such a folder, whole or begun, each with its number and how many there are to be."""
    if not folder.is_dir():
        return {}
    names = {path: _PART.fullmatch(path.name) for path in sorted(folder.iterdir())}
    return {path: (int(name[1]), int(name[2])) for path, name in names.items() if name is not None}


def resumable_windows(folder: Path) -> int:
    """How many windows are done in such a folder."""
    return sum(count_windows(path) for path in resumable_parts(folder))


def discard_parts(out: Path, *, overwrite: bool) -> None:
    """See to the parts that several workers have left, before one process begins.

    Raises:
        OutputError: there are windows in them, and `overwrite` is not set.
    """
    folder = shards_folder(out)
    if not folder.is_dir():
        return
    _give_up(
        folder, resumable_windows(folder), "with --procs, --gpus or --ray", "one of these options", overwrite=overwrite
    )
    shutil.rmtree(folder, ignore_errors=True)


def discard_journal(out: Path, *, overwrite: bool) -> None:
    """See to the journal that one process has left, before several begin.

    Raises:
        OutputError: there are windows in it, and `overwrite` is not set.
    """
    journal = journal_path(out)
    if not journal.is_file() or journal_identity(journal) is None:
        return
    _give_up(journal, count_windows(journal), "in one process", "a single process", overwrite=overwrite)
    journal.unlink()


def _give_up(path: Path, windows: int, how: str, way: str, *, overwrite: bool) -> None:
    if windows and not overwrite:
        raise OutputError(
            f"{path} contains {plural(windows, 'window')} done by a run {how}",
            f"resume with {way}, or pass --overwrite to start over",
        )
    if windows:
        _log.warning("%s contains %s done by a run %s: starting over", path, plural(windows, "window"), how)
