"""The run folder: what lies in it, and that it holds one run only."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsprompter_cli.config import Config, SamclsConfig
from rsprompter_cli.errors import NOT_UTF8, OutputError, TrainingError
from rsprompter_cli.io.atomic import check_writable, recover_folder, refuse_link
from rsprompter_cli.train.loggers import BOARD_FOLDER, LOG_FILE, WANDB_FOLDER, read_log

STATE_FILE = Path("state") / "resume.pt"
BEST = "best"
LAST = "last"
CONFIG_FILE = "config.toml"
ENCODER_MAPS = "encoder-maps"
AUTOMASKS = "automatic-masks"
RANKS = "ranks"
PICTURES = "pictures"
CURVES_FILE = "curves.png"
_LOCK_FILE = ".lock"
_CHECKPOINTS = (BEST, LAST, STATE_FILE.parent.name)
_TOLD = (LOG_FILE, BOARD_FOLDER, WANDB_FOLDER, PICTURES, CURVES_FILE)
_OWN_NAMES = (*_CHECKPOINTS, *_TOLD, CONFIG_FILE, ENCODER_MAPS, AUTOMASKS)
_OWN_FILES = (LOG_FILE, CURVES_FILE, CONFIG_FILE)


def files_for_people(folder: Path) -> list[Path]:
    """What of a run folder people look at, as far as it is there: the log, the curves, the folder of pictures."""
    return [folder / name for name in (LOG_FILE, CURVES_FILE, PICTURES) if (folder / name).exists()]


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Be the only run in a folder of this machine; the system ends the lock with the process, however that ends.

    Raises:
        OutputError: another run uses the folder, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    check_writable(out / CONFIG_FILE)
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"{out}: {NOT_UTF8}, which TensorBoard requires", "choose another name") from error
    out.mkdir(parents=True, exist_ok=True)
    refuse_link(out / _LOCK_FILE)
    lock = FileLock(out / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"{out}: another training run is using this folder", "wait for it to finish, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            (out / _LOCK_FILE).unlink()
        # A run that was refused leaves no folder.
        with suppress(OSError):
            out.rmdir()


def refuse_used_folder(out: Path) -> None:
    """Raise OutputError where another run uses a folder; nothing is created."""
    if (out / _LOCK_FILE).exists():
        with only_run(out):
            pass


def require_state(out: Path) -> Path:
    """The file with the state of a run, which `--resume` continues.

    Raises:
        TrainingError: there is none.
    """
    return _saved(out, STATE_FILE, "omit --resume to start one")


def _saved(out: Path, name: str | Path, way_out: str) -> Path:
    """A file of a run to resume."""
    path = out / name
    if not path.is_file():
        raise TrainingError(f"{out}: no saved state to resume ({path} is missing)", way_out)
    return path


def check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in a folder, or to continue one in a damaged folder, before any work is done.

    Raises:
        OutputError: the folder contains a run, or in the place of a file or folder of a run something else.
        TrainingError: the log of the run to resume is damaged.
    """
    _require_own_kinds(out)
    used = [name for name in _OWN_NAMES if (out / name).exists()]
    if used and not resume and not overwrite:
        saved = (out / STATE_FILE).exists()
        way_out = "--resume continues it, --overwrite starts over" if saved else "pass --overwrite to start over"
        raise OutputError(f"{out} already contains a run ({', '.join(used)})", way_out)
    if resume and (out / LOG_FILE).exists():
        read_log(out)


def _require_own_kinds(out: Path) -> None:
    """Refuse links, behind which a run would write outside its folder, and files that are folders or the reverse.

    The run folder itself may be a link.
    """
    for name in (*_OWN_NAMES, RANKS):
        path = out / name
        if path.is_symlink():
            hint = "put what it leads to in its place; encoder maps may lie elsewhere by train.cache_folder"
            raise OutputError(f"{path}: is a symbolic link", hint)
        if not path.exists():
            continue
        if name in _OWN_FILES and not path.is_file():
            raise OutputError(f"{path}: is not a regular file", "delete or rename it")
        if name not in _OWN_FILES and not path.is_dir():
            raise OutputError(f"{path}: is not a folder", "delete or rename it")


def check_cache_folder(config: Config) -> None:
    """Refuse a train.cache_folder in which nothing could be stored, before any work is done; nothing is left behind.

    Raises:
        OutputError: it is a file, or takes no files.
    """
    options = config.train
    if not options.cache_folder or not (options.cache_views or isinstance(config.model, SamclsConfig)):
        return
    inside = Path(options.cache_folder) / "maps"
    try:
        check_writable(inside)
    except OutputError as error:
        reason = error.message.removeprefix(f"{inside}: ")
        raise OutputError(
            f"train.cache_folder = {options.cache_folder}: {reason}",
            "choose another, or omit it: maps and masks are then kept in the run folder",
        ) from error


def recover_checkpoints(out: Path) -> None:
    """Put back the checkpoints that a killed run left aside; for the run that writes there from now on."""
    for name in (BEST, LAST):
        recover_folder(out / name)


def clear_folder(out: Path) -> None:
    """Remove a former run from its folder, and nothing else that lies there."""
    remove_own(out, _OWN_NAMES)


def remove_own(folder: Path, names: Iterable[str]) -> None:
    """Remove the files and folders of these names from a folder, those that are there."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                path.unlink()


def config_of_run(out: Path) -> Path:
    """The configuration file a run wrote into its folder.

    Raises:
        TrainingError: there is none.
    """
    return _saved(out, CONFIG_FILE, "omit --resume, or name the run's folder with --out")
