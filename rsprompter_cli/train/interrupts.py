"""What may end a run before its time: a loss that is not finite, no memory, a signal, the clock."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from rsprompter_cli.config import ModelConfig
from rsprompter_cli.errors import ResourceError, TrainingError

_log = logging.getLogger(__name__)


def require_finite(
    losses: Mapping[str, float], *, step: int, epoch: int, image_ids: Sequence[int], last_good: Path | None
) -> None:
    """Stop at a loss that is NaN or infinite, before it reaches the weights.

    Raises:
        TrainingError: names step, losses, pictures and the checkpoint that is still good.
    """
    broken = [f"{name}={value}" for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise not_finite(f"{', '.join(broken)}", step=step, epoch=epoch, image_ids=image_ids, last_good=last_good)


def not_finite(what: str, *, step: int, epoch: int, image_ids: Sequence[int], last_good: Path | None) -> TrainingError:
    """The error that ends a run whose numbers broke."""
    kept = f"last good checkpoint: {last_good}" if last_good else "no checkpoint was written yet"
    return TrainingError(
        f"not finite at step {step + 1} (epoch {epoch + 1}): {what}; image ids {list(image_ids)}; {kept}",
        "lower train.lr, set train.clip_grad, or train.precision=fp32",
    )


@contextlib.contextmanager
def explain_out_of_memory(model: ModelConfig, *, batch_size: int, device: torch.device) -> Iterator[None]:
    """Turn a lack of memory into one line that names the settings to lower.

    Args:
        model: completed; its settings are named.

    Raises:
        ResourceError: the block ran out of memory, on the GPU or in main memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(model, batch_size, device) from error
    except RuntimeError as error:
        # torch's CPU allocator raises a plain RuntimeError, and so does the loader whose worker was killed.
        text = str(error)
        if "DataLoader worker" in text:
            raise ResourceError(
                f"a data loader process was killed: {text.splitlines()[0]}",
                "most often out of memory: lower train.workers or train.batch_size",
            ) from error
        if "DefaultCPUAllocator" not in text:
            raise
        raise _out_of_memory(model, batch_size, device) from error


_SAVERS = {
    "roi": "fewer model.roi.samples",
    "roi_samples": "fewer model.roi_samples",
    "query": "fewer model.query.loss_points",
    "crop_samples": "fewer model.crop_samples",
    "sam": "a smaller model.sam",
    "encoder": "model.encoder=frozen",
}
"""What else saves memory, by the setting of a model that has it."""


def _out_of_memory(model: ModelConfig, batch_size: int, device: torch.device) -> ResourceError:
    smaller, image_size = max(1, batch_size // 2), int(model.image_size or 0)
    advice = f"--set train.batch_size={smaller}" if batch_size > 1 else f"--set model.image_size={image_size // 2}"
    savers = [words for setting, words in _SAVERS.items() if hasattr(model, setting)]
    return ResourceError(
        f"out of memory on {device.type} with train.batch_size={batch_size} and model.image_size={image_size}",
        f"lower them, for instance {advice} (a larger train.accumulate makes up for a smaller batch); "
        f"{', '.join(savers)} and train.precision=bf16 save memory too",
    )


STOP_STEP = "stopping after this training step and saving the state"
STOP_EVALUATION = "stopping the evaluation and saving the state; --resume repeats the evaluation"
STOP_SAVING = "stopping as soon as the files are saved"
"""What a first Ctrl-C leads to, by what the run is doing."""


class StopRequest:
    """Whether the run should end at the next good moment: Ctrl-C, SIGTERM or a time limit.

    As a context manager it takes over both signals; a second Ctrl-C ends the run at once. A process that
    another one started is asked by a file instead, and ends by itself when that other one is gone.

    Args:
        minutes: time limit from now on, None for no limit.
        file: whose existence is a request like Ctrl-C, None for no such file.
        answer: the message at a first Ctrl-C; `answering` changes it for a while.
    """

    def __init__(
        self, minutes: float | None = None, *, file: Path | None = None, answer: str = "stopping after this step"
    ) -> None:
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._file = file
        self._answer = answer
        self._signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    @property
    def interrupted(self) -> bool:
        """A signal came, to this process or to the one that started it."""
        # The folder of the file goes with the process that made it.
        asked = self._file is not None and (self._file.exists() or not self._file.parent.exists())
        return asked or self._signal is not None

    @property
    def wanted(self) -> bool:
        """The run should end: a signal came or the time is up."""
        left = self.seconds_left
        return self.interrupted or (left is not None and left <= 0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the time limit, negative after it; None where there is no limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    @contextlib.contextmanager
    def answering(self, answer: str) -> Iterator[None]:
        """Change the message at a first Ctrl-C inside the block."""
        former, self._answer = self._answer, answer
        try:
            yield
        finally:
            self._answer = former

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self._signal = number
        _log.info("%s (interrupt again to stop at once)", self._answer)
