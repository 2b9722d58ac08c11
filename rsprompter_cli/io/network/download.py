"""Large files over HTTP: taken up where they broke off, under a lock, without a secret in any message."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsprompter_cli.errors import DownloadError
from rsprompter_cli.io.atomic import not_written

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, bytes here, bytes in all (None when unknown)."""

TIMEOUT_SECONDS = 30.0
_RETRIES = 5  # in a row without one new byte
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    label: its name in messages. size: bytes, None when unknown. headers: of the request, never shown.
    """

    label: str
    url: str
    size: int | None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of an output; a second process waits here and then finds the output made."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that is writing %s", target)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def network_errors() -> tuple[type[Exception], ...]:
    """What a request of huggingface_hub's client raises."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    # HTTPError is the base of whichever HTTP client huggingface_hub uses, and of HfHubHTTPError.
    return (HTTPError, OfflineModeIsEnabled)


def download(
    remote: RemoteFile, part: Path, progress: Progress, *, explain: Callable[[Exception], DownloadError]
) -> None:
    """Bring `part` to its full length, trying again while the connection breaks but bytes arrive.

    What arrived is not verified.

    Args:
        part: where the bytes go; existing bytes are kept and counted.
        progress: called after every chunk.
        explain: a refusal of the server in one line.

    Raises:
        DownloadError: refused, or the connection broke too often; the next call resumes there.
        OutputError: `part` cannot be written.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if remote.size is not None and before >= remote.size:
            break  # a file that is too long fails its hash
        try:
            _stream(remote, part, before, progress)
            break
        except network_errors() as error:
            if isinstance(error, HfHubHTTPError):
                _drop_part_out_of_range(error, part)
                raise explain(error) from error
            if isinstance(error, OfflineModeIsEnabled):
                raise explain(error) from error
            here = part.stat().st_size if part.exists() else 0
            failures = 0 if here > before else failures + 1
            if failures >= _RETRIES:
                raise DownloadError(
                    f"{remote.label}: the connection broke after {here} of {remote.size or 'unknown'} bytes",
                    "run the same command again to resume",
                ) from error
            logger.info("%s: the connection broke after %d bytes, trying again", remote.label, here)
            time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            raise not_written(part, error) from error


def _stream(remote: RemoteFile, part: Path, start: int, progress: Progress) -> None:
    """Append what is missing to `part`, or rewrite it when the server sends the whole file."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    session: Any = get_session()
    with session.stream("GET", remote.url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
        hf_raise_for_status(response)
        done = start if response.status_code == 206 else 0
        with part.open("ab" if done else "wb") as file:
            # As they arrive: a chunk of fixed size would be lost with the connection.
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                progress(remote.label, done, remote.size)


def _drop_part_out_of_range(error: Any, part: Path) -> None:
    if getattr(error.response, "status_code", None) == 416:
        part.unlink(missing_ok=True)
