"""Every command with standard streams in any state, in any locale and with any name: done, or one line says why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.doors.test_streams import LOCALES
from tests.make.forking import ROOT, Server
from tests.make.workplace import EVERY

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

FULL = Path("/dev/full")
STREAMS: dict[str, dict[str, Any]] = {
    "all closed": {"closed": [0, 1, 2]},
    "stdout full": {"stdout": FULL},
    "stdout closed": {"closed": [1]},
    "stderr closed": {"closed": [2]},
    "stderr full": {"stderr": FULL},
    "both full": {"stdout": FULL, "stderr": FULL},
    "ascii": {"encoding": "ascii"},
    "latin-1": {"encoding": "latin-1"},
}


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the files, in a folder that is named in Cyrillic."""
    folder = tmp_path / "папка"
    shutil.copytree(prepared, folder)
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "tfevents" not in path.name}


def check_orderly(stderr: str) -> None:
    assert "internal error" not in stderr, stderr
    assert "Traceback" not in stderr, stderr
    assert "Exception ignored" not in stderr, stderr


def check_streams(rsp: Server, place: Path, name: str, states: Sequence[str]) -> None:
    """Run a command with its streams in each state; what it writes is there whatever becomes of its messages."""
    source = place.with_name("source")
    place.rename(source)
    expected: set[str] | None = None
    prints = False
    for state in ("as usual", *states):
        shutil.copytree(source, place)
        environment = {"RSP_CACHE": str(place.parent / "cache")}
        ran = rsp.run(EVERY[name], place, environment=environment, **STREAMS.get(state, {}))
        check_orderly(ran.stderr)
        found = files_in(place)
        if expected is None:
            assert ran.exit_code == 0, ran.stderr
            expected, prints = found, ran.stdout != ""
        full = prints and STREAMS[state].get("stdout") == FULL if state in STREAMS else False
        assert ran.exit_code == (7 if full else 0), (state, ran.stderr)
        assert found == expected, state
        if full and state == "stdout full":
            assert "cannot be written: No space left on device" in ran.stderr.splitlines()[-1]
        shutil.rmtree(place)


@pytest.mark.parametrize("name", EVERY)
def test_streams(name: str, rsp: Server, place: Path) -> None:
    # Each command with one of the states, each state with some commands.
    number = list(EVERY).index(name)
    check_streams(rsp, place, name, [list(STREAMS)[number % len(STREAMS)]])


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_streams_in_every_state(name: str, rsp: Server, place: Path) -> None:
    check_streams(rsp, place, name, list(STREAMS))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_locales(name: str, place: Path) -> None:
    source = place.with_name("source")
    place.rename(source)
    for locale, variables in LOCALES.items():
        shutil.copytree(source, place)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "PYTHON"))}
        own |= {"PYTHONPATH": str(ROOT), "RSP_CACHE": str(place.parent / "cache"), **variables}
        done = subprocess.run(
            [sys.executable, "-m", "rsprompter_cli", *EVERY[name]],
            cwd=place, env=own, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        check_orderly(done.stderr.decode("utf-8", "replace"))
        assert done.returncode == 0, (locale, done.stderr)
        shutil.rmtree(place)


def long_name(name: str) -> str:
    """A name of 255 bytes that is no UTF-8, with the extension of another one."""
    stem, dot, suffix = name.partition(".")
    tail = os.fsencode(dot + suffix)
    return os.fsdecode(os.fsencode(stem) + b"\xff" * (255 - len(os.fsencode(stem)) - len(tail)) + tail)


def with_long_names(command: Sequence[str], place: Path) -> list[list[str]]:
    """The command with one of its files or folders after the other given such a name; inputs are renamed."""
    changed = []
    for index, argument in enumerate(command):
        is_output = command[index - 1] in ("--out", "--preview", "--map", "--pr-curve", "--show-dir",
                                                         "--save-detections")  # fmt: skip
        if index == 0 or (not is_output and not (place / argument).exists()):
            continue
        name = long_name(argument)
        changed.append([*command[:index], name, *command[index + 1 :]])
    return changed


@pytest.mark.parametrize("name", EVERY)
def test_a_name_of_255_bytes_that_is_no_utf_8(name: str, rsp: Server, place: Path) -> None:
    commands = with_long_names(list(EVERY[name]), place)
    number = list(EVERY).index(name)
    check_names(rsp, place, name, commands[number % len(commands) :][:1] if commands else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_names_of_255_bytes_that_are_no_utf_8(name: str, rsp: Server, place: Path) -> None:
    check_names(rsp, place, name, with_long_names(list(EVERY[name]), place))


def check_names(rsp: Server, place: Path, name: str, commands: Sequence[Sequence[str]]) -> None:
    command = list(EVERY[name])
    source = place.with_name("source")
    shutil.copytree(place, source)
    for changed in commands:
        (old, new), *_ = [(a, b) for a, b in zip(command, changed, strict=True) if a != b]
        shutil.rmtree(place)
        shutil.copytree(source, place)
        if (place / old).exists():
            (place / old).rename(place / new)
        before = files_in(place)
        ran = rsp.run(changed, place, environment={"RSP_CACHE": str(place.parent / "cache")})
        check_orderly(ran.stderr)
        assert ran.exit_code in (0, 2, 3, 4, 7, 10), (changed, ran.stderr)
        if ran.exit_code in (2, 3, 4, 7):
            assert files_in(place) == before, ran.stderr
            errors = [line for line in ran.stderr.splitlines() if line.startswith("rsp: error: ")]
            assert len(errors) == (0 if name == "data-check" else 1), ran.stderr  # it lists errors on stdout
