"""The program as a whole: version, slips of the keyboard, errors, debug, interrupt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from rsprompter_cli import __version__
from rsprompter_cli.cli.app import COMMANDS, app, run
from rsprompter_cli.errors import RspError

Captured = pytest.CaptureFixture[str]


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


def test_version(capsys: Captured) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"rsp {__version__}\n"


def test_python_m_is_the_same_program() -> None:
    command = [sys.executable, "-m", "rsprompter_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"rsp {__version__}\n"
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["config", "-h"], ["config", "list", "--help"]])
def test_help_goes_to_stdout(arguments: list[str], capsys: Captured) -> None:
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert "Usage: rsp " in out
    assert err == ""


def test_shell_completion_is_offered(capsys: Captured) -> None:
    run(["--help"])
    assert "--install-completion" in capsys.readouterr().out


def test_a_tab_completes_commands_and_their_options(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("_RSP_COMPLETE", "complete_bash")
    lines = (
        ("rsp pre", "predict"),
        ("rsp help mer", "merge"),
        ("rsp config sch", "schema"),
        ("rsp predict --nat", "--native"),
    )
    for line, offered in lines:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
        assert run([]) == 0
        assert capsys.readouterr().out.split() == [offered]


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    itself = typer.main.get_command(app).commands[name].help.split("\n\n")[0]
    assert COMMANDS[name].summary == itself, f"cli/app.py: the summary of {name} is not its first line"


@pytest.mark.parametrize("group", [[], ["config"]])
def test_no_command_is_help_on_stderr(group: list[str], capsys: Captured) -> None:
    assert run([*group, "--help"]) == 0
    asked = capsys.readouterr().out
    assert run(group) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == asked


def test_summaries_are_not_cut(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    for group in ([], ["convert"]):
        assert run([*group, "--help"]) == 0
        text = capsys.readouterr().out
        assert "..." not in text.split("╭", maxsplit=1)[1]
        assert "…" not in text


def test_help_flag_as_the_value_of_an_option_is_no_help(capsys: Captured) -> None:
    assert run(["config", "show", "rsprompter-anchor-whu", "--set", "-h"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "-h" in one_line(err)


LOADED_BY_HELP = """
import sys
from rsprompter_cli.cli.app import run
watched = ["rich.markdown", "rich.syntax", "pygments", "typer.rich_utils", "pydantic"]
watched += [*(f"rsprompter_cli.cli.{name}" for name in ("predict", "train", "config_cmd"))]
for words in (["--help"], ["predict", "--help"], ["config", "list", "--help"]):
    run(words)
    print([name.split(".")[-1] for name in watched if name in sys.modules], file=sys.stderr)
"""


def test_help_imports_only_the_command_it_is_about() -> None:
    command = [sys.executable, "-c", LOADED_BY_HELP]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines() == ["[]", "['predict']", "['predict', 'config_cmd']"]


@pytest.mark.parametrize(
    ("arguments", "wrong", "nearest"),
    [
        (["confg"], "confg", "config"),
        (["config", "shwo"], "shwo", "show"),
        (["config", "list", "--jsno"], "--jsno", "--json"),
        (["--verbos"], "--verbos", "--verbose"),
        (["config", "show", "rsprompter-anchor-hwu"], "rsprompter-anchor-hwu", "rsprompter-anchor-whu"),
        (["config", "show", "rsprompter-anchor-whu", "--set", "train.epoch=1"], "train.epoch", "train.epochs"),
        (["config", "show"], "PRESET", ""),
        (["-v", "-q", "config", "list"], "-v and -q", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_slip_is_one_line_with_the_nearest_name(
    arguments: list[str], wrong: str, nearest: str, capsys: Captured
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = one_line(err)
    assert wrong.lower() in line.lower()
    assert nearest in line


def test_library_error_is_one_line_with_its_code(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for kind in RspError.__subclasses__():

        def fail(*_: object, kind: type[RspError] = kind) -> None:
            raise kind("town.tif: it is\nbroken", "copy it again")

        monkeypatch.setattr("rsprompter_cli.config.list_presets", fail)
        assert run(["config", "list"]) == kind.exit_code
        assert one_line(capsys.readouterr().err) == "rsp: error: town.tif: it is broken (copy it again)\n"


def fail_inside(*_: object) -> None:
    raise RuntimeError("a\nbug")


def test_bug_is_one_line_that_names_the_way_to_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.delenv("RSP_DEBUG", raising=False)
    monkeypatch.setattr("rsprompter_cli.config.list_presets", fail_inside)
    assert run(["config", "list"]) == 1
    assert "RSP_DEBUG=1" in one_line(capsys.readouterr().err)


def test_file_that_the_system_refuses_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "deep/preset.toml")

    monkeypatch.delenv("RSP_DEBUG", raising=False)
    monkeypatch.setattr("rsprompter_cli.config.list_presets", refuse)
    assert run(["config", "list"]) == 3
    assert one_line(capsys.readouterr().err).startswith("rsp: error: deep/preset.toml: Permission denied (")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSP_DEBUG", "1")
    command = [sys.executable, "-m", "rsprompter_cli", "config", "show", "no-such-preset"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no-such-preset" in done.stderr


def test_debug_leaves_help_alone(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("RSP_DEBUG", "1")
    assert run(["config", "--help"]) == 0
    assert capsys.readouterr().err == ""


def ask_python() -> None:
    raise MemoryError


def ask_the_cpu_allocator() -> None:
    import torch

    torch.empty(1 << 60, dtype=torch.uint8)


def ask_the_gpu() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")


@pytest.mark.parametrize("ask", [ask_python, ask_the_cpu_allocator, ask_the_gpu])
def test_memory_error_names_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, ask: Callable[[], None]
) -> None:
    monkeypatch.delenv("RSP_DEBUG", raising=False)
    monkeypatch.setattr("rsprompter_cli.config.list_presets", ask)
    assert run(["config", "list"]) == 9
    assert "reduce the batch size" in one_line(capsys.readouterr().err)


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rsprompter_cli.config.list_presets", interrupt)
    assert run(["config", "list"]) == 130
    assert one_line(capsys.readouterr().err) == "rsp: interrupted\n"


INTERRUPTED = """
import signal, sys
import rsprompter_cli.config as config
from rsprompter_cli.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
config.list_presets = lambda: signal.raise_signal(signal.SIGINT)
sys.argv = ["rsp", "config", "list"]
main()
"""


def test_real_interrupt_signal_ends_with_130() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert one_line(done.stderr) == "rsp: interrupted\n"


def test_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "rsprompter_cli", "config", "schema"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before a byte is written, as `| true` does
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_log_file_holds_the_error_too(tmp_path: Path, capsys: Captured) -> None:
    log = tmp_path / "logs" / "run.log"
    assert run(["--log-file", str(log), "config", "show", "nothing"]) == 2
    said = capsys.readouterr().err.strip()
    assert said in log.read_text(encoding="utf-8")


def test_log_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    assert run(["--log-file", str(tmp_path), "config", "list"]) == 7
    assert "--log-file" in one_line(capsys.readouterr().err)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_log_file_that_is_a_pipe_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert run(["--log-file", str(tmp_path / "pipe"), "config", "list"]) == 7
    assert "pipe is not a regular file" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("loud", [[], ["-v"], ["-vv"], ["-q"]])
def test_json_on_stdout_parses_whatever_the_talk(loud: list[str], capsys: Captured) -> None:
    assert run([*loud, "config", "list", "--json"]) == 0
    names = [row["preset"] for row in json.loads(capsys.readouterr().out)]
    assert "rsprompter-anchor-cpu" in names
