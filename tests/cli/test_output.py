"""Data on stdout, talk on stderr, at the level that was asked for."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from rsprompter_cli.cli import console
from rsprompter_cli.cli.app import run
from rsprompter_cli.cli.output import print_error, print_json, set_up_logging

Captured = pytest.CaptureFixture[str]
LOG = logging.getLogger("rsprompter_cli.somewhere")


def talk() -> None:
    LOG.debug("in detail")
    LOG.info("on the way")
    LOG.warning("look out")
    LOG.error("broken")


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ({}, ["on the way", "warning: look out", "error: broken"]),
        ({"verbose": 1}, ["debug: in detail", "on the way", "warning: look out", "error: broken"]),
        ({"verbose": 5}, ["debug: in detail", "on the way", "warning: look out", "error: broken"]),
        ({"quiet": True}, ["error: broken"]),
    ],
)
def test_levels(level: dict[str, int], heard: list[str], capsys: Captured) -> None:
    set_up_logging(**level)  # type: ignore[arg-type]
    talk()
    out, err = capsys.readouterr()
    assert out == ""
    # A debug record may carry its level as prefix or not; its text must be there.
    lines = [line.removeprefix("debug: ") for line in err.splitlines()]
    assert lines == [line.removeprefix("debug: ") for line in heard]


def test_setting_up_twice_does_not_double(capsys: Captured) -> None:
    set_up_logging()
    set_up_logging()
    LOG.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_log_file_has_everything_even_when_quiet(tmp_path: Path, capsys: Captured) -> None:
    set_up_logging(quiet=True, log_file=tmp_path / "deep" / "run.log")
    talk()
    set_up_logging()  # closes the file
    text = (tmp_path / "deep" / "run.log").read_text(encoding="utf-8")
    assert [word for word in ("in detail", "on the way", "look out", "broken") if word not in text] == []
    assert "rsprompter_cli.somewhere" in text
    assert capsys.readouterr().err == "error: broken\n"


@pytest.mark.parametrize("content", [b"II*\x00 a GeoTIFF", b"2026-11-22 10:00:00 some other log\n"])
def test_log_file_that_is_something_else_is_left_alone(content: bytes, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(content)
    assert run(["--log-file", str(path), "config", "list"]) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"rsp: error: --log-file {path} exists and is not a log of rsp (name another file)\n"
    assert path.read_bytes() == content


def test_earlier_log_and_empty_file_are_appended_to(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "run.log"
    path.touch()
    for _ in range(2):
        set_up_logging(log_file=path)
        talk()
    set_up_logging(quiet=True, log_file=path)
    LOG.warning("%s", "\udce9.tif: no UTF-8")
    set_up_logging()
    text = path.read_text(encoding="utf-8")
    assert text.count("look out") == 2
    assert "dce9.tif: no UTF-8" in text
    assert "Traceback" not in capsys.readouterr().err


def test_error_is_one_line(capsys: Captured) -> None:
    print_error("two\nlines", "way out")
    assert capsys.readouterr() == ("", "rsp: error: two lines (way out)\n")


def test_error_holds_nothing_that_a_terminal_obeys(capsys: Captured) -> None:
    print_error("\x1b[31mred\x07 and \x9bmore", "wäy \x08out")
    assert capsys.readouterr().err == "rsp: error: \\x1b[31mred\\x07 and \\x9bmore (wäy \\x08out)\n"


def test_json_refuses_nan(capsys: Captured) -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"ap": float("nan")})
    assert capsys.readouterr().out == ""


def test_json_writes_paths_as_text(capsys: Captured) -> None:
    print_json({"file": Path("a.tif"), "n": 3})
    assert json.loads(capsys.readouterr().out) == {"file": "a.tif", "n": 3}


def test_a_command_to_type_is_not_broken_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, width=40, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    monkeypatch.setattr(console, "stderr_console", lambda: terminal)
    command = "next: rsp predict ../mydata/kampala_a.tif --model my-model --out polygons.geojson"
    console.write_message(f"this sentence is longer than forty columns\n{command}")
    assert shown.getvalue() == f"this sentence is longer than forty \ncolumns\n{command}\n"
