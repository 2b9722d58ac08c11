"""Files that commands have made of others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.make.forking import Server
from tests.make.workplace import TINY


@pytest.fixture(scope="session")
def prepared(rsp: Server, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, and what other commands have made of them."""
    folder = tmp_path_factory.mktemp("prepared") / "files"
    shutil.copytree(files, folder)
    for shard in ("1/2", "2/2"):
        command = ["predict", "scene.tif", "--shard", shard, "--out", f"parts/{shard[0]}.part", *TINY]
        assert rsp.run(command, folder).exit_code == 0
    assert rsp.run(["checkpoint", "export", "model", "--out", "exported.pth"], folder).exit_code == 0
    return folder
