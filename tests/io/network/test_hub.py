"""Downloads from a hub that breaks, lies and refuses."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from rsprompter_cli.errors import CheckpointError, DownloadError, OutputError, UsageError
from rsprompter_cli.io.network import download as download_module
from rsprompter_cli.io.network.hub import (
    HubFile,
    cache_folder,
    fetch_file,
    find_sam,
    is_repository,
    require_cache,
    sam_folder_for,
)
from tests.make.hub_client import fetch_once
from tests.make.hub_server import COMMIT, Hub, serve

CONTENT = bytes(range(256)) * 40
NAME = "owner/sam/model.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download_module, "_PAUSE_SECONDS", 0.0)
    huggingface_hub.close_session()
    with serve({NAME: CONTENT, "owner/sam/config.json": b'{"a": 1}'}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    huggingface_hub.close_session()


def _fetch(folder: Path, name: str = "model.safetensors", revision: str = "main") -> HubFile | None:
    return fetch_file("owner/sam", name, revision=revision, folder=folder)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_comes_whole_with_commit_and_hash(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    file = fetch_file(
        "owner/sam", "model.safetensors", revision="main", folder=tmp_path, progress=lambda *step: seen.append(step)
    )
    assert file is not None
    assert file.path.read_bytes() == CONTENT
    assert file.commit == COMMIT
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert _names(tmp_path) == ["model.safetensors"]
    # The content is asked for by commit, so a branch that moves between two files does no harm.
    assert any(method == "GET" and f"/resolve/{COMMIT}/" in path for method, path, _, _ in hub.requests)


def test_a_small_file_is_checked_by_its_git_hash(hub: Hub, tmp_path: Path) -> None:
    file = _fetch(tmp_path, "config.json")
    assert file is not None
    assert file.path.read_bytes() == b'{"a": 1}'
    hub.flipped.add("owner/sam/config.json")
    with pytest.raises(DownloadError, match=r"config\.json: its hash is"):
        _fetch(tmp_path / "again", "config.json")


def test_a_file_that_is_not_there_is_none(hub: Hub, tmp_path: Path) -> None:
    assert _fetch(tmp_path, "pytorch_model.bin") is None


def test_a_flipped_byte_of_right_length_is_deleted_and_refused(hub: Hub, tmp_path: Path) -> None:
    hub.flipped.add(NAME)
    with pytest.raises(DownloadError, match="the file was deleted"):
        _fetch(tmp_path)
    assert _names(tmp_path) == []


def test_a_short_body_is_deleted_and_refused(hub: Hub, tmp_path: Path) -> None:
    hub.short.add(NAME)
    with pytest.raises(DownloadError, match=rf"received {len(CONTENT) // 2} bytes instead of {len(CONTENT)}"):
        _fetch(tmp_path)
    assert _names(tmp_path) == []


def test_a_connection_that_breaks_twice_is_taken_up_in_the_same_run(hub: Hub, tmp_path: Path) -> None:
    hub.breaks = 2
    file = _fetch(tmp_path)
    assert file is not None
    assert file.path.read_bytes() == CONTENT
    assert hub.downloads(NAME) == [None, "bytes=1000-", "bytes=2000-"]


def test_the_next_run_goes_on_where_the_last_one_ended(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_RETRIES", 2)
    hub.breaks, hub.break_after = 2, 0
    with pytest.raises(DownloadError, match="the connection broke after 0 of"):
        _fetch(tmp_path)
    assert hub.breaks == 0
    part = next(tmp_path.glob("*.part"))
    part.write_bytes(CONTENT[:5000])
    hub.requests.clear()
    file = _fetch(tmp_path)
    assert file is not None
    assert file.path.read_bytes() == CONTENT
    assert hub.downloads(NAME) == ["bytes=5000-"]
    assert _names(tmp_path) == ["model.safetensors"]


def test_a_partial_file_with_a_wrong_byte_is_deleted_and_the_next_run_is_whole(hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / f"model.safetensors.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(b"x" + CONTENT[1:5000])
    with pytest.raises(DownloadError, match="deleted"):
        _fetch(tmp_path)
    file = _fetch(tmp_path)
    assert file is not None
    assert file.path.read_bytes() == CONTENT


def test_a_wrong_revision_and_a_wrong_name_are_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="owner/sam has no revision 'v9'"):
        _fetch(tmp_path, revision="v9")
    with pytest.raises(DownloadError, match=r"owner/other: 127\.0\.0\.1 has no such model"):
        fetch_file("owner/other", "config.json", revision="main", folder=tmp_path)
    hub.status = 503
    with pytest.raises(DownloadError, match="answered 503"):
        _fetch(tmp_path)
    assert _names(tmp_path) == []


def test_the_token_goes_to_the_hub_alone_and_into_no_message(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = "hf_" + "s" * 30
    monkeypatch.setenv("HF_TOKEN", token)
    hub.token = token
    with caplog.at_level("DEBUG"):
        assert _fetch(tmp_path) is not None
        to_hub = [sent for _, path, _, sent in hub.requests if not path.startswith("/cdn/")]
        to_store = [sent for _, path, _, sent in hub.requests if path.startswith("/cdn/")]
        assert set(to_hub) == {f"Bearer {token}"}
        assert to_store == [None]
        hub.token = "another"
        with pytest.raises(DownloadError, match="HF_TOKEN") as caught:
            _fetch(tmp_path)
    assert token not in str(caught.value)
    assert token not in caplog.text


def test_no_connection_is_one_line_that_shows_no_password(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1 \(ConnectError\)") as caught:
        _fetch(tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_mode_and_a_bad_endpoint_are_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        _fetch(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        _fetch(tmp_path)


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RSP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "rsprompter_cli"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rsprompter_cli"
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "own"))
    assert sam_folder_for("owner/sam") == tmp_path / "own" / "sam" / "owner--sam"


def test_a_cache_that_cannot_be_used_is_told_with_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file is not a folder") as caught:
        require_cache(sam_folder_for("base"))
    assert "RSP_CACHE" in caught.value.hint
    monkeypatch.setenv("RSP_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(OutputError, match="RSP_CACHE = ~nobody-of-this-name/cache: no such user"):
        cache_folder()
    monkeypatch.setenv("RSP_CACHE", str(tmp_path / "new" / "cache"))
    require_cache(sam_folder_for("base"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_absent_weights_name_the_command_that_fetches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSP_CACHE", str(tmp_path))
    for name in ("base", "owner/sam"):
        with pytest.raises(CheckpointError) as caught:
            find_sam(name)
        assert caught.value.hint == f"run: rsp download-sam {name}"
        folder = sam_folder_for(name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert find_sam(name) == folder
    with pytest.raises(UsageError, match="'bse'") as misspelt:
        find_sam("bse")
    assert "base" in misspelt.value.hint
    with pytest.raises(CheckpointError, match="no such SAM folder"):
        find_sam(str(tmp_path / "nowhere"))
    assert find_sam(str(sam_folder_for("base"))) == sam_folder_for("base")


def test_ids_with_tricks_are_no_repositories() -> None:
    assert is_repository("facebook/sam-vit-base")
    for name in ("base", "a/b/c", "../b", "a/..", "a/b--c", "https://x/y", "a b/c", "/b"):
        assert not is_repository(name), name


def test_two_processes_at_once_download_once(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.3
    target = tmp_path / "sam"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch_once, args=(target,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(hub.downloads(NAME)) == 1
    assert (target / "model.safetensors").read_bytes() == CONTENT
