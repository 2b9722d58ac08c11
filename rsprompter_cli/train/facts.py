"""What a run finds out about its model, for the checkpoint: figures, threshold, speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from rsprompter_cli.data.coco_entries import CocoImage
from rsprompter_cli.evaluate.scores import CocoMetrics
from rsprompter_cli.io.checkpoint import CheckpointMeta
from rsprompter_cli.models.automask_cache import AutomaskCache
from rsprompter_cli.models.encoder_cache import EncoderCache

_LIKE_A_WINDOW = (2 / 3, 3 / 2)
"""Longest side of a picture over that of the model's input, between which it costs as much as a window."""


def with_metrics(
    meta: CheckpointMeta, metrics: CocoMetrics, *, seconds_per_window: float | None, device: str
) -> CheckpointMeta:
    """The facts after an evaluation on a device (cpu, cuda, mps); what it could not find out stays as it was."""
    threshold = metrics.score_threshold
    speed: dict[str, Any] = {}
    if seconds_per_window is not None:
        speed = {"seconds_per_window": round(seconds_per_window, 4), "seconds_per_window_on": device}
    return replace(
        meta,
        metrics=metrics.flat(),
        score_threshold=meta.score_threshold if threshold is None else threshold,
        provenance={**meta.provenance, **speed},
    )


def go_on_from(meta: CheckpointMeta, former: CheckpointMeta) -> CheckpointMeta:
    """The facts of a resumed run: how it began and what its last evaluation found, from before the stop.

    Only the data sets are those of now, since the validation set may be another.
    """
    now = {name: meta.provenance[name] for name in ("run", "train", "val")}
    return replace(
        meta,
        metrics=former.metrics,
        score_threshold=former.score_threshold,
        provenance={**former.provenance, **now},
    )


class WindowClock:
    """Measures during an evaluation how long one window of a scene will take.

    Args:
        images: the pictures of the evaluation.
        image_size: side of the model's input, pixels.
        cache: of the model's encoder maps or automatic masks, whose hits would make it look faster than it is.
    """

    def __init__(
        self, images: Sequence[CocoImage], image_size: int, cache: EncoderCache | AutomaskCache | None
    ) -> None:
        low, high = _LIKE_A_WINDOW
        side = median(max(image.height, image.width) for image in images) if images else 0
        self._comparable = low * image_size <= side <= high * image_size
        self._cache = cache
        self._hits = self._hits_now()
        self._began = self._ended = time.monotonic()
        self._done = 0

    def count(self, done: int) -> None:
        """So many pictures are done by now."""
        self._done = done
        self._ended = time.monotonic()

    def seconds_per_window(self) -> float | None:
        """Mean time per image; None where it is no estimate for a window."""
        if not self._comparable or not self._done or self._hits_now() != self._hits:
            return None
        return (self._ended - self._began) / self._done

    def _hits_now(self) -> int:
        return 0 if self._cache is None else self._cache.hits
