"""Fixtures that any test may ask for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
