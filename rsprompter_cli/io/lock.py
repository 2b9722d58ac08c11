"""One run at a time on an output."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rsprompter_cli.errors import OutputError
from rsprompter_cli.io.atomic import hidden_beside, not_written, refuse_link, remove_leftovers


class OutputLock:
    """The lock of an output that is in the works: a hidden file beside it, which goes when it is released.

    Where a process that held it was killed, what that has left of the output is removed.
    """

    def __init__(self, beside: Path, *, shown: str | Path) -> None:
        """Take the lock, and make the folder that it lies in.

        Args:
            beside: the output, or what is kept of it.
            shown: the output, for messages.

        Raises:
            OutputError: another process holds it, or the folder cannot be written.
        """
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            refuse_link(hidden_beside(beside, ".lock"))
            self._lock = FileLock(hidden_beside(beside, ".lock"))
            killed = os.path.exists(self._lock.lock_file)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"{shown}: another run is using it", "wait for it to finish, or choose another output"
            ) from error
        except OSError as error:
            raise not_written(shown, error) from error
        if killed:
            remove_leftovers(beside)

    def release(self) -> None:
        """Let others have it."""
        self._lock.release()
        with suppress(OSError):
            Path(self._lock.lock_file).unlink()
