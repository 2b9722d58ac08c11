"""ImageNet weights from a server that breaks, lies and refuses, and from files at hand."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from rsprompter_cli.errors import CheckpointError, DownloadError, OutputError
from rsprompter_cli.io.network import download, torchvision_files
from rsprompter_cli.io.network.torchvision_files import IMAGENET_FILES, imagenet_file, require_named_hash
from tests.make.hub_server import Hub, serve

CONTENT = bytes(range(256)) * 40
NAME = f"resnet50-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s" * 30)
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setitem(IMAGENET_FILES, "resnet50", NAME)
    huggingface_hub.close_session()
    with serve({NAME: CONTENT}) as hub:
        monkeypatch.setattr(torchvision_files, "_ADDRESS", f"{hub.url}/cdn")
        yield hub
    huggingface_hub.close_session()


def _kept(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "torchvision"
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) if folder.exists() else []


def test_the_names_are_torchvisions() -> None:
    from torchvision.models import ResNet18_Weights, ResNet50_Weights

    for network, weights in (("resnet18", ResNet18_Weights), ("resnet50", ResNet50_Weights)):
        assert weights.IMAGENET1K_V1.url == f"{torchvision_files._ADDRESS}/{IMAGENET_FILES[network]}"


def test_a_file_is_fetched_once_and_without_a_token(server: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = imagenet_file("resnet50", progress=lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert imagenet_file("resnet50") == path
    assert server.downloads(NAME) == [None]
    assert {token for *_, token in server.requests} == {None}
    assert _kept(tmp_path) == [NAME]


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_fetched(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="file is not a folder") as caught:
        imagenet_file("resnet50")
    assert "RSP_CACHE" in caught.value.hint
    assert server.requests == []


def test_what_torch_hub_has_is_taken(server: Hub, tmp_path: Path) -> None:
    there = tmp_path / "torch" / "hub" / "checkpoints" / NAME
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    assert imagenet_file("resnet50") == there
    there.write_bytes(CONTENT[:-1])
    assert imagenet_file("resnet50") == tmp_path / "cache" / "torchvision" / NAME


def test_a_damaged_file_is_fetched_again(
    server: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = imagenet_file("resnet50")
    path.write_bytes(b"x" + CONTENT[1:])
    # The command line keeps the package's records to itself.
    monkeypatch.setattr(logging.getLogger("rsprompter_cli"), "propagate", True)
    assert imagenet_file("resnet50").read_bytes() == CONTENT
    assert "damaged" in caplog.text


@pytest.mark.parametrize("fault", ["flipped", "short"])
def test_wrong_content_is_deleted_and_refused(server: Hub, tmp_path: Path, fault: str) -> None:
    # A server that cuts a file states the cut length in its headers: the hash finds it out.
    getattr(server, fault).add(NAME)
    with pytest.raises(DownloadError, match="its sha256 begins with") as caught:
        imagenet_file("resnet50")
    assert "deleted" in caught.value.message
    assert _kept(tmp_path) == []
    getattr(server, fault).clear()
    assert imagenet_file("resnet50").read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.breaks = 2
    assert imagenet_file("resnet50").read_bytes() == CONTENT
    assert server.downloads(NAME) == [None, "bytes=1000-", "bytes=2000-"]


def test_the_next_run_goes_on(server: Hub, tmp_path: Path) -> None:
    part = tmp_path / "cache" / "torchvision" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:5000])
    assert imagenet_file("resnet50").read_bytes() == CONTENT
    assert server.downloads(NAME) == ["bytes=5000-"]
    assert _kept(tmp_path) == [NAME]


def test_no_connection_and_refusals_name_the_way_out(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_files, "_ADDRESS", f"{server.url}/models")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 answered 404"):
        imagenet_file("resnet50")
    monkeypatch.setattr(torchvision_files, "_ADDRESS", "http://127.0.0.1:9/models")
    with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1") as caught:
        imagenet_file("resnet50")
    assert "--backbone-weights FILE" in caught.value.hint
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set") as offline:
        imagenet_file("resnet50")
    assert "--backbone-weights FILE" in offline.value.hint


def test_a_file_at_hand_is_what_its_name_states(tmp_path: Path) -> None:
    good, other, plain = tmp_path / NAME, tmp_path / "resnet50-0676ba61.pth", tmp_path / "mine.pth"
    for path in (good, other, plain):
        path.write_bytes(CONTENT)
    assert require_named_hash(good) == require_named_hash(plain) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(CheckpointError, match="not as its name states"):
        require_named_hash(other)
