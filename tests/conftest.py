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
    """A command run in process points the package's log at its own stderr; the next test finds it as it was."""
    logger = logging.getLogger("rsprompter_cli")
    before = logger.propagate, logger.level, list(logger.handlers)
    yield
    propagate, level, handlers = before
    logger.propagate, logger.handlers = propagate, handlers
    logger.setLevel(level)  # which makes its children forget what they were enabled for
