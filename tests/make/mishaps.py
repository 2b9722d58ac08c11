"""The blob model with something that happens to the process it is in."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from torch import Tensor

from rsprompter_cli.models.load import LoadedModel
from rsprompter_cli.structures import Detections, Target
from tests.make.stub_model import BlobModel, blob_model


class MishapModel(BlobModel):
    """Once, in the call number `at`, it is killed, raises an error or pauses; `marker` is a file that says it was so.

    To a journal it is the same model with and without a mishap.
    """

    def __init__(self, marker: Path | None, at: int, what: str | Exception) -> None:
        super().__init__()
        self.marker, self.at, self.what = marker, at, what

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        if self.marker is not None and self.seen >= self.at and not self.marker.exists():
            self.marker.touch()
            if isinstance(self.what, Exception):
                raise self.what
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3)
        return super().forward(images, targets)


def mishap_model(marker: Path | None = None, *, at: int = 0, what: str | Exception = "kill") -> LoadedModel:
    """As `predict_scene` takes it; without a marker nothing happens."""
    loaded = blob_model()
    return LoadedModel(MishapModel(marker, at, what), loaded.config, loaded.meta)
