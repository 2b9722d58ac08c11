"""Fixtures that any test may ask for."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.terminal.harness import TerminalServer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: $RSP_SHARED, else ../shared beside the checkout.

    With the variable set a missing folder is a failure; without it the test is skipped, visibly.
    """
    named = os.environ.get("RSP_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    if not folder.is_dir():
        if named:
            pytest.fail(f"RSP_SHARED={named}: no such folder")
        pytest.skip(f"no reference data at {folder} (set RSP_SHARED)")
    return folder


@pytest.fixture(scope="session")
def rsp() -> Iterator[TerminalServer]:
    """Runs commands as forks of one process, in a terminal or without."""
    server = TerminalServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that commands read."""
    from tests.make.workplace import make_workplace  # loads PyTorch

    root = tmp_path_factory.mktemp("workplace")
    make_workplace(root)
    return root


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files for one test, and an empty cache."""
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COVERAGE_PROCESS_START", "")
    folder = tmp_path / "here"
    shutil.copytree(files, folder)
    return folder


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Each test finds the package's log as an import leaves it, whatever a command run in process made of it.

    It is restored before each test too: a fixture of a module or of the session may have run a command.
    """
    _restore_logging()
    yield
    _restore_logging()


def _restore_logging() -> None:
    logger = logging.getLogger("rsprompter_cli")
    logger.propagate, logger.handlers = True, []
    logger.setLevel(logging.NOTSET)  # not by assignment: its children remember what they were enabled for
