"""What a second process does in the test of the lock; it imports little, so that it starts fast."""

from __future__ import annotations

from pathlib import Path

from rsprompter_cli.io.network.download import locked
from rsprompter_cli.io.network.hub import fetch_file


def fetch_once(target: Path) -> None:
    """Under the lock of `target`, fetch a file into it unless it is there."""
    with locked(target):
        if not target.exists():
            assert fetch_file("owner/sam", "model.safetensors", revision="main", folder=target) is not None
