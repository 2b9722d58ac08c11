"""What a prediction has done so far and where its time goes; may be told from several threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rsprompter_cli.errors import plural

if TYPE_CHECKING:
    from rsprompter_cli.geo.raster.scene import Scene
    from rsprompter_cli.geo.windows import Window
    from rsprompter_cli.structures import Tile

T = TypeVar("T")


class Stage(StrEnum):
    """Where the time of a prediction goes."""

    START_UP = "start_up"
    READING = "reading"
    WAITING = "waiting"
    MODEL = "model"
    OUTLINES = "outlines"
    JOURNAL = "journal"
    JOINING = "joining"
    FINISHING = "finishing"
    WRITING = "writing"
    PREVIEW = "preview"


_BEFORE_JOINING = ("known", "outside_area", "without_data", "instances", "bytes_read")
"""Counts that processes make each for its windows."""


@dataclass
class RunStats:
    """Counts and seconds.

    windows: of the scene. known: of these, those that an earlier run left in the journal.
    outside_area: of the others, those that the area of interest leaves out.
    without_data: those in which nothing is valid, stored or not.
    instances: detections in windows. joined: objects of the scene made of them.
    dropped: objects left out, by the option that says so. written: objects in the output.
    bytes_read: samples of the file under the windows that were read; what two windows share counts twice.
    """

    windows: int = 0
    known: int = 0
    outside_area: int = 0
    without_data: int = 0
    instances: int = 0
    joined: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    written: int = 0
    bytes_read: int = 0
    started: float = field(default_factory=time.perf_counter)
    _seconds: dict[Stage, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _open: threading.local = field(default_factory=threading.local, repr=False)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time what is done inside; the time of a stage within it is not counted twice."""
        # The seconds that stages inside the open ones have taken, innermost last; of this thread.
        inner: list[float] = self._open.__dict__.setdefault("inner", [])
        inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            own = spent - inner.pop()
            if inner:
                inner[-1] += spent
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + own

    def timed(self, name: Stage, values: Iterable[T]) -> Iterator[T]:
        """The same values; the time it takes to make each counts for a stage."""
        iterator = iter(values)
        while True:
            with self.stage(name):
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value

    def skip(self, *, outside: bool) -> None:
        """A window is not read: it lies outside the area of interest, or the file stores nothing under it."""
        with self._lock:
            self.outside_area += outside
            self.without_data += not outside

    def reader(self, scene: Scene) -> MeteredReader:
        """A scene whose reading is timed and counted."""
        return MeteredReader(scene, self)

    def count_read(self, size: int, *, valid: bool) -> None:
        """A window of so many bytes was read."""
        with self._lock:
            self.bytes_read += size
            self.without_data += not valid

    def counts(self) -> dict[str, int]:
        """What was counted before anything was joined."""
        with self._lock:
            return {name: getattr(self, name) for name in _BEFORE_JOINING}

    def take(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add what another, of another process, has counted and timed; what is not named is nought."""
        with self._lock:
            for name in _BEFORE_JOINING:
                setattr(self, name, getattr(self, name) + counts.get(name, 0))
            for stage in Stage:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds.get(stage.value, 0.0)

    def seconds(self) -> dict[str, float]:
        """By stage, and `total` since the start. Stages of several threads overlap, so they need not add up."""
        with self._lock:
            found = {name.value: self._seconds.get(name, 0.0) for name in Stage}
        return {**found, "total": time.perf_counter() - self.started}

    def add(self, other: RunStats) -> None:
        """Count what another prediction has done too."""
        with self._lock:
            for name in ("windows", "known", "outside_area", "without_data", "instances", "joined", "written"):
                setattr(self, name, getattr(self, name) + getattr(other, name))
            self.bytes_read += other.bytes_read
            self.dropped.update(other.dropped)
            for stage, seconds in other._seconds.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def describe(self) -> str:
        """Words for a progress display, beside the windows."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        speed = self.bytes_read / 1e6 / elapsed
        found = f"{plural(self.instances, 'detection')} before joining"
        return f"{found}, {speed:.1f} MB/s read" if speed >= 0.1 else found


class MeteredReader:
    """What detection needs of a scene."""

    def __init__(self, scene: Scene, stats: RunStats) -> None:
        self._scene, self._stats = scene, stats
        native = (scene.native_height / scene.height) * (scene.native_width / scene.width)
        self._bytes_per_pixel = native * len(scene.bands) * np.dtype(scene.dtype).itemsize

    def read(self, window: Window) -> Tile:
        """The pixels of a window."""
        with self._stats.stage(Stage.READING):
            tile = self._scene.read(window)
        valid = tile.valid is None or bool(tile.valid.any())
        self._stats.count_read(round(window.height * window.width * self._bytes_per_pixel), valid=valid)
        return tile
