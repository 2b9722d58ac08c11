"""What the README shows can be typed."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from rsprompter_cli.cli.app import app, run
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for line in README.splitlines() if line.startswith("rsp ")]


def _parse(command: Any, words: list[str], parent: Any = None) -> None:
    """Read a command line as the program does, and run nothing."""
    children = getattr(command, "commands", {})
    at = next((place for place, word in enumerate(words) if word in children), None)
    context = command.make_context("rsp", words if at is None else words[: at + 1], parent=parent)
    if at is not None:
        _parse(children[words[at]], words[at + 1 :], context)


@pytest.mark.parametrize("line", LINES)
def test_a_shown_command_has_these_arguments(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == "rsp"
    _parse(typer.main.get_command(app), words[1:])


def test_a_wrong_one_would_be_seen() -> None:
    assert len(LINES) > 15
    with pytest.raises(Exception, match="--modle"):
        _parse(typer.main.get_command(app), ["predict", "a.tif", "--modle", "b"])


def test_verbosity_comes_before_the_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "config", "list"]) == 0
    assert run(["config", "list", "-q"]) == 2
    assert "-q" in capsys.readouterr().err
