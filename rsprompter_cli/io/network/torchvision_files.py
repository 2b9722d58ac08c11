"""ImageNet weights of ResNets as torchvision publishes them; the start of the file's sha256 stands in its name."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rsprompter_cli.errors import CheckpointError, DownloadError
from rsprompter_cli.io.model_files.sam_folder import file_sha256
from rsprompter_cli.io.network.download import TIMEOUT_SECONDS, Progress, RemoteFile, download, locked, network_errors
from rsprompter_cli.io.network.hub import cache_folder, require_cache

logger = logging.getLogger(__name__)

IMAGENET_FILES = {"resnet18": "resnet18-f37072fd.pth", "resnet50": "resnet50-0676ba61.pth"}
"""torchvision's IMAGENET1K_V1, by network."""

_ADDRESS = "https://download.pytorch.org/models"
_NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_WAY_OUT = "give a file with --backbone-weights FILE, or pass --backbone-weights random"


def imagenet_file(network: str, *, progress: Progress | None = None) -> Path:
    """The weights of a ResNet trained on ImageNet, fetched when they are not on this machine.

    They are kept below `cache_folder()`; a file that torch.hub has fetched is used where it lies.

    Args:
        network: a key of IMAGENET_FILES.
        progress: called after every chunk.

    Raises:
        DownloadError: no connection, or the content is not what the name states; a wrong file is
            deleted, an incomplete one kept for the next run.
        OutputError: the cache cannot be written.
    """
    name = IMAGENET_FILES[network]
    target = cache_folder() / "torchvision" / name
    for place in (target, _torch_hub_folder() / name):
        if place.is_file():
            if named_hash_fits(place, file_sha256(place)):
                return place
            logger.warning("%s is damaged and is ignored", place)
    require_cache(target)
    with locked(target):
        if not target.is_file() or not named_hash_fits(target, file_sha256(target)):
            _fetch(name, target, progress or (lambda *_: None))
    return target


def named_hash_fits(path: Path, sha256: str) -> bool:
    """Whether the sha256 of a file begins as its name states, where its name states one."""
    named = _NAMED_HASH.search(path.name)
    return named is None or sha256.startswith(named[1])


def require_named_hash(path: Path) -> str:
    """The sha256 of a file that is what its name states.

    Raises:
        CheckpointError: it cannot be read, or it is not.
    """
    sha256 = file_sha256(path)
    if not named_hash_fits(path, sha256):
        raise CheckpointError(
            f"{path}: damaged, its sha256 begins with {sha256[:8]}, not as its name states", "download or copy it again"
        )
    return sha256


def _torch_hub_folder() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetch(name: str, target: Path, progress: Progress) -> None:
    remote = RemoteFile(name, f"{_ADDRESS}/{name}", None)
    logger.info("fetching %s from %s", name, urlsplit(remote.url).hostname)
    remote = RemoteFile(name, remote.url, _size(remote))
    part = target.with_name(f"{name}.part")
    download(remote, part, progress, explain=lambda error: _explain(error, remote))
    sha256 = file_sha256(part)
    if not named_hash_fits(target, sha256):
        part.unlink()
        raise DownloadError(
            f"{name}: its sha256 begins with {sha256[:8]}, not as its name states; the file was deleted", "run it again"
        )
    os.replace(part, target)


def _size(remote: RemoteFile) -> int | None:
    """Bytes of the file as its server states them."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    session: Any = get_session()
    try:
        answer = session.head(remote.url, headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT_SECONDS)
        hf_raise_for_status(answer)
    except network_errors() as error:
        raise _explain(error, remote) from error
    stated = answer.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() else None


def _explain(error: Exception, remote: RemoteFile) -> DownloadError:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    host = urlsplit(remote.url).hostname
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(f"{remote.label} cannot be fetched, HF_HUB_OFFLINE is set", f"unset it, or {_WAY_OUT}")
    if isinstance(error, HfHubHTTPError):
        return DownloadError(f"{remote.label}: {host} answered {error.response.status_code}", _WAY_OUT)
    return DownloadError(f"{remote.label}: cannot reach {host} ({type(error).__name__})", _WAY_OUT)
