"""A blob model that does something else now and then: it dies, fails or takes its time."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from rsprompter_cli.errors import ResourceError
from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.structures import Detections, Target
from tests.make.stub_model import BlobModel, blob_model


class FatalModel(BlobModel):
    """Kills its own process, until that has happened `deaths` times; fails after so many images; sleeps."""

    def __init__(self, folder: Path, deaths: int, fails_after: int | None, seconds: float) -> None:
        super().__init__()
        self.folder, self.deaths, self.fails_after, self.seconds = folder, deaths, fails_after, seconds

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        time.sleep(self.seconds)
        died = len(list(self.folder.glob("death-*")))
        if self.seen and died < self.deaths:
            (self.folder / f"death-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails_after is not None and self.seen >= self.fails_after:
            raise ResourceError("the model wants more memory", "buy some")
        return super().forward(images, targets)


def fatal_model(folder: Path, *, deaths: int = 0, fails_after: int | None = None, seconds: float = 0) -> LoadedModel:
    """It finds what `blob_model` finds; deaths are counted by files in `folder`."""
    return replace(blob_model(), model=FatalModel(folder, deaths, fails_after, seconds))
