"""What a command shows while it works: the lines of a log without a terminal, the two lines of a terminal."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from rsprompter_cli.cli import progress
from rsprompter_cli.cli.console import set_quiet, without_control
from rsprompter_cli.cli.output import set_up_logging
from rsprompter_cli.cli.progress import Display, clock, count_steps, show_progress
from rsprompter_cli.io.activity import announce
from rsprompter_cli.train.run import StepReport

Captured = pytest.CaptureFixture[str]


class Time:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def rendered(display: Display, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(display.render())
    return capture.get().rstrip("\n").splitlines()


def test_short_commands_say_nothing_without_a_terminal(capsys: Captured) -> None:
    set_up_logging()
    with show_progress("loading") as display:
        display.bar("windows").update(3, 3)
    assert capsys.readouterr() == ("", "")


def test_a_line_every_interval_of_work(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.05)
    set_up_logging()
    with show_progress("loading the model") as display:
        time.sleep(0.12)
        display.bar("windows", details=lambda: "2 detections before joining").update(1, 3)
        time.sleep(0.12)
        announce("writing a.gpkg")
        time.sleep(0.12)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "loading the model, 0:00 elapsed"
    assert "windows 1/3, 2 detections before joining; 0:00 elapsed" in lines
    assert lines[-1] == "writing a.gpkg, 0:00 elapsed"


@pytest.mark.parametrize("reason", ["quiet", "dry run", "another rank"])
def test_nothing_is_shown(reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.02)
    if reason == "another rank":
        monkeypatch.setenv("RANK", "1")
    set_up_logging(quiet=reason == "quiet")
    before = threading.active_count()
    with show_progress("loading", enabled=reason != "dry run"):
        assert threading.active_count() == before
        time.sleep(0.08)
    assert capsys.readouterr() == ("", "")
    set_quiet(False)


def test_the_log_file_gets_the_lines_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory, capsys: Captured
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.02)
    set_up_logging(log_file=tmp_path / "run.log")  # type: ignore[operator]
    with show_progress("loading"):
        time.sleep(0.08)
    set_up_logging()
    assert "loading, 0:00 elapsed" in (tmp_path / "run.log").read_text()  # type: ignore[operator]


def test_the_estimate_comes_with_the_first_window_however_slow(at: Time) -> None:
    display = Display("loading")
    bar = display.bar("windows")
    bar.update(0, 4)
    assert display.line() == "windows 0/4; 0:00 elapsed"
    at.now += 40
    bar.update(1, 4)
    assert display.line() == "windows 1/4; 0:40 elapsed, about 2:00 left"
    at.now += 15  # in the middle of the next window
    assert display.line() == "windows 1/4; 0:55 elapsed, about 1:45 left"
    bar.update(4, 4)
    assert display.line() == "windows 4/4; 0:55 elapsed"


def test_windows_of_an_earlier_run_do_not_count_for_the_speed(at: Time) -> None:
    bar = Display("loading").bar("windows")
    bar.update(90, 100)
    at.now += 10
    bar.update(91, 100)
    assert bar.times == "0:10 elapsed, about 1:30 left"


def test_a_count_that_falls_is_a_new_piece_of_work(at: Time) -> None:
    bar = Display("loading").bar("windows")
    bar.update(0, 2)
    at.now += 30
    bar.update(2, 2)
    bar.update(0, 5)
    assert bar.times == "0:00 elapsed"


def test_a_time_left_that_the_caller_knows(at: Time) -> None:
    bar = Display("loading").bar("steps")
    bar.update(1, 10, "epoch 1/2", left=3723)
    at.now += 1
    assert bar.times == "0:01 elapsed, about 1:02:02 left"


@pytest.mark.parametrize("width", [30, 60, 80, 120])
@pytest.mark.parametrize("details", ["", "188 detections before joining, 2.1 MB/s read", "long " * 60])
def test_two_lines_no_wider_than_the_terminal(
    width: int, details: str, at: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "stderr_console", lambda: Console(width=width))
    display = Display("loading the model")
    assert len(rendered(display, width)) == 1
    bar = display.bar("validation images")
    bar.update(0, 1000)
    at.now += 3600
    bar.update(17, 1000, details)
    lines = rendered(display, width)
    assert len(lines) == 1 + bool(details)
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert "17/1000" in lines[0]
        assert "1:00:00 elapsed, about 57:49:25 left" in lines[0]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("noun", ["windows", "bytes"])
def test_the_bar_keeps_its_width(width: int, noun: str, at: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "stderr_console", lambda: Console(width=width))
    widths: list[int] = []
    unit = 1_000_000 if noun == "bytes" else 1
    monkeypatch.setattr("rich.progress_bar.ProgressBar", _remembered(widths))
    display = Display("loading")
    bar = display.bar(noun)
    for done in (0, 1, 9, 10, 99, 100, 111):
        bar.update(done * unit, 111 * unit)
        display.render()
        at.now += 4
        display.render()
    assert "left" not in bar.times
    # In a narrow terminal there is none from the start.
    assert len(widths) == (14 if width >= 80 else 0)
    assert len(set(widths)) <= 1


def _remembered(widths: list[int]) -> Callable[..., str]:
    def bar(*, width: int, **_: object) -> str:
        widths.append(width)
        return ""

    return bar


def test_a_time_limit_that_comes_first_is_shown(at: Time) -> None:
    display = Display("loading")
    report = StepReport(
        epoch=0, epochs=9, step=1, steps=90, losses={}, rate=1e-4, gradient_norm=1.0,
        images_per_second=2.0, memory_bytes=None, eta=3600.0, limit=120.0,
    )  # fmt: skip
    count_steps(display)(report)
    assert display.line().endswith("0:00 elapsed, time limit in 2:00")
    at.now += 30
    assert display.line().endswith("0:30 elapsed, time limit in 1:30")
    images = display.bar("validation images")
    images.update(0, 100)
    at.now += 10
    images.update(1, 100)
    assert display.line().endswith("0:10 elapsed, time limit in 1:20")
    images.update(99, 100, left=5.0)
    assert display.line().endswith("0:10 elapsed, about 0:05 left")
    count_steps(display)(replace(report, limit=None))
    assert display.line().endswith("about 1:00:00 left")


def test_bytes_are_shown_in_megabytes() -> None:
    display = Display("connecting")
    bar = display.bar("bytes")
    bar.update(1_500_000, 3_000_000, "model.safetensors")
    assert display.line().startswith("download 1.5/3.0 MB, model.safetensors; 0:00 elapsed")
    bar.update(2_000_000, None)
    assert bar.count == "2.0 MB"


def test_announcements_reach_the_innermost_display_alone() -> None:
    announce("heard by nobody")
    logging.getLogger("rsprompter_cli").setLevel(logging.CRITICAL)
    with show_progress("outer") as outer, show_progress("inner") as inner:
        announce("writing")
        assert (outer.line(), inner.line()) == ("outer, 0:00 elapsed", "writing, 0:00 elapsed")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (760, "12:40"), (11100, "3:05:00"), (59.9, "1:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_names_of_files_cannot_steer_the_terminal() -> None:
    display = Display("opening")
    display.announce("opening \x1b[2J.tif")
    assert display.line().startswith("opening \\x1b[2J.tif, ")
    display.bar("bytes").update(1, 2, "a\x1b]0;title\x07")
    assert "\x1b" not in display.line()


def test_control_characters_are_spelled_out() -> None:
    assert without_control("a\x1b[31mb\x9b\r\tc\nd") == "a\\x1b[31mb\\x9b\\x0d\tc\nd"
