"""What a command shows while it works: in a terminal a display of two lines, elsewhere a line every 30 seconds."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rsprompter_cli.cli.console import is_animated, is_quiet, output_lock, stderr_console, without_control
from rsprompter_cli.io.activity import listening
from rsprompter_cli.io.interrupt import deferred_interrupt

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rsprompter_cli.train.run import StepReport

_log = logging.getLogger(__name__)

PLAIN_INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""

_FRAMES_PER_SECOND = 8
_NARROWEST_BAR, _WIDEST_BAR = 8, 40
_ECHO = 6
"""Columns that stay free at the right: a terminal shows Ctrl-C there as ^C, which must not begin a line of its own."""
_TIMES = ("0:00:00 elapsed, about 0:00:00 left", "00:00 elapsed, about 00:00 left", "0:00 elapsed, about 0:00 left")
"""What room is kept for the times, the first that leaves one for the bar: its width then stays as it is."""

_MEGABYTE = 1e6
_MARKS = 32
"""Updates over which the speed is measured."""


class Bar:
    """One piece of work whose parts are counted.

    Args:
        display: shows the bar that was updated last.
        noun: what is counted, in the plural; "bytes" are shown in MB.
        details: words for the second line, asked for at every frame.
    """

    def __init__(self, display: Display, noun: str, *, details: Callable[[], str] | None = None) -> None:
        self._display = display
        self._noun = noun
        self._ask_details = details
        self._details = ""
        self._left: float | None = None
        self._began: float | None = None
        self._marks: deque[tuple[float, float]] = deque(maxlen=_MARKS)
        self.done, self.total = 0.0, 0.0

    def update(self, done: float, total: float | None, details: str = "", *, left: float | None = None) -> None:
        """Count what is done.

        Args:
            done, total: parts; None while their number is unknown.
            details: words for the second line.
            left: seconds to the end where the caller knows better than the mean speed.
        """
        now = time.monotonic()
        if self._began is None or done < self.done:  # a new scene, epoch or file
            self._began = now
            self._marks.clear()
        self._marks.append((now, done))
        self.done, self.total, self._details, self._left = done, total or 0.0, details, left
        self._display.show_bar(self)

    def __call__(self, done: int, total: int) -> None:
        """Count what is done, as the library's progress functions do."""
        self.update(done, total)

    @property
    def count(self) -> str:
        """As in "12/27"."""
        return self._count(self.done)

    @property
    def widest_count(self) -> str:
        """The count when all is done, which no other one is wider than."""
        return self._count(max(self.done, self.total))

    def _count(self, done: float) -> str:
        if self._noun == "bytes":
            whole = f"/{self.total / _MEGABYTE:.1f}" if self.total else ""
            return f"{done / _MEGABYTE:.1f}{whole} MB"
        return f"{done:.0f}/{self.total:.0f}" if self.total else f"{done:.0f}"

    @property
    def name(self) -> str:
        """What is counted."""
        return "download" if self._noun == "bytes" else self._noun

    @property
    def details(self) -> str:
        """Words beside the count, possibly none."""
        return without_control(self._ask_details() if self._ask_details is not None else self._details)

    @property
    def times(self) -> str:
        """Time elapsed and, as soon as two counts allow an estimate, time left; or when a time limit comes first."""
        now = time.monotonic()
        elapsed = f"{clock(now - (self._began or now))} elapsed"
        left, limit = self._seconds_left(now), self._display.deadline
        if left is None:
            return elapsed
        if limit is not None and limit - now < left:
            return f"{elapsed}, time limit in {clock(max(0.0, limit - now))}"
        return elapsed + (f", about {clock(left)} left" if left >= 1 else "")

    def _seconds_left(self, now: float) -> float | None:
        if not self.total or self.done >= self.total:
            return None
        (first, done_before), (last, done) = self._marks[0], self._marks[-1]
        if self._left is not None:
            left = self._left
        elif done > done_before:
            left = (self.total - done) * (last - first) / (done - done_before)
        else:
            return None
        return max(0.0, left - (now - last))


class Display:
    """The bar that was updated last, or the stage that was announced since.

    Args:
        status: what the command does first.

    Attributes:
        deadline: when a time limit ends the work, by `time.monotonic`; a bar that ends later shows it instead.
    """

    def __init__(self, status: str) -> None:
        self.deadline: float | None = None
        self._lock = threading.Lock()
        self._status, self._since = status, time.monotonic()
        self._bar: Bar | None = None
        self._spinner: Any = None

    def bar(self, noun: str, *, details: Callable[[], str] | None = None) -> Bar:
        """A counter, shown from its first update on."""
        return Bar(self, noun, details=details)

    def announce(self, status: str) -> None:
        """Show a stage that is not counted."""
        with self._lock:
            self._status, self._bar, self._since = without_control(status), None, time.monotonic()

    def show_bar(self, bar: Bar) -> None:
        """Show a counter."""
        with self._lock:
            self._bar = bar

    def line(self) -> str:
        """One line for a log."""
        with self._lock:
            bar, status, since = self._bar, self._status, self._since
        if bar is None:
            return f"{status}, {clock(time.monotonic() - since)} elapsed"
        details = f", {bar.details}" if bar.details else ""
        return f"{bar.name} {bar.count}{details}; {bar.times}"

    def render(self) -> RenderableType:
        """Two lines at most, with room for Ctrl-C behind them."""
        from rich.constrain import Constrain
        from rich.text import Text

        width = max(1, stderr_console().width - _ECHO)
        with self._lock:
            bar, status, since = self._bar, self._status, self._since
        if bar is not None:
            return Constrain(_render_bar(bar, width), width)
        from rich.spinner import Spinner

        seconds = time.monotonic() - since
        text = Text(status if seconds < 2 else f"{status}, {clock(seconds)} elapsed")
        text.truncate(width - 2, overflow="ellipsis")
        if self._spinner is None:
            unicode = stderr_console().encoding.lower().startswith("utf")
            self._spinner = Spinner("dots" if unicode else "line")
        self._spinner.update(text=text)
        return self._spinner


def _render_bar(bar: Bar, width: int) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    times = bar.times
    count = bar.count.rjust(len(bar.widest_count))
    room = width - len(bar.name) - len(count) - 4
    kept = next((len(words) for words in _TIMES if room - len(words) >= _NARROWEST_BAR), len(_TIMES[-1]))
    room -= max(kept, len(times))
    grid = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [Text(bar.name, no_wrap=True)]
    if room >= _NARROWEST_BAR:
        length = min(room, _WIDEST_BAR)
        cells.append(ProgressBar(total=bar.total or None, completed=bar.done, width=length, pulse=not bar.total))
    cells += [Text(count, no_wrap=True), Text(times, no_wrap=True, style="dim")]
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*cells)
    details = bar.details
    return Group(grid, Text(f"  {details}", no_wrap=True, overflow="ellipsis", style="dim")) if details else grid


@contextmanager
def show_progress(status: str, *, enabled: bool = True) -> Iterator[Display]:
    """Show on stderr what the block does; nothing is left of it at the end.

    In a terminal that moves its cursor it is a live display; elsewhere the log gets a line every 30 seconds of work.

    Args:
        status: what is done first, as in "loading PyTorch"; `io.activity.announce` replaces it.
        enabled: False shows nothing, for dry runs.
    """
    display = Display(status)
    with ExitStack() as stack:
        if enabled and not is_quiet() and _speaks_for_run():
            stack.enter_context(listening(display.announce))
            stack.enter_context(_live(display) if is_animated() else _plain(display))
        yield display


def count_steps(display: Display) -> Callable[[StepReport], None]:
    """A counter of training steps, as a function that takes the report of each."""
    steps = display.bar("steps")

    def on_step(report: StepReport) -> None:
        display.deadline = None if report.limit is None else time.monotonic() + report.limit
        steps.update(report.step, report.steps, report.details(), left=report.eta)

    return on_step


def _speaks_for_run() -> bool:
    """Whether this process is alone or the first of those that a launcher started.

    `train.distributed.rank.find_place` tells the same, and refuses incomplete variables, which is not for a display.
    """
    names = ("RANK", "SLURM_PROCID") if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else ("RANK",)
    return all(os.environ.get(name, "0") == "0" for name in names)


@contextmanager
def _live(display: Display) -> Iterator[None]:
    from rich.live import Live

    live = Live(
        get_renderable=display.render,
        console=stderr_console(),
        auto_refresh=False,  # its thread would not wait for messages, see `output_lock`
        transient=True,
        redirect_stdout=False,  # stdout is for data, whatever stderr shows
    )

    def draw() -> None:
        with output_lock:
            live.refresh()

    # Ctrl-C between two writes of rich would leave a frame on the screen.
    try:
        with deferred_interrupt(), output_lock:
            live.start(refresh=True)
        with _every(1 / _FRAMES_PER_SECOND, draw):
            yield
    finally:
        with deferred_interrupt(), output_lock:
            live.stop()


@contextmanager
def _plain(display: Display) -> Iterator[None]:
    with _every(PLAIN_INTERVAL, lambda: _log.info("%s", display.line())):
        yield


@contextmanager
def _every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Call a function again and again in a thread of its own until the block ends."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            action()

    thread = threading.Thread(target=work, name="rsp-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def clock(seconds: float) -> str:
    """As in 0:07, 12:40 or 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
