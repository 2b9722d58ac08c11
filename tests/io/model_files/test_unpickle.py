"""Foreign pickles: weights are read, code is refused."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rsprompter_cli.errors import CheckpointError
from rsprompter_cli.io.model_files.unpickle import load_pickle, load_state_dict


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class _EvalMalicious(_Malicious):
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


@pytest.mark.parametrize("kind", [_Malicious, _EvalMalicious])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_by_name(tmp_path: Path, kind: type[_Malicious], zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"w": torch.zeros(1), "evil": kind(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil\.pth: (refused|damaged)") as caught:
        load_pickle(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    if kind is _EvalMalicious:
        assert "eval" in caught.value.message
    # The file is a working attack: an unguarded reader would have run it.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_blocked_module_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"evil": _Malicious(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match=rf"{os.name}\.system"):
        load_pickle(path)


def test_a_plain_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(_Malicious(marker), protocol=2))
    with pytest.raises(CheckpointError):
        load_pickle(path)
    assert not marker.exists()


def test_getattr_of_a_stand_in_gives_nothing_that_can_be_called(tmp_path: Path) -> None:
    # builtins.getattr is on the list as an inert name; through it nothing real may be reached.
    path = tmp_path / "evil.pth"
    marker = tmp_path / "ran"
    chain = b"cbuiltins\ngetattr\n(ctorch._utils\n_rebuild_tensor_v2\nX\x0b\x00\x00\x00__globals__tR."
    path.write_bytes(b"\x80\x02" + chain)
    with pytest.raises(CheckpointError):
        load_state_dict(path)
    assert not marker.exists()


def test_leftovers_of_training_frameworks_are_read_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.values = np.arange(3.0)
            self.statistics = {"min": HistoryBuffer.min}

        def min(self) -> float:
            return float(self.values.min())

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.min.__qualname__ = "HistoryBuffer.min"
    HistoryBuffer.min.__module__ = module.__name__
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "epoch_300.pth"
    torch.save(
        {
            "state_dict": {"w": torch.arange(4.0)},
            "message_hub": {"loss": HistoryBuffer()},
            "meta": {"best": np.float64(0.5), "steps": np.int64(3), "table": np.zeros((2, 2), np.float32)},
        },
        path,
    )
    monkeypatch.undo()
    state = load_state_dict(path)
    assert list(state) == ["w"]
    assert torch.equal(state["w"], torch.arange(4.0))
    buffer = load_pickle(path)["message_hub"]["loss"]
    assert type(buffer).__name__ == "_Inert"
    assert vars(buffer) == {}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_line(tmp_path: Path, share: float) -> None:
    whole, path = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save({"w": torch.randn(100, 100)}, whole)
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.pth: damaged") as caught:
        load_pickle(path)
    assert "\n" not in str(caught.value)


def test_other_files_and_missing_ones_are_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.pth"
    text.write_text("not weights at all")
    with pytest.raises(CheckpointError, match=r"notes\.pth"):
        load_pickle(text)
    with pytest.raises(CheckpointError, match="no such file"):
        load_pickle(tmp_path / "absent.pth")
    torch.save([1, 2], text)
    with pytest.raises(CheckpointError, match="no state dict"):
        load_state_dict(text)


@pytest.mark.parametrize("module", [b"builtins", b"__builtin__"])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_array_of_any_length_is_not_made(tmp_path: Path, module: bytes, zipped: bool) -> None:
    """A call that PyTorch's own list allows: a few bytes would take all memory."""
    path = tmp_path / "large.pth"
    call = b"\x80\x02c" + module + b"\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."
    if zipped:
        torch.save({"w": torch.zeros(1)}, path)
        with zipfile.ZipFile(path) as archive:
            members = {one: archive.read(one) for one in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, call if name.endswith("data.pkl") else content)
    else:
        path.write_bytes(call)
    with pytest.raises(CheckpointError, match=r"large\.pth: refused, loading it would use bytearray"):
        load_pickle(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1_000_000)}, path)
    assert load_state_dict(path)["w"].shape == (1_000_000,)
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"a\.pth: its content is compressed, which torch\.save never does"):
        load_pickle(path)
