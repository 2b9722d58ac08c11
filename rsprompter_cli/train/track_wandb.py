"""Weights & Biases, where a run asks for it (train.wandb): the extra `wandb`."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsprompter_cli.config import Config
from rsprompter_cli.errors import DependencyError, UsageError
from rsprompter_cli.io.atomic import write_text

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

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
