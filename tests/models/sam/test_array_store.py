"""Tensors kept on disk under the hash of what they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rsprompter_cli.errors import OutputError
from rsprompter_cli.models.sam.array_store import ArrayStore


def _store(folder: Path, settings: str = "cpu torch.float32", weight: float = 0.25) -> ArrayStore:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(weight)
    return ArrayStore(folder, settings, [module], content="numbers", way_out="do this")


def test_the_names_are_those_of_older_releases(tmp_path: Path) -> None:
    path = _store(tmp_path).path_of("(1, 4)", torch.arange(4.0)[None])
    assert path == tmp_path / "1a95ae697c73c1bc7cdab44e3cbe6f263232609eb7581a012d54f381da4081a3.safetensors"


def test_settings_weights_kind_and_picture_make_the_name(tmp_path: Path) -> None:
    picture = torch.arange(4.0)
    names = {
        _store(tmp_path).path_of("a", picture),
        _store(tmp_path, settings="cuda").path_of("a", picture),
        _store(tmp_path, weight=0.5).path_of("a", picture),
        _store(tmp_path).path_of("b", picture),
        _store(tmp_path).path_of("a", picture + 1),
    }
    assert len(names) == 5


def test_what_is_written_is_read_and_a_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    store = _store(tmp_path / "store")
    path = store.path_of("", torch.zeros(1))
    assert store.read(path) is None
    assert store.stored_bytes() == 0
    store.write(path, {"a": torch.arange(3)})
    found = store.read(path)
    assert found is not None
    assert found["a"].tolist() == [0, 1, 2]
    (path.parent / ".0123.4567abcd.tmp.safetensors").write_bytes(bytes(100))
    assert store.stored_bytes() == path.stat().st_size
    path.write_bytes(path.read_bytes()[:20])
    assert store.read(path) is None


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = _store(tmp_path / "file")
    with pytest.raises(OutputError, match=r"file: numbers cannot be stored: [A-Z][a-z ]+ \(do this\)$"):
        store.write(store.path_of("", torch.zeros(1)), {"a": torch.zeros(1)})
